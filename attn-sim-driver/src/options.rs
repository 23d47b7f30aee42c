//! What device is simulated.

use std::env;
use std::fmt;
use std::str::FromStr;

/// An architecture whose kernels the simulator runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Hopper.
    #[default]
    Sm90a,
    /// Blackwell, B200.
    Sm100a,
    /// Blackwell, B300.
    Sm103a,
}

impl Arch {
    /// All of them.
    pub const ALL: [Arch; 3] = [Arch::Sm90a, Arch::Sm100a, Arch::Sm103a];

    /// The compilers' name.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Sm90a => "sm_90a",
            Arch::Sm100a => "sm_100a",
            Arch::Sm103a => "sm_103a",
        }
    }

    /// Major and minor compute capability.
    pub const fn compute_capability(self) -> (u32, u32) {
        match self {
            Arch::Sm90a => (9, 0),
            Arch::Sm100a => (10, 0),
            Arch::Sm103a => (10, 3),
        }
    }

    /// Whether the device runs PTX of this `.target`: the very one with an `a`, the same family with an `f`, any that is not
    /// newer without a letter.
    pub fn runs(self, target: &str) -> bool {
        let (major, minor) = self.compute_capability();
        let here = major * 10 + minor;
        let Some(number) = target.strip_prefix("sm_") else { return false };
        let digits = number.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let Ok(there) = digits.parse::<u32>() else { return false };
        match &number[digits.len()..] {
            "" => there <= here,
            "f" => there <= here && there / 10 == major,
            "a" => there == here,
            _ => false,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no architecture of [`Arch::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no architecture of the simulator; they are sm_90a, sm_100a and sm_103a")]
pub struct UnknownArch(String);

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(name: &str) -> Result<Self, UnknownArch> {
        Arch::ALL.into_iter().find(|arch| arch.name() == name).ok_or_else(|| UnknownArch(name.to_owned()))
    }
}

/// The simulated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its architecture.
    pub arch: Arch,
    /// Multiprocessors that it claims to have: few, so that blocks of persistent kernels take several tiles each.
    pub multiprocessors: u32,
    /// What the order of warps and of completions is drawn from. Every launch starts from it anew.
    pub seed: u64,
    /// Whether [`Kind::TensorOrder`](attn_sim::report::Kind::TensorOrder) is a finding: fences and waits of tcgen05 that PTX
    /// asks for and that several compilers leave out.
    pub tensor_order: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { arch: Arch::default(), multiprocessors: 4, seed: 0, tensor_order: true }
    }
}

impl Options {
    /// Multiprocessors that may be claimed.
    pub const MAX_MULTIPROCESSORS: u32 = 1024;

    /// The options that the environment sets: `ATTN_SIM_ARCH`, `ATTN_SIM_MULTIPROCESSORS`, `ATTN_SIM_SEED` and
    /// `ATTN_SIM_TENSOR_ORDER` (`true` or `false`), the defaults where it does not.
    ///
    /// # Errors
    /// [`OptionError`] for a variable with a value that is not allowed.
    pub fn from_env() -> Result<Self, OptionError> {
        Self::from_lookup(|name| env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, OptionError> {
        fn parsed<T: FromStr>(value: Option<String>, variable: &'static str, default: T) -> Result<T, OptionError> {
            match value {
                None => Ok(default),
                Some(value) => value.parse().map_err(|_| OptionError { variable, value, allowed: allowed(variable) }),
            }
        }
        let default = Options::default();
        let options = Options {
            arch: parsed(lookup(ARCH), ARCH, default.arch)?,
            multiprocessors: parsed(lookup(MULTIPROCESSORS), MULTIPROCESSORS, default.multiprocessors)?,
            seed: parsed(lookup(SEED), SEED, default.seed)?,
            tensor_order: parsed(lookup(TENSOR_ORDER), TENSOR_ORDER, default.tensor_order)?,
        };
        options.checked()
    }

    /// The options themselves if they are allowed.
    pub(crate) fn checked(self) -> Result<Self, OptionError> {
        if (1..=Self::MAX_MULTIPROCESSORS).contains(&self.multiprocessors) {
            return Ok(self);
        }
        let value = self.multiprocessors.to_string();
        Err(OptionError { variable: MULTIPROCESSORS, value, allowed: allowed(MULTIPROCESSORS) })
    }
}

const ARCH: &str = "ATTN_SIM_ARCH";
const MULTIPROCESSORS: &str = "ATTN_SIM_MULTIPROCESSORS";
const SEED: &str = "ATTN_SIM_SEED";
const TENSOR_ORDER: &str = "ATTN_SIM_TENSOR_ORDER";

fn allowed(variable: &str) -> &'static str {
    match variable {
        ARCH => "sm_90a, sm_100a, sm_103a",
        MULTIPROCESSORS => "1 to 1024",
        TENSOR_ORDER => "true, false",
        _ => "an unsigned 64-bit number",
    }
}

/// An option with a value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is {value:?}, allowed: {allowed}")]
pub struct OptionError {
    /// The environment variable that sets the option.
    pub variable: &'static str,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_runs_its_own_family_and_what_is_older() {
        for (arch, target, runs) in [
            (Arch::Sm90a, "sm_90a", true),
            (Arch::Sm90a, "sm_90", true),
            (Arch::Sm90a, "sm_80", true),
            (Arch::Sm90a, "sm_100a", false),
            (Arch::Sm100a, "sm_90a", false),
            (Arch::Sm100a, "sm_90", true),
            (Arch::Sm103a, "sm_100a", false),
            (Arch::Sm103a, "sm_100f", true),
            (Arch::Sm100a, "sm_103f", false),
            (Arch::Sm100a, "compute_90", false),
        ] {
            assert_eq!(arch.runs(target), runs, "{arch} {target}");
        }
    }

    #[test]
    fn the_environment_sets_options_and_wrong_values_are_named() {
        let with = |name: &'static str, value: &'static str| {
            Options::from_lookup(move |asked| (asked == name).then(|| value.to_owned()))
        };
        assert_eq!(with("OTHER", "1"), Ok(Options::default()));
        assert_eq!(with("ATTN_SIM_SEED", "7"), Ok(Options { seed: 7, ..Options::default() }));
        assert_eq!(with("ATTN_SIM_ARCH", "sm_100a").map(|o| o.arch), Ok(Arch::Sm100a));
        assert_eq!(with("ATTN_SIM_MULTIPROCESSORS", "132").map(|o| o.multiprocessors), Ok(132));
        assert_eq!(with("ATTN_SIM_TENSOR_ORDER", "false").map(|o| o.tensor_order), Ok(false));
        for (name, value) in [
            ("ATTN_SIM_SEED", "x"),
            ("ATTN_SIM_ARCH", "sm_80"),
            ("ATTN_SIM_MULTIPROCESSORS", "0"),
            ("ATTN_SIM_TENSOR_ORDER", "no"),
        ] {
            let error = with(name, value).expect_err("not allowed");
            assert_eq!((error.variable, error.value.as_str()), (name, value));
        }
    }
}
