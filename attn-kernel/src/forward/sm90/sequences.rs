//! What a kernel is told of its sequences, as a part that it is composed of: the tiles that there are, where their rows lie, and where
//! results go. [`Dense`](super::dense::Dense) has sequences of equal lengths, [`Ragged`](super::ragged::Ragged) everything else.

use super::block::{Rings, Seat};
use super::{Maps, Variant};
use crate::attn::mask::{Lengths, Mask};
use crate::attn::scores::Modified;
use crate::attn::sequence::Sequence;
use crate::attn::softmax::{Knobs, Rows};
use crate::attn::walk::Tile;
use crate::mem::Smem;
use crate::pipe::ring::{Consumer, Full};

/// A kind of sequences. A value of it is a role's own view, made of the kernel's parameters.
pub trait Sequences: Copy {
    /// The kernel's first parameter.
    type Params: Copy;
    /// Whether sequences differ, and rows of a tile may be those of several heads.
    const RAGGED: bool;

    /// The view of a role of the block.
    fn new<V: Variant<Sequences = Self>>(params: &Self::Params, smem: Smem<()>) -> Self;

    /// What the softmax of a tile scales scores with: `softmax_scale * log2(e)`, and the factors of 8-bit Q and K.
    ///
    /// # Safety
    /// The parameters' addresses are those of device memory as they say.
    unsafe fn scale_log2<V: Variant<Sequences = Self>>(params: &Self::Params, work: &Work<V::Mask>) -> f32;

    /// What a consumer does before its first tile; `q` is Q's first stage.
    ///
    /// # Safety
    /// Called by all threads of a consumer warpgroup, converged.
    unsafe fn prepare<V: Variant<Sequences = Self>>(params: &Self::Params, q: Smem<()>, seat: Seat);

    /// Loads Q, K and V of all tiles of the block.
    ///
    /// # Safety
    /// Called by the first warp of the producer warpgroup, converged.
    unsafe fn produce<V: Variant<Sequences = Self>, const STAGES: u32, const QUERIES: u32, const RAW: u32>(
        self,
        params: &Self::Params,
        maps: Maps,
        rings: Rings<STAGES, QUERIES, RAW>,
        smem: Smem<()>,
    );

    /// A consumer's next tile, and its Q.
    ///
    /// # Safety
    /// Called by all threads of a consumer warpgroup, converged.
    unsafe fn next<V: Variant<Sequences = Self>, const QUERIES: u32>(
        &mut self,
        params: &Self::Params,
        q: &mut Consumer<QUERIES>,
    ) -> Option<(Work<V::Mask>, Full)>;

    /// The present tile once more, for its end: `work`, or what need not have been kept in registers all along.
    ///
    /// # Safety
    /// Called by all threads of a consumer warpgroup, converged, before the next tile's Q is given back.
    unsafe fn again<V: Variant<Sequences = Self>>(&self, params: &Self::Params, work: &Work<V::Mask>) -> Work<V::Mask>;

    /// Query of row `row` of a warpgroup whose first query is `first`, and the head that the row has within its pack.
    fn query<V: Variant<Sequences = Self>>(params: &Self::Params, first: u32, row: u32) -> (u32, u32);

    /// Queries of a warpgroup's rows.
    fn queries<V: Variant<Sequences = Self>>(params: &Self::Params) -> u32;

    /// First query of the warpgroup's rows in tile `m_block` of a sequence.
    fn first_query<V: Variant<Sequences = Self>>(params: &Self::Params, m_block: u32, seat: Seat) -> u32;

    /// What the scores of the thread's rows are to be changed by.
    ///
    /// # Safety
    /// The parameters' addresses are those of device memory as they say.
    unsafe fn modified<V: Variant<Sequences = Self>>(
        params: &Self::Params,
        work: &Work<V::Mask>,
        first: u32,
        seat: Seat,
    ) -> Modified;

    /// Ends the tile: O / sum and LSE go to where they belong.
    ///
    /// # Safety
    /// Called by all threads of a consumer warpgroup, converged; `o` is its own 64 x dv tile of shared memory, with which its multiplies are
    /// done; the parameters' addresses are those of device memory as they say.
    #[allow(clippy::too_many_arguments, reason = "everything that a tile's end needs")]
    unsafe fn finish<V: Variant<Sequences = Self>, const O: usize>(
        params: &Self::Params,
        maps: Maps,
        o: Smem<()>,
        work: &Work<V::Mask>,
        first: u32,
        seat: Seat,
        state: (&Rows, &mut [f32; O]),
        knobs: &Knobs,
    );
}

/// A tile and what it covers.
#[derive(Clone, Copy)]
pub struct Work<M> {
    /// The tile; its head may be a pack of heads.
    pub tile: Tile,
    /// Lengths of its sequence.
    pub lengths: Lengths,
    /// Which keys a query sees.
    pub mask: M,
    /// First key block that it needs ...
    pub from: u32,
    /// ... and one past the last.
    pub to: u32,
    /// Which split of the sequence's key blocks these are in.
    pub split: u32,
    /// The sequence's rows.
    pub sequence: Sequence,
}

impl<M: Mask> Work<M> {
    /// Key blocks of the work that `queries` queries from `first` on need: none for rows past the last query.
    #[inline(always)]
    pub fn own(&self, first: u32, queries: u32, bn: u32) -> (u32, u32) {
        if first >= self.lengths.q {
            return (self.from, self.from);
        }
        let to = self.mask.blocks(self.lengths, first, queries, bn);
        if !M::LEFT {
            return (self.from, to);
        }
        let to = if to > self.to { self.to } else { to };
        let from = self.mask.first_block(self.lengths, first, bn);
        let from = if from < self.from { self.from } else { from };
        if from < to { (from, to) } else { (self.from, self.from) }
    }

    /// One past the last key that `queries` queries from `first` on see, of which there is one at least.
    #[inline(always)]
    pub fn seen(&self, first: u32, queries: u32) -> u32 {
        let end = first + queries;
        let end = if end < self.lengths.q { end } else { self.lengths.q };
        self.mask.visible_keys(self.lengths, end - 1)
    }
}
