//! Sequences of equal lengths in dense tensors. Every role works out the tiles by itself.

use super::block::{Rings, Seat};
use super::sequences::{Sequences, Work};
use super::{Maps, Variant, block, epilogue};
use crate::attn::mask::{Lengths, Mask};
use crate::attn::scores::Modified;
use crate::attn::sequence::Sequence;
use crate::attn::softmax::{self, Knobs, Rows};
use crate::attn::walk::{self, Grid};
use crate::entry;
use crate::forward::plan::{Plan, ROWS, Schedule};
use crate::forward::{ForwardParams, TensorMap};
use crate::mem::Smem;
use crate::pipe::ring::{Consumer, Full, Producer};
use crate::ptx::{grid, tma, warp};

/// The tiles of a block, in order.
#[derive(Clone, Copy)]
pub struct Dense {
    grid: Grid,
    lengths: Lengths,
    /// Tiles so far; for pairs, [`walk::paired`]'s turn.
    turn: u32,
}

impl Dense {
    #[inline(always)]
    fn step<V: Variant>(&mut self) -> Option<Work<V::Mask>> {
        let (block, blocks) = (entry::block_idx_x(), entry::grid_dim_x());
        let tile = if const { matches!(V::PLAN.schedule, Schedule::Paired) } {
            walk::paired(&self.grid, block, blocks, &mut self.turn)?
        } else {
            let index = walk::index(self.turn, block, blocks, self.grid.tiles)?;
            self.turn += 1;
            match const { V::PLAN.schedule } {
                Schedule::Persistent => walk::by_head(&self.grid, index),
                Schedule::LongestFirst | Schedule::Paired => walk::longest_first(&self.grid, index),
            }
        };
        let (bm, bn) = const { (V::PLAN.bm, V::PLAN.bn) };
        let mask = V::Mask::of(0, 0);
        let to = mask.blocks(self.lengths, tile.m_block * bm, bm, bn);
        let sequence = Sequence { q_start: 0, q_len: self.lengths.q, k_start: 0, k_len: self.lengths.k };
        Some(Work { tile, lengths: self.lengths, mask, from: 0, to, split: 0, sequence })
    }
}

impl Sequences for Dense {
    type Params = ForwardParams;
    const RAGGED: bool = false;

    #[inline(always)]
    fn new<V: Variant<Sequences = Self>>(params: &ForwardParams, _smem: Smem<()>) -> Self {
        Dense { grid: params.grid, lengths: Lengths { q: params.seqlen_q, k: params.seqlen_k }, turn: 0 }
    }

    #[inline(always)]
    unsafe fn prepare<V: Variant<Sequences = Self>>(_params: &ForwardParams, _q: Smem<()>, _seat: Seat) {}

    #[inline(always)]
    unsafe fn scale_log2<V: Variant<Sequences = Self>>(params: &ForwardParams, _work: &Work<V::Mask>) -> f32 {
        params.scale_log2
    }

    #[inline(always)]
    unsafe fn produce<V: Variant<Sequences = Self>, const STAGES: u32, const QUERIES: u32, const RAW: u32>(
        mut self,
        params: &ForwardParams,
        maps: Maps,
        rings: Rings<STAGES, QUERIES, RAW>,
        _smem: Smem<()>,
    ) {
        // SAFETY: called by a whole warp.
        if !unsafe { warp::elect() } {
            return;
        }
        let plan = const { V::PLAN };
        let (mut q, mut k, mut v) = (rings.q.split().0, rings.k.split().0, rings.v.split().0);
        let mut work = self.step::<V>();
        // Everything that the block reads or writes in global memory comes after these loads. The next kernel's blocks may set themselves
        // up from now on; they wait in their turn for all of this one.
        grid::wait();
        grid::launch_dependents();
        while let Some(Work { tile, to: blocks, .. }) = work {
            let kv_head = params.group.div_rem(tile.head).0 as i32;
            let batch = tile.batch as i32;
            let keys = |block: u32| [0, (block * plan.bn) as i32, kv_head, batch];
            let rows = [0, (tile.m_block * plan.bm) as i32, tile.head as i32, batch];
            // SAFETY: each map's box is one panel, and the panels fill the stage exactly.
            unsafe {
                if blocks > 0 {
                    load(&mut k, maps.k, plan.d, plan.bn, 1, keys(blocks - 1));
                }
                // Also for a tile without keys: its zeros may go out through Q's memory, which must be the consumers' by then.
                load(&mut q, maps.q, plan.d, ROWS, plan.bm / ROWS, rows);
                let mut block = blocks;
                while block > 1 {
                    block -= 1;
                    load(&mut k, maps.k, plan.d, plan.bn, 1, keys(block - 1));
                    load(&mut v, maps.v, plan.dv, plan.bn, 1, keys(block));
                }
                if blocks > 0 {
                    load(&mut v, maps.v, plan.dv, plan.bn, 1, keys(0));
                }
            }
            work = self.step::<V>();
        }
        // No drain: the consumers wait for every stage, so no copy is in flight when the block ends.
    }

    #[inline(always)]
    unsafe fn next<V: Variant<Sequences = Self>, const QUERIES: u32>(
        &mut self,
        _params: &ForwardParams,
        q: &mut Consumer<QUERIES>,
    ) -> Option<(Work<V::Mask>, Full)> {
        let work = self.step::<V>()?;
        Some((work, q.wait()))
    }

    #[inline(always)]
    unsafe fn again<V: Variant<Sequences = Self>>(
        &self,
        _params: &ForwardParams,
        work: &Work<V::Mask>,
    ) -> Work<V::Mask> {
        *work
    }

    #[inline(always)]
    fn query<V: Variant<Sequences = Self>>(_params: &ForwardParams, first: u32, row: u32) -> (u32, u32) {
        (first + row, 0)
    }

    #[inline(always)]
    fn queries<V: Variant<Sequences = Self>>(_params: &ForwardParams) -> u32 {
        ROWS
    }

    #[inline(always)]
    fn first_query<V: Variant<Sequences = Self>>(_params: &ForwardParams, m_block: u32, seat: Seat) -> u32 {
        m_block * const { V::PLAN.bm } + seat.rows
    }

    #[inline(always)]
    unsafe fn modified<V: Variant<Sequences = Self>>(
        _params: &ForwardParams,
        _work: &Work<V::Mask>,
        _first: u32,
        _seat: Seat,
    ) -> Modified {
        Modified { cap: 0.0, biased: false, slopes: [0.0; 2], positions: [0.0; 2] }
    }

    #[inline(always)]
    unsafe fn finish<V: Variant<Sequences = Self>, const O: usize>(
        params: &ForwardParams,
        maps: Maps,
        o: Smem<()>,
        work: &Work<V::Mask>,
        first: u32,
        seat: Seat,
        (rows, acc): (&Rows, &mut [f32; O]),
        knobs: &Knobs,
    ) {
        let (inverse, lse) = rows.finish::<block::WarpQuad>(knobs);
        softmax::scale_rows(acc, inverse);
        // SAFETY: the caller's promise.
        unsafe {
            epilogue::stage_output::<V, O>(seat, o, acc, [1.0; 2]);
            if seat.thread == 0 && first < work.lengths.q {
                let (head, batch) = (work.tile.head as i32, work.tile.batch as i32);
                epilogue::store_output::<V, 4>(maps.o, o, [0, first as i32, head, batch]);
            }
            if !params.lse.is_null() && seat.column() == 0 {
                let line =
                    work.tile.batch as u64 * params.lse_batch_stride + work.tile.head as u64 * params.lse_head_stride;
                for (r, &value) in lse.iter().enumerate() {
                    let row = first + seat.row() + 8 * r as u32;
                    if row < params.seqlen_q {
                        epilogue::store_f32(params.lse, line + row as u64, value);
                    }
                }
            }
        }
    }
}

/// Fills the next stage with `parts` groups of `rows` rows of `d` elements, a panel a copy.
///
/// # Safety
/// The stage holds `parts * rows * d` elements, and the map's box is one panel of `rows` rows.
#[inline(always)]
unsafe fn load<const STAGES: u32>(
    ring: &mut Producer<STAGES>,
    map: *const TensorMap,
    d: u32,
    rows: u32,
    parts: u32,
    from: [i32; 4],
) {
    let slot = ring.acquire();
    let (tile, full) = (slot.tile(), slot.full());
    slot.expect(parts * rows * d * 2);
    let mut part = 0;
    while part < parts {
        let mut column = 0;
        while column < d {
            let target = tile.offset((part * d + column) * rows * 2);
            let coords = [column as i32, from[1] + (part * rows) as i32, from[2], from[3]];
            // SAFETY: the caller's promise.
            unsafe { tma::load(target, map, coords, full) };
            column += Plan::panel(d);
        }
        part += 1;
    }
}
