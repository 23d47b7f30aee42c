//! The approximate functions. Hardware's tables are not published; these results are within the error that PTX documents, being
//! the f64 result rounded once, and the same on every machine.

use super::float::flush;
use super::format::{Format, Rounding};

fn flush_f32(x: f32, ftz: bool) -> f32 {
    if ftz { f32::from_bits(flush(Format::F32, x.to_bits().into()) as u32) } else { x }
}

/// Applies `f` between flushes; a NaN result is the canonical one.
fn through_f64(x: f32, ftz: bool, f: impl FnOnce(f64) -> f64) -> f32 {
    let y = f(f64::from(flush_f32(x, ftz))) as f32;
    if y.is_nan() { f32::from_bits(0x7fff_ffff) } else { flush_f32(y, ftz) }
}

/// `ex2.approx.f32`: 2^x. PTX allows 2 ulp.
pub fn ex2(x: f32, ftz: bool) -> f32 {
    through_f64(x, ftz, libm::exp2)
}

/// `lg2.approx.f32`. PTX allows 2^-22 beside 1 and 2^-22 relative elsewhere.
pub fn lg2(x: f32, ftz: bool) -> f32 {
    through_f64(x, ftz, libm::log2)
}

/// `rcp.approx.f32`. PTX allows 1 ulp.
pub fn rcp(x: f32, ftz: bool) -> f32 {
    through_f64(x, ftz, |x| 1.0 / x)
}

/// `sqrt.approx.f32`. PTX allows 2^-23 relative.
pub fn sqrt(x: f32, ftz: bool) -> f32 {
    through_f64(x, ftz, f64::sqrt)
}

/// `rsqrt.approx.f32`. PTX allows 2^-22.4 relative.
pub fn rsqrt(x: f32, ftz: bool) -> f32 {
    through_f64(x, ftz, |x| 1.0 / x.sqrt())
}

/// `sin.approx.f32`. PTX allows 2^-20.5 absolute within two periods of zero.
pub fn sin(x: f32, ftz: bool) -> f32 {
    through_f64(x, ftz, libm::sin)
}

/// `cos.approx.f32`. PTX allows 2^-20.5 absolute within two periods of zero.
pub fn cos(x: f32, ftz: bool) -> f32 {
    through_f64(x, ftz, libm::cos)
}

/// `tanh.approx.f32`. PTX allows 2^-11 relative; it never flushes.
pub fn tanh(x: f32) -> f32 {
    through_f64(x, false, libm::tanh)
}

/// `div.approx.f32`: within 2 ulp, but 0 (or NaN of an infinity) where the divisor's magnitude is above 2^126.
pub fn div(a: f32, b: f32, ftz: bool) -> f32 {
    let (a, b) = (flush_f32(a, ftz), flush_f32(b, ftz));
    let beyond = b.is_finite() && b.abs() > f32::from_bits(0x7e80_0000);
    match (beyond, a.is_infinite()) {
        (true, true) => f32::from_bits(0x7fff_ffff),
        (true, false) if !a.is_nan() => f32::copysign(0.0, a) * f32::copysign(1.0, b),
        _ => through_f64(a, ftz, |a| a / f64::from(b)),
    }
}

/// `div.full.f32`: within 2 ulp everywhere.
pub fn div_full(a: f32, b: f32, ftz: bool) -> f32 {
    let b = flush_f32(b, ftz);
    through_f64(a, ftz, |a| a / f64::from(b))
}

/// A function of f32 on a 16-bit format: `ex2` and `tanh` on f16 and bf16. Rounded a second time, from f32.
pub fn narrow(format: Format, bits: u64, f: impl FnOnce(f32) -> f32) -> u64 {
    let x = f32::from_bits(Format::F32.encode(format.decode(bits), Rounding::Nearest) as u32);
    format.encode(Format::F32.decode(f(x).to_bits().into()), Rounding::Nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_values_of_ex2() {
        assert_eq!(ex2(f32::NEG_INFINITY, true).to_bits(), 0);
        assert_eq!(ex2(f32::INFINITY, true), f32::INFINITY);
        assert_eq!(ex2(f32::NAN, true).to_bits(), 0x7fff_ffff);
        assert_eq!(ex2(1e-40, false), 1.0);
        assert_eq!(ex2(-127.0, true), 0.0);
        assert_eq!(ex2(-127.0, false), 2f32.powi(-127));
        assert_eq!(ex2(128.0, true), f32::INFINITY);
    }

    #[test]
    fn powers_of_two_are_exact() {
        for n in -126..=127 {
            let power = f32::from_bits(((n + 127) as u32) << 23);
            assert_eq!(ex2(n as f32, true), power);
            assert_eq!(lg2(power, true), n as f32);
            assert_eq!(rcp(power, false), 1.0 / power);
        }
    }

    /// The documented errors, against the host's own f64 functions.
    #[test]
    fn errors_are_within_the_documented_ones() {
        for i in 1..20_000 {
            let x = i as f32 * 0.0121 - 120.0;
            let relative = |y: f32, exact: f64| ((f64::from(y) - exact) / exact).abs();
            assert!(relative(ex2(x, false), f64::from(x).exp2()) < 2f64.powi(-23));
            let p = i as f32 * 0.37;
            assert!(relative(rsqrt(p, true), 1.0 / f64::from(p).sqrt()) < 2f64.powf(-22.4));
            assert!(relative(sqrt(p, true), f64::from(p).sqrt()) < 2f64.powi(-23));
            assert!(
                (f64::from(lg2(p, true)) - f64::from(p).log2()).abs()
                    <= 2f64.powi(-22) * f64::from(p).log2().abs().max(1.0)
            );
            assert!((f64::from(sin(x, false)) - f64::from(x).sin()).abs() < 2f64.powf(-20.5));
            assert!((f64::from(cos(x, false)) - f64::from(x).cos()).abs() < 2f64.powf(-20.5));
            assert!(relative(tanh(p), f64::from(p).tanh()) < 2f64.powi(-11));
            assert!(relative(div(p, x, true), f64::from(p) / f64::from(x)) < 2f64.powi(-22));
        }
    }

    #[test]
    fn limits() {
        assert_eq!(lg2(0.0, true), f32::NEG_INFINITY);
        assert_eq!(lg2(1e-40, true), f32::NEG_INFINITY);
        assert_eq!(lg2(-1.0, true).to_bits(), 0x7fff_ffff);
        assert_eq!(rcp(-0.0, true), f32::NEG_INFINITY);
        assert_eq!(rsqrt(0.0, true), f32::INFINITY);
        assert_eq!(div(3.0, 2f32.powi(127), false).to_bits(), 0);
        assert_eq!(div(f32::INFINITY, 2f32.powi(127), false).to_bits(), 0x7fff_ffff);
        assert_eq!(div(-3.0, 2f32.powi(127), false).to_bits(), 0x8000_0000);
        assert!(div(1.0, 0.0, true) == f32::INFINITY && div_full(3.0, 2f32.powi(127), false) > 0.0);
    }

    #[test]
    fn narrow_formats() {
        let two = |bits| narrow(Format::F16, bits, |x| ex2(x, false));
        assert_eq!(two(0x3c00), 0x4000);
        assert_eq!(two(0xfc00), 0);
        assert_eq!(narrow(Format::BF16, 0x4000, |x| ex2(x, true)), 0x4080);
        assert_eq!(narrow(Format::BF16, 0x7fc0, tanh), 0x7fff);
    }
}
