//! Floating-point formats: their bits to exact numbers and back, with every rounding.

use super::exact::{Exact, Finite};

/// What a format's largest exponent means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Specials {
    /// Infinities and NaNs.
    Ieee,
    /// Numbers, but for one NaN of each sign: all bits set.
    NanOnly,
    /// Numbers only.
    Finite,
}

/// A binary floating-point format of at most 64 bits: sign, exponent, mantissa, and low bits that do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    /// Low bits that are ignored when read and zero when written (tf32 in its 32-bit register).
    padding: u32,
    specials: Specials,
    /// What an invalid operation gives.
    nan: u64,
}

/// How a result that a format cannot hold is brought to one that it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to even (`.rn`, `.rni`).
    Nearest,
    /// To the nearest, ties away from zero (`.rna`).
    NearestAway,
    /// Toward zero (`.rz`, `.rzi`).
    Zero,
    /// Toward minus infinity (`.rm`, `.rmi`).
    Down,
    /// Toward plus infinity (`.rp`, `.rpi`).
    Up,
}

impl Format {
    /// IEEE double precision.
    pub const F64: Format = Format::new(11, 52, Specials::Ieee, 0xfff8_0000_0000_0000);
    /// IEEE single precision.
    pub const F32: Format = Format::new(8, 23, Specials::Ieee, 0x7fff_ffff);
    /// 19 bits in the upper part of a 32-bit register.
    pub const TF32: Format = Format { padding: 13, ..Format::new(8, 10, Specials::Ieee, 0x7fff_e000) };
    /// Single precision cut to 13 bits behind the point, which Hopper's 8-bit products accumulate in.
    pub const F32_CUT: Format = Format { padding: 10, ..Format::new(8, 13, Specials::Ieee, 0x7fff_ffff) };
    /// IEEE half precision.
    pub const F16: Format = Format::new(5, 10, Specials::Ieee, 0x7fff);
    /// The upper half of single precision.
    pub const BF16: Format = Format::new(8, 7, Specials::Ieee, 0x7fff);
    /// 8 bits, no infinities, largest number 448.
    pub const E4M3: Format = Format::new(4, 3, Specials::NanOnly, 0x7f);
    /// 8 bits, largest number 57344.
    pub const E5M2: Format = Format::new(5, 2, Specials::Ieee, 0x7f);
    /// 6 bits, numbers only, largest 7.5.
    pub const E2M3: Format = Format::new(2, 3, Specials::Finite, 0x1f);
    /// 6 bits, numbers only, largest 28.
    pub const E3M2: Format = Format::new(3, 2, Specials::Finite, 0x1f);
    /// 4 bits, numbers only, largest 6.
    pub const E2M1: Format = Format::new(2, 1, Specials::Finite, 0x7);

    const fn new(exponent_bits: u32, mantissa_bits: u32, specials: Specials, nan: u64) -> Self {
        Format { exponent_bits, mantissa_bits, padding: 0, specials, nan }
    }

    /// Bits of a value, padding included.
    pub const fn bits(self) -> u32 {
        1 + self.exponent_bits + self.mantissa_bits + self.padding
    }

    /// Explicit bits of the significand.
    pub const fn mantissa_bits(self) -> u32 {
        self.mantissa_bits
    }

    /// Exponent of the smallest normal number.
    pub const fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent_bits - 1))
    }

    /// What an operation gives that has no number; a format without NaNs gives its largest number.
    pub const fn nan(self) -> u64 {
        self.nan
    }

    /// The sign bit.
    pub const fn sign(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// Largest magnitude that is a number, as bits without padding.
    const fn max_code(self) -> u64 {
        let all = (1 << (self.exponent_bits + self.mantissa_bits)) - 1;
        match self.specials {
            Specials::Ieee => all - (1 << self.mantissa_bits),
            Specials::NanOnly => all - 1,
            Specials::Finite => all,
        }
    }

    /// The largest number of a sign.
    pub const fn max(self, negative: bool) -> u64 {
        self.signed(negative, self.max_code())
    }

    /// Infinity of a sign, where the format has one.
    pub const fn infinity(self, negative: bool) -> Option<u64> {
        match self.specials {
            Specials::Ieee => Some(self.signed(negative, self.max_code() + 1)),
            _ => None,
        }
    }

    const fn signed(self, negative: bool, code: u64) -> u64 {
        (code << self.padding) | if negative { self.sign() } else { 0 }
    }

    /// Whether `bits` is a NaN.
    pub const fn is_nan(self, bits: u64) -> bool {
        let code = (bits & (self.sign() - 1)) >> self.padding;
        match self.specials {
            Specials::Ieee => code > self.max_code() + 1,
            Specials::NanOnly => code > self.max_code(),
            Specials::Finite => false,
        }
    }

    /// A NaN with its payload and its sign, but quiet: its mantissa's highest bit is set.
    pub const fn quiet(self, nan: u64) -> u64 {
        nan | 1 << (self.mantissa_bits + self.padding - 1)
    }

    /// The number that `bits` stand for; higher bits are ignored.
    pub fn decode(self, bits: u64) -> Exact {
        let negative = bits & self.sign() != 0;
        let code = (bits & (self.sign() - 1)) >> self.padding;
        if code > self.max_code() {
            let infinite = self.specials == Specials::Ieee && code == self.max_code() + 1;
            return if infinite { Exact::Infinite { negative } } else { Exact::Nan };
        }
        let mantissa = code & ((1 << self.mantissa_bits) - 1);
        let field = (code >> self.mantissa_bits) as i32;
        let (hidden, exponent) = if field == 0 { (0, 1) } else { (1 << self.mantissa_bits, field) };
        let exponent = exponent - 1 + self.min_exponent() - self.mantissa_bits as i32;
        Exact::Finite(Finite { negative, significand: u128::from(hidden | mantissa), exponent })
    }

    /// `value` in this format. Too large a magnitude becomes infinite, or the largest number where the rounding leads that way or
    /// the format has no infinity but numbers only; e4m3 has a NaN to give.
    pub fn encode(self, value: Exact, rounding: Rounding) -> u64 {
        let finite = match value {
            Exact::Nan => return self.nan,
            Exact::Infinite { negative } => return self.overflow(negative),
            Exact::Finite(f) => f,
        };
        let code = self.round(finite, rounding);
        if code <= u128::from(self.max_code()) {
            return self.signed(finite.negative, code as u64);
        }
        let toward_zero = match rounding {
            Rounding::Nearest | Rounding::NearestAway => false,
            Rounding::Zero => true,
            Rounding::Down => !finite.negative,
            Rounding::Up => finite.negative,
        };
        if toward_zero { self.max(finite.negative) } else { self.overflow(finite.negative) }
    }

    /// `value` rounded toward zero, but infinite where it is too large: how the matrix units write f32.
    pub fn encode_cut(self, value: Exact) -> u64 {
        match value {
            Exact::Finite(f) if self.round(f, Rounding::Zero) > u128::from(self.max_code()) => {
                self.overflow(f.negative)
            }
            _ => self.encode(value, Rounding::Zero),
        }
    }

    /// `value` in this format, with the largest number of its sign instead of an infinity (`.satfinite`). NaN as by [`Self::nan`].
    pub fn encode_saturated(self, value: Exact, rounding: Rounding) -> u64 {
        match value {
            Exact::Nan => self.nan,
            Exact::Infinite { negative } => self.max(negative),
            Exact::Finite(f) => {
                let code = self.round(f, rounding).min(u128::from(self.max_code()));
                self.signed(f.negative, code as u64)
            }
        }
    }

    fn overflow(self, negative: bool) -> u64 {
        match self.specials {
            Specials::Ieee => self.signed(negative, self.max_code() + 1),
            Specials::NanOnly => self.nan | if negative { self.sign() } else { 0 },
            Specials::Finite => self.max(negative),
        }
    }

    /// Exponent and mantissa of the rounded magnitude as one integer, as though exponents had no end.
    fn round(self, f: Finite, rounding: Rounding) -> u128 {
        if f.significand == 0 {
            return 0;
        }
        let leading = f.magnitude().max(self.min_exponent());
        let unit = leading - self.mantissa_bits as i32;
        let kept = round_shift(f.significand, f.exponent - unit, f.negative, rounding);
        // A carry out of the mantissa, or from the subnormals into the normals, counts the exponent up by itself.
        let field = (leading - self.min_exponent()) as u128;
        (field << self.mantissa_bits) + kept
    }
}

/// `significand * 2^shift` as an integer, rounded.
pub(super) fn round_shift(significand: u128, shift: i32, negative: bool, rounding: Rounding) -> u128 {
    if shift >= 0 {
        return significand << shift;
    }
    let by = shift.unsigned_abs();
    // Beyond 127 nothing is kept, and what is lost lies below one half.
    let (kept, lost, half) = match by {
        1..128 => (significand >> by, significand & ((1 << by) - 1), 1u128 << (by - 1)),
        _ => (0, significand, u128::MAX),
    };
    let up = match rounding {
        Rounding::Nearest => lost > half || (lost == half && kept & 1 == 1),
        Rounding::NearestAway => lost >= half,
        Rounding::Zero => false,
        Rounding::Down => negative && lost != 0,
        Rounding::Up => !negative && lost != 0,
    };
    kept + u128::from(up)
}

#[cfg(test)]
mod tests {
    use super::super::exact;
    use super::*;

    const ALL: [Format; 8] = [
        Format::F16,
        Format::BF16,
        Format::E4M3,
        Format::E5M2,
        Format::E2M3,
        Format::E3M2,
        Format::E2M1,
        Format { padding: 0, ..Format::TF32 },
    ];

    #[test]
    fn every_code_survives() {
        for f in ALL {
            for code in 0..1u64 << f.bits() {
                let expected = if f.is_nan(code) { f.nan() } else { code };
                for r in [Rounding::Nearest, Rounding::NearestAway, Rounding::Zero, Rounding::Down, Rounding::Up] {
                    assert_eq!(f.encode(f.decode(code), r), expected, "{f:?} {code:#x}");
                }
            }
        }
    }

    /// Midpoints and their neighbours of every two adjacent magnitudes, in every format and rounding.
    #[test]
    fn between_two_codes() {
        for f in ALL {
            for code in 0..f.max_code() {
                for negative in [false, true] {
                    let (low, high) = (f.signed(negative, code), f.signed(negative, code + 1));
                    let Exact::Finite(mid) = exact::add(f.decode(low), f.decode(high), false) else { panic!("finite") };
                    // Half the sum, with room below for its neighbours.
                    let room = mid.significand.leading_zeros() - 2;
                    let mid = Finite {
                        negative,
                        significand: mid.significand << room,
                        exponent: mid.exponent - 1 - room as i32,
                    };
                    let even = if code % 2 == 0 { low } else { high };
                    let [down, up] = if negative { [high, low] } else { [low, high] };
                    let check = |x: Finite, nearest, away| {
                        let e = |r| f.encode(Exact::Finite(x), r);
                        assert_eq!(e(Rounding::Nearest), nearest);
                        assert_eq!(e(Rounding::NearestAway), away);
                        assert_eq!(e(Rounding::Zero), low);
                        assert_eq!(e(Rounding::Down), down);
                        assert_eq!(e(Rounding::Up), up);
                    };
                    check(mid, even, high);
                    check(Finite { significand: mid.significand - 1, ..mid }, low, low);
                    check(Finite { significand: mid.significand + 1, ..mid }, high, high);
                }
            }
        }
    }

    #[test]
    fn largest_numbers() {
        let value = |f: Format| f64::from_bits(Format::F64.encode(f.decode(f.max(false)), Rounding::Nearest));
        assert_eq!(ALL.map(value)[..7], [65504.0, f64::from(half::bf16::MAX), 448.0, 57344.0, 7.5, 28.0, 6.0]);
    }

    #[test]
    fn beyond_the_largest() {
        let huge = Exact::Finite(Finite { negative: true, significand: 1, exponent: 5000 });
        assert_eq!(Format::F32.encode(huge, Rounding::Nearest), 0xff80_0000);
        assert_eq!(Format::F32.encode(huge, Rounding::Zero), 0xff7f_ffff);
        assert_eq!(Format::F32.encode(huge, Rounding::Up), 0xff7f_ffff);
        assert_eq!(Format::F32.encode(huge, Rounding::Down), 0xff80_0000);
        assert_eq!(Format::E4M3.encode(huge, Rounding::Nearest), 0xff);
        assert_eq!(Format::E4M3.encode_saturated(huge, Rounding::Nearest), 0xfe);
        assert_eq!(Format::E5M2.encode_saturated(Exact::Infinite { negative: false }, Rounding::Nearest), 0x7b);
        assert_eq!(Format::E2M1.encode_saturated(Exact::Nan, Rounding::Nearest), 0x7);
    }

    #[test]
    fn half_agrees() {
        let mut seed = 1u32;
        for _ in 0..200_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(seed.rotate_left(seed >> 27));
            let exact = Format::F32.decode(u64::from(x.to_bits()));
            if x.is_nan() {
                continue;
            }
            assert_eq!(
                Format::F16.encode(exact, Rounding::Nearest),
                u64::from(half::f16::from_f32(x).to_bits()),
                "{x:e}"
            );
            assert_eq!(
                Format::BF16.encode(exact, Rounding::Nearest),
                u64::from(half::bf16::from_f32(x).to_bits()),
                "{x:e}"
            );
            assert_eq!(Format::F64.encode(exact, Rounding::Zero), f64::from(x).to_bits());
            assert_eq!(
                Format::F32.encode(Format::F64.decode(f64::from(x).to_bits()), Rounding::Up),
                u64::from(x.to_bits())
            );
        }
    }
}
