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
mod tests {
    extern crate std;
    use super::*;
    use crate::mem::{Bf16, E4m3, Element};
    use crate::ptx::float8;
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
        fn any(x: bool) -> bool {
            x
        }
    }

    const HALF_EMULATED: Exp2 = Exp2 { period: 2, emulated: 1 };
    /// Scores of a block.
    const S: usize = 16;

    fn knobs(bound: f32, exp2: Exp2) -> Knobs {
        Knobs { scale_log2: 0.25 * std::f32::consts::LOG2_E, bound, exp2, lift: 0.0 }
    }

    /// A format as a block of 16 scores is rounded to it.
    trait Rounded: Operand {
        /// Words of P.
        type Words: AsRef<[u32]>;
        /// The probabilities of a block against the rows' reference, in two parts.
        fn block(rows: &Rows, scores: &[f32; S], k: &Knobs) -> (bool, [bool; 2], Rows, Self::Words);
        /// Those of scores whose exponentials are known.
        fn whole(exponentials: &[f32; S]) -> Self::Words;
        /// What probability `i` was rounded to.
        fn value(words: &Self::Words, i: usize) -> f32;
        /// How far a sum of rounded probabilities may be off.
        const SLACK: f32;
    }

    fn block_of<E: Operand, const P: usize>(
        rows: &Rows,
        scores: &[f32; S],
        k: &Knobs,
    ) -> (bool, [bool; 2], Rows, [u32; P]) {
        let (mut rows, mut done) = (*rows, Block::<P>::new());
        for pairs in [0..3, 3..8] {
            rows.probabilities::<E, S, P>(scores, pairs, k, &mut done);
        }
        rows.add(&done);
        (done.within::<E>(k), done.exceeded::<E, Alone>(k), rows, done.p)
    }

    fn whole_of<E: Operand, const P: usize>(exponentials: &[f32; S]) -> [u32; P] {
        let mut p = [0; P];
        (0..S / 2).for_each(|j| E::store(&mut p, j, exponentials[2 * j], exponentials[2 * j + 1]));
        p
    }

    impl Rounded for Bf16 {
        type Words = [u32; 8];
        const SLACK: f32 = 1e-2;

        fn block(rows: &Rows, scores: &[f32; S], k: &Knobs) -> (bool, [bool; 2], Rows, [u32; 8]) {
            block_of::<Bf16, 8>(rows, scores, k)
        }
        fn whole(exponentials: &[f32; S]) -> [u32; 8] {
            whole_of::<Bf16, 8>(exponentials)
        }
        fn value(words: &[u32; 8], i: usize) -> f32 {
            let (low, high) = Bf16::unpack(words[i / 2]);
            [low, high][i % 2]
        }
    }

    impl Rounded for E4m3 {
        type Words = [u32; 4];
        const SLACK: f32 = 6e-2;

        fn block(rows: &Rows, scores: &[f32; S], k: &Knobs) -> (bool, [bool; 2], Rows, [u32; 4]) {
            block_of::<E4m3, 4>(rows, scores, k)
        }
        fn whole(exponentials: &[f32; S]) -> [u32; 4] {
            whole_of::<E4m3, 4>(exponentials)
        }
        fn value(words: &[u32; 4], i: usize) -> f32 {
            // Fragments of 8 bits as the instruction has them, of keys in the order in which V is transposed: register `i` of a
            // thread's row lies in the word whose places hold its column.
            let (row, column) = ((i >> 1) & 1, (8 * (i >> 2) + (i & 1)) as u32);
            let at = |word: usize, byte: u32| crate::forward::narrow::key_at(16 * (word as u32 / 2) + byte);
            let (word, byte) = (0..4)
                .flat_map(|word| (0..4).map(move |byte| (word, byte)))
                .find(|&(word, byte)| word % 2 == row && at(word, byte) == column)
                .expect("every column has a place");
            let e = words[word].to_le_bytes()[byte as usize];
            half::f16::from_bits(float8::e4m3_to_f16(u32::from(e))[0] as u16).to_f32()
        }
    }

    /// What became of a tile.
    struct Outcome {
        /// O of both rows with V = 1 for every key.
        o: [f32; 2],
        lse: [f32; 2],
        /// Blocks that were done again.
        raised: usize,
    }

    /// Runs blocks of scores through the online softmax as a kernel does.
    fn run<E: Rounded>(blocks: &[[f32; S]], k: &Knobs) -> Outcome {
        let (mut rows, mut o, mut raised) = (Rows::new(), [0.0f32; 4], 0);
        for (n, block) in blocks.iter().enumerate() {
            let mut p = *block;
            let words = if n == 0 {
                rows.first::<Alone, S>(&mut p, k);
                E::whole(&p)
            } else {
                let (within, exceeded, added, words) = E::block(&rows, block, k);
                if within {
                    rows = added;
                    words
                } else {
                    scale_rows(&mut o, rows.raise::<Alone, S>(&mut p, exceeded, k));
                    raised += 1;
                    E::whole(&p)
                }
            };
            (0..S).for_each(|i| o[i & 2] += E::value(&words, i));
        }
        let (inverse, lse) = rows.finish::<Alone>(k);
        Outcome { o: [o[0] * inverse[0], o[2] * inverse[1]], lse, raised }
    }

    /// O is 1 and the LSE is f64's, or O is 0 and the LSE -inf. Returns the blocks that were done again.
    fn check(blocks: &[[f32; S]], k: Knobs) -> usize {
        check_rounded::<Bf16>(blocks, k)
    }

    /// The same with probabilities of another format.
    fn check_rounded<E: Rounded>(blocks: &[[f32; S]], k: Knobs) -> usize {
        let got = run::<E>(blocks, &k);
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
                assert_eq!((got.o[r], got.lse[r]), (0.0, f32::NEG_INFINITY));
                continue;
            }
            let want = top + row.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
            assert!((got.lse[r] as f64 - want).abs() < 2e-4 * want.abs().max(1.0), "lse {}, not {want}", got.lse[r]);
            assert!((got.o[r] - 1.0).abs() < E::SLACK, "O {} with bound {}", got.o[r], k.bound);
        }
        got.raised
    }

    #[test]
    fn any_bound_gives_the_same_result() {
        let wave = |n: usize, height: f32| core::array::from_fn(|i| height * ((n * S + i) as f32 * 0.7).sin());
        let rising: Vec<[f32; S]> = (0..6).map(|n| wave(n, 4.0 * n as f32)).collect();
        let falling: Vec<[f32; S]> = rising.iter().rev().copied().collect();
        for bound in [64.0, 256.0, 16384.0] {
            for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
                check(&rising, knobs(bound, exp2));
                assert_eq!(check(&falling, knobs(bound, exp2)), 0, "a falling row keeps its reference");
            }
        }
    }

    #[test]
    fn eight_bits_saturate_nowhere() {
        let k = Knobs { lift: E4m3::LIFT, ..knobs(f32::NAN, Exp2::HARDWARE) };
        let wave = |n: usize, height: f32| core::array::from_fn(|i| height * ((n * S + i) as f32 * 0.7).sin());
        let rising: Vec<[f32; S]> = (0..6).map(|n| wave(n, 4.0 * n as f32)).collect();
        let falling: Vec<[f32; S]> = rising.iter().rev().copied().collect();
        assert!(check_rounded::<E4m3>(&rising, k) > 0);
        assert_eq!(check_rounded::<E4m3>(&falling, k), 0, "a falling row keeps its reference");
        // 2^5 times 13 is below 432, from which on 448 is nearest, and times 14 is not. Each score counts a quarter.
        for (growth, raised) in [(13.0f32, 0), (14.0, 1), (1e30, 1), (0.1, 0)] {
            let late = growth.ln() * 4.0;
            for i in 0..S {
                let mut spike = [0.0; S];
                spike[i] = late;
                assert_eq!(check_rounded::<E4m3>(&[[0.0; S], spike], k), raised, "growth {growth}, register {i}");
            }
            assert_eq!(check_rounded::<E4m3>(&[[0.0; S], [late; S]], k), raised, "growth {growth} of all");
        }
        let none = [f32::NEG_INFINITY; S];
        check_rounded::<E4m3>(&[none, none], k);
        check_rounded::<E4m3>(&[none, wave(0, 9.0), none], k);
        let not = run::<E4m3>(&[[0.0; S], core::array::from_fn(|i| if i == 5 { f32::NAN } else { 0.0 })], &k);
        // Register 5 is of the first row.
        assert!(not.o[0].is_nan() && (not.o[1] - 1.0).abs() < 1e-3, "{:?}", not.o);
    }

    #[test]
    fn a_block_far_above_the_reference_is_done_again() {
        let flat = |x: f32| [x; S];
        for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
            let k = knobs(16384.0, exp2);
            // Exponents 0, then 36, then 3600 and 36,000: within f32 and far outside.
            assert_eq!(check(&[flat(0.0), flat(100.0), flat(1e4), flat(1e5)], k), 3);
            assert_eq!(check(&[flat(-1e5), flat(1e5), flat(-1e5)], k), 1);
            // One score of one row alone, of the first and of the last pair.
            for i in [0, 1, 2, 3, S - 4, S - 1] {
                let mut spike = flat(0.0);
                spike[i] = 500.0;
                assert_eq!(check(&[flat(0.0), spike, flat(0.0)], k), 1, "register {i}");
            }
        }
    }

    #[test]
    fn halves_of_the_keys_merge_to_the_whole() {
        let k = knobs(16384.0, Exp2::HARDWARE);
        let wave = |n: usize| -> [f32; 16] { core::array::from_fn(|i| 9.0 * ((n * 16 + i) as f32 * 0.7).sin()) };
        let none = [f32::NEG_INFINITY; 16];
        let late: [f32; 16] = core::array::from_fn(|i| if (i >> 1) & 1 == 0 { f32::NEG_INFINITY } else { i as f32 });
        for blocks in
            [[wave(0), wave(1)], [wave(1), none], [none, wave(2)], [late, none], [late, wave(3)], [none, none]]
        {
            let (mut whole, mut halves) = (Rows::new(), [Rows::new(), Rows::new()]);
            whole.first::<Alone, 16>(&mut blocks[0].clone(), &k);
            whole.raise::<Alone, 16>(&mut blocks[1].clone(), [true; 2], &k);
            for (half, block) in halves.iter_mut().zip(&blocks) {
                half.first::<Alone, 16>(&mut block.clone(), &k);
            }
            let [mut first, second] = halves;
            let factors = first.merge(second.parts(), &k);
            assert!(factors.iter().flatten().all(|f| (0.0..=1.0).contains(f)), "{factors:?}");
            let ((_, lse), (_, want)) = (first.finish::<Alone>(&k), whole.finish::<Alone>(&k));
            for r in 0..2 {
                assert!(lse[r] == want[r] || (lse[r] - want[r]).abs() < 1e-5, "{lse:?} instead of {want:?}");
                // What each half adds to the row, relative to the whole: together 1, unless there are no keys.
                let all = factors[0][r] * halves[0].sum[r] + factors[1][r] * halves[1].sum[r];
                assert!((all - first.sum[r]).abs() <= 1e-6 * all, "{all} instead of {}", first.sum[r]);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_its_neighbour_does() {
        let k = knobs(16384.0, Exp2::HARDWARE);
        let wave = |n: usize| core::array::from_fn(|i| 9.0 * ((n * S + i) as f32 * 0.7).sin());
        let alone: Vec<[f32; S]> = (0..5).map(wave).collect();
        // Row 1 rises so much that its blocks are done again, or has no keys at first; row 0 is as before.
        for other in [40.0f32, f32::NEG_INFINITY] {
            let shared: Vec<[f32; S]> = (0..5)
                .map(|n| {
                    core::array::from_fn(|i| {
                        if i & 2 == 0 {
                            wave(n)[i]
                        } else if n < 2 {
                            other
                        } else {
                            100.0 * n as f32
                        }
                    })
                })
                .collect();
            let (a, b) = (run::<Bf16>(&alone, &k), run::<Bf16>(&shared, &k));
            assert!(b.raised > 0);
            assert_eq!((a.o[0].to_bits(), a.lse[0].to_bits()), (b.o[0].to_bits(), b.lse[0].to_bits()));
        }
    }

    #[test]
    fn a_sink_is_a_key_without_a_value() {
        let k = knobs(16384.0, Exp2::HARDWARE);
        let scores: [f32; S] = core::array::from_fn(|i| (i as f32 * 0.7).sin() * 8.0);
        for sink in [f32::NEG_INFINITY, -300.0, 0.0, 3.0, 300.0] {
            let mut rows = Rows::new();
            rows.first::<Alone, S>(&mut scores.clone(), &k);
            let (inverse, lse) = rows.finish_with::<Alone>([sink * std::f32::consts::LOG2_E; 2], &k);
            let (plain, plain_lse) = rows.finish::<Alone>(&k);
            for r in 0..2 {
                let (own, sink) = (f64::from(plain_lse[r]), f64::from(sink));
                let top = own.max(sink);
                let want = top + ((own - top).exp() + (sink - top).exp()).ln();
                assert!((f64::from(lse[r]) - want).abs() < 1e-4, "{} instead of {want}", lse[r]);
                let share = f64::from(inverse[r] / plain[r]);
                assert!((share - (own - want).exp()).abs() < 1e-4, "sink {sink}: {share}");
            }
        }
        let (inverse, lse) = Rows::new().finish_with::<Alone>([2.0, f32::NEG_INFINITY], &k);
        assert_eq!(inverse, [0.0; 2]);
        assert!((lse[0] - 2.0 * core::f32::consts::LN_2).abs() < 1e-6 && lse[1] == f32::NEG_INFINITY);
    }

    #[test]
    fn a_small_growth_keeps_the_reference() {
        let k = knobs(16384.0, Exp2::HARDWARE);
        assert_eq!(check(&[[1.0; S], [2.0; S], [20.0; S]], k), 0);
        assert_eq!(check(&[[1.0; S], [101.0; S]], k), 1);
        let mut rows = Rows::new();
        rows.first::<Alone, S>(&mut [1.0; S], &k);
        let factor = rows.raise::<Alone, S>(&mut [101.0; S], [true; 2], &k);
        assert!(factor[0] < 1e-10 && factor[0] > 0.0, "growth of 100 must rescale, got {factor:?}");
        assert_eq!(rows.raise::<Alone, S>(&mut [50.0; S], [true; 2], &k), [1.0; 2]);
    }

    #[test]
    fn rows_without_keys_stay_empty_and_may_wake_up_late() {
        let none = [f32::NEG_INFINITY; S];
        let late = |x| core::array::from_fn(|i| if (i >> 1) & 1 == 0 { f32::NEG_INFINITY } else { x + i as f32 });
        for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
            assert_eq!(check(&[none, none, none], knobs(16384.0, exp2)), 0);
            // A row's first number asks for a reference, however small it is.
            for x in [0.0, -1e4, 1e4] {
                assert_eq!(check(&[none, late(x), none], knobs(16384.0, exp2)), 1);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for exp2 in [Exp2::HARDWARE, HALF_EMULATED] {
            for i in 0..S {
                let mut block = [0.0; S];
                block[i] = f32::NAN;
                let got = run::<Bf16>(&[[0.0; S], block, [0.0; S]], &knobs(16384.0, exp2));
                let (hit, other) = ((i >> 1) & 1, ((i >> 1) & 1) ^ 1);
                assert!(got.o[hit].is_nan() && got.lse[hit].is_nan(), "register {i}");
                assert!((got.o[other] - 1.0).abs() < 1e-5, "register {i}");
                assert!(got.raised >= 1);
            }
        }
    }
}
