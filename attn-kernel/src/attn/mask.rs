//! Which keys a query sees, and which key blocks therefore need no work, no mask, or a mask.
//!
//! A tile covers query rows `first..first + bm` and walks key blocks of `bn` keys from the last visible one down to
//! the first visible one. Only blocks that some row sees in part are masked; the blocks below [`Mask::full_blocks`] pay nothing.

use crate::ptx::math;

/// Lengths of one sequence's queries and keys; each below 2^31 - 512, so that the sums here stay inside `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Queries.
    pub q: u32,
    /// Keys.
    pub k: u32,
}

/// The rule that says which keys a query row sees: neighbours, `hidden_keys..visible_keys`.
pub trait Mask: Copy {
    /// Whether a block other than the last one of a tile can need a mask.
    const PARTIAL_BLOCKS: bool;
    /// Whether rows may see neither the first keys; else `hidden_keys` is 0.
    const LEFT: bool;

    /// The mask of a window, where its sides are given at run time; other masks have theirs in their name.
    fn of(left: u32, right: u32) -> Self;

    /// One past the last key that query `row` sees, at most `lengths.k`. Rows past the last query are allowed.
    fn visible_keys(self, lengths: Lengths, row: u32) -> u32;

    /// The first key that query `row` sees; it may lie behind the last one.
    #[inline(always)]
    fn hidden_keys(self, _lengths: Lengths, _row: u32) -> u32 {
        0
    }

    /// One past the last key block that the rows `first..first + bm` need: that of the last real row.
    #[inline(always)]
    fn blocks(self, lengths: Lengths, first: u32, bm: u32, bn: u32) -> u32 {
        let end = if first + bm < lengths.q { first + bm } else { lengths.q };
        self.visible_keys(lengths, end - 1).div_ceil(bn)
    }

    /// The first key block that a row from `first` on needs.
    #[inline(always)]
    fn first_block(self, lengths: Lengths, first: u32, bn: u32) -> u32 {
        self.hidden_keys(lengths, first) / bn
    }

    /// One past the last key block that every row from `first` on sees whole, or at least from its first key on that it sees.
    #[inline(always)]
    fn full_blocks(self, lengths: Lengths, first: u32, bn: u32) -> u32 {
        self.visible_keys(lengths, first) / bn
    }

    /// The first key block from whose first key on every row up to `last` sees.
    #[inline(always)]
    fn full_from(self, lengths: Lengths, last: u32, bn: u32) -> u32 {
        self.hidden_keys(lengths, last).div_ceil(bn)
    }
}

/// Every query sees every key.
#[derive(Clone, Copy, Debug)]
pub struct Full;

impl Mask for Full {
    const PARTIAL_BLOCKS: bool = false;
    const LEFT: bool = false;

    #[inline(always)]
    fn of(_left: u32, _right: u32) -> Self {
        Full
    }

    #[inline(always)]
    fn visible_keys(self, lengths: Lengths, _row: u32) -> u32 {
        lengths.k
    }
}

/// Query `i` sees keys `j <= i + lengths.k - lengths.q`: the last query sees every key (bottom-right aligned).
#[derive(Clone, Copy, Debug)]
pub struct Causal;

impl Mask for Causal {
    const PARTIAL_BLOCKS: bool = true;
    const LEFT: bool = false;

    #[inline(always)]
    fn of(_left: u32, _right: u32) -> Self {
        Causal
    }

    #[inline(always)]
    fn visible_keys(self, lengths: Lengths, row: u32) -> u32 {
        let keys = row as i32 + 1 + (lengths.k as i32 - lengths.q as i32);
        keys.max(0).min(lengths.k as i32) as u32 // `clamp` would carry a panic
    }
}

/// Query `i` sees keys `p - left ..= p + right` around its position `p = i + lengths.k - lengths.q` (bottom-right aligned).
///
/// Both sides are at most [`UNLIMITED`](super::sequence::UNLIMITED), and so are the lengths.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    left: i32,
    right: i32,
}

impl Mask for Window {
    const PARTIAL_BLOCKS: bool = true;
    const LEFT: bool = true;

    #[inline(always)]
    fn of(left: u32, right: u32) -> Self {
        Window { left: left as i32, right: right as i32 }
    }

    #[inline(always)]
    fn visible_keys(self, lengths: Lengths, row: u32) -> u32 {
        let keys = row as i32 + 1 + self.right + (lengths.k as i32 - lengths.q as i32);
        keys.max(0).min(lengths.k as i32) as u32
    }

    #[inline(always)]
    fn hidden_keys(self, lengths: Lengths, row: u32) -> u32 {
        (row as i32 - self.left + (lengths.k as i32 - lengths.q as i32)).max(0) as u32
    }
}

/// As [`Window`], where nothing bounds the left side.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    right: i32,
}

impl Mask for Until {
    const PARTIAL_BLOCKS: bool = true;
    const LEFT: bool = false;

    #[inline(always)]
    fn of(_left: u32, right: u32) -> Self {
        Until { right: right as i32 }
    }

    #[inline(always)]
    fn visible_keys(self, lengths: Lengths, row: u32) -> u32 {
        Window { left: 0, right: self.right }.visible_keys(lengths, row)
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

/// As [`apply`], where rows may also not see the columns before `floor[r]`.
#[inline(always)]
pub fn apply_window<const S: usize>(scores: &mut [f32; S], floor: [i32; 2], limit: [i32; 2]) {
    let mut i = 0;
    while i < S {
        let (column, row) = ((8 * (i >> 2) + (i & 1)) as i32, (i >> 1) & 1);
        if column >= limit[row] || column < floor[row] {
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
    apply_words(scores, |first| before(first, limit));
}

/// As [`apply_row`], where the row may also not see the columns before `floor`.
#[inline(always)]
pub fn apply_row_window<const N: usize>(scores: &mut [f32; N], floor: i32, limit: i32) {
    apply_words(scores, |first| {
        let hidden = (floor - first).max(0); // columns of the chunk, and more, before the floor
        before(first, limit) & math::shl(u32::MAX, hidden as u32)
    });
}

/// A bit for each of the 32 columns from `first` on: whether it lies before `limit`.
#[inline(always)]
fn before(first: i32, limit: i32) -> u32 {
    let past = (first + 32 - limit).max(0); // columns of the chunk, and more, from the limit on
    math::shr(u32::MAX, past as u32)
}

/// Keeps the scores whose bit is set in `keep` of their chunk's first column.
#[inline(always)]
fn apply_words<const N: usize>(scores: &mut [f32; N], keep: impl Fn(i32) -> u32) {
    let mut first = 0;
    while first < N {
        let keep = keep(first as i32);
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
    use crate::attn::sequence::UNLIMITED;
    use std::vec::Vec;

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
                    let found = (Causal.blocks(l, first, bm, bn), Causal.full_blocks(l, first, bn));
                    let (needed, whole) = brute_force(causal, l, first, bm, bn);
                    assert_eq!(found.0, needed, "causal {l:?} first {first} bm {bm} bn {bn}");
                    assert!(found.1 <= whole, "a block called whole is not: {l:?} first {first} bm {bm} bn {bn}");
                    assert!(
                        found.1 + 1 >= whole.min(found.0),
                        "masks a whole block: {l:?} first {first} bm {bm} bn {bn}"
                    );
                    let found = (Full.blocks(l, first, bm, bn), Full.full_blocks(l, first, bn));
                    assert_eq!(found, brute_force(|_, _| true, l, first, bm, bn), "full {l:?} first {first}");
                }
            }
        }
    }

    #[test]
    fn windows_walk_every_block_that_a_row_sees_and_mask_those_in_part() {
        let (bm, bn) = (16, 16);
        for (q, k) in [(1, 1), (5, 40), (40, 5), (70, 70), (33, 150), (150, 33)] {
            let l = Lengths { q, k };
            for (left, right) in
                [(0, 0), (3, 0), (0, 5), (20, 40), (UNLIMITED, 0), (17, UNLIMITED), (UNLIMITED, UNLIMITED)]
            {
                let window = Window::of(left, right);
                let sees = |row: u32, key: u32| {
                    let p = row as i64 + k as i64 - q as i64;
                    key < k && key as i64 <= p + right as i64 && key as i64 >= p - left as i64
                };
                for first in (0..q).step_by(bm as usize) {
                    let (from, to) = (window.first_block(l, first, bn), window.blocks(l, first, bm, bn));
                    let last = (first + bm).min(q) - 1;
                    let (whole_from, whole_to) = (window.full_from(l, last, bn), window.full_blocks(l, first, bn));
                    for block in 0..k.div_ceil(bn) {
                        let pairs = || (first..=last).flat_map(|r| (block * bn..(block + 1) * bn).map(move |c| (r, c)));
                        let (any, all) = (pairs().any(|(r, c)| sees(r, c)), pairs().all(|(r, c)| sees(r, c)));
                        let at = std::format!("{l:?} {left}:{right}, rows from {first}, block {block}");
                        assert!(!any || (from..to).contains(&block), "not walked: {at}");
                        assert!(all || !(whole_from..whole_to).contains(&block), "not masked: {at}");
                        assert!(!all || (whole_from..whole_to).contains(&block), "masked for nothing: {at}");
                    }
                    // The blocks walked beyond those that are seen are few: rows without any key.
                    for row in first..=last {
                        let seen: Vec<u32> = (0..k).filter(|&key| sees(row, key)).collect();
                        let (hidden, visible) = (window.hidden_keys(l, row), window.visible_keys(l, row));
                        assert_eq!(
                            seen,
                            (hidden..visible.max(hidden)).collect::<Vec<_>>(),
                            "{l:?} {left}:{right} {row}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_window_cuts_each_row_at_both_ends() {
        let mut scores = [1.0f32; 32];
        apply_window(&mut scores, [8, -5], [25, 3]);
        for (i, s) in scores.iter().enumerate() {
            let column = (8 * (i / 4) + (i % 2)) as i32;
            let visible = if (i / 2) % 2 == 0 { (8..25).contains(&column) } else { column < 3 };
            assert_eq!(s.is_finite(), visible, "register {i}");
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
    fn a_window_cuts_a_row_at_both_ends() {
        for floor in (-200..300).step_by(7) {
            for limit in (-200..300).step_by(3) {
                let mut scores = [1.0f32; 128];
                apply_row_window(&mut scores, floor, limit);
                for (i, s) in scores.iter().enumerate() {
                    assert_eq!(s.is_finite(), (floor..limit).contains(&(i as i32)), "{floor}..{limit}, column {i}");
                }
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
