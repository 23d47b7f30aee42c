//! Online softmax over a whole row of scores in one thread, as Blackwell's tensor memory hands it out.
//!
//! The row's maximum needs no exchange between threads, arithmetic runs in packed pairs, and the scaling of O is somebody
//! else's work: [`Row::raise`] returns the factor. Statistics and the conditional rescale are those of
//! [`softmax`](super::softmax).

use crate::attn::exp2;
use crate::attn::softmax::lifted;
use crate::ptx::math::{add2, ex2, fma, fma2, lg2, max, max3, rcp};

/// Which of a row's exponentials are computed on the FMA units, so that these and the MUFU unit finish together.
///
/// A row goes through in four chunks of 16 pairs; the last one is always the MUFU unit's, because the tensor cores wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of every `period` consecutive pairs of a chunk ...
    pub period: u32,
    /// ... the last `emulated` use the polynomial. Zero: all on the MUFU unit.
    pub emulated: u32,
    /// First chunk of the row to which that applies.
    pub first_chunk: u32,
}

impl Share {
    /// All exponentials on the MUFU unit.
    pub const HARDWARE: Share = Share { period: 1, emulated: 0, first_chunk: 0 };

    /// Whether pair `pair` of chunk `chunk` of `chunks` uses the polynomial.
    #[inline(always)]
    pub const fn emulates(&self, pair: u32, chunk: u32, chunks: u32) -> bool {
        chunk >= self.first_chunk && chunk + 1 < chunks && pair % self.period >= self.period - self.emulated
    }

    /// Columns of a row of `chunks` chunks of 32 that use the polynomial.
    pub const fn columns(&self, chunks: u32) -> u32 {
        let (mut columns, mut chunk) = (0, 0);
        while chunk < chunks {
            let mut pair = 0;
            while pair < 16 {
                columns += 2 * self.emulates(pair, chunk, chunks) as u32;
                pair += 1;
            }
            chunk += 1;
        }
        columns
    }
}

/// What the softmax of a kernel is compiled with.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// `softmax_scale * log2(e)`.
    pub scale_log2: f32,
    /// Growth of the maximum, in powers of two, that is tolerated before O is rescaled.
    pub threshold: f32,
    /// Binary logarithm of what an exponential at the reference is: [`Operand::LIFT`](crate::mem::Operand::LIFT).
    pub lift: f32,
}

/// Running statistics of a row: the reference of its exponentials, in units of raw scores, and their sum.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    max: f32,
    sum: f32,
}

impl Row {
    /// A row that has seen no key.
    #[inline(always)]
    pub const fn new() -> Self {
        Row { max: f32::NEG_INFINITY, sum: 0.0 }
    }

    /// The reference so far; a block's maximum starts from it.
    #[inline(always)]
    pub const fn max(&self) -> f32 {
        self.max
    }

    /// Takes `new`, the maximum of the reference and the block's scores, and returns the factor for what was computed so far.
    ///
    /// The factor is exactly 1 when the row keeps its reference, because it grew by no more than the threshold.
    #[inline(always)]
    pub fn raise(&mut self, new: f32, knobs: &Knobs) -> f32 {
        // -inf minus -inf is NaN, which is not above the threshold: a row without keys keeps -inf and factor 1.
        let growth = (new - self.max) * knobs.scale_log2;
        let factor = ex2(-growth);
        let grows = growth > knobs.threshold;
        self.max = if grows { new } else { self.max };
        if grows { factor } else { 1.0 }
    }

    /// What is added to `score * scale_log2` before the exponential.
    #[inline(always)]
    pub fn offset(&self, knobs: &Knobs) -> f32 {
        // Against a reference of -inf every score is -inf too; 0 in its place gives exp2(-inf) = 0 and not NaN.
        if self.max == f32::NEG_INFINITY { 0.0 } else { lifted(-self.max * knobs.scale_log2, knobs.lift) }
    }

    /// Ends the row: `1 / sum` to multiply O with, and the LSE (natural logarithm). A row that saw no key gets 0 and -inf.
    #[inline(always)]
    pub fn finish(&self, knobs: &Knobs) -> (f32, f32) {
        if self.sum == 0.0 {
            (0.0, f32::NEG_INFINITY)
        } else {
            let inverse = rcp(self.sum);
            let sum_log2 = lifted(lg2(self.sum), -knobs.lift);
            (inverse, fma(self.max, knobs.scale_log2, sum_log2) * core::f32::consts::LN_2)
        }
    }

    /// As [`finish`](Self::finish), with a sink in the row's sum: a score in powers of two, of a key without a value; -inf is none.
    #[inline(always)]
    pub fn finish_with(&self, sink: f32, knobs: &Knobs) -> (f32, f32) {
        // -inf for a row without keys, whatever the sign of the scale's product.
        let own = if self.max == f32::NEG_INFINITY {
            f32::NEG_INFINITY
        } else {
            lifted(self.max * knobs.scale_log2, -knobs.lift)
        };
        let top = max(own, sink);
        let reference = if top == f32::NEG_INFINITY { 0.0 } else { top };
        let factor = ex2(own - reference);
        let all = fma(self.sum, factor, ex2(sink - reference));
        if all == 0.0 {
            (0.0, f32::NEG_INFINITY)
        } else {
            (rcp(all) * factor, (reference + lg2(all)) * core::f32::consts::LN_2)
        }
    }

    /// Adds the block's exponentials; `factor` is [`raise`](Self::raise)'s.
    #[inline(always)]
    pub fn add<const N: usize>(&mut self, exponentials: &[f32; N], factor: f32) {
        self.sum = fma(self.sum, factor, total(exponentials));
    }
}

impl Default for Row {
    fn default() -> Self {
        Row::new()
    }
}

/// The greatest of `seed` and the scores, three inputs an instruction, in four chains. `N` is at least 16.
#[inline(always)]
pub fn row_max<const N: usize>(scores: &[f32; N], seed: f32) -> f32 {
    let s = scores;
    let mut chains = [max3(seed, s[0], s[1]), max3(s[2], s[3], s[4]), max3(s[5], s[6], s[7]), max3(s[8], s[9], s[10])];
    let mut i = 11;
    while i + 1 < N {
        let chain = (i - 11) / 2 % 4;
        chains[chain] = max3(chains[chain], s[i], s[i + 1]);
        i += 2;
    }
    let [a, b, c, d] = chains;
    let last = if i < N { s[i] } else { d };
    max3(max3(a, b, c), d, last)
}

/// `exp2(score * scale + offset)` of one chunk of a row, in place.
#[inline(always)]
pub fn exponentiate<const N: usize>(
    scores: &mut [f32; N],
    chunk: usize,
    width: usize,
    share: Share,
    scale: f32,
    offset: f32,
) {
    let (first, chunks) = (chunk * width, (N / width) as u32);
    let mut i = 0;
    while i < width {
        let at = first + i;
        let x = fma2([scores[at], scores[at + 1]], [scale; 2], [offset; 2]);
        let y = if share.emulates(i as u32 / 2, chunk as u32, chunks) {
            exp2::exp2_pair::<3>(x)
        } else {
            [ex2(x[0]), ex2(x[1])]
        };
        scores[at] = y[0];
        scores[at + 1] = y[1];
        i += 2;
    }
}

/// The sum, in four chains of packed pairs. `N` is a multiple of 8.
#[inline(always)]
fn total<const N: usize>(x: &[f32; N]) -> f32 {
    let mut chains = [[x[0], x[1]], [x[2], x[3]], [x[4], x[5]], [x[6], x[7]]];
    let mut i = 8;
    while i < N {
        let chain = i / 2 % 4;
        chains[chain] = add2(chains[chain], [x[i], x[i + 1]]);
        i += 2;
    }
    let [a, b, c, d] = chains;
    let [low, high] = add2(add2(a, b), add2(c, d));
    low + high
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    const KNOBS: Knobs = Knobs { scale_log2: 0.25 * core::f32::consts::LOG2_E, threshold: 8.0, lift: 0.0 };
    const HALF: Share = Share { period: 2, emulated: 1, first_chunk: 0 };

    #[test]
    fn the_maximum_sees_every_score() {
        for n in 0..128 {
            let mut scores = [-3.0f32; 128];
            scores[n] = 1.0;
            assert_eq!(row_max(&scores, f32::NEG_INFINITY), 1.0, "score {n}");
        }
        assert_eq!(row_max(&[-3.0f32; 64], 2.0), 2.0);
        assert_eq!(row_max(&[f32::NEG_INFINITY; 64], f32::NEG_INFINITY), f32::NEG_INFINITY);
    }

    #[test]
    fn shares_count_their_columns() {
        assert_eq!(Share::HARDWARE.columns(4), 0);
        assert_eq!(Share { period: 8, emulated: 2, first_chunk: 1 }.columns(4), 16);
        assert_eq!(HALF.columns(4), 48);
    }

    /// Blocks of scores through the online softmax with V = 1 for every key: O is 1 and the LSE is f64's.
    fn check(blocks: &[[f32; 128]], share: Share, knobs: &Knobs) {
        let (mut row, mut o) = (Row::new(), 0.0f64);
        for block in blocks {
            let mut scores = *block;
            let factor = row.raise(row_max(&scores, row.max()), knobs);
            let offset = row.offset(knobs);
            for chunk in 0..4 {
                exponentiate(&mut scores, chunk, 32, share, knobs.scale_log2, offset);
            }
            row.add(&scores, factor);
            o = o * f64::from(factor) + scores.iter().map(|&p| f64::from(p)).sum::<f64>();
        }
        let (inverse, lse) = row.finish(knobs);
        let all: Vec<f64> = blocks.iter().flatten().map(|&s| f64::from(s) * 0.25).collect();
        let top = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if top == f64::NEG_INFINITY {
            assert_eq!((inverse, lse), (0.0, f32::NEG_INFINITY));
            return;
        }
        let want = top + all.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
        assert!((f64::from(lse) - want).abs() < 2e-4 * want.abs().max(1.0), "LSE {lse} instead of {want}");
        assert!((o * f64::from(inverse) - 1.0).abs() < 1e-4, "O {}", o * f64::from(inverse));
    }

    #[test]
    fn any_reference_within_the_threshold_gives_the_same_result() {
        let wave = |n: usize, height: f32| core::array::from_fn(|i| height * ((n * 128 + i) as f32 * 0.7).sin());
        let rising: Vec<[f32; 128]> = (0..6).map(|n| wave(n, 4.0 * n as f32)).collect();
        let falling: Vec<[f32; 128]> = rising.iter().rev().copied().collect();
        for share in [Share::HARDWARE, HALF] {
            for (threshold, lift) in [(0.0, 0.0), (2.0, 5.0), (8.0, 0.0)] {
                check(&rising, share, &Knobs { threshold, lift, ..KNOBS });
                check(&falling, share, &Knobs { threshold, lift, ..KNOBS });
            }
        }
    }

    #[test]
    fn a_sink_counts_as_a_key_without_a_value() {
        let natural: Vec<f64> = (0..128).map(|i| f64::from((i as f32 * 0.3).sin()) * 0.25).collect();
        let of_reference = (natural.iter().copied().fold(f64::NEG_INFINITY, f64::max)).exp();
        for lift in [0.0, 5.0] {
            let knobs = Knobs { lift, ..KNOBS };
            let mut scores: [f32; 128] = core::array::from_fn(|i| (i as f32 * 0.3).sin());
            let mut row = Row::new();
            let factor = row.raise(row_max(&scores, row.max()), &knobs);
            let offset = row.offset(&knobs);
            (0..4).for_each(|chunk| exponentiate(&mut scores, chunk, 32, Share::HARDWARE, knobs.scale_log2, offset));
            row.add(&scores, factor);
            for sink in [f32::NEG_INFINITY, -3.0, 0.25, 60.0] {
                let (inverse, lse) = row.finish_with(sink * core::f32::consts::LOG2_E, &knobs);
                let all = natural.iter().map(|s| s.exp()).sum::<f64>() + f64::from(sink).exp();
                assert!((f64::from(lse) - all.ln()).abs() < 1e-4 * all.ln().abs().max(1.0), "sink {sink}: LSE {lse}");
                let want = of_reference / all / f64::from(lift).exp2();
                assert!((f64::from(inverse) - want).abs() < 1e-4 * want, "sink {sink}: {inverse} instead of {want}");
            }
        }
        let empty = Row::new();
        assert_eq!(empty.finish_with(f32::NEG_INFINITY, &KNOBS), (0.0, f32::NEG_INFINITY));
        let (inverse, lse) = empty.finish_with(2.0, &KNOBS);
        assert!(inverse == 0.0 && (lse - 2.0 * core::f32::consts::LN_2).abs() < 1e-6, "{inverse}, {lse}");
    }

    #[test]
    fn rows_without_keys_stay_empty_and_may_wake_up_late() {
        let none = [f32::NEG_INFINITY; 128];
        let late: [f32; 128] = core::array::from_fn(|i| if i < 7 { i as f32 } else { f32::NEG_INFINITY });
        for share in [Share::HARDWARE, HALF] {
            check(&[none, none], share, &KNOBS);
            check(&[none, late, none], share, &KNOBS);
        }
    }
}
