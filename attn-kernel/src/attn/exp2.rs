//! `2^x` on the FMA units, to relieve the MUFU unit: a polynomial for the fraction, integer arithmetic for the exponent.
//!
//! Cody-Waite: adding `1.5 * 2^23` with rounding toward minus infinity leaves `n = floor(x)` in the low bits of the sum; the fraction
//! `f = x - n` lies in `[0, 1]` (1 itself when `x` is a tiny negative number). A polynomial gives `2^f`, and `n`
//! moved into an exponent field the `2^n` to multiply it with. Per element: a clamp, three additions, `DEGREE` FMAs, one
//! shift-and-add, one multiplication. Everything but the clamp, the shift and the last product is a packed pair on Blackwell.
//!
//! # Coefficients
//!
//! The polynomial of degree `d` is `1 + c1 f + ... + cd f^d`, whose relative error `p(f) / 2^f - 1` on `[0, 1]` has the least maximum among
//! those with that constant term (which makes `2^n` exact and a masked score exactly 0). By the alternation theorem its error takes
//! its extreme value, with alternating signs, at `d + 1` points: for degree 3 at f = 0.0998, 0.4458, 0.8286 and 1. Those points determine the
//! coefficients by a linear system in which the extreme value is the last unknown; Remez iteration from Chebyshev points finds
//! both in a few steps. The result is rounded to f32.
//!
//! | degree | exact minimax error | with f32 coefficients and arithmetic |
//! |---|---|---|
//! | 2 | 2.053e-3 = 2^-8.93 | 2.0535e-3 |
//! | 3 | 8.559e-5 = 2^-13.51 | 8.566e-5 |
//! | 4 | 2.896e-6 = 2^-18.40 | 2.98e-6 |
//! | 5 | 8.227e-8 = 2^-23.54 | 1.66e-7 |
//!
//! Degree 3 lies far below half a unit of bf16 (2^-9) and of f16 (2^-11), in which P is rounded.

use crate::ptx::math;

/// A polynomial for `2^f` on `[0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Polynomial {
    /// Coefficients of `f^0` to `f^5`; those above the degree are zero.
    pub c: [f32; 6],
    /// Greatest relative error of [`exp2`] over every f32 from -126 to 127, rounding included.
    pub max_error: f64,
}

/// The polynomials of degree 2 to 5.
pub const POLYNOMIALS: [Polynomial; 4] = [
    Polynomial { c: [1.0, 0.665_960_97, 0.329_932_4, 0.0, 0.0, 0.0], max_error: 2.0535e-3 },
    Polynomial { c: [1.0, 0.695_116_76, 0.227_645, 0.077_067_04, 0.0, 0.0], max_error: 8.566e-5 },
    Polynomial { c: [1.0, 0.693_044_84, 0.241_280_2, 0.052_242_473, 0.013_426_684, 0.0], max_error: 2.98e-6 },
    Polynomial { c: [1.0, 0.693_151_3, 0.240_164_44, 0.055_799_913, 0.009_017_031, 0.001_867_13], max_error: 1.66e-7 },
];

/// `1.5 * 2^23`: adding it leaves an integer in the low mantissa bits, for sums of either sign.
const SHIFTER: f32 = 12_582_912.0;
/// Below this the result is zero.
const LEAST: f32 = -127.0;

/// The coefficients of degree `DEGREE`.
const fn coefficients<const DEGREE: usize>() -> [f32; 6] {
    assert!(DEGREE >= 2 && DEGREE <= 5, "polynomials of degree 2 to 5");
    POLYNOMIALS[DEGREE - 2].c
}

/// `2^x` for `x < 128` by the polynomial of degree `DEGREE`, within [`Polynomial::max_error`] where the result is at least 2^-126.
///
/// `-inf` and everything up to -127 give exactly 0. Between -127 and -126 the result is some value below 2^-126, which arithmetic
/// that flushes subnormals takes for 0. NaN gives NaN.
#[inline(always)]
pub fn exp2<const DEGREE: usize>(x: f32) -> f32 {
    let c = const { coefficients::<DEGREE>() };
    let x = math::max_nan(x, LEAST);
    let shifted = math::add_down(x, SHIFTER);
    let f = math::sub(x, math::sub(shifted, SHIFTER));
    let mut p = c[DEGREE];
    let mut i = DEGREE;
    while i > 0 {
        i -= 1;
        p = math::fma(p, f, c[i]);
    }
    math::mul(p, power(shifted))
}

/// [`exp2`] of two values, as packed pairs where the hardware has them. Gives the same bits as two calls.
#[inline(always)]
pub fn exp2_pair<const DEGREE: usize>(x: [f32; 2]) -> [f32; 2] {
    let c = const { coefficients::<DEGREE>() };
    let x = [math::max_nan(x[0], LEAST), math::max_nan(x[1], LEAST)];
    let shifted = math::add_down2(x, [SHIFTER; 2]);
    let f = math::sub2(x, math::sub2(shifted, [SHIFTER; 2]));
    let mut p = [c[DEGREE]; 2];
    let mut i = DEGREE;
    while i > 0 {
        i -= 1;
        p = math::fma2(p, f, [c[i]; 2]);
    }
    math::mul2(p, [power(shifted[0]), power(shifted[1])])
}

/// `2^n`, where `n` is the low bits of `shifted`: they move into the exponent field, the shifter's own bits fall off its end.
///
/// To be multiplied with, not added to the polynomial's exponent field, so that a NaN stays one.
#[inline(always)]
fn power(shifted: f32) -> f32 {
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The bits of every f32 from 0 to `LEAST` and from 0 to 127; a sign bit makes one from the other.
    const LAST: u32 = 0x42fe_0000;

    /// Relative error against f64, for x from -126 to 127.
    fn error(x: f32, y: f32) -> f64 {
        (f64::from(y) / f64::from(x).exp2() - 1.0).abs()
    }

    #[test]
    fn limits_are_exact() {
        fn check<const D: usize>() {
            for x in [f32::NEG_INFINITY, f32::MIN, -1e6, -128.0, -127.0] {
                assert_eq!(exp2::<D>(x).to_bits(), 0, "degree {D}, {x}");
            }
            for n in -126..=127 {
                assert_eq!(exp2::<D>(n as f32), f32::from_bits(((n + 127) as u32) << 23), "degree {D}, {n}");
            }
            for bits in (-127f32).to_bits() - 0x1_ffff..(-127f32).to_bits() {
                let x = f32::from_bits(bits);
                assert!((0.0..=f32::MIN_POSITIVE).contains(&exp2::<D>(x)), "degree {D}, {x}");
            }
            assert_eq!(exp2::<D>(-0.0), 1.0);
            assert!(exp2::<D>(127.999_99).is_finite());
            assert!(exp2::<D>(f32::NAN).is_nan(), "degree {D}");
        }
        check::<2>();
        check::<3>();
        check::<4>();
        check::<5>();
    }

    /// Around every integer, where the split jumps, and on a grid of all magnitudes.
    #[test]
    fn error_at_boundaries_and_samples() {
        fn check<const D: usize>() {
            let bound = POLYNOMIALS[D - 2].max_error;
            let near = (-126..127).flat_map(|n| {
                let x = n as f32;
                [x.next_down(), x, x.next_up(), x + 0.5, x + 0.999_99]
            });
            let grid = (0..LAST).step_by(40_009).flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)]);
            for x in near.chain(grid).filter(|x| *x >= -126.0) {
                let y = exp2::<D>(x);
                assert!(error(x, y) <= bound, "degree {D}, x {x:e}: {y:e}, error {:e}", error(x, y));
                assert_eq!(exp2_pair::<D>([x, 0.5 - x]), [y, exp2::<D>(0.5 - x)]);
            }
        }
        check::<2>();
        check::<3>();
        check::<4>();
        check::<5>();
    }

    /// Every f32 from -127 to 127. The arithmetic is [`exp2`]'s, spelled so that the compiler can use vector instructions.
    mod sweep {
        use super::*;

        #[inline(always)]
        fn split(x: f32) -> (f32, f32) {
            let nearest = x + SHIFTER;
            let shifted = if nearest - SHIFTER > x { nearest - 1.0 } else { nearest };
            (shifted, x - (shifted - SHIFTER))
        }

        #[inline(always)]
        fn vector_exp2<const D: usize>(shifted: f32, f: f32) -> f32 {
            let c = POLYNOMIALS[D - 2].c;
            let mut p = c[D];
            for i in (0..D).rev() {
                p = p.mul_add(f, c[i]);
            }
            math::mul(p, power(shifted))
        }

        /// `2^-f` on `[0, 1]` to 2e-16: the exponential series of `(1/2 - f) ln 2`, times the square root of a half.
        #[inline(always)]
        fn inverse(f: f64) -> f64 {
            const INVERSE_FACTORIALS: [f64; 13] = {
                let mut table = [1.0; 13];
                let mut k = 1;
                while k < 13 {
                    table[k] = table[k - 1] / k as f64;
                    k += 1;
                }
                table
            };
            let z = (0.5 - f) * core::f64::consts::LN_2;
            let mut sum = INVERSE_FACTORIALS[12];
            for k in (0..12).rev() {
                sum = sum.mul_add(z, INVERSE_FACTORIALS[k]);
            }
            sum * core::f64::consts::FRAC_1_SQRT_2
        }

        /// Greatest relative errors of degrees 2 to 5 over the floats with these bits, of magnitude at most 127.
        ///
        /// The errors are compared as integers, in which order is the same and the compiler may reorder maxima.
        #[inline(always)]
        fn chunk(first: u32, count: u32) -> [f64; 4] {
            let mut worst = [0i64; 4];
            for bits in first..first + count {
                let x = f32::from_bits(bits);
                let (shifted, f) = split(x);
                // 2^-x in two factors: the integer part as an exponent, the exact fraction as a series.
                let n = shifted.to_bits() as i32 - SHIFTER.to_bits() as i32;
                let down = f64::from_bits((i64::from(1023 - n) << 52) as u64) * inverse(f64::from(x) - f64::from(n));
                let mut of = |d: usize, y: f32| {
                    worst[d] = worst[d].max((f64::from(y) * down - 1.0).abs().to_bits() as i64);
                };
                of(0, vector_exp2::<2>(shifted, f));
                of(1, vector_exp2::<3>(shifted, f));
                of(2, vector_exp2::<4>(shifted, f));
                of(3, vector_exp2::<5>(shifted, f));
            }
            worst.map(|bits| f64::from_bits(bits as u64))
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn chunk_avx2(first: u32, count: u32) -> [f64; 4] {
            chunk(first, count)
        }

        fn best_chunk(first: u32, count: u32) -> [f64; 4] {
            #[cfg(target_arch = "x86_64")]
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                // SAFETY: both features were just detected.
                return unsafe { chunk_avx2(first, count) };
            }
            chunk(first, count)
        }

        fn merge(a: [f64; 4], b: [f64; 4]) -> [f64; 4] {
            core::array::from_fn(|i| a[i].max(b[i]))
        }

        #[test]
        #[cfg_attr(debug_assertions, ignore = "two billion values: run with --release")]
        fn error_over_every_f32() {
            // The spelled-out arithmetic is the function's own.
            for bits in (0..LAST).step_by(65_537).flat_map(|b| [b, b | 1 << 31]) {
                let x = f32::from_bits(bits);
                let (shifted, f) = split(x);
                if !x.is_subnormal() {
                    assert_eq!(vector_exp2::<3>(shifted, f).to_bits(), exp2::<3>(x).to_bits(), "{x:e}");
                    assert_eq!(vector_exp2::<5>(shifted, f).to_bits(), exp2::<5>(x).to_bits(), "{x:e}");
                }
            }
            let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
            const STEP: u32 = 1 << 12;
            // From -126: below, the result is no normal number and `limits_are_exact` looks at every value.
            let ranges = [(0, LAST + 1), (1 << 31, (1 << 31) + (-126f32).to_bits() % (1 << 31) + 1)];
            let next = core::sync::atomic::AtomicU32::new(0);
            let steps = |(a, b): (u32, u32)| (b - a).div_ceil(STEP);
            let total = steps(ranges[0]) + steps(ranges[1]);
            let worst = std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads)
                    .map(|_| {
                        scope.spawn(|| {
                            let mut worst = [0.0; 4];
                            loop {
                                let step = next.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
                                if step >= total {
                                    return worst;
                                }
                                let (range, index) = match step.checked_sub(steps(ranges[0])) {
                                    Some(rest) => (ranges[1], rest),
                                    None => (ranges[0], step),
                                };
                                let first = range.0 + index * STEP;
                                worst = merge(worst, best_chunk(first, STEP.min(range.1 - first)));
                            }
                        })
                    })
                    .collect();
                workers.into_iter().map(|w| w.join().unwrap()).fold([0.0; 4], merge)
            });
            for (polynomial, worst) in POLYNOMIALS.iter().zip(worst) {
                let bound = polynomial.max_error;
                assert!(worst <= bound && worst > 0.99 * bound, "claimed {bound:e}, found {worst:e}");
            }
        }
    }
}
