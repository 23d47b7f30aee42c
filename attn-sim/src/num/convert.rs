//! Conversions between integers and floating-point formats (`cvt`), and packed ones of two values into one register.

use super::exact::{Exact, Finite};
use super::float::{encode_flushed, flush, saturate};
use super::format::{Format, Rounding, round_shift};

/// What a register's bits stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// A floating-point number.
    Float(Format),
    /// An integer of this many bits.
    Unsigned(u32),
    /// An integer of this many bits, in two's complement.
    Signed(u32),
}

/// Modifiers of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How a result is rounded that the destination cannot hold.
    pub rounding: Rounding,
    /// `.rni` and its like between floats: the result is an integer.
    pub integral: bool,
    /// `.ftz`: subnormal f32 operands and results become zeros.
    pub ftz: bool,
    /// `.sat`: a float result is brought into [0, 1], an integer into the destination's range.
    pub sat: bool,
    /// `.satfinite`: the largest number instead of an infinity.
    pub satfinite: bool,
    /// `.relu`: a negative result becomes 0.
    pub relu: bool,
}

impl Options {
    /// A rounding, nothing else.
    pub const fn rounded(rounding: Rounding) -> Self {
        Options { rounding, integral: false, ftz: false, sat: false, satfinite: false, relu: false }
    }
}

/// Converts the low bits of `bits`; the result's unused upper bits are zero (sign bits of a signed integer are not extended).
pub fn convert(from: Number, to: Number, bits: u64, options: Options) -> u64 {
    match (from, to) {
        (Number::Float(f), Number::Float(t)) => float_to_float(f, t, bits, options),
        (Number::Float(f), t) => float_to_integer(f, t, bits, options),
        (f, Number::Float(t)) => finish(t, Exact::integer(integer(f, bits)), options),
        (f, t) => integer_to_integer(f, t, bits, options.sat),
    }
}

/// The value of an integer register.
fn integer(from: Number, bits: u64) -> i128 {
    match from {
        Number::Unsigned(n) => i128::from(bits & mask(n)),
        Number::Signed(n) => i128::from(((bits << (64 - n)) as i64) >> (64 - n)),
        Number::Float(_) => unreachable!("the caller sorts floats out"),
    }
}

/// Smallest and largest value of an integer type.
fn range(to: Number) -> (i128, i128) {
    match to {
        Number::Unsigned(n) => (0, (1 << n) - 1),
        Number::Signed(n) => (-(1 << (n - 1)), (1 << (n - 1)) - 1),
        Number::Float(_) => unreachable!("the caller sorts floats out"),
    }
}

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

fn width(number: Number) -> u32 {
    match number {
        Number::Float(f) => f.bits(),
        Number::Unsigned(n) | Number::Signed(n) => n,
    }
}

fn integer_to_integer(from: Number, to: Number, bits: u64, sat: bool) -> u64 {
    let value = integer(from, bits);
    let (low, high) = range(to);
    let value = if sat { value.clamp(low, high) } else { value };
    value as u64 & mask(width(to))
}

fn float_to_float(from: Format, to: Format, bits: u64, options: Options) -> u64 {
    if from.is_nan(bits)
        && let Some(nan) = surviving_nan(from, to, bits, options)
    {
        return nan;
    }
    let bits = if options.ftz && from == Format::F32 { flush(from, bits) } else { bits };
    let value = from.decode(bits);
    finish(to, if options.integral { round_to_integer(value, options.rounding) } else { value }, options)
}

/// What conversions make of a NaN, where that is not the canonical one of the destination. As an H100 does: between f32 and f64
/// sign and payload survive, as far as they fit; bf16 to f32 and `.rna` to tf32 only move and cut bits.
fn surviving_nan(from: Format, to: Format, bits: u64, options: Options) -> Option<u64> {
    let (wide, narrow) = (Format::F64, Format::F32);
    let moved = wide.mantissa_bits() - narrow.mantissa_bits();
    let sign = if bits & from.sign() == 0 { 0 } else { to.sign() };
    Some(match (from, to) {
        _ if options.sat || options.relu => return None,
        (Format::F32, Format::F64) => {
            let magnitude = narrow.quiet(bits) & (narrow.sign() - 1);
            sign | 0x7ff << wide.mantissa_bits() | (magnitude << moved & mask(wide.mantissa_bits()))
        }
        (Format::F64, Format::F32) => {
            sign | 0xff << narrow.mantissa_bits() | (wide.quiet(bits) >> moved & mask(narrow.mantissa_bits()))
        }
        (Format::BF16, Format::F32) => bits << 16,
        // Saturation takes one unit off an infinity's pattern, and off a NaN's.
        (Format::F32, Format::TF32) if options.rounding == Rounding::NearestAway => {
            let unit = 1 << (to.bits() - 1 - 8 - to.mantissa_bits());
            (bits & !(unit - 1)) - if options.satfinite { unit } else { 0 }
        }
        _ => return None,
    })
}

/// A value in a floating-point format, with the conversion's modifiers.
fn finish(to: Format, value: Exact, options: Options) -> u64 {
    let mut bits = if options.satfinite {
        to.encode_saturated(value, options.rounding)
    } else if options.ftz && to == Format::F32 {
        encode_flushed(to, value, options.rounding)
    } else {
        to.encode(value, options.rounding)
    };
    if options.sat {
        bits = saturate(to, bits);
    }
    let negative = !value.is_nan() && bits & to.sign() != 0;
    if options.relu && negative { 0 } else { bits }
}

/// The integer that a number rounds to, as a number; a zero result keeps the sign.
fn round_to_integer(value: Exact, rounding: Rounding) -> Exact {
    match value {
        Exact::Finite(f) if f.exponent < 0 => Exact::Finite(Finite {
            significand: round_shift(f.significand, f.exponent, f.negative, rounding),
            exponent: 0,
            ..f
        }),
        _ => value,
    }
}

/// Rounds and clamps to the destination's range. A NaN gives 0, or the top bit alone where either side has 64 bits.
fn float_to_integer(from: Format, to: Number, bits: u64, options: Options) -> u64 {
    let bits = if options.ftz && from == Format::F32 { flush(from, bits) } else { bits };
    let (low, high) = range(to);
    let value = match round_to_integer(from.decode(bits), options.rounding) {
        Exact::Nan if from == Format::F64 || width(to) == 64 => return 1 << (width(to) - 1),
        Exact::Nan => return 0,
        Exact::Infinite { negative } => {
            if negative {
                low
            } else {
                high
            }
        }
        Exact::Finite(f) if f.significand == 0 => 0,
        Exact::Finite(f) => {
            // Every integer of 64 bits lies below 2^64.
            let magnitude = if f.magnitude() > 64 { 1 << 65 } else { (f.significand << f.exponent) as i128 };
            (if f.negative { -magnitude } else { magnitude }).clamp(low, high)
        }
    };
    value as u64 & mask(width(to))
}

/// Two f32 values as two narrower ones in one register: `high` in its upper half.
pub fn pack_f32(to: Format, high: f32, low: f32, options: Options) -> u64 {
    let one = |x: f32| convert(Number::Float(Format::F32), Number::Float(to), x.to_bits().into(), options);
    one(high) << to_bits_in_pair(to) | one(low)
}

/// Bits that a format takes in a packed pair: 4-bit ones lie in nibbles, 6-bit ones in bytes.
fn to_bits_in_pair(format: Format) -> u32 {
    if format.bits() == 6 { 8 } else { format.bits() }
}

/// `cvt.rn.bf16x2.f32` and `cvt.rn.f16x2.f32` without modifiers, which attention kernels spend their conversions on.
pub fn pack_f32_nearest(to: Format, high: f32, low: f32) -> u32 {
    if to == Format::BF16 {
        return u32::from(bf16_nearest(high)) << 16 | u32::from(bf16_nearest(low));
    }
    pack_f32(to, high, low, Options::rounded(Rounding::Nearest)) as u32
}

fn bf16_nearest(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let bits = x.to_bits();
    // Half of the last place, less one where that place is even; a carry into the exponent is right, into infinity too.
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// A power of two as its exponent alone, biased by 127 (`ue8m0`): of a positive f32, rounded toward zero or plus infinity,
/// kept within the format. NaN is 255, and a negative number counts as the smallest power.
pub fn ue8m0(x: f32, rounding: Rounding) -> u8 {
    match Format::F32.decode(x.to_bits().into()) {
        Exact::Nan => 0xff,
        Exact::Infinite { negative: false } => 0xfe,
        Exact::Finite(f) if !f.negative && f.significand != 0 => {
            let exponent = f.magnitude();
            let power = f.significand.is_power_of_two();
            let up = i32::from(rounding == Rounding::Up && !power);
            (exponent + up + 127).clamp(0, 0xfe) as u8
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F32: Number = Number::Float(Format::F32);
    const ROUNDINGS: [Rounding; 4] = [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up];

    fn f(x: f32) -> u64 {
        x.to_bits().into()
    }

    fn samples() -> Vec<f32> {
        let mut x = vec![0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, 1e-40, 3e9, -3e9, 1e10, 1e20, -1e20];
        x.extend([
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            2147483648.0,
            4294967296.0,
            127.5,
            128.5,
            255.5,
            65535.5,
        ]);
        let mut s = 7u32;
        for _ in 0..5000 {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x.push(f32::from_bits(s.rotate_left(s >> 27)));
            x.push((s as i32) as f32 / 1024.0);
        }
        x.retain(|x| !x.is_nan());
        x
    }

    /// Against Rust's own rounding functions and saturating casts.
    #[test]
    fn floats_to_integers() {
        for x in samples() {
            for r in ROUNDINGS {
                let y = match r {
                    Rounding::Nearest => x.round_ties_even(),
                    Rounding::Zero => x.trunc(),
                    Rounding::Down => x.floor(),
                    _ => x.ceil(),
                };
                let to = |n| convert(F32, n, f(x), Options::rounded(r));
                assert_eq!(to(Number::Signed(32)), u64::from(y as i32 as u32), "{x:e} {r:?}");
                assert_eq!(to(Number::Unsigned(32)), u64::from(y as u32), "{x:e} {r:?}");
                assert_eq!(to(Number::Signed(8)), u64::from(y as i8 as u8), "{x:e} {r:?}");
                assert_eq!(to(Number::Unsigned(16)), u64::from(y as u16), "{x:e} {r:?}");
                assert_eq!(to(Number::Signed(64)), y as i64 as u64, "{x:e} {r:?}");
                assert_eq!(to(Number::Unsigned(64)), y as u64, "{x:e} {r:?}");
                let integral = Options { integral: true, ..Options::rounded(r) };
                assert_eq!(convert(F32, F32, f(x), integral), f(y), "{x:e} {r:?}");
            }
        }
    }

    #[test]
    fn nan_to_integer() {
        let to = |from, n, bits| convert(from, n, bits, Options::rounded(Rounding::Zero));
        assert_eq!(to(F32, Number::Signed(32), f(f32::NAN)), 0);
        assert_eq!(to(F32, Number::Signed(64), f(f32::NAN)), 1 << 63);
        assert_eq!(to(Number::Float(Format::F64), Number::Unsigned(32), f64::NAN.to_bits()), 1 << 31);
    }

    #[test]
    fn nan_to_float() {
        let to =
            |from, to, bits| convert(Number::Float(from), Number::Float(to), bits, Options::rounded(Rounding::Nearest));
        assert_eq!(to(Format::F32, Format::F64, 0xffa5_a5a5), 0xfffc_b4b4_a000_0000);
        assert_eq!(to(Format::F64, Format::F32, 0xffff_ffff_3f81_8000), 0xffff_fff9);
        assert_eq!(to(Format::F64, Format::F32, 0x7ff0_0000_0000_0001), 0x7fc0_0000);
        assert_eq!(to(Format::BF16, Format::F32, 0xff81), 0xff81_0000);
        assert_eq!(to(Format::F16, Format::F32, 0xfe01), 0x7fff_ffff);
        assert_eq!(to(Format::F32, Format::TF32, 0x7f80_0001), 0x7fff_e000);
        let away = Options::rounded(Rounding::NearestAway);
        let tf32 = |options| convert(F32, Number::Float(Format::TF32), 0xffa5_a5a5, options);
        assert_eq!(tf32(away), 0xffa5_a000);
        assert_eq!(tf32(Options { satfinite: true, ..away }), 0xffa5_8000);
    }

    #[test]
    fn integers_to_floats() {
        for i in [0i64, 1, -1, 16_777_217, -16_777_217, i64::MIN, i64::MAX, 123_456_789_012] {
            let n = Options::rounded(Rounding::Nearest);
            assert_eq!(convert(Number::Signed(64), F32, i as u64, n), f(i as f32));
            assert_eq!(convert(Number::Unsigned(64), F32, i as u64, n), f(i as u64 as f32));
            assert_eq!(convert(Number::Signed(32), F32, i as u64, n), f(i as i32 as f32));
            assert_eq!(convert(Number::Signed(64), Number::Float(Format::F64), i as u64, n), (i as f64).to_bits());
        }
        let up = Options::rounded(Rounding::Up);
        assert_eq!(convert(Number::Signed(32), F32, 16_777_217, up), f(16_777_218.0));
        let huge =
            convert(Number::Unsigned(32), Number::Float(Format::F16), 70_000, Options::rounded(Rounding::Nearest));
        assert_eq!(huge, 0x7c00);
    }

    #[test]
    fn integers_to_integers() {
        let c = |from, to, bits, sat| convert(from, to, bits, Options { sat, ..Options::rounded(Rounding::Nearest) });
        assert_eq!(c(Number::Signed(8), Number::Unsigned(32), 0xff, false), 0xffff_ffff);
        assert_eq!(c(Number::Signed(8), Number::Unsigned(32), 0xff, true), 0);
        assert_eq!(c(Number::Unsigned(32), Number::Signed(8), 300, true), 127);
        assert_eq!(c(Number::Unsigned(32), Number::Signed(8), 300, false), 44);
        assert_eq!(c(Number::Signed(32), Number::Signed(64), 0x8000_0000, false), 0xffff_ffff_8000_0000);
    }

    #[test]
    fn quick_packing_is_exact() {
        for x in samples().into_iter().chain([f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)]) {
            let exact = pack_f32(Format::BF16, x, -x, Options::rounded(Rounding::Nearest));
            assert_eq!(u64::from(pack_f32_nearest(Format::BF16, x, -x)), exact, "{x:e}");
        }
        assert_eq!(pack_f32_nearest(Format::F16, 1.0, 2.0), 0x3c00_4000);
    }

    #[test]
    fn narrow_floats() {
        let sat = Options { satfinite: true, ..Options::rounded(Rounding::Nearest) };
        let relu = Options { relu: true, ..sat };
        assert_eq!(pack_f32(Format::E4M3, 1.0, -1000.0, sat), 0x38fe);
        assert_eq!(pack_f32(Format::E5M2, f32::INFINITY, f32::NAN, sat), 0x7b7f);
        assert_eq!(pack_f32(Format::E4M3, f32::NAN, -1.0, relu), 0x7f00);
        assert_eq!(pack_f32(Format::E2M1, 6.0, -0.5, sat), 0x79);
        assert_eq!(pack_f32(Format::E2M3, 7.5, 100.0, sat), 0x1f1f);
        let sat01 = Options { sat: true, ..Options::rounded(Rounding::Nearest) };
        assert_eq!(convert(F32, Number::Float(Format::F16), f(3.0), sat01), 0x3c00);
        let away = Options::rounded(Rounding::NearestAway);
        assert_eq!(convert(F32, Number::Float(Format::TF32), 0x3f80_1000, away), 0x3f80_2000);
        let flush = Options { ftz: true, ..Options::rounded(Rounding::Nearest) };
        assert_eq!(convert(F32, Number::Float(Format::F64), 0x8000_0001, flush), 1 << 63);
    }

    #[test]
    fn powers_of_two() {
        assert_eq!(ue8m0(1.0, Rounding::Zero), 127);
        assert_eq!(ue8m0(1.5, Rounding::Zero), 127);
        assert_eq!(ue8m0(1.5, Rounding::Up), 128);
        assert_eq!(ue8m0(f32::MAX, Rounding::Up), 254);
        assert_eq!(ue8m0(f32::NAN, Rounding::Up), 255);
        assert_eq!(ue8m0(0.0, Rounding::Up), 0);
    }
}
