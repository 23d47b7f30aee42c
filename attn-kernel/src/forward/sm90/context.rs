//! A consumer warpgroup's view of its tile: what its steps share, and which scores count.

use super::block::Seat;
use super::sequences::{Sequences, Work};
use super::{Params, Variant};
use crate::attn::mask::{self, Mask};
use crate::attn::scores::Scores;
use crate::attn::softmax::Knobs;
use crate::mem::descriptor::Descriptor;

/// What stays the same while a warpgroup works on a tile.
#[derive(Clone, Copy)]
pub(super) struct Context<M> {
    pub(super) seat: Seat,
    pub(super) knobs: Knobs,
    pub(super) queries: Descriptor,
    pub(super) scores: M,
    pub(super) visible: Visible,
}

/// Which keys the thread's two rows see, and which key blocks all of the warpgroup's rows.
#[derive(Clone, Copy)]
pub(super) struct Visible {
    /// The first key of each row, counted from the thread's first column of block 0; negative where the mask has no lower edge.
    floor: [i32; 2],
    /// One past the last.
    limit: [i32; 2],
    /// Blocks of which every row sees every key.
    pub(super) whole: (u32, u32),
}

impl Visible {
    #[inline(always)]
    pub(super) fn of<V: Variant>(params: &Params<V>, work: &Work<V::Mask>, first: u32, seat: Seat) -> Self {
        let (mask, lengths, bn) = (work.mask, work.lengths, const { V::PLAN.bn });
        let column = seat.column() as i32;
        let rows = [seat.row(), seat.row() + 8].map(|row| V::Sequences::query::<V>(params, first, row).0);
        let limit = rows.map(|row| mask.visible_keys(lengths, row) as i32 - column);
        let to = mask.full_blocks(lengths, first, bn);
        if !V::Mask::LEFT {
            return Visible { floor: [i32::MIN; 2], limit, whole: (0, to) };
        }
        let floor = rows.map(|row| mask.hidden_keys(lengths, row) as i32 - column);
        let last = first + V::Sequences::queries::<V>(params) - 1;
        let last = if last < lengths.q { last } else { lengths.q.saturating_sub(1) };
        Visible { floor, limit, whole: (mask.full_from(lengths, last, bn), to) }
    }
}

impl<M: Scores> Context<M> {
    /// Changes the scores of block `block` as the problem asks.
    #[inline(always)]
    pub(super) fn modify<V: Variant<Scores = M>, const S: usize>(&self, scores: &mut [f32; S], block: u32) {
        if M::MODIFIED {
            self.scores.apply(scores, block * const { V::PLAN.bn } + self.seat.column());
        }
    }

    /// The same, and takes away those that a row must not see.
    #[inline(always)]
    pub(super) fn mask<V: Variant<Scores = M>, const S: usize>(&self, scores: &mut [f32; S], block: u32) {
        self.modify::<V, S>(scores, block);
        let in_block = |edges: [i32; 2]| edges.map(|edge| edge - (block * const { V::PLAN.bn }) as i32);
        if V::Mask::LEFT {
            mask::apply_window(scores, in_block(self.visible.floor), in_block(self.visible.limit));
        } else {
            mask::apply(scores, in_block(self.visible.limit));
        }
    }
}
