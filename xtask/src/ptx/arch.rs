//! The architectures that kernels are compiled for.

use clap::ValueEnum;

/// A GPU architecture, with its architecture-specific instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Arch {
    /// Hopper: H100, H200.
    #[value(name = "sm_90a")]
    Sm90a,
    /// Blackwell: B200, GB200.
    #[value(name = "sm_100a")]
    Sm100a,
    /// Blackwell Ultra: B300, GB300.
    #[value(name = "sm_103a")]
    Sm103a,
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Arch; 3] = [Arch::Sm90a, Arch::Sm100a, Arch::Sm103a];

    /// The name that compilers use.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Sm90a => "sm_90a",
            Arch::Sm100a => "sm_100a",
            Arch::Sm103a => "sm_103a",
        }
    }

    /// The oldest PTX version that has the target: a driver translates PTX only up to its own version.
    pub const fn oldest_ptx(self) -> PtxVersion {
        match self {
            Arch::Sm90a => PtxVersion { major: 8, minor: 0 },
            Arch::Sm100a => PtxVersion { major: 8, minor: 6 },
            Arch::Sm103a => PtxVersion { major: 8, minor: 8 },
        }
    }
}

/// A version of the PTX language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PtxVersion {
    /// Before the dot.
    pub major: u32,
    /// After the dot.
    pub minor: u32,
}

impl PtxVersion {
    /// Reads `8.6` at the start of `text`.
    pub fn parse(text: &str) -> Option<PtxVersion> {
        let (major, rest) = text.trim_start().split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(PtxVersion { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl std::fmt::Display for PtxVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
