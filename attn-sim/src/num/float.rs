//! Floating-point arithmetic on bit patterns, as PTX defines it: IEEE results in four roundings, flushed subnormals, saturation,
//! and NaNs that are the canonical one, but for `fma.f64` ([`fma_f64`]).
//!
//! `.ftz` makes a zero of a result that lies below the smallest normal number before it is rounded. An H100 does so with one that
//! only the narrower subnormals would round up to that number; whether also with one that 24 digits would, no recording shows.
//!
//! A function takes the format and patterns in the low bits of `u64`; those named `_f32` are the same for `f32`, and quick where
//! the machine that runs the simulator rounds alike.

use super::exact::{self, Exact};
use super::format::{Format, Rounding};
use std::cmp::Ordering;

/// Modifiers of an arithmetic instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// `.rn`, `.rz`, `.rm` or `.rp`.
    pub rounding: Rounding,
    /// `.ftz`: subnormal operands and results become zeros of their sign.
    pub ftz: bool,
    /// `.sat`: the result is brought into [0, 1], a NaN to 0.
    pub sat: bool,
    /// `.relu`: a negative result becomes 0.
    pub relu: bool,
}

impl Mode {
    /// Round to nearest even, nothing else.
    pub const NEAREST: Mode = Mode { rounding: Rounding::Nearest, ftz: false, sat: false, relu: false };
    /// Round to nearest even, flush subnormals.
    pub const FLUSH: Mode = Mode { ftz: true, ..Mode::NEAREST };

    /// A rounding, nothing else.
    pub const fn rounded(rounding: Rounding) -> Self {
        Mode { rounding, ..Mode::NEAREST }
    }

    fn read(self, format: Format, bits: u64) -> Exact {
        format.decode(if self.ftz { flush(format, bits) } else { bits })
    }

    fn write(self, format: Format, value: Exact) -> u64 {
        let mut bits =
            if self.ftz { encode_flushed(format, value, self.rounding) } else { format.encode(value, self.rounding) };
        if self.sat {
            bits = saturate(format, bits);
        }
        if self.relu && !format.is_nan(bits) && bits & format.sign() != 0 {
            bits = 0;
        }
        bits
    }
}

/// A subnormal number becomes a zero of its sign.
pub fn flush(format: Format, bits: u64) -> u64 {
    match format.decode(bits) {
        Exact::Finite(f) if f.magnitude() < format.min_exponent() => bits & format.sign(),
        _ => bits,
    }
}

/// `value` in a format, rounded; below the smallest normal number, a zero of its sign.
pub fn encode_flushed(format: Format, value: Exact, rounding: Rounding) -> u64 {
    match value {
        Exact::Finite(f) if f.magnitude() < format.min_exponent() => {
            if f.negative {
                format.sign()
            } else {
                0
            }
        }
        _ => format.encode(value, rounding),
    }
}

/// A number brought into [0, 1]; a NaN becomes 0.
pub fn saturate(format: Format, bits: u64) -> u64 {
    let value = format.decode(bits);
    match value.compare(Exact::integer(1)) {
        None => 0,
        Some(Ordering::Greater) => format.encode(Exact::integer(1), Rounding::Nearest),
        Some(_) if value.is_negative() => 0,
        Some(_) => bits,
    }
}

/// `a + b`.
pub fn add(format: Format, a: u64, b: u64, mode: Mode) -> u64 {
    let sum = exact::add(mode.read(format, a), mode.read(format, b), mode.rounding == Rounding::Down);
    mode.write(format, sum)
}

/// `a - b`.
pub fn sub(format: Format, a: u64, b: u64, mode: Mode) -> u64 {
    let difference = exact::add(mode.read(format, a), mode.read(format, b).negated(), mode.rounding == Rounding::Down);
    mode.write(format, difference)
}

/// `a * b`.
pub fn mul(format: Format, a: u64, b: u64, mode: Mode) -> u64 {
    mode.write(format, exact::mul(mode.read(format, a), mode.read(format, b)))
}

/// `a * b + c`, rounded once.
pub fn fma(format: Format, a: u64, b: u64, c: u64, mode: Mode) -> u64 {
    let product = exact::mul(mode.read(format, a), mode.read(format, b));
    mode.write(format, exact::add(product, mode.read(format, c), mode.rounding == Rounding::Down))
}

/// `a * b + c` in f32, with `a` and `b` in another format (`fma.rn.f32.bf16`). Addition is the same with `b` = 1.
pub fn fma_mixed(narrow: Format, a: u64, b: u64, c: u64, mode: Mode) -> u64 {
    let product = exact::mul(narrow.decode(a), narrow.decode(b));
    let c = mode.read(Format::F32, c);
    mode.write(Format::F32, exact::add(product, c, mode.rounding == Rounding::Down))
}

/// `a / b`.
pub fn div(format: Format, a: u64, b: u64, mode: Mode) -> u64 {
    mode.write(format, exact::div(mode.read(format, a), mode.read(format, b)))
}

/// `1 / a`.
pub fn rcp(format: Format, a: u64, mode: Mode) -> u64 {
    mode.write(format, exact::div(Exact::integer(1), mode.read(format, a)))
}

/// The square root.
pub fn sqrt(format: Format, a: u64, mode: Mode) -> u64 {
    mode.write(format, exact::sqrt(mode.read(format, a)))
}

/// `a * b + c` in f64, rounded once. A NaN operand survives with its payload and sign, made quiet: `b` before the others, as an
/// H100 was seen to choose, then `a`, then `c`.
pub fn fma_f64(a: u64, b: u64, c: u64, mode: Mode) -> u64 {
    let f = Format::F64;
    match [b, a, c].into_iter().find(|&x| f.is_nan(x)) {
        Some(nan) => f.quiet(nan),
        None => fma(f, a, b, c, mode),
    }
}

/// The number without its sign. A NaN becomes the canonical one, in f64 it keeps its other bits.
pub fn abs(format: Format, a: u64, ftz: bool) -> u64 {
    signed(format, a, ftz, |bits| bits & !format.sign())
}

/// The number of the other sign. A NaN becomes the canonical one, in f64 it keeps its other bits.
pub fn neg(format: Format, a: u64, ftz: bool) -> u64 {
    signed(format, a, ftz, |bits| bits ^ format.sign())
}

fn signed(format: Format, a: u64, ftz: bool, change: impl Fn(u64) -> u64) -> u64 {
    if format != Format::F64 && format.is_nan(a) {
        return format.nan();
    }
    change(if ftz { flush(format, a) } else { a })
}

/// Order of two numbers; none when one is a NaN.
pub fn compare(format: Format, a: u64, b: u64, ftz: bool) -> Option<Ordering> {
    let mode = Mode { ftz, ..Mode::NEAREST };
    mode.read(format, a).compare(mode.read(format, b))
}

/// Modifiers of `min` and `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MinMax {
    /// The larger one, instead of the smaller.
    pub max: bool,
    /// `.ftz`.
    pub ftz: bool,
    /// `.NaN`: a NaN operand gives a NaN; otherwise the other operand wins.
    pub nan: bool,
    /// `.abs`: magnitudes.
    pub abs: bool,
    /// `.xorsign.abs`: magnitudes, then the sign is the exclusive or of the operands' signs.
    pub xorsign: bool,
}

/// The smaller or larger of two; +0 is larger than -0.
pub fn min_max(format: Format, op: MinMax, a: u64, b: u64) -> u64 {
    let sign = if op.xorsign { (a ^ b) & format.sign() } else { 0 };
    let operand = |bits: u64| {
        let bits = if op.ftz { flush(format, bits) } else { bits };
        bits & if op.abs || op.xorsign { format.sign() - 1 } else { format.sign() | (format.sign() - 1) }
    };
    let (a, b) = (operand(a), operand(b));
    match (format.is_nan(a), format.is_nan(b)) {
        (true, true) => return format.nan(),
        (true, _) | (_, true) if op.nan => return format.nan(),
        (true, false) => return b | sign,
        (false, true) => return a | sign,
        (false, false) => {}
    }
    let negative = |bits: u64| bits & format.sign() != 0;
    let a_is_larger = match format.decode(a).compare(format.decode(b)) {
        Some(Ordering::Equal) => negative(b) || !negative(a),
        order => order == Some(Ordering::Greater),
    };
    (if a_is_larger == op.max { a } else { b }) | sign
}

/// Whether this is a NaN, a subnormal number, and so on: `testp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A NaN.
    Nan,
    /// An infinity.
    Infinite,
    /// A zero.
    Zero,
    /// A number below the smallest normal one.
    Subnormal,
    /// Every other number.
    Normal,
}

/// The class of a value.
pub fn class(format: Format, bits: u64) -> Class {
    match format.decode(bits) {
        Exact::Nan => Class::Nan,
        Exact::Infinite { .. } => Class::Infinite,
        Exact::Finite(f) if f.significand == 0 => Class::Zero,
        Exact::Finite(f) if f.magnitude() < format.min_exponent() => Class::Subnormal,
        Exact::Finite(_) => Class::Normal,
    }
}

/// Whether the machine's own f32 arithmetic gives the same: everything but other roundings.
fn is_native(mode: Mode) -> bool {
    mode.rounding == Rounding::Nearest && !mode.relu
}

fn flush_f32(x: f32, ftz: bool) -> f32 {
    if ftz && x.is_subnormal() { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// Whether the machine's result may have been carried up to the smallest normal number, which `.ftz` must know.
fn is_carried(x: f32, mode: Mode) -> bool {
    mode.ftz && x.abs() == f32::MIN_POSITIVE
}

/// The modifiers of a result that the machine computed.
fn finish_f32(x: f32, mode: Mode) -> f32 {
    let x = if x.is_nan() { f32::from_bits(0x7fff_ffff) } else { flush_f32(x, mode.ftz) };
    match (mode.sat, x.is_nan()) {
        (false, _) => x,
        (true, true) => 0.0,
        // Not `clamp`, which keeps -0.
        (true, false) if x <= 0.0 => 0.0,
        (true, false) => x.min(1.0),
    }
}

fn slow_f32(f: impl FnOnce(Format) -> u64) -> f32 {
    f32::from_bits(f(Format::F32) as u32)
}

/// `a + b` in f32.
pub fn add_f32(a: f32, b: f32, mode: Mode) -> f32 {
    if is_native(mode) {
        return finish_f32(flush_f32(a, mode.ftz) + flush_f32(b, mode.ftz), mode);
    }
    slow_f32(|f| add(f, a.to_bits().into(), b.to_bits().into(), mode))
}

/// `a - b` in f32.
pub fn sub_f32(a: f32, b: f32, mode: Mode) -> f32 {
    if is_native(mode) {
        return finish_f32(flush_f32(a, mode.ftz) - flush_f32(b, mode.ftz), mode);
    }
    slow_f32(|f| sub(f, a.to_bits().into(), b.to_bits().into(), mode))
}

/// `a * b` in f32.
pub fn mul_f32(a: f32, b: f32, mode: Mode) -> f32 {
    if is_native(mode) {
        let product = flush_f32(a, mode.ftz) * flush_f32(b, mode.ftz);
        if !is_carried(product, mode) {
            return finish_f32(product, mode);
        }
    }
    slow_f32(|f| mul(f, a.to_bits().into(), b.to_bits().into(), mode))
}

/// `a * b + c` in f32, rounded once.
///
/// The product is exact in f64, and so is its sum with `c` where the error of that sum is zero; elsewhere the sum is made odd in
/// its last place, which rounds to f32 as the exact one does.
pub fn fma_f32(a: f32, b: f32, c: f32, mode: Mode) -> f32 {
    let slow = || slow_f32(|f| fma(f, a.to_bits().into(), b.to_bits().into(), c.to_bits().into(), mode));
    if !is_native(mode) {
        return slow();
    }
    let [x, y, z] = [a, b, c].map(|x| f64::from(flush_f32(x, mode.ftz)));
    let product = x * y;
    let sum = product + z;
    if !sum.is_finite() {
        return finish_f32(sum as f32, mode);
    }
    let from_z = sum - product;
    let error = (product - (sum - from_z)) + (z - from_z);
    let rounded = to_odd(sum, error) as f32;
    if is_carried(rounded, mode) { slow() } else { finish_f32(rounded, mode) }
}

/// `sum`, nudged toward `error` when inexact and even in its last place.
fn to_odd(sum: f64, error: f64) -> f64 {
    let bits = sum.to_bits();
    if error == 0.0 || bits & 1 == 1 {
        return sum;
    }
    // Away from zero where the error has the sum's sign.
    let outward = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if outward { bits + 1 } else { bits - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [Rounding; 4] = [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up];

    /// Patterns of every kind: dense near the ends of each exponent, and specials.
    fn patterns(format: Format) -> Vec<u64> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut all = vec![
            0,
            1,
            2,
            format.max(false),
            format.max(false) + 1,
            format.nan(),
            format.encode(Exact::integer(1), Rounding::Nearest),
        ];
        for _ in 0..400 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let noise = state & (format.sign() - 1);
            all.push(noise);
            // Near one, where sums cancel.
            all.push((format.encode(Exact::integer(1), Rounding::Nearest)).wrapping_add(state >> 60).wrapping_sub(8));
        }
        let negative: Vec<u64> = all.iter().map(|b| b | format.sign()).collect();
        all.extend(negative);
        all
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits()
    }

    /// The quick paths against the exact ones, both flushed and not, saturated and not.
    #[test]
    fn quick_is_exact() {
        let p = patterns(Format::F32);
        for (i, &a) in p.iter().enumerate() {
            for &b in p.iter().skip(i % 7).step_by(7) {
                let c = p[(i * 31 + b as usize) % p.len()];
                let [x, y, z] = [a, b, c].map(|v| f32::from_bits(v as u32));
                for (ftz, sat) in [(false, false), (true, false), (false, true), (true, true)] {
                    let mode = Mode { ftz, sat, ..Mode::NEAREST };
                    assert!(same(add_f32(x, y, mode), slow_f32(|f| add(f, a, b, mode))), "{x:e} + {y:e}");
                    assert!(same(sub_f32(x, y, mode), slow_f32(|f| sub(f, a, b, mode))), "{x:e} - {y:e}");
                    assert!(same(mul_f32(x, y, mode), slow_f32(|f| mul(f, a, b, mode))), "{x:e} * {y:e}");
                    let (quick, slow) = (fma_f32(x, y, z, mode), slow_f32(|f| fma(f, a, b, c, mode)));
                    assert!(same(quick, slow), "fma {x:e} {y:e} {z:e} {mode:?}: {quick:e} {slow:e}");
                }
            }
        }
    }

    /// The exact paths against the machine's f32 and f64, which is a judge of its own.
    #[test]
    fn exact_is_native() {
        let p = patterns(Format::F64);
        let unary = |x: f64, bits: u64| if x.is_nan() { Format::F64.is_nan(bits) } else { x.to_bits() == bits };
        for (i, &a) in p.iter().enumerate() {
            for &b in p.iter().skip(i % 7).step_by(7) {
                let (x, y, m) = (f64::from_bits(a), f64::from_bits(b), Mode::NEAREST);
                assert!(unary(x + y, add(Format::F64, a, b, m)), "{x:e} + {y:e}");
                assert!(unary(x - y, sub(Format::F64, a, b, m)), "{x:e} - {y:e}");
                assert!(unary(x * y, mul(Format::F64, a, b, m)), "{x:e} * {y:e}");
                assert!(unary(x / y, div(Format::F64, a, b, m)), "{x:e} / {y:e}");
                let c = p[(i * 31 + b as usize) % p.len()];
                let z = f64::from_bits(c);
                assert!(unary(x.mul_add(y, z), fma(Format::F64, a, b, c, m)), "fma {x:e} {y:e} {z:e}");
                assert_eq!(compare(Format::F64, a, b, false), x.partial_cmp(&y));
            }
            assert!(unary(f64::from_bits(a).sqrt(), sqrt(Format::F64, a, Mode::NEAREST)));
        }
        for a in patterns(Format::F32) {
            let x = f32::from_bits(a as u32);
            let root = f32::from_bits(sqrt(Format::F32, a, Mode::NEAREST) as u32);
            assert!(root.is_nan() && x.sqrt().is_nan() || same(root, x.sqrt()));
            let inverse = f32::from_bits(rcp(Format::F32, a, Mode::NEAREST) as u32);
            assert!(inverse.is_nan() && x.is_nan() || same(inverse, 1.0 / x));
        }
    }

    /// Directed results enclose the exact one: down <= nearest <= up, next to each other where they differ.
    #[test]
    fn directed_roundings_enclose() {
        let p = patterns(Format::F32);
        for (i, &a) in p.iter().enumerate() {
            let (b, c) = (p[(i * 7 + 3) % p.len()], p[(i * 13 + 5) % p.len()]);
            for op in 0..4 {
                let [nearest, zero, down, up] = MODES.map(|r| {
                    let m = Mode::rounded(r);
                    f32::from_bits(match op {
                        0 => add(Format::F32, a, b, m),
                        1 => mul(Format::F32, a, b, m),
                        2 => fma(Format::F32, a, b, c, m),
                        _ => div(Format::F32, a, b, m),
                    } as u32)
                });
                if nearest.is_nan() {
                    assert!(zero.is_nan() && down.is_nan() && up.is_nan());
                    continue;
                }
                assert!(down <= nearest && nearest <= up);
                assert!(up == down || up == down.next_up());
                assert!(zero == if nearest.is_sign_negative() { up } else { down });
            }
        }
    }

    /// 16-bit formats: products are exact in f64, and sums where the exponents are near.
    #[test]
    fn sixteen_bits_against_f64() {
        for (format, to_f64) in [
            (Format::F16, (|b| half::f16::from_bits(b as u16).to_f64()) as fn(u64) -> f64),
            (Format::BF16, |b| half::bf16::from_bits(b as u16).to_f64()),
        ] {
            let p = patterns(format);
            for (i, &a) in p.iter().enumerate() {
                for &b in p.iter().skip(i % 5).step_by(5) {
                    let (x, y) = (to_f64(a), to_f64(b));
                    let expected = |v: f64| format.encode(Format::F64.decode(v.to_bits()), Rounding::Nearest);
                    assert_eq!(mul(format, a, b, Mode::NEAREST), expected(x * y));
                    if format == Format::F16 {
                        // A sum spans 41 binary digits at most, which f64 holds.
                        assert_eq!(add(format, a, b, Mode::NEAREST), expected(x + y));
                        let relu = Mode { relu: true, ..Mode::NEAREST };
                        assert_eq!(
                            add(format, a, b, relu),
                            if (x + y).is_sign_negative() && x + y <= 0.0 { 0 } else { expected(x + y) },
                            "{x} {y}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn saturation_and_relu() {
        let sat = Mode { sat: true, ..Mode::NEAREST };
        for (a, b, r) in
            [(0.25f32, 0.5, 0.75), (1.0, 1.0, 1.0), (-1.0, 0.5, 0.0), (f32::NAN, 1.0, 0.0), (-0.0, -0.0, 0.0)]
        {
            assert!(same(add_f32(a, b, sat), r), "{a} + {b}");
            assert!(same(slow_f32(|f| add(f, a.to_bits().into(), b.to_bits().into(), sat)), r));
        }
        let relu = Mode { relu: true, ..Mode::NEAREST };
        assert!(same(add_f32(-2.0, 1.0, relu), 0.0));
        assert_eq!(add_f32(f32::NAN, 1.0, relu).to_bits(), 0x7fff_ffff);
    }

    #[test]
    fn minima_and_maxima() {
        let f = Format::F32;
        let b = |x: f32| u64::from(x.to_bits());
        let (min, max) = (MinMax::default(), MinMax { max: true, ..MinMax::default() });
        assert_eq!(min_max(f, max, b(0.0), b(-0.0)), b(0.0));
        assert_eq!(min_max(f, max, b(-0.0), b(0.0)), b(0.0));
        assert_eq!(min_max(f, min, b(0.0), b(-0.0)), b(-0.0));
        assert_eq!(min_max(f, min, b(-0.0), b(0.0)), b(-0.0));
        assert_eq!(min_max(f, max, b(f32::NAN), b(2.0)), b(2.0));
        assert_eq!(min_max(f, max, b(f32::NAN), b(f32::NAN)), 0x7fff_ffff);
        assert_eq!(min_max(f, MinMax { nan: true, ..max }, b(1.0), b(f32::NAN)), 0x7fff_ffff);
        assert_eq!(min_max(f, MinMax { xorsign: true, ..max }, b(-3.0), b(2.0)), b(-3.0));
        assert_eq!(min_max(f, MinMax { xorsign: true, ..min }, b(-3.0), b(-2.0)), b(2.0));
        assert_eq!(min_max(f, MinMax { abs: true, ..max }, b(-3.0), b(2.0)), b(3.0));
        assert_eq!(min_max(f, MinMax { ftz: true, ..max }, 1, b(-1.0)), 0);
        for &x in &[1.5f32, -2.0, f32::INFINITY, 1e-40] {
            for &y in &[0.0f32, -7.0, f32::NEG_INFINITY, 3.0] {
                assert_eq!(min_max(f, max, b(x), b(y)), b(x.max(y)));
                assert_eq!(min_max(f, min, b(x), b(y)), b(x.min(y)));
            }
        }
    }

    /// As an H100 does: 2^-126 (1 - 2^-24) rounds to 2^-126 among the subnormals, but is flushed before.
    #[test]
    fn results_are_flushed_before_they_are_rounded() {
        let (least, below_one) = (f32::MIN_POSITIVE, 1f32.next_down());
        for rounding in MODES {
            let mode = Mode { ftz: true, ..Mode::rounded(rounding) };
            assert!(same(mul_f32(least, below_one, mode), 0.0));
            assert!(same(mul_f32(-least, below_one, mode), -0.0));
            assert!(same(fma_f32(least, below_one, 0.0, mode), 0.0));
            assert!(same(mul_f32(least, 1.0, mode), least));
            assert_eq!(fma(Format::F16, 0x3bff, 0x0400, 0, mode), 0);
        }
        assert!(same(mul_f32(least, below_one, Mode::NEAREST), least));
    }

    #[test]
    fn nans_of_one_operand_instructions_and_of_f64() {
        for (format, nan) in [(Format::F32, 0xff80_0001), (Format::F16, 0x7e00), (Format::BF16, 0xff81)] {
            assert_eq!([abs(format, nan, false), neg(format, nan, true)], [format.nan(); 2]);
        }
        let (one, x, y) = (1f64.to_bits(), 0xffff_ffff_1234_5678, 0x7ff0_0000_0000_0001);
        assert_eq!(
            [abs(Format::F64, x, false), neg(Format::F64, x, false)],
            [x & !Format::F64.sign(), x ^ Format::F64.sign()]
        );
        let quiet = y | 1 << 51;
        assert_eq!(fma_f64(x, y, x, Mode::NEAREST), quiet);
        assert_eq!(fma_f64(x, one, y, Mode::NEAREST), x);
        assert_eq!(fma_f64(one, one, y, Mode::NEAREST), quiet);
        let infinity = f64::INFINITY.to_bits();
        assert_eq!(fma_f64(infinity, 0, one, Mode::NEAREST), Format::F64.nan());
    }

    #[test]
    fn mixed_precision() {
        let (a, b) = (half::bf16::from_f32(1.5), half::bf16::from_f32(-3.0));
        let r =
            fma_mixed(Format::BF16, a.to_bits().into(), b.to_bits().into(), 10.25f32.to_bits().into(), Mode::NEAREST);
        assert_eq!(f32::from_bits(r as u32), 5.75);
    }
}
