//! Online softmax over the accumulator fragments of one thread, which looks for a maximum only where it has to.
//!
//! A thread of a wgmma warpgroup holds two rows of a score tile (register `i` belongs to row `(i >> 1) & 1`); the four
//! threads of a quad hold the same two rows between them. The running sum stays partial per thread until the end, because all
//! four threads scale it alike.
//!
//! # The kept reference
//!
//! Exponentials may be taken against any reference that keeps them representable, since O and the sum share it. A tile's first block sets
//! it to the rows' maximum. Every later block is taken against the reference as it is, at once: no maximum over its scores, no
//! exchange between threads, no first exponential that waits for the last score. Whether the reference still served is seen
//! afterwards, in sums that are needed anyway: no exponential of a row is greater than their sum. Where a sum is greater than
//! [`Knobs::bound`], the block is done again from its scores, with their maximum as the reference, and O is rescaled
//! ([`Rows::raise`]). An exponential that overflows, or that is not a number, makes a sum that is not within any bound.
//!
//! Of 8-bit probabilities sums tell too little; their rounded bytes say whether one of them was too large, and what they are lifted by makes
//! use of their range ([`Operand::LIFT`]).
//!
//! FlashAttention-4 skips the rescale where the maximum grew little; this skips the maximum too.

use core::ops::Range;

use crate::attn::exp2;
use crate::forward::plan::Exp2;
use crate::mem::Operand;
use crate::ptx::math::{ex2, fma, lg2, max, min, rcp};

/// Reductions over the four threads that share a row.
pub trait Quad {
    /// The largest of the four values, in all four threads.
    fn max(x: f32) -> f32;
    /// The sum of the four values, in all four threads.
    fn sum(x: f32) -> f32;
    /// Whether it holds in one of the four threads, in all four.
    fn any(x: bool) -> bool;
}

/// What the softmax of a kernel is compiled with.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// Binary logarithm of what an exponential at the reference is: [`Operand::LIFT`].
    pub lift: f32,
    /// `softmax_scale * log2(e)`.
    pub scale_log2: f32,
    /// Sum of a thread's exponentials of a row in one block up to which the rows keep their reference.
    pub bound: f32,
    /// Share of exponentials on the FMA units.
    pub exp2: Exp2,
}

/// Running statistics of a thread's two rows.
///
/// `max` is the reference that the exponentials are taken against, in units of raw scores: the greatest score that was looked for.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    max: [f32; 2],
    sum: [f32; 2],
}

/// A block's probabilities, packed in pairs, and their sums as far as they have been computed.
#[derive(Clone, Copy, Debug)]
pub struct Block<const P: usize> {
    /// The probabilities.
    pub p: [u32; P],
    /// Two chains a row.
    sums: [f32; 4],
}

impl<const P: usize> Block<P> {
    /// Nothing computed yet.
    #[inline(always)]
    pub fn new() -> Self {
        Block { p: [0; P], sums: [0.0; 4] }
    }

    /// The sum of each row.
    #[inline(always)]
    fn totals(&self) -> [f32; 2] {
        [self.sums[0] + self.sums[1], self.sums[2] + self.sums[3]]
    }

    /// Whether the reference served: no exponential is greater than the bound. Asked of the whole block.
    #[inline(always)]
    pub fn within<E: Operand>(&self, knobs: &Knobs) -> bool {
        let [a, b] = E::within(self.totals(), &self.p, knobs.bound);
        a && b
    }

    /// The rows for which it did not, in some thread of the quad.
    #[inline(always)]
    pub fn exceeded<E: Operand, Q: Quad>(&self, knobs: &Knobs) -> [bool; 2] {
        E::within(self.totals(), &self.p, knobs.bound).map(|within| Q::any(!within))
    }

    /// A value that depends on every exponential so far and has no sign: not a negative number, nor a NaN with its sign bit set.
    #[inline(always)]
    pub fn witness(&self) -> f32 {
        let [a, b] = self.totals();
        a + b
    }
}

impl<const P: usize> Default for Block<P> {
    fn default() -> Self {
        Block::new()
    }
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
        self.sum = exponentiate(scores, self.offsets(knobs), knobs);
    }

    /// A later block: the exponentials of the pairs `pairs` of its scores against the reference as it is, rounded. Pair 0
    /// comes first, every pair once; then [`within`](Block::within) is asked, and [`add`](Self::add) or [`raise`](Self::raise) called.
    #[inline(always)]
    pub fn probabilities<E: Operand, const S: usize, const P: usize>(
        &self,
        scores: &[f32; S],
        pairs: Range<usize>,
        knobs: &Knobs,
        block: &mut Block<P>,
    ) {
        let offsets = self.offsets(knobs);
        let mut j = pairs.start;
        while j < pairs.end {
            let exp = |score| {
                let x = fma(score, knobs.scale_log2, offsets[j & 1]);
                // The polynomial ends before infinity; what it gives for the clamped argument is as far out of bounds.
                if emulated(2 * j, knobs) { exp2::exp2::<3>(min(x, 126.0)) } else { ex2(x) }
            };
            let (low, high) = (exp(scores[2 * j]), exp(scores[2 * j + 1]));
            let chain = 2 * (j & 1);
            if j < 2 {
                (block.sums[chain], block.sums[chain + 1]) = (low, high);
            } else {
                block.sums[chain] += low;
                block.sums[chain + 1] += high;
            }
            E::store(&mut block.p, j, low, high);
            j += 1;
        }
    }

    /// The reference served: the block's sums count.
    #[inline(always)]
    pub fn add<const P: usize>(&mut self, block: &Block<P>) {
        let [a, b] = block.totals();
        self.sum = [self.sum[0] + a, self.sum[1] + b];
    }

    /// The reference did not serve: as [`Rows::first`], and returns the factors by which O's rows must be scaled. All four threads of
    /// the quad call it.
    ///
    /// A factor is exactly 1 when the row keeps its reference, as every row does that is not in `rows`.
    #[inline(always)]
    pub fn raise<Q: Quad, const S: usize>(
        &mut self,
        scores: &mut [f32; S],
        rows: [bool; 2],
        knobs: &Knobs,
    ) -> [f32; 2] {
        let block = row_max(scores);
        let mut factor = [1.0; 2];
        for r in 0..2 {
            let new = max(self.max[r], Q::max(block[r]));
            // -inf minus -inf is NaN, which is not greater than 0: a row without keys keeps -inf and factor 1.
            let growth = (new - self.max[r]) * knobs.scale_log2;
            if rows[r] && growth > 0.0 {
                factor[r] = ex2(-growth);
                self.max[r] = new;
            }
        }
        let sums = exponentiate(scores, self.offsets(knobs), &Knobs { exp2: Exp2::HARDWARE, ..*knobs });
        for r in 0..2 {
            self.sum[r] = fma(self.sum[r], factor[r], sums[r]);
        }
        factor
    }

    /// What is added to a scaled score before the exponential.
    ///
    /// For a row whose every score was -inf so far, the greatest number: another -inf still gives exp2(-inf) = 0, and not NaN, while any
    /// number overflows, which asks for a reference.
    #[inline(always)]
    fn offsets(&self, knobs: &Knobs) -> [f32; 2] {
        self.max.map(|m| if m == f32::NEG_INFINITY { f32::MAX } else { lifted(-m * knobs.scale_log2, knobs.lift) })
    }

    /// The thread's references and partial sums, for [`merge`](Self::merge) in the thread that has the same rows of other keys.
    #[inline(always)]
    pub fn parts(&self) -> [f32; 4] {
        [self.max[0], self.max[1], self.sum[0], self.sum[1]]
    }

    /// Takes in what another thread has seen of other keys of the same rows, by its [`parts`](Self::parts): returns the factors of this
    /// thread's rows of O, and those of the other's, which are to be added.
    #[inline(always)]
    pub fn merge(&mut self, other: [f32; 4], knobs: &Knobs) -> [[f32; 2]; 2] {
        let mut factors = [[0.0; 2]; 2];
        for r in 0..2 {
            let top = max(self.max[r], other[r]);
            // Where neither has seen a key, 0 in its place gives factors 0 and not NaN.
            let reference = if top == f32::NEG_INFINITY { 0.0 } else { top };
            let factor = |max: f32| ex2((max - reference) * knobs.scale_log2);
            (factors[0][r], factors[1][r]) = (factor(self.max[r]), factor(other[r]));
            self.max[r] = top;
            self.sum[r] = fma(self.sum[r], factors[0][r], other[2 + r] * factors[1][r]);
        }
        factors
    }

    /// As [`finish`](Self::finish), with a sink in each row's sum: a score in powers of two, of a key without a value; -inf is none.
    #[inline(always)]
    pub fn finish_with<Q: Quad>(&self, sinks: [f32; 2], knobs: &Knobs) -> ([f32; 2], [f32; 2]) {
        let (mut inverse, mut lse) = ([0.0; 2], [f32::NEG_INFINITY; 2]);
        for r in 0..2 {
            let sum = Q::sum(self.sum[r]);
            // -inf for a row without keys, whatever the sign of the scale's product.
            let own = if self.max[r] == f32::NEG_INFINITY {
                f32::NEG_INFINITY
            } else {
                lifted(self.max[r] * knobs.scale_log2, -knobs.lift)
            };
            let top = max(own, sinks[r]);
            let reference = if top == f32::NEG_INFINITY { 0.0 } else { top };
            let factor = ex2(own - reference);
            let all = fma(sum, factor, ex2(sinks[r] - reference));
            if all != 0.0 {
                inverse[r] = rcp(all) * factor;
                lse[r] = (reference + lg2(all)) * core::f32::consts::LN_2;
            }
        }
        (inverse, lse)
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
                let sum_log2 = lifted(lg2(sum), -knobs.lift);
                lse[r] = fma(self.max[r], knobs.scale_log2, sum_log2) * core::f32::consts::LN_2;
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

/// `x + lift`; `x` itself without a lift, which an addition of 0 would not leave to the compiler.
#[inline(always)]
pub(super) fn lifted(x: f32, lift: f32) -> f32 {
    if lift == 0.0 { x } else { x + lift }
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

/// Whether register `i`'s exponential is computed on the FMA units.
#[inline(always)]
const fn emulated(i: usize, knobs: &Knobs) -> bool {
    (i as u32 / 4) % knobs.exp2.period < knobs.exp2.emulated
}

/// Replaces each score by its exponential against a reference that is not smaller, and returns each row's sum.
#[inline(always)]
fn exponentiate<const S: usize>(scores: &mut [f32; S], offsets: [f32; 2], knobs: &Knobs) -> [f32; 2] {
    let mut chains = [0.0; 4];
    let mut i = 0;
    while i < S {
        let x = fma(scores[i], knobs.scale_log2, offsets[(i >> 1) & 1]);
        scores[i] = if emulated(i, knobs) { exp2::exp2::<3>(x) } else { ex2(x) };
        chains[i & 3] += scores[i];
        i += 1;
    }
    [chains[0] + chains[1], chains[2] + chains[3]]
}

#[cfg(test)]
mod tests;
