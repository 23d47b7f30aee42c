//! Online softmax over the accumulator fragments of one thread.
//!
//! A thread of a wgmma warpgroup holds two rows of a score tile (register `i` belongs to row `(i >> 1) & 1`); the four
//! threads of a quad hold the same two rows between them. The running maximum is agreed on by the quad at every step; the
//! running sum stays partial per thread until the end, because all four threads scale it alike.

use crate::attn::exp2;
use crate::forward::plan::Exp2;
use crate::ptx::math::{ex2, fma, lg2, max, rcp};

/// Reductions over the four threads that share a row.
pub trait Quad {
    /// The largest of the four values, in all four threads.
    fn max(x: f32) -> f32;
    /// The sum of the four values, in all four threads.
    fn sum(x: f32) -> f32;
}

/// What the softmax of a kernel is compiled with.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// `softmax_scale * log2(e)`.
    pub scale_log2: f32,
    /// Growth of the maximum, in powers of two, that is tolerated before O is rescaled.
    pub threshold: f32,
    /// Share of exponentials on the FMA units.
    pub exp2: Exp2,
}

/// Running statistics of a thread's two rows.
///
/// `max` is the reference that the exponentials are taken against, in units of raw scores. It may lag behind the true
/// maximum by up to [`Knobs::threshold`] powers of two (FlashAttention-4's conditional rescale): the result is the same,
/// since O and the sum use one reference, and P then reaches at most `2^threshold`, which bf16 and f16 hold exactly as well.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    max: [f32; 2],
    sum: [f32; 2],
}

impl Rows {
    /// Rows that have seen no key.
    #[inline(always)]
    pub fn new() -> Self {
        Rows { max: [f32::NEG_INFINITY; 2], sum: [0.0; 2] }
    }

    /// The first block of a tile: replaces the scores by `exp2(scale_log2 * (score - max))`.
    #[inline(always)]
    pub fn first<Q: Quad, const S: usize>(&mut self, scores: &mut [f32; S], knobs: &Knobs) {
        let block = row_max(scores);
        self.max = [Q::max(block[0]), Q::max(block[1])];
        self.sum = exponentiate(scores, self.max, knobs);
    }

    /// A later block: as [`Rows::first`], and returns the factors by which O's rows must be scaled.
    ///
    /// A factor is exactly 1 when the row keeps its reference.
    #[inline(always)]
    pub fn step<Q: Quad, const S: usize>(&mut self, scores: &mut [f32; S], knobs: &Knobs) -> [f32; 2] {
        let block = row_max(scores);
        let mut factor = [1.0; 2];
        for r in 0..2 {
            let new = max(self.max[r], Q::max(block[r]));
            // -inf minus -inf is NaN, which is not above the threshold: a row without keys keeps -inf and factor 1.
            let growth = (new - self.max[r]) * knobs.scale_log2;
            if growth > knobs.threshold {
                factor[r] = ex2(-growth);
                self.max[r] = new;
            }
        }
        let sums = exponentiate(scores, self.max, knobs);
        for r in 0..2 {
            self.sum[r] = fma(self.sum[r], factor[r], sums[r]);
        }
        factor
    }

    /// A value that depends on every exponential so far and has no sign: not a negative number, nor a NaN with its sign bit set.
    #[inline(always)]
    pub fn witness(&self) -> f32 {
        self.sum[0] + self.sum[1]
    }

    /// Ends the tile: `1 / sum` for each row to multiply O with, and each row's LSE (natural logarithm).
    ///
    /// A row that saw no key (sum 0) gets factor 0 and LSE -inf.
    #[inline(always)]
    pub fn finish<Q: Quad>(&self, knobs: &Knobs) -> ([f32; 2], [f32; 2]) {
        let (mut inverse, mut lse) = ([0.0; 2], [f32::NEG_INFINITY; 2]);
        for r in 0..2 {
            let sum = Q::sum(self.sum[r]);
            if sum != 0.0 {
                inverse[r] = rcp(sum);
                lse[r] = fma(self.max[r], knobs.scale_log2, lg2(sum)) * core::f32::consts::LN_2;
            }
        }
        (inverse, lse)
    }
}

impl Default for Rows {
    fn default() -> Self {
        Rows::new()
    }
}

/// Multiplies each row of an accumulator fragment by its factor.
#[inline(always)]
pub fn scale_rows<const O: usize>(acc: &mut [f32; O], factor: [f32; 2]) {
    let mut i = 0;
    while i < O {
        acc[i] *= factor[(i >> 1) & 1];
        i += 1;
    }
}

/// The thread's own maximum of each row: two chains a row, to halve the latency.
#[inline(always)]
fn row_max<const S: usize>(scores: &[f32; S]) -> [f32; 2] {
    let mut chains = [scores[0], scores[1], scores[2], scores[3]];
    let mut i = 4;
    while i < S {
        chains[i & 3] = max(chains[i & 3], scores[i]);
        i += 1;
    }
    [max(chains[0], chains[1]), max(chains[2], chains[3])]
}

/// Replaces each score by `exp2(scale_log2 * (score - reference))`, and returns each row's sum.
#[inline(always)]
fn exponentiate<const S: usize>(scores: &mut [f32; S], reference: [f32; 2], knobs: &Knobs) -> [f32; 2] {
    // Against a reference of -inf every score is -inf too; 0 in its place gives exp2(-inf) = 0 and not NaN.
    let offset = reference.map(|m| if m == f32::NEG_INFINITY { 0.0 } else { -m * knobs.scale_log2 });
    let mut chains = [0.0; 4];
    let mut i = 0;
    while i < S {
        let x = fma(scores[i], knobs.scale_log2, offset[(i >> 1) & 1]);
        let emulated = (i as u32 / 4) % knobs.exp2.period < knobs.exp2.emulated;
        scores[i] = if emulated { exp2::exp2::<3>(x) } else { ex2(x) };
        chains[i & 3] += scores[i];
        i += 1;
    }
    [chains[0] + chains[1], chains[2] + chains[3]]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// A "quad" of one thread that holds whole rows.
    struct Alone;
    impl Quad for Alone {
        fn max(x: f32) -> f32 {
            x
        }
        fn sum(x: f32) -> f32 {
            x
        }
    }

    const HALF_EMULATED: Exp2 = Exp2 { period: 2, emulated: 1 };

    fn knobs(threshold: f32, exp2: Exp2) -> Knobs {
        Knobs { scale_log2: 0.25 * std::f32::consts::LOG2_E, threshold, exp2 }
    }

    /// Runs blocks of scores through the online softmax with V = 1 for every key and checks O = 1 and the LSE in f64.
    fn check(blocks: &[[f32; 16]], k: Knobs) {
        let mut rows = Rows::new();
        let mut o = [0.0f32; 4];
        for (n, block) in blocks.iter().enumerate() {
            let mut p = *block;
            let factor = if n == 0 {
                rows.first::<Alone, 16>(&mut p, &k);
                [0.0; 2]
            } else {
                rows.step::<Alone, 16>(&mut p, &k)
            };
            if n > 0 {
                scale_rows(&mut o, factor);
            }
            for (i, p) in p.iter().enumerate() {
                o[i & 2] += p;
            }
        }
        let (inverse, lse) = rows.finish::<Alone>(&k);
        for r in 0..2 {
            let row: Vec<f64> = blocks
                .iter()
                .flatten()
                .enumerate()
                .filter(|(i, _)| (i >> 1) & 1 == r)
                .map(|(_, &s)| s as f64 * 0.25)
                .collect();
            let top = row.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
            if top == f64::NEG_INFINITY {
                assert_eq!((inverse[r], lse[r]), (0.0, f32::NEG_INFINITY));
                continue;
            }
            let want = top + row.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
            assert!((lse[r] as f64 - want).abs() < 2e-4 * want.abs().max(1.0), "lse {} instead of {want}", lse[r]);
            assert!(
                (o[2 * r] * inverse[r] - 1.0).abs() < 1e-4,
                "O {} with threshold {}",
                o[2 * r] * inverse[r],
                k.threshold
            );
        }
    }

    #[test]
    fn any_reference_within_the_threshold_gives_the_same_result() {
        let wave = |n: usize, height: f32| core::array::from_fn(|i| height * ((n * 16 + i) as f32 * 0.7).sin());
        let rising: Vec<[f32; 16]> = (0..6).map(|n| wave(n, 4.0 * n as f32)).collect();
        let falling: Vec<[f32; 16]> = rising.iter().rev().copied().collect();
        for threshold in [0.0, 2.0, 8.0] {
            for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
                check(&rising, knobs(threshold, exp2));
                check(&falling, knobs(threshold, exp2));
            }
        }
    }

    #[test]
    fn rows_without_keys_stay_empty_and_may_wake_up_late() {
        let none = [f32::NEG_INFINITY; 16];
        let late: [f32; 16] = core::array::from_fn(|i| if (i >> 1) & 1 == 0 { f32::NEG_INFINITY } else { i as f32 });
        for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
            check(&[none, none], knobs(8.0, exp2));
            check(&[none, late, none], knobs(8.0, exp2));
        }
    }

    #[test]
    fn a_small_growth_keeps_the_reference() {
        let mut rows = Rows::new();
        let k = knobs(8.0, Exp2::HARDWARE);
        rows.first::<Alone, 16>(&mut [1.0; 16], &k);
        assert_eq!(rows.step::<Alone, 16>(&mut [2.0; 16], &k), [1.0; 2]);
        let factor = rows.step::<Alone, 16>(&mut [101.0; 16], &k);
        assert!(factor[0] < 1e-10 && factor[0] > 0.0, "growth of 100 must rescale, got {factor:?}");
    }
}
