//! What a serving kernel is told: sequences of different lengths, paged K and V, windows, splits; and the order of its tiles.
//!
//! Serving kernels are the forward kernels composed of other parts: ragged sequences, a window for a mask, and
//! modified scores. Their parameters are `(ServeParams, q, k, v, o)` with tensor maps of rank 5:
//!
//! | map | dimensions, innermost first | strides | box |
//! |---|---|---|---|
//! | K, V | head_dim, 2^30, kv_heads, 2^30 + 1, rows + 1 | row, head, 2^34 bytes - row, row | panel, `chunk`, 1, 1, 1 |
//! | Q | head_dim, pack, rows, heads / pack, 1 | head, row, pack of heads, any | panel, pack, `queries`, 1, 1 |
//! | O | head_dim, pack, `queries`, heads / pack, rows + `queries` | head, row, pack of heads, row | panel, pack, `queries`, 1, 1 |
//!
//! `rows` are all rows of a tensor. Copies of K and V end with their sequence ([`bounded`](crate::attn::sequence::bounded)), and so do those of O
//! ([`ragged`](crate::attn::sequence::ragged)), whose map's address is the tensor's less `queries` rows. Rows of Q past a sequence's end are
//! the next one's: what they give is nobody's answer. Pages, or batch entries where there are none, lie whole rows apart.

use core::mem::offset_of;

use crate::attn::divide::Divisor;
use crate::attn::mask::{Lengths, Mask};
use crate::attn::sequence::{Sequence, Side};
use crate::ptx::{ldst, special, warp};

/// The arguments of a serving kernel beside its tensor maps, by value, in this order and layout on both sides.
///
/// A [`Divisor`] lies 4 bytes behind a multiple of 8: LLVM reads its last two words at once, and where these straddle two words of 8 bytes it
/// keeps a copy of them in local memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ServeParams {
    /// Device address of LSE, f32, natural logarithm; null when it is not wanted. Element of query `i`: `batch * lse_batch_stride + head *
    /// lse_head_stride + i`, with packed queries `head * lse_head_stride + q_start + i`.
    pub lse: *mut f32,
    /// Elements from one batch entry's LSE to the next; 0 with packed queries.
    pub lse_batch_stride: u64,
    /// Elements from one head's LSE to the next.
    pub lse_head_stride: u64,
    /// O of each split, f32, where there are several; else null. Element `((split * heads + head) * rows + row) * dv + column`, with `row`
    /// the query's, counted as in LSE, batch entry after batch entry.
    pub partial: *mut f32,
    /// LSE of each split: element `(split * heads + head) * rows + row`.
    pub partial_lse: *mut f32,
    /// Queries of all sequences, by which the partial results of a head are laid out.
    pub rows: u64,
    /// Head dimension of V and O, as the problem has it.
    pub dv: u32,
    /// Query heads.
    pub heads: u32,
    /// Prefix sums of the queries, `i32[batch + 1]`; null: every batch entry has its own room.
    pub cu_q: *const i32,
    /// Prefix sums of the keys; null: every batch entry has its own room, or pages.
    pub cu_k: *const i32,
    /// Queries in use of each batch entry, `i32[batch]`; null: all.
    pub used_q: *const i32,
    /// Keys in use of each batch entry; null: all.
    pub used_k: *const i32,
    /// Most queries of a sequence.
    pub seqlen_q: u32,
    /// Most keys of a sequence.
    pub seqlen_k: u32,
    /// Rows of Q from one batch entry to the next, where they are not packed.
    pub q_room: u32,
    /// Rows of O from one batch entry to the next, where they are not packed.
    pub o_room: u32,
    /// Pages of each sequence, `i32[batch][page_stride]`; null: not paged. A page that does not exist reads as zeros.
    pub pages: *const i32,
    /// Entries from one sequence's pages to the next's.
    pub page_stride: u64,
    /// Binary logarithm of the keys of a page; 31 where K and V are not paged.
    pub page_shift: u32,
    /// Rows of K from one page to the next, or from one batch entry to the next where it is not paged; 0 with packed keys.
    pub k_room: u32,
    /// Rows of K or V that one copy brings: a divisor of a tile's keys and of a page.
    pub chunk: u32,
    /// Rows of V likewise.
    pub v_room: u32,
    /// Pages, or batch entries where there are none.
    pub page_count: u32,
    /// Keys that a query sees before its own position, at most [`UNLIMITED`](crate::attn::sequence::UNLIMITED).
    pub left: u32,
    /// Keys that it sees after it.
    pub right: u32,
    /// Query heads, or packs of them, that share one key/value head.
    pub group: Divisor,
    /// Queries of one copy of Q: `ROWS / pack`.
    pub queries: u32,
    /// Query heads that are packed into a tile's rows: row `r` of the `ROWS` of a copy is query `r / pack` of head `r % pack`.
    pub pack: Divisor,
    /// The tiles.
    pub units: Units,
    /// `softmax_scale * log2(e)`; with a softcap `softcap * log2(e)`.
    pub scale_log2: f32,
    /// `2 * log2(e) * softmax_scale / softcap`; 0: no softcap.
    pub cap: f32,
    /// What a slope is divided by, to count in units of scores: `1 / softmax_scale`, or `1 / softcap`.
    pub slope_scale: f32,
    /// Queries of a tile: `queries` for each copy of Q.
    pub tile_queries: u32,
    /// ALiBi slope of each query head, f32; null: none.
    pub slopes: *const f32,
    /// Elements from one batch entry's slopes to the next; 0: all have the same.
    pub slopes_batch_stride: u64,
    /// Sink of each query head, f32: a logit, natural logarithm, without value; null: none. Kernels of several splits leave it to the one that
    /// combines them.
    pub sinks: *const f32,
    /// What K's elements are multiplied with, f32, of each key/value head, for each batch entry `descale_batch_stride` further; null: 1.
    pub k_descale: *const f32,
    /// What V's are.
    pub v_descale: *const f32,
    /// What Q's are: of each key/value head too.
    pub q_descale: *const f32,
    /// Elements from one batch entry's factors to the next; 0: all have the same.
    pub descale_batch_stride: u64,
}

/// Which tiles there are, and their order: sections of heads that share the L2 cache, in each every query tile of every sequence, in each
/// of these the section's heads, in each of these the splits.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// The list that the schedule kernel has written, [`LIST_HEADER_WORDS`] and then entries; null: every batch entry has `m_blocks` query tiles.
    pub list: *const u32,
    /// Entries, without a list: `m_blocks * batch`.
    pub entries: u32,
    /// Query tiles of a batch entry, without a list.
    pub m_blocks: Divisor,
    /// Heads, or packs of them.
    pub heads: u32,
    /// Heads of a section, a divisor of `heads`.
    pub section: Divisor,
    /// Units, or with a list at most as many.
    pub units: u32,
    /// Splits.
    pub splits: Divisor,
}

/// What stands before the entries of a list, in 32-bit words: the count of entries, how many units have been drawn
/// ([`Draw`](super::draw::Draw)), 0 at first, and 6 words that are 0.
pub const LIST_HEADER_WORDS: u32 = 8;
/// Which of them counts the units drawn.
pub const LIST_DRAWN: u32 = 1;
/// Words of an entry: the tile of the sequence, the batch entry, then [`Sequence`]'s words, and two that are 0.
pub const LIST_ENTRY_WORDS: u32 = 8;

/// One unit of work: a query tile of a head (or of a pack of heads) of a sequence, and a split of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Query tile of the sequence.
    pub m_block: u32,
    /// Head, or pack of heads.
    pub head: u32,
    /// Batch entry.
    pub batch: u32,
    /// Which of the splits of the sequence's key blocks.
    pub split: u32,
    /// The sequence.
    pub sequence: Sequence,
}

/// A unit that has been asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    head: u32,
    split: u32,
    /// A word of the list's entry, another one in each lane; without a list the number of the query tile.
    word: u32,
}

impl Asked {
    /// In place of a unit past the last.
    pub(super) const NOTHING: Asked = Asked { head: u32::MAX, split: 0, word: 0 };
}

impl Unit {
    /// Words of a unit.
    pub const WORDS: u32 = 8;
}

impl ServeParams {
    /// The side of the queries.
    #[inline(always)]
    pub fn queries_side(&self) -> Side {
        Side { cumulative: self.cu_q, used: self.used_q, longest: self.seqlen_q, room: self.q_room }
    }

    /// The side of the keys.
    #[inline(always)]
    pub fn keys_side(&self) -> Side {
        Side { cumulative: self.cu_k, used: self.used_k, longest: self.seqlen_k, room: 0 }
    }

    /// Query tiles of all sequences, for [`unit`](Self::unit).
    ///
    /// # Safety
    /// As [`unit`](Self::unit).
    #[inline(always)]
    pub unsafe fn entries(&self) -> u32 {
        let units = &self.units;
        // SAFETY: the caller's promise.
        if units.list.is_null() { units.entries } else { unsafe { ldst::ld_global_u32(units.list) } }
    }

    /// Unit `index` of `entries` query tiles, or `None` past the last. Without a list it may be one without queries: a tile past the sequence's
    /// end.
    ///
    /// # Safety
    /// The addresses are those of device memory as the fields say, and the list has been written.
    #[inline(always)]
    pub unsafe fn unit(&self, index: u32, entries: u32) -> Option<Unit> {
        // SAFETY: the caller's promise.
        self.place(index, entries, false, None, |entry, head, split| unsafe {
            if self.units.list.is_null() {
                return Some(self.unlisted(entry, head, split));
            }
            let words = self.units.list.wrapping_add((LIST_HEADER_WORDS + entry * LIST_ENTRY_WORDS) as usize);
            let [m_block, batch, q_start, q_len] = ldst::ld_global_u32x4(words);
            let [k_start, k_len, ..] = ldst::ld_global_u32x4(words.wrapping_add(4));
            Some(Unit { m_block, head, batch, split, sequence: Sequence { q_start, q_len, k_start, k_len } })
        })
    }

    /// Asks for unit `index` of `entries` query tiles: nothing waits for the list until [`answer`](Self::answer). `plain`: there is a list, and no
    /// splits.
    ///
    /// # Safety
    /// As [`unit`](Self::unit), by whole warps.
    #[inline(always)]
    pub unsafe fn ask(&self, index: u32, entries: u32, plain: bool) -> Asked {
        self.place(index, entries, plain, Asked::NOTHING, |entry, head, split| {
            let mut word = entry;
            if plain || !self.units.list.is_null() {
                let at = LIST_HEADER_WORDS + entry * LIST_ENTRY_WORDS + special::lane_id() % LIST_ENTRY_WORDS;
                // SAFETY: the caller's promise.
                word = unsafe { ldst::ld_global_u32(self.units.list.wrapping_add(at as usize)) };
            }
            Asked { head, split, word }
        })
    }

    /// The unit that was asked for, or `None` past the last.
    ///
    /// # Safety
    /// As [`ask`](Self::ask).
    #[inline(always)]
    pub unsafe fn answer(&self, asked: &Asked, plain: bool) -> Option<Unit> {
        let &Asked { head, split, word } = asked;
        if head == Asked::NOTHING.head {
            return None;
        }
        if !plain && self.units.list.is_null() {
            // SAFETY: the caller's promise.
            return Some(unsafe { self.unlisted(word, head, split) });
        }
        let [m_block, batch, q_start, q_len, k_start, k_len] = [0, 1, 2, 3, 4, 5].map(|i| warp::shfl_idx(word, i));
        Some(Unit { m_block, head, batch, split, sequence: Sequence { q_start, q_len, k_start, k_len } })
    }

    /// What `found` makes of the query tile, the head and the split of unit `index`, or `none` past the last.
    #[inline(always)]
    fn place<T>(&self, index: u32, entries: u32, plain: bool, none: T, found: impl FnOnce(u32, u32, u32) -> T) -> T {
        let units = &self.units;
        let (index, split) = if plain { (index, 0) } else { units.splits.div_rem(index) };
        let of_section = entries * units.section.get();
        if of_section == 0 {
            return none;
        }
        let section = index / of_section;
        let (entry, head) = units.section.div_rem(index - section * of_section);
        let head = section * units.section.get() + head;
        if head < units.heads { found(entry, head, split) } else { none }
    }

    /// The unit of query tile `entry` where there is no list.
    ///
    /// # Safety
    /// As [`unit`](Self::unit).
    #[inline(always)]
    unsafe fn unlisted(&self, entry: u32, head: u32, split: u32) -> Unit {
        let m_blocks = self.units.m_blocks;
        let (batch, rank) = m_blocks.div_rem(entry);
        // SAFETY: the caller's promise.
        let ((q_start, q_len), (k_start, k_len)) =
            unsafe { (self.queries_side().rows(batch), self.keys_side().rows(batch)) };
        let sequence = Sequence { q_start, q_len, k_start, k_len };
        // The longest first, where a mask makes tiles of different lengths.
        Unit { m_block: m_blocks.get() - 1 - rank, head, batch, split, sequence }
    }

    /// Bytes of the struct, then where each field lies: equal on both sides, or they read different numbers.
    pub(super) const LAYOUT: [u32; 47] = [
        size_of::<Self>() as u32,
        offset_of!(Self, lse) as u32,
        offset_of!(Self, lse_batch_stride) as u32,
        offset_of!(Self, lse_head_stride) as u32,
        offset_of!(Self, partial) as u32,
        offset_of!(Self, partial_lse) as u32,
        offset_of!(Self, rows) as u32,
        offset_of!(Self, dv) as u32,
        offset_of!(Self, heads) as u32,
        offset_of!(Self, cu_q) as u32,
        offset_of!(Self, cu_k) as u32,
        offset_of!(Self, used_q) as u32,
        offset_of!(Self, used_k) as u32,
        offset_of!(Self, seqlen_q) as u32,
        offset_of!(Self, seqlen_k) as u32,
        offset_of!(Self, q_room) as u32,
        offset_of!(Self, o_room) as u32,
        offset_of!(Self, pages) as u32,
        offset_of!(Self, page_stride) as u32,
        offset_of!(Self, page_shift) as u32,
        offset_of!(Self, k_room) as u32,
        offset_of!(Self, chunk) as u32,
        offset_of!(Self, v_room) as u32,
        offset_of!(Self, page_count) as u32,
        offset_of!(Self, left) as u32,
        offset_of!(Self, right) as u32,
        offset_of!(Self, group) as u32,
        offset_of!(Self, pack) as u32,
        offset_of!(Self, queries) as u32,
        offset_of!(Self, units) as u32,
        offset_of!(Self, scale_log2) as u32,
        offset_of!(Self, cap) as u32,
        offset_of!(Self, slope_scale) as u32,
        offset_of!(Self, tile_queries) as u32,
        offset_of!(Self, slopes) as u32,
        offset_of!(Self, slopes_batch_stride) as u32,
        offset_of!(Self, sinks) as u32,
        offset_of!(Self, k_descale) as u32,
        offset_of!(Self, v_descale) as u32,
        offset_of!(Self, q_descale) as u32,
        offset_of!(Self, descale_batch_stride) as u32,
        offset_of!(Units, list) as u32,
        offset_of!(Units, m_blocks) as u32,
        offset_of!(Units, entries) as u32,
        offset_of!(Units, heads) as u32,
        offset_of!(Units, section) as u32,
        offset_of!(Units, splits) as u32,
    ];
}

/// Index of block `block`'s unit in round `round` of `blocks` blocks. Every other round is dealt in reverse: units come in the order of their
/// length, sequence by sequence, and a block that gets a round's longest then gets the next one's shortest.
#[inline(always)]
pub const fn dealt(round: u32, block: u32, blocks: u32) -> u32 {
    round * blocks + if round.is_multiple_of(2) { block } else { blocks - 1 - block }
}

/// Key blocks of `bn` keys that a tile of the queries from `first` on needs of split `split`: neighbours, or none, as an empty range.
///
/// The blocks of all queries of the sequence are what is split, and not those of the tile: which of a query's keys go together must
/// not depend on what else is in its tile, since a sequence's tiles are cut by what is known of its whole batch.
#[inline(always)]
pub fn blocks<M: Mask>(
    mask: M,
    lengths: Lengths,
    (first, queries): (u32, u32),
    (split, splits): (u32, Divisor),
    bn: u32,
) -> (u32, u32) {
    let (from, to) = needed(mask, lengths, first, queries, bn);
    if splits.get() == 1 {
        return (from, to);
    }
    let (all_from, all_to) = needed(mask, lengths, 0, lengths.q, bn);
    let (part_from, part_to) = part(all_from, all_to, split, splits);
    let to = if to < part_to { to } else { part_to };
    let from = if from > part_from { from } else { part_from };
    (if from < to { from } else { to }, to)
}

/// Key blocks that `queries` queries from `first` on need.
#[inline(always)]
fn needed<M: Mask>(mask: M, lengths: Lengths, first: u32, queries: u32, bn: u32) -> (u32, u32) {
    let to = mask.blocks(lengths, first, queries, bn);
    let from = mask.first_block(lengths, first, bn);
    (if from < to { from } else { to }, to)
}

/// Split `split` of the key blocks `from..to`: neighbours, as many for each split, the last ones fewer or none.
#[inline(always)]
fn part(from: u32, to: u32, split: u32, splits: Divisor) -> (u32, u32) {
    let each = splits.div_rem(to - from + splits.get() - 1).0;
    let first = from + split * each;
    let first = if first < to { first } else { to };
    (first, if first + each < to { first + each } else { to })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::attn::mask::Window;
    use crate::attn::sequence::UNLIMITED;

    #[test]
    fn divisors_lie_where_their_last_words_are_read_at_once() {
        let units = offset_of!(ServeParams, units);
        for at in [
            offset_of!(ServeParams, group),
            offset_of!(ServeParams, pack),
            units + offset_of!(Units, m_blocks),
            units + offset_of!(Units, section),
            units + offset_of!(Units, splits),
        ] {
            assert_eq!(at % 8, 4);
        }
    }

    #[test]
    fn every_unit_is_dealt_once() {
        let mut dealt: std::vec::Vec<u32> =
            (0..5).flat_map(|round| (0..7).map(move |b| super::dealt(round, b, 7))).collect();
        assert_eq!((dealt[6], dealt[7], dealt[13]), (6, 13, 7));
        dealt.sort_unstable();
        assert!(dealt.into_iter().eq(0..35));
    }

    #[test]
    fn splits_cover_the_blocks_once() {
        for splits in 1..9 {
            for (from, to) in [(0, 0), (3, 3), (0, 1), (2, 9), (0, 8), (5, 100)] {
                let mut next = from;
                for split in 0..splits {
                    let (first, end) = part(from, to, split, Divisor::new(splits));
                    assert!(first == next || first == end, "split {split} of {splits}, {from}..{to}");
                    next = if first < end { end } else { next };
                }
                assert_eq!(next, to, "{splits} splits of {from}..{to}");
            }
        }
    }

    /// What a row has to do with each split: the key blocks of the split in which it sees a key.
    fn of_row(mask: Window, l: Lengths, row: u32, tile: u32, splits: u32, bn: u32) -> std::vec::Vec<(u32, u32)> {
        let (sees_from, sees_to) = (mask.hidden_keys(l, row) / bn, mask.visible_keys(l, row).div_ceil(bn));
        let first = row / tile * tile;
        let of_split = |split| {
            let (from, to) = blocks(mask, l, (first, tile), (split, Divisor::new(splits)), bn);
            let (from, to) = (from.max(sees_from), to.min(sees_to));
            if from < to { (from, to) } else { (0, 0) }
        };
        (0..splits).map(of_split).collect()
    }

    #[test]
    fn what_a_row_sees_of_a_split_does_not_depend_on_its_tile() {
        let bn = 16;
        for (q, k) in [(1, 90), (3, 200), (17, 17), (40, 300), (130, 130), (150, 40), (70, 0)] {
            let l = Lengths { q, k };
            for (left, right) in [(UNLIMITED, 0), (UNLIMITED, UNLIMITED), (30, 0), (0, 0), (20, 50), (0, UNLIMITED)] {
                let mask = Window::of(left, right);
                for splits in [1, 2, 3, 7, 40] {
                    for row in 0..q {
                        let whole = of_row(mask, l, row, q, splits, bn);
                        let at = std::format!("{l:?} {left}:{right}, row {row}, {splits} splits: {whole:?}");
                        for tile in [1, 5, 8, 64, 128] {
                            assert_eq!(of_row(mask, l, row, tile, splits, bn), whole, "{at}, tiles of {tile}");
                        }
                        // Every block that it sees is in one split.
                        let seen =
                            mask.visible_keys(l, row).div_ceil(bn) as i64 - (mask.hidden_keys(l, row) / bn) as i64;
                        assert_eq!(whole.iter().map(|(from, to)| (to - from) as i64).sum::<i64>(), seen.max(0), "{at}");
                    }
                }
            }
        }
    }
}
