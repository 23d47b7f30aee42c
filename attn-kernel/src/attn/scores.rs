//! What is done to a score between Q Kᵀ and the softmax: nothing, or a softcap and a bias by distance (ALiBi).

use crate::ptx::math::{ex2, fma, rcp};

/// A change of scores that a kernel is compiled with, as a thread with two rows of a score tile applies it.
pub trait Scores: Copy {
    /// Whether there is any.
    const MODIFIED: bool;

    /// From what a problem and the thread's rows ask for.
    fn of(asked: Modified) -> Self;

    /// Changes the scores of a block, a wgmma accumulator fragment whose first column is key `first` (counted as positions are).
    fn apply<const S: usize>(&self, scores: &mut [f32; S], first: u32);

    /// Changes neighbouring scores of the thread's first row, of which the first is that of key `first`.
    fn apply_row<const N: usize>(&self, scores: &mut [f32; N], first: u32);
}

/// Scores as they are.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Scores for Plain {
    const MODIFIED: bool = false;

    #[inline(always)]
    fn of(_asked: Modified) -> Self {
        Plain
    }

    #[inline(always)]
    fn apply<const S: usize>(&self, _scores: &mut [f32; S], _first: u32) {}

    #[inline(always)]
    fn apply_row<const N: usize>(&self, _scores: &mut [f32; N], _first: u32) {}
}

/// A softcap, then a bias; either may be absent.
#[derive(Clone, Copy, Debug)]
pub struct Modified {
    /// `2 * log2(e) * softmax_scale / softcap`; 0: no softcap.
    pub cap: f32,
    /// Whether there are slopes.
    pub biased: bool,
    /// Slope of each of the thread's rows, in units of what the softmax scales.
    pub slopes: [f32; 2],
    /// Position of each row among the keys: `i + lengths.k - lengths.q`. Exact up to 2^24 keys.
    pub positions: [f32; 2],
}

impl Scores for Modified {
    const MODIFIED: bool = true;

    #[inline(always)]
    fn of(asked: Modified) -> Self {
        asked
    }

    #[inline(always)]
    fn apply<const S: usize>(&self, scores: &mut [f32; S], first: u32) {
        self.soften(scores);
        if self.biased {
            // Distance of the fragment's first column; that of another one is a constant less.
            let to_first = self.positions.map(|position| position - first as i32 as f32);
            let mut i = 0;
            while i < S {
                let (column, row) = ((8 * (i >> 2) + (i & 1)) as f32, (i >> 1) & 1);
                scores[i] = fma(-self.slopes[row], (to_first[row] - column).abs(), scores[i]);
                i += 1;
            }
        }
    }

    #[inline(always)]
    fn apply_row<const N: usize>(&self, scores: &mut [f32; N], first: u32) {
        self.soften(scores);
        if self.biased {
            let to_first = self.positions[0] - first as i32 as f32;
            let mut i = 0;
            while i < N {
                scores[i] = fma(-self.slopes[0], (to_first - i as f32).abs(), scores[i]);
                i += 1;
            }
        }
    }
}

impl Modified {
    /// The softcap, if there is one.
    #[inline(always)]
    fn soften<const S: usize>(&self, scores: &mut [f32; S]) {
        if self.cap != 0.0 {
            let mut i = 0;
            while i < S {
                scores[i] = tanh_half(scores[i] * self.cap);
                i += 1;
            }
        }
    }
}

/// `tanh` of half of `x / log2(e)`: `1 - 2 / (1 + 2^x)`.
///
/// The hardware's `tanh.approx` is off by up to 2^-11 of its result, a softcap of 50 times that: more than an LSE may be. This is off by
/// 2^-22, and takes two MUFU operations.
#[inline(always)]
pub fn tanh_half(x: f32) -> f32 {
    fma(-2.0, rcp(1.0 + ex2(x)), 1.0)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::f32::consts::LOG2_E;

    #[test]
    fn tanh_is_as_exact_as_a_softcap_needs() {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            let want = f64::from(x).tanh();
            let got = tanh_half(2.0 * LOG2_E * x);
            assert!((f64::from(got) - want).abs() < 1e-6, "tanh({x}) = {got}, not {want}");
        }
        assert_eq!([tanh_half(f32::INFINITY), tanh_half(f32::NEG_INFINITY)], [1.0, -1.0]);
        assert!(tanh_half(f32::NAN).is_nan());
    }

    #[test]
    fn a_bias_counts_the_distance_on_both_sides() {
        let asked = Modified { cap: 0.0, biased: true, slopes: [0.5, 0.25], positions: [100.0, 3.0] };
        let mut scores = [1.0f32; 16];
        asked.apply(&mut scores, 96);
        for (i, s) in scores.iter().enumerate() {
            let (column, row) = ((8 * (i / 4) + i % 2) as i32, (i / 2) % 2);
            let distance = ([100, 3][row] - 96 - column).abs() as f32;
            assert_eq!(*s, 1.0 - [0.5, 0.25][row] * distance, "register {i}");
        }
    }

    #[test]
    fn a_row_is_changed_as_a_fragments_are() {
        let asked = Modified { cap: 0.05, biased: true, slopes: [0.5, 0.25], positions: [100.0, 3.0] };
        let mut row: [f32; 32] = std::array::from_fn(|i| i as f32 - 7.0);
        // Registers of the fragment's first row: columns 0 and 1 of every eight.
        let mut fragment: [f32; 16] = std::array::from_fn(|i| row[8 * (i / 4) + i % 2]);
        asked.apply(&mut fragment, 96);
        asked.apply_row(&mut row, 96);
        for (i, s) in fragment.iter().enumerate().filter(|(i, _)| i / 2 % 2 == 0) {
            assert_eq!(row[8 * (i / 4) + i % 2].to_bits(), s.to_bits(), "register {i}");
        }
    }

    #[test]
    fn a_softcap_comes_before_the_bias() {
        let (scale, softcap) = (0.125, 30.0);
        let asked = Modified {
            cap: 2.0 * LOG2_E * scale / softcap,
            biased: true,
            slopes: [0.5 / softcap; 2],
            positions: [4.0; 2],
        };
        let mut scores = [400.0f32; 8];
        asked.apply(&mut scores, 4);
        for (i, s) in scores.iter().enumerate() {
            let column = (8 * (i / 4) + i % 2) as f32;
            let want = softcap * (400.0 * scale / softcap).tanh() - 0.5 * column;
            assert!((s * softcap - want).abs() < 1e-4, "{} instead of {want}", s * softcap);
        }
    }
}
