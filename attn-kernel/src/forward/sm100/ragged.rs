//! Sequences of different lengths: packed or paged, with windows, splits of the keys, heads packed into a tile's rows, and sinks.
//!
//! The load warp alone works out the units, which takes loads from global memory; it tells the other roles each through a slot of shared
//! memory. A slot that names no head ends the block.

mod load;

use super::block::{self, Shared};
use super::plan::KEYS;
use super::sequences::{Lanes, Part, Place, Sequences, Visible, Work};
use super::{Maps, Variant};
use crate::attn::mask::{Lengths, Mask};
use crate::attn::row::{Knobs, Row};
use crate::attn::scores::{Modified, Scores};
use crate::attn::sequence::{Sequence, ragged};
use crate::attn::walk::Tile;
use crate::forward::plan::Float8;
use crate::forward::serve;
use crate::forward::serve::{ServeParams, Unit};
use crate::mem::Smem;
use crate::ptx::{ldst, special, warp};

/// The head of no unit.
const NONE: u32 = u32::MAX;

/// The units that a role has been told.
#[derive(Clone, Copy)]
pub struct Ragged {
    round: u32,
}

/// What a slot says: a unit, and its key blocks `from..to`.
#[derive(Clone, Copy)]
struct Told {
    unit: Unit,
    from: u32,
    to: u32,
    /// Whether any row may see a key of these.
    sees: bool,
}

impl Told {
    /// No unit: the end.
    const END: Told = {
        let sequence = Sequence { q_start: 0, q_len: 0, k_start: 0, k_len: 0 };
        Told { unit: Unit { m_block: 0, head: NONE, batch: 0, split: 0, sequence }, from: 0, to: 1, sees: false }
    };

    /// A unit with its key blocks. One without any works on block 0, of which it sees nothing.
    #[inline(always)]
    fn of<V: Variant>(params: &ServeParams, unit: Unit) -> Self {
        let mask = V::Mask::of(params.left, params.right);
        let lengths = Lengths { q: unit.sequence.q_len, k: unit.sequence.k_len };
        let queries = (unit.m_block * params.tile_queries, params.tile_queries);
        let (from, to) = serve::blocks(mask, lengths, queries, (unit.split, params.units.splits), KEYS);
        if from < to { Told { unit, from, to, sees: true } } else { Told { unit, from: 0, to: 1, sees: false } }
    }

    /// Writes a slot.
    ///
    /// # Safety
    /// One thread calls it, whose the slot is.
    #[inline(always)]
    unsafe fn write(&self, slot: Smem<u32>) {
        let Unit { m_block, head, batch, split, sequence } = self.unit;
        let Sequence { q_start, q_len, k_start, k_len } = sequence;
        // SAFETY: the caller's promise.
        unsafe {
            ldst::st_shared_u32x4(slot, [m_block, head, batch, split]);
            ldst::st_shared_u32x4(slot.offset(16), [q_start, q_len, k_start, k_len]);
            ldst::st_shared_u32x4(slot.offset(32), [self.from, self.to, self.sees as u32, 0]);
        }
    }

    /// Whether a slot names a unit.
    ///
    /// # Safety
    /// As [`read`](Self::read).
    #[inline(always)]
    unsafe fn is_unit(slot: Smem<u32>, lanes: Lanes) -> bool {
        // SAFETY: the caller's promise. The head is the second word.
        let head = unsafe { ldst::ld_shared_u32(slot.offset(4)) };
        (if lanes == Lanes::All { warp::uniform(head) } else { head }) != NONE
    }

    /// Reads a slot. By all lanes of a warp the words are taken from lane 0, so that the compiler knows them to be uniform.
    ///
    /// # Safety
    /// The slot is full, and those lanes call it together.
    #[inline(always)]
    unsafe fn read(slot: Smem<u32>, lanes: Lanes) -> Self {
        let known = |words: [u32; 4]| if lanes == Lanes::All { words.map(warp::uniform) } else { words };
        // SAFETY: the caller's promise.
        unsafe {
            let [m_block, head, batch, split] = known(ldst::ld_shared_u32x4(slot));
            let [q_start, q_len, k_start, k_len] = known(ldst::ld_shared_u32x4(slot.offset(16)));
            let [from, to, sees, _] = known(ldst::ld_shared_u32x4(slot.offset(32)));
            let sequence = Sequence { q_start, q_len, k_start, k_len };
            Told { unit: Unit { m_block, head, batch, split, sequence }, from, to, sees: sees != 0 }
        }
    }
}

/// A row's query and head.
#[derive(Clone, Copy)]
struct Owner {
    query: u32,
    head: u32,
    /// Whether there is such a query: rows past the sequence's end, or that are left of a tile when its heads do not divide it, have none.
    exists: bool,
}

impl Owner {
    #[inline(always)]
    fn of<M>(params: &ServeParams, work: &Work<M>, Place { tile, row }: Place) -> Self {
        // Worked out afresh where it is needed: few registers are left.
        let (query, in_pack) = params.pack.div_rem(special::fresh(row));
        let own = query < params.queries;
        let query = work.first + tile * params.queries + query;
        let head = work.tile.head * params.pack.get() + in_pack;
        Owner { query, head, exists: own && query < work.lengths.q }
    }

    /// Where its LSE lies, or with splits the LSE and the row of O of each.
    #[inline(always)]
    fn line<M>(&self, params: &ServeParams, work: &Work<M>) -> u64 {
        let row = if !packed(params) { self.query } else { work.q_start + self.query } as u64;
        if params.partial.is_null() {
            return work.tile.batch as u64 * params.lse_batch_stride + self.head as u64 * params.lse_head_stride + row;
        }
        let row = if !packed(params) { work.tile.batch as u64 * params.seqlen_q as u64 + row } else { row };
        (work.split as u64 * params.heads as u64 + self.head as u64) * params.rows + row
    }
}

impl Ragged {
    /// The work of the role's present tile.
    #[inline(always)]
    fn work<V: Variant>(&self, params: &ServeParams, told: Told) -> Work<V::Mask> {
        let Told { unit: Unit { m_block, head, batch, split, sequence }, from, to, sees } = told;
        Work {
            tile: Tile { m_block, head, batch },
            first: m_block * params.tile_queries,
            lengths: Lengths { q: sequence.q_len, k: sequence.k_len },
            mask: V::Mask::of(params.left, params.right),
            from,
            to,
            sees,
            split,
            q_start: sequence.q_start,
            rounds: self.round - 1,
        }
    }
}

impl Sequences for Ragged {
    type Params = ServeParams;

    #[inline(always)]
    fn new(_params: &ServeParams) -> Self {
        Ragged { round: 0 }
    }

    #[inline(always)]
    unsafe fn scale_log2<V: Variant<Sequences = Self>>(params: &ServeParams, work: &Work<V::Mask>) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { params.scale_of(work.tile, const { V::PLAN.float8 }) }
    }

    #[inline(always)]
    unsafe fn load<V: Variant<Sequences = Self>, const TILES: u32, const STAGES: u32>(
        self,
        params: &ServeParams,
        maps: Maps,
        shared: Shared<TILES, STAGES>,
    ) {
        // SAFETY: the caller's promise.
        unsafe { load::run::<V, TILES, STAGES>(params, maps, shared) }
    }

    #[inline(always)]
    unsafe fn next<V: Variant<Sequences = Self>, const TILES: u32, const STAGES: u32>(
        &mut self,
        params: &ServeParams,
        shared: &Shared<TILES, STAGES>,
        lanes: Lanes,
    ) -> Option<Work<V::Mask>> {
        let (ring, uses) = shared.unit(self.round);
        self.round += 1;
        // SAFETY: every role waits for every slot.
        let stage = unsafe { ring.split_at(uses) }.1.wait();
        let slot = stage.tile().cast();
        stage.keep();
        // SAFETY: the slot is full. Asked before the other words are read, or LLVM would keep the last tile's for the end.
        unsafe { if Told::is_unit(slot, lanes) { Some(self.work::<V>(params, Told::read(slot, lanes))) } else { None } }
    }

    #[inline(always)]
    unsafe fn again<V: Variant<Sequences = Self>, const TILES: u32, const STAGES: u32>(
        &self,
        params: &ServeParams,
        shared: &Shared<TILES, STAGES>,
        _work: Work<V::Mask>,
    ) -> Work<V::Mask> {
        let slot = shared.unit_slot(special::fresh(self.round - 1));
        // SAFETY: the slot is full as long as the warp is not done with it.
        self.work::<V>(params, unsafe { Told::read(slot, Lanes::All) })
    }

    #[inline(always)]
    unsafe fn done<const TILES: u32, const STAGES: u32>(&self, shared: &Shared<TILES, STAGES>, lanes: Lanes) {
        // SAFETY: passed on to the caller; the lane that arrives comes after all the others' reads.
        unsafe {
            if lanes == Lanes::One || block::warp_done() {
                shared.unit(special::fresh(self.round - 1)).0.give_back(0);
            }
        }
    }

    #[inline(always)]
    fn visible<V: Variant<Sequences = Self>>(
        &self,
        params: &ServeParams,
        work: &Work<V::Mask>,
        place: Place,
    ) -> Visible {
        let (mask, lengths) = (work.mask, work.lengths);
        let Owner { query, .. } = Owner::of(params, work, place);
        if !work.sees {
            return Visible { floor: 0, limit: 0, whole: (0, 0) };
        }
        let first = work.first + place.tile * params.queries;
        let last = first + params.queries - 1;
        let last = if last < lengths.q { last } else { lengths.q.saturating_sub(1) };
        Visible {
            floor: mask.hidden_keys(lengths, query) as i32,
            limit: mask.visible_keys(lengths, query) as i32,
            whole: (mask.full_from(lengths, last, KEYS), mask.full_blocks(lengths, first, KEYS)),
        }
    }

    #[inline(always)]
    unsafe fn modified<V: Variant<Sequences = Self>>(
        &self,
        params: &ServeParams,
        work: &Work<V::Mask>,
        place: Place,
    ) -> Modified {
        let biased = !params.slopes.is_null();
        let float8 = const { if V::Scores::MODIFIED { V::PLAN.float8 } else { Float8::None } };
        // SAFETY: the caller's promise.
        let (cap, slope_scale) = unsafe { params.modifiers_of(work.tile, float8) };
        let (mut slope, mut position) = (0.0, 0.0);
        if biased {
            let Owner { query, head, .. } = Owner::of(params, work, place);
            let of_batch = params.slopes.wrapping_add((work.tile.batch as u64 * params.slopes_batch_stride) as usize);
            // SAFETY: a slope for each head of the pack.
            slope = unsafe { ldst::ld_global_f32(of_batch.wrapping_add(head as usize)) } * slope_scale;
            position = (query as i32 + work.lengths.k as i32 - work.lengths.q as i32) as f32;
        }
        Modified { cap, biased, slopes: [slope; 2], positions: [position; 2] }
    }

    #[inline(always)]
    unsafe fn finish<V: Variant<Sequences = Self>>(
        &self,
        params: &ServeParams,
        work: &Work<V::Mask>,
        place: Place,
        row: &Row,
        knobs: &Knobs,
    ) -> (f32, f32) {
        let mut sink = f32::NEG_INFINITY;
        if !params.sinks.is_null() && params.partial.is_null() {
            let Owner { head, .. } = Owner::of(params, work, place);
            // SAFETY: a sink for each query head.
            let natural = unsafe { ldst::ld_global_f32(params.sinks.wrapping_add(head as usize)) };
            sink = natural * core::f32::consts::LOG2_E;
        }
        let (inverse, lse) = row.finish_with(sink, knobs);
        if const { matches!(V::PLAN.float8, Float8::None) } {
            return (inverse, lse);
        }
        // SAFETY: the caller's promise.
        (inverse * unsafe { params.factor_of_values(work.tile) }, lse)
    }

    #[inline(always)]
    unsafe fn store_lse<V: Variant<Sequences = Self>>(
        &self,
        params: &ServeParams,
        work: &Work<V::Mask>,
        place: Place,
        lse: f32,
    ) {
        let owner = Owner::of(params, work, place);
        let array = if params.partial.is_null() { params.lse } else { params.partial_lse };
        if owner.exists && !array.is_null() {
            // SAFETY: the row exists.
            unsafe { ldst::st_global_f32(array.wrapping_add(owner.line(params, work) as usize), lse) }
        }
    }

    #[inline(always)]
    fn part<V: Variant<Sequences = Self>>(&self, params: &ServeParams, work: &Work<V::Mask>, place: Place) -> Part {
        if params.partial.is_null() {
            return Part::Whole;
        }
        let owner = Owner::of(params, work, place);
        let to = params.partial.wrapping_add((owner.line(params, work) * params.dv as u64) as usize);
        // What a split without keys has left is not read.
        Part::Split { to, columns: if owner.exists && work.sees { params.dv } else { 0 } }
    }

    #[inline(always)]
    fn output<V: Variant<Sequences = Self>>(
        &self,
        params: &ServeParams,
        work: &Work<V::Mask>,
        tile: u32,
    ) -> Option<[i32; 5]> {
        let first = work.first + tile * params.queries;
        if first >= work.lengths.q || !params.partial.is_null() {
            return None;
        }
        let start = if !packed(params) { work.tile.batch * params.o_room } else { work.q_start };
        let [a, c] = ragged(start + first, work.lengths.q - first, params.queries);
        Some([0, 0, a, work.tile.head as i32, c])
    }
}

/// Whether queries are packed. Asked afresh each time: the answer would be kept in a register that head_dim 256 has not.
#[inline(always)]
fn packed(params: &ServeParams) -> bool {
    let address = params.cu_q as u64;
    special::fresh(address as u32 | (address >> 32) as u32) != 0
}
