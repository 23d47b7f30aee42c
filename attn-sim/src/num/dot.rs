//! The matrix units' sum of products: what one instruction computes for one element of D.
//!
//! # The rule
//! One instruction adds C and the products of its whole K (16 of f16 and bf16, 8 of tf32, 32 of 8-bit formats) in one step:
//!
//! 1. Each product is exact. Its exponent is the sum of its operands' exponents, so its significand lies below 4. A subnormal
//!    operand has the exponent of the smallest normal number.
//! 2. The largest exponent of all products and of C is found. A term that is zero counts with -126.
//! 3. Each term is cut, toward zero, to `F` binary digits behind the point of that largest exponent.
//! 4. The cut terms are added exactly, so their order does not matter.
//! 5. The sum is cut to f32 (toward zero; beyond its range infinite), or rounded to f16 (to nearest even).
//!
//! `F` is 25 on Hopper and Blackwell; for Hopper's 8-bit wgmma it is 13, and an f32 result is cut to 13 digits. Instructions that
//! follow each other on one accumulator (a K of more than one slice) apply the rule one after the other, in program order.
//!
//! `mma.sync` of 8-bit floats is two such steps on f16 elements, and products of 4-bit elements with block scales have a rule of their
//! own ([`super::scaled`]).
//!
//! A NaN among the operands, an infinity times zero or infinities of both signs give the canonical NaN; a sum of zero is +0.
//! From the measurements of MMA-Sim (arXiv 2511.10909).
//!
//! [`fused`] is this rule word for word; [`super::product`] gives the same bits for whole matrices, quickly.

use super::exact::{Exact, Finite};
use super::format::{Format, Rounding};

/// What an instruction writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// f32, cut toward zero.
    F32,
    /// f32, cut toward zero to 13 digits behind the point.
    F32Cut,
    /// f16, rounded to nearest even. C is f16 too.
    F16,
}

impl Output {
    /// The format of C and D.
    pub const fn format(self) -> Format {
        match self {
            Output::F32 | Output::F32Cut => Format::F32,
            Output::F16 => Format::F16,
        }
    }

    /// A sum in the format of D.
    pub(super) fn encode(self, sum: Exact) -> u32 {
        (match self {
            Output::F32 => Format::F32.encode_cut(sum),
            Output::F32Cut => Format::F32_CUT.encode_cut(sum),
            Output::F16 => Format::F16.encode(sum, Rounding::Nearest),
        }) as u32
    }
}

/// The two constants of the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `F`: binary digits behind the point of the largest exponent; 13 to 25.
    pub fraction: i32,
    /// What the sum is written as.
    pub output: Output,
}

impl Rule {
    /// f32 results of Hopper's and Blackwell's 16-bit and tf32 products, and of Blackwell's 8-bit ones.
    pub const F32: Rule = Rule { fraction: 25, output: Output::F32 };
    /// The same with f16 results.
    pub const F16: Rule = Rule { fraction: 25, output: Output::F16 };
    /// f32 results of Hopper's 8-bit wgmma.
    pub const HOPPER_F8: Rule = Rule { fraction: 13, output: Output::F32Cut };
    /// f16 results of Hopper's 8-bit wgmma.
    pub const HOPPER_F8_F16: Rule = Rule { fraction: 13, output: Output::F16 };
}

/// A finite term: `(-1)^negative * significand * 2^unit`, aligned by `exponent`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    pub(super) negative: bool,
    pub(super) significand: u64,
    pub(super) unit: i32,
    pub(super) exponent: i32,
}

impl Term {
    pub(super) fn of(format: Format, f: Finite) -> Self {
        Term {
            negative: f.negative,
            significand: f.significand as u64,
            unit: f.exponent,
            exponent: f.exponent + format.mantissa_bits() as i32,
        }
    }

    fn times(self, other: Self) -> Self {
        Term {
            negative: self.negative != other.negative,
            significand: self.significand * other.significand,
            unit: self.unit + other.unit,
            exponent: self.exponent + other.exponent,
        }
    }

    /// Step 2's exponent.
    pub(super) fn aligned_by(self) -> i32 {
        if self.significand == 0 { LOWEST } else { self.exponent }
    }

    /// Step 3: in units of `2^unit`.
    fn cut(self, unit: i32) -> i128 {
        let shift = self.unit - unit;
        let magnitude = match shift {
            // A zero's exponent may lie anywhere.
            _ if self.significand == 0 => 0,
            0.. => i128::from(self.significand) << shift,
            -63..0 => i128::from(self.significand >> -shift),
            _ => 0,
        };
        if self.negative { -magnitude } else { magnitude }
    }
}

/// The exponent that a zero counts with.
pub(super) const LOWEST: i32 = -126;

/// What infinities and NaNs among the terms make of the sum.
#[derive(Clone, Copy, Debug, Default)]
struct Specials {
    nan: bool,
    plus: bool,
    minus: bool,
}

impl Specials {
    fn infinite(&mut self, negative: bool) {
        if negative {
            self.minus = true;
        } else {
            self.plus = true;
        }
    }

    fn result(self) -> Option<Exact> {
        match (self.nan || (self.plus && self.minus), self.plus, self.minus) {
            (true, _, _) => Some(Exact::Nan),
            (_, false, false) => None,
            (_, _, negative) => Some(Exact::Infinite { negative }),
        }
    }
}

/// `c + sum of a[i] * b[i]`, by the rule. `c` and the result are patterns of the rule's output format, `a` and `b` of theirs.
///
/// `scale` is added to every product's exponent: the block scales of the mx kinds, which are powers of two.
pub fn fused(rule: Rule, formats: (Format, Format), a: &[u32], b: &[u32], c: u32, scale: i32) -> u32 {
    let mut specials = Specials::default();
    let mut terms = Vec::with_capacity(a.len() + 1);
    for (&x, &y) in a.iter().zip(b) {
        match (formats.0.decode(x.into()), formats.1.decode(y.into())) {
            (Exact::Finite(x), Exact::Finite(y)) => {
                let mut term = Term::of(formats.0, x).times(Term::of(formats.1, y));
                term.unit += scale;
                term.exponent += scale;
                terms.push(term);
            }
            (Exact::Nan, _) | (_, Exact::Nan) => specials.nan = true,
            (x, y) if x.is_zero() || y.is_zero() => specials.nan = true,
            (x, y) => specials.infinite(x.is_negative() != y.is_negative()),
        }
    }
    let format = rule.output.format();
    match format.decode(c.into()) {
        Exact::Nan => specials.nan = true,
        Exact::Infinite { negative } => specials.infinite(negative),
        Exact::Finite(f) => terms.push(Term::of(format, f)),
    }
    rule.output.encode(specials.result().unwrap_or_else(|| sum(&terms, rule.fraction)))
}

/// Steps 2 to 4.
fn sum(terms: &[Term], fraction: i32) -> Exact {
    let aligned: Vec<(Term, i32)> = terms.iter().map(|t| (*t, t.aligned_by())).collect();
    sum_aligned(&aligned, fraction)
}

/// The same of terms that are aligned by exponents of their own.
pub(super) fn sum_aligned(terms: &[(Term, i32)], fraction: i32) -> Exact {
    let largest = terms.iter().map(|(_, aligned_by)| *aligned_by).max().unwrap_or(LOWEST);
    let unit = largest - fraction;
    let total: i128 = terms.iter().map(|(t, _)| t.cut(unit)).sum();
    Exact::Finite(Finite { negative: total < 0, significand: total.unsigned_abs(), exponent: unit })
}

/// `c + sum of a[i] * b[i]` of 8-bit integers, in 32 bits: wrapping, or kept in range (`.satfinite`).
///
/// With saturation the exact sum is brought into range once, at the end.
pub fn integers(a: impl IntoIterator<Item = i32>, b: impl IntoIterator<Item = i32>, c: i32, saturate: bool) -> i32 {
    let sum: i64 = a.into_iter().zip(b).map(|(x, y)| i64::from(x * y)).sum::<i64>() + i64::from(c);
    if saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32 } else { sum as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BF16: (Format, Format) = (Format::BF16, Format::BF16);

    fn bf16(x: f32) -> u32 {
        half::bf16::from_f32(x).to_bits().into()
    }

    fn dot(a: &[f32], b: &[f32], c: f32) -> f32 {
        let bits = |v: &[f32]| v.iter().map(|&x| bf16(x)).collect::<Vec<_>>();
        f32::from_bits(fused(Rule::F32, BF16, &bits(a), &bits(b), c.to_bits(), 0))
    }

    #[test]
    fn small_integers_are_exact() {
        assert_eq!(dot(&[1.0, 2.0, 3.0], &[4.0, -5.0, 6.0], 100.0), 112.0);
        assert_eq!(dot(&[], &[], -3.0), -3.0);
        assert_eq!(dot(&[1.0, -1.0], &[1.0, 1.0], 0.0).to_bits(), 0);
        assert_eq!(dot(&[-0.0], &[1.0], -0.0).to_bits(), 0);
    }

    /// A term below the 25th digit of the largest one is lost, at it it counts; the result is cut, not rounded.
    #[test]
    fn terms_are_cut_to_25_digits() {
        let e = |n: i32| 2f32.powi(n);
        // Cancelling the large one shows what was kept of the small one.
        assert_eq!(dot(&[1.0, -1.0, e(-25)], &[1.0, 1.0, 1.0], 0.0), e(-25));
        assert_eq!(dot(&[1.0, -1.0, e(-26)], &[1.0, 1.0, 1.0], 0.0), 0.0);
        assert_eq!(dot(&[1.0, -1.0, -e(-26)], &[1.0, 1.0, 1.0], 0.0), 0.0);
        assert_eq!(dot(&[1.5 * e(-25)], &[1.0], 1.0) - 1.0, 0.0);
        // Cut toward zero where rounding would carry: 1 + 2^-24 + 2^-25.
        assert_eq!(dot(&[1.0, e(-24), e(-25)], &[1.0; 3], 0.0), 1.0);
        assert_eq!(dot(&[-1.0, -e(-24), -e(-25)], &[1.0; 3], 0.0), -1.0);
        assert_eq!(dot(&[1.0, e(-24), e(-24)], &[1.0; 3], 0.0), 1.0 + e(-23));
    }

    /// The exponent is the operands' sum, even where the product of significands reaches 2.
    #[test]
    fn products_are_not_normalised() {
        // 1.5 * 1.5 = 2.25 counts with exponent 0, so 2^-25 is kept.
        assert_eq!(dot(&[1.5, -1.5, 2f32.powi(-25)], &[1.5, 1.5, 1.0], 0.0), 2f32.powi(-25));
    }

    #[test]
    fn infinities_and_nans() {
        let inf = f32::INFINITY;
        assert_eq!(dot(&[inf], &[2.0], 1.0), inf);
        assert_eq!(dot(&[inf], &[-2.0], 1.0), -inf);
        assert_eq!(dot(&[inf], &[0.0], 1.0).to_bits(), 0x7fff_ffff);
        assert_eq!(dot(&[inf, inf], &[1.0, -1.0], 1.0).to_bits(), 0x7fff_ffff);
        assert_eq!(dot(&[1.0], &[1.0], -inf), -inf);
        assert_eq!(dot(&[f32::NAN], &[1.0], 0.0).to_bits(), 0x7fff_ffff);
        assert_eq!(dot(&[3e38, 3e38], &[1.0, 1.0], 0.0), inf);
    }

    #[test]
    fn other_outputs() {
        let one = |rule, c| fused(rule, BF16, &[bf16(1.0)], &[bf16(1.0 / 1024.0)], c, 0);
        // 2048 + 2^-10 in f16 is 2048; half of the last place up is a tie.
        assert_eq!(one(Rule::F16, 0x6800), 0x6800);
        assert_eq!(fused(Rule::F16, BF16, &[bf16(3.0)], &[bf16(1.0)], 0x6800, 0), 0x6802);
        assert_eq!(fused(Rule::F16, BF16, &[bf16(60000.0)], &[bf16(2.0)], 0, 0), 0x7c00);
        // F = 13: 1 + 2^-14 is lost, 1 + 2^-13 is not.
        let e4m3 = (Format::E4M3, Format::E4M3);
        let small = |c: f32| f32::from_bits(fused(Rule::HOPPER_F8, e4m3, &[0x38], &[0x38], c.to_bits(), 0));
        assert_eq!(small(2f32.powi(-13)), 1.0 + 2f32.powi(-13));
        assert_eq!(small(2f32.powi(-14)), 1.0);
        assert_eq!(small(2.0 - 2f32.powi(-12)), 3.0 - 2f32.powi(-12));
    }

    #[test]
    fn block_scales_shift_products_only() {
        let scaled = |s| f32::from_bits(fused(Rule::F32, BF16, &[bf16(3.0)], &[bf16(1.0)], 1f32.to_bits(), s));
        assert_eq!([scaled(0), scaled(2), scaled(-1)], [4.0, 13.0, 2.5]);
    }

    #[test]
    fn integer_sums() {
        assert_eq!(integers([127, -128], [127, -128], 5, false), 127 * 127 + 128 * 128 + 5);
        assert_eq!(integers([127], [127], i32::MAX, true), i32::MAX);
        assert_eq!(integers([127], [127], i32::MAX, false), i32::MIN + 127 * 127 - 1);
    }
}
