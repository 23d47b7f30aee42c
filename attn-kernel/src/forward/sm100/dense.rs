//! Sequences of equal lengths in dense tensors. Every role works out the tiles by itself.

use super::block::Shared;
use super::plan::{KEYS, ROWS};
use super::sequences::{Lanes, Part, Place, Sequences, Visible, Work};
use super::{Maps, Variant};
use crate::attn::mask::{Lengths, Mask};
use crate::attn::row::{Knobs, Row};
use crate::attn::scores::Modified;
use crate::attn::walk::{self, Grid};
use crate::entry;
use crate::forward::ForwardParams;
use crate::forward::plan::{Schedule, panel};
use crate::pipe::ring::{Filling, Producer};
use crate::ptx::{ldst, tma, warp};

/// The tiles of a block, in order.
#[derive(Clone, Copy)]
pub struct Dense {
    grid: Grid,
    lengths: Lengths,
    pack: u32,
    round: u32,
}

impl Dense {
    #[inline(always)]
    fn step<V: Variant>(&mut self) -> Option<Work<V::Mask>> {
        let index = walk::index(self.round, entry::block_idx_x(), entry::grid_dim_x(), self.grid.tiles)?;
        let rounds = self.round;
        self.round += 1;
        let tile = match const { V::PLAN.schedule } {
            Schedule::Persistent => walk::by_head(&self.grid, index),
            Schedule::LongestFirst | Schedule::Paired => walk::longest_first(&self.grid, index),
        };
        let bm = const { V::PLAN.bm() };
        let first = tile.m_block * bm;
        let (mask, lengths) = (V::Mask::of(0, 0), self.lengths);
        let to = mask.blocks(lengths, first >> self.pack, bm >> self.pack, KEYS);
        let to = if to == 0 { 1 } else { to };
        Some(Work { tile, first, lengths, mask, from: 0, to, sees: true, split: 0, q_start: 0, rounds })
    }
}

impl Sequences for Dense {
    type Params = ForwardParams;

    #[inline(always)]
    fn new(p: &ForwardParams) -> Self {
        Dense { grid: p.grid, lengths: Lengths { q: p.seqlen_q, k: p.seqlen_k }, pack: p.pack, round: 0 }
    }

    #[inline(always)]
    unsafe fn scale_log2<V: Variant<Sequences = Self>>(params: &ForwardParams, _work: &Work<V::Mask>) -> f32 {
        params.scale_log2
    }

    #[inline(always)]
    unsafe fn load<V: Variant<Sequences = Self>, const TILES: u32, const STAGES: u32>(
        mut self,
        params: &ForwardParams,
        maps: Maps,
        shared: Shared<TILES, STAGES>,
    ) {
        // SAFETY: called by a whole warp.
        if !unsafe { warp::elect() } {
            return;
        }
        let mut kv = shared.kv.split().0;
        while let Some(work) = self.step::<V>() {
            let kv_head = params.group.div_rem(work.tile.head).0 as i32;
            let at = |block: u32| [0, (block * KEYS) as i32, kv_head, work.tile.batch as i32];
            // SAFETY: each map's box is one panel of what it loads, and the panels fill the stage exactly.
            unsafe {
                let mut block = work.to - 1;
                keys::<V, STAGES>(&mut kv, maps, at(block));
                let mut tile = 0;
                while tile < TILES {
                    let slot = shared.q(tile).split_at(work.rounds).0.acquire();
                    queries::<V>(slot, maps, &work, (work.first + tile * ROWS) >> self.pack);
                    tile += 1;
                }
                // Two tiles multiply by V before they take the next K; one tile's next scores come first.
                while block > 0 {
                    if const { TILES == 2 } {
                        values::<V, STAGES>(&mut kv, maps, at(block));
                        keys::<V, STAGES>(&mut kv, maps, at(block - 1));
                    } else {
                        keys::<V, STAGES>(&mut kv, maps, at(block - 1));
                        values::<V, STAGES>(&mut kv, maps, at(block));
                    }
                    block -= 1;
                }
                values::<V, STAGES>(&mut kv, maps, at(0));
            }
        }
        // No drain: every stage is multiplied before the block ends.
    }

    #[inline(always)]
    unsafe fn next<V: Variant<Sequences = Self>, const TILES: u32, const STAGES: u32>(
        &mut self,
        _params: &ForwardParams,
        _shared: &Shared<TILES, STAGES>,
        _lanes: Lanes,
    ) -> Option<Work<V::Mask>> {
        self.step::<V>()
    }

    #[inline(always)]
    unsafe fn again<V: Variant<Sequences = Self>, const TILES: u32, const STAGES: u32>(
        &self,
        _params: &ForwardParams,
        _shared: &Shared<TILES, STAGES>,
        work: Work<V::Mask>,
    ) -> Work<V::Mask> {
        work
    }

    #[inline(always)]
    unsafe fn done<const TILES: u32, const STAGES: u32>(&self, _shared: &Shared<TILES, STAGES>, _lanes: Lanes) {}

    #[inline(always)]
    fn visible<V: Variant<Sequences = Self>>(
        &self,
        _params: &ForwardParams,
        work: &Work<V::Mask>,
        place: Place,
    ) -> Visible {
        let first = work.first + place.tile * ROWS;
        let limit = work.mask.visible_keys(self.lengths, (first + place.row) >> self.pack) as i32;
        Visible { floor: 0, limit, whole: (0, work.mask.full_blocks(self.lengths, first >> self.pack, KEYS)) }
    }

    #[inline(always)]
    unsafe fn modified<V: Variant<Sequences = Self>>(
        &self,
        _params: &ForwardParams,
        _work: &Work<V::Mask>,
        _place: Place,
    ) -> Modified {
        Modified { cap: 0.0, biased: false, slopes: [0.0; 2], positions: [0.0; 2] }
    }

    #[inline(always)]
    unsafe fn finish<V: Variant<Sequences = Self>>(
        &self,
        _params: &ForwardParams,
        _work: &Work<V::Mask>,
        _place: Place,
        row: &Row,
        knobs: &Knobs,
    ) -> (f32, f32) {
        row.finish(knobs)
    }

    #[inline(always)]
    unsafe fn store_lse<V: Variant<Sequences = Self>>(
        &self,
        params: &ForwardParams,
        work: &Work<V::Mask>,
        place: Place,
        lse: f32,
    ) {
        let row = work.first + (place.tile * ROWS + place.row);
        let (query, in_pack) = (row >> params.pack, row - (row >> params.pack << params.pack));
        if params.lse.is_null() || query >= self.lengths.q {
            return;
        }
        let head = (work.tile.head << params.pack) + in_pack;
        let line = work.tile.batch as u64 * params.lse_batch_stride + head as u64 * params.lse_head_stride;
        // SAFETY: the row exists.
        unsafe { ldst::st_global_f32(params.lse.wrapping_add((line + query as u64) as usize), lse) }
    }

    #[inline(always)]
    fn part<V: Variant<Sequences = Self>>(
        &self,
        _params: &ForwardParams,
        _work: &Work<V::Mask>,
        _place: Place,
    ) -> Part {
        Part::Whole
    }

    #[inline(always)]
    fn output<V: Variant<Sequences = Self>>(
        &self,
        params: &ForwardParams,
        work: &Work<V::Mask>,
        tile: u32,
    ) -> Option<[i32; 5]> {
        let query = (work.first + tile * ROWS) >> params.pack;
        let at = [0, 0, query as i32, work.tile.head as i32, work.tile.batch as i32];
        if query < params.seqlen_q { Some(at) } else { None }
    }
}

/// Loads a Q tile. Rows are queries, or with packed heads `2^pack` heads of each query: the map's box is `2^pack` heads high.
#[inline(always)]
unsafe fn queries<V: Variant>(slot: Filling, maps: Maps, work: &Work<V::Mask>, query: u32) {
    let plan = const { V::PLAN };
    let (target, full) = (slot.tile(), slot.full());
    slot.expect(plan.q_bytes());
    let mut column = 0;
    while column < plan.d {
        let coords = [column as i32, 0, query as i32, work.tile.head as i32, work.tile.batch as i32];
        // SAFETY: the caller's promise.
        unsafe { tma::load(target.offset(column * ROWS * 2), maps.q, coords, full) };
        column += panel(plan.d);
    }
}

/// Loads a K block, a part of its head dimensions a stage.
#[inline(always)]
unsafe fn keys<V: Variant, const STAGES: u32>(kv: &mut Producer<STAGES>, maps: Maps, at: [i32; 4]) {
    let plan = const { V::PLAN };
    let width = plan.d / plan.k_parts;
    let mut first = 0;
    while first < plan.d {
        let slot = kv.acquire();
        let (target, full) = (slot.tile(), slot.full());
        slot.expect(plan.k_bytes());
        let mut column = 0;
        while column < width {
            let coords = [(first + column) as i32, at[1], at[2], at[3]];
            // SAFETY: the caller's promise.
            unsafe { tma::load(target.offset(column * KEYS * 2), maps.k, coords, full) };
            column += panel(plan.d);
        }
        first += width;
    }
}

/// Loads a V block, a part of its keys a stage.
#[inline(always)]
unsafe fn values<V: Variant, const STAGES: u32>(kv: &mut Producer<STAGES>, maps: Maps, at: [i32; 4]) {
    let plan = const { V::PLAN };
    let rows = KEYS / plan.v_parts;
    let mut first = 0;
    while first < KEYS {
        let slot = kv.acquire();
        let (target, full) = (slot.tile(), slot.full());
        slot.expect(plan.v_bytes());
        let mut column = 0;
        while column < plan.dv {
            let coords = [column as i32, at[1] + first as i32, at[2], at[3]];
            // SAFETY: the caller's promise.
            unsafe { tma::load(target.offset(column * rows * 2), maps.v, coords, full) };
            column += panel(plan.dv);
        }
        first += rows;
    }
}
