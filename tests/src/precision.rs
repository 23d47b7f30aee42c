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

/// 8-bit floats of 4 exponent and 3 stored mantissa bits, written from their definition.
pub mod float8 {
    /// The greatest.
    const GREATEST: f32 = 448.0;
    /// The spacing of the smallest.
    const LEAST_STEP: f32 = 1.0 / 512.0;

    /// `x` rounded to nearest even; what is too large becomes the greatest.
    pub fn round(x: f32) -> f32 {
        if x.is_nan() || x == 0.0 {
            return x;
        }
        let octave = f32::from_bits(x.to_bits() & 0x7f80_0000) / 8.0;
        let step = octave.clamp(LEAST_STEP, GREATEST);
        ((x / step).round_ties_even() * step).clamp(-GREATEST, GREATEST)
    }

    /// The bits of `x`, rounded.
    pub fn to_bits(x: f32) -> u8 {
        let x = round(x);
        let sign = u8::from(x.is_sign_negative()) << 7;
        match (0..=0x7e).find(|&bits| from_bits(bits) == x.abs()) {
            Some(bits) => sign | bits,
            None => 0x7f,
        }
    }

    /// The value of `bits`.
    pub fn from_bits(bits: u8) -> f32 {
        let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
        let magnitude = match (exponent, bits & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa * LEAST_STEP,
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
        };
        if bits < 0x80 { magnitude } else { -magnitude }
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
    fn eight_bits_are_what_they_round_to() {
        for bits in (0..=0x7e).chain(0x80..=0xfe) {
            let x = float8::from_bits(bits);
            assert_eq!((float8::to_bits(x), float8::round(x).to_bits()), (bits, x.to_bits()));
        }
        assert_eq!([0x08, 0x38, 0x7e, 0x01].map(float8::from_bits), [1.0 / 64.0, 1.0, 448.0, 1.0 / 512.0]);
        assert_eq!(
            [1.0625, 1.1875, 17.0, 1e9, 0.0009, 0.001].map(float8::round),
            [1.0, 1.25, 16.0, 448.0, 0.0, 1.0 / 512.0]
        );
        assert!(float8::from_bits(0x7f).is_nan() && float8::round(f32::NAN).is_nan());
        assert_eq!(float8::to_bits(f32::NAN) & 0x7f, 0x7f);
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        assert_eq!(Precision::Bf16.round(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(Precision::Bf16.round(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(Precision::F16.round(1.0 + 1.0 / 2048.0), 1.0);
        assert_eq!(Precision::F16.round(1e6), f32::INFINITY);
    }
}
