//! The 16-bit formats of Q, K, V and O.

use std::fmt;
use std::str::FromStr;

use attn_kernel::forward::DType;
use half::{bf16, f16};

/// A 16-bit floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// bfloat16: 8 bits of significand.
    Bf16,
    /// IEEE half precision: 11 bits of significand.
    F16,
}

/// Bits that are a NaN in both formats, and that no arithmetic produces: what unwritten memory holds in tests.
pub const POISON: u16 = 0x7FFB;

impl Precision {
    /// Both formats.
    pub const ALL: [Precision; 2] = [Precision::Bf16, Precision::F16];

    /// The kernels' name for this format.
    pub fn dtype(self) -> DType {
        match self {
            Precision::Bf16 => DType::Bf16,
            Precision::F16 => DType::F16,
        }
    }

    /// `x` rounded to nearest even, as bits.
    pub fn to_bits(self, x: f32) -> u16 {
        match self {
            Precision::Bf16 => bf16::from_f32(x).to_bits(),
            Precision::F16 => f16::from_f32(x).to_bits(),
        }
    }

    /// The value of `bits`, exactly.
    pub fn from_bits(self, bits: u16) -> f32 {
        match self {
            Precision::Bf16 => bf16::from_bits(bits).to_f32(),
            Precision::F16 => f16::from_bits(bits).to_f32(),
        }
    }

    /// `x` rounded to this format.
    pub fn round(self, x: f32) -> f32 {
        self.from_bits(self.to_bits(x))
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Precision::ALL.into_iter().find(|p| p.to_string() == s).ok_or_else(|| format!("'{s}' is neither bf16 nor f16"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_nan_in_both_formats() {
        for p in Precision::ALL {
            assert!(p.from_bits(POISON).is_nan(), "{p}");
            assert_ne!(p.to_bits(f32::NAN), POISON, "{p}: a computed NaN must differ from untouched memory");
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        assert_eq!(Precision::Bf16.round(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(Precision::Bf16.round(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(Precision::F16.round(1.0 + 1.0 / 2048.0), 1.0);
        assert_eq!(Precision::F16.round(1e6), f32::INFINITY);
    }
}
