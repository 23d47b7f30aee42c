//! Which keys a query sees, and which key blocks therefore need no work, no mask, or a mask.
//!
//! A tile covers query rows `first..first + bm` and walks key blocks of `bn` keys from the last visible one down to
//! block 0. Only blocks that some row sees in part are masked; the blocks below [`Mask::full_blocks`] pay nothing.

use crate::ptx::math;

/// Lengths of one sequence's queries and keys; each below 2^31 - 512, so that the sums here stay inside `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Queries.
    pub q: u32,
    /// Keys.
    pub k: u32,
}

/// The rule that says which keys a query row sees: always a prefix, `0..visible_keys`.
pub trait Mask {
    /// Whether a block other than the last one of a tile can need a mask.
    const PARTIAL_BLOCKS: bool;

    /// Keys that query `row` sees: `0..visible_keys`, at most `lengths.k`. Rows past the last query are allowed.
    fn visible_keys(lengths: Lengths, row: u32) -> u32;

    /// Key blocks that the rows `first..first + bm` need: those that the last real row sees.
    #[inline(always)]
    fn blocks(lengths: Lengths, first: u32, bm: u32, bn: u32) -> u32 {
        let end = if first + bm < lengths.q { first + bm } else { lengths.q };
        Self::visible_keys(lengths, end - 1).div_ceil(bn)
    }

    /// Key blocks that every row from `first` on sees whole.
    #[inline(always)]
    fn full_blocks(lengths: Lengths, first: u32, bn: u32) -> u32 {
        Self::visible_keys(lengths, first) / bn
    }
}

/// Every query sees every key.
pub struct Full;

impl Mask for Full {
    const PARTIAL_BLOCKS: bool = false;

    #[inline(always)]
    fn visible_keys(lengths: Lengths, _row: u32) -> u32 {
        lengths.k
    }
}

/// Query `i` sees keys `j <= i + lengths.k - lengths.q`: the last query sees every key (bottom-right aligned).
pub struct Causal;

impl Mask for Causal {
    const PARTIAL_BLOCKS: bool = true;

    #[inline(always)]
    fn visible_keys(lengths: Lengths, row: u32) -> u32 {
        let keys = row as i32 + 1 + (lengths.k as i32 - lengths.q as i32);
        keys.max(0).min(lengths.k as i32) as u32 // `clamp` would carry a panic
    }
}

/// Sets the scores that a thread must not see to -inf.
///
/// `scores` is a wgmma accumulator fragment: register `i` is row `(i >> 1) & 1` of the thread's two rows and column
/// `8 * (i >> 2) + (i & 1)` counted from the thread's first column. `limit[r]` is the number of columns, counted from
/// that same column, that row `r` sees; it may be negative or past the block.
#[inline(always)]
pub fn apply<const S: usize>(scores: &mut [f32; S], limit: [i32; 2]) {
    let mut i = 0;
    while i < S {
        let column = (8 * (i >> 2) + (i & 1)) as i32;
        if column >= limit[(i >> 1) & 1] {
            scores[i] = f32::NEG_INFINITY;
        }
        i += 1;
    }
}

/// Sets the scores of one row that it must not see to -inf: those from column `limit` on, which may be negative or past the end.
///
/// A word of bits a chunk of 32 columns, tested bit by bit: `ptxas` moves seven bits at a time to predicates, where a comparison for
/// each column would cost an instruction more each.
#[inline(always)]
pub fn apply_row<const N: usize>(scores: &mut [f32; N], limit: i32) {
    let mut first = 0;
    while first < N {
        let past = (first as i32 + 32 - limit).max(0); // columns of the chunk, and more, from the limit on
        let keep = math::shr(u32::MAX, past as u32);
        let mut i = 0;
        while i < 32 {
            if keep >> i & 1 == 0 {
                scores[first + i] = f32::NEG_INFINITY;
            }
            i += 1;
        }
        first += 32;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// The blocks that a brute-force look at every (row, key) pair finds necessary and whole.
    fn brute_force(sees: impl Fn(u32, u32) -> bool, l: Lengths, first: u32, bm: u32, bn: u32) -> (u32, u32) {
        let rows = first..(first + bm).min(l.q);
        let blocks = l.k.div_ceil(bn);
        let needed =
            (0..blocks).filter(|b| rows.clone().any(|r| (b * bn..((b + 1) * bn).min(l.k)).any(|k| sees(r, k))));
        let whole =
            (0..blocks).take_while(|b| rows.clone().all(|r| (b * bn..(b + 1) * bn).all(|k| k < l.k && sees(r, k))));
        (needed.max().map_or(0, |b| b + 1), whole.count() as u32)
    }

    #[test]
    fn block_counts_agree_with_every_pair() {
        for (q, k) in [(1, 1), (5, 9), (9, 5), (64, 64), (100, 37), (37, 100), (130, 131), (96, 32)] {
            let l = Lengths { q, k };
            for (bm, bn) in [(16, 16), (32, 16), (16, 48)] {
                for first in (0..q).step_by(bm as usize) {
                    let causal = |r: u32, c: u32| c as i64 <= r as i64 + k as i64 - q as i64;
                    let found = (Causal::blocks(l, first, bm, bn), Causal::full_blocks(l, first, bn));
                    let (needed, whole) = brute_force(causal, l, first, bm, bn);
                    assert_eq!(found.0, needed, "causal {l:?} first {first} bm {bm} bn {bn}");
                    assert!(found.1 <= whole, "a block called whole is not: {l:?} first {first} bm {bm} bn {bn}");
                    assert!(
                        found.1 + 1 >= whole.min(found.0),
                        "masks a whole block: {l:?} first {first} bm {bm} bn {bn}"
                    );
                    let found = (Full::blocks(l, first, bm, bn), Full::full_blocks(l, first, bn));
                    assert_eq!(found, brute_force(|_, _| true, l, first, bm, bn), "full {l:?} first {first}");
                }
            }
        }
    }

    #[test]
    fn a_row_is_cut_at_its_limit() {
        for limit in -200..300 {
            let mut scores = [1.0f32; 128];
            apply_row(&mut scores, limit);
            for (i, s) in scores.iter().enumerate() {
                assert_eq!(s.is_finite(), (i as i32) < limit, "limit {limit}, column {i}");
            }
        }
    }

    #[test]
    fn limits_cut_each_row_at_its_own_column() {
        let mut scores = [1.0f32; 32];
        apply(&mut scores, [9, -3]);
        for (i, s) in scores.iter().enumerate() {
            let column = 8 * (i / 4) + (i % 2);
            let visible = (i / 2) % 2 == 0 && column < 9;
            assert_eq!(s.is_finite(), visible, "register {i}");
        }
    }
}
