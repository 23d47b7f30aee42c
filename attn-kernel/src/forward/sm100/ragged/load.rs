//! The load warp of ragged sequences: what units there are, Q, and K and V in the order in which the tensor core takes them, by chunks of
//! pages.

use super::super::block::Shared;
use super::super::plan::{KEYS, ROWS};
use super::super::{Maps, Variant};
use super::{Ragged, Told};
use crate::attn::sequence::BOUND;
use crate::entry;
use crate::forward::TensorMap;
use crate::forward::serve::{self, ServeParams, Unit};
use crate::forward::source::Source;
use crate::mem::{Smem, Swizzle};
use crate::pipe::ring::{Filling, Producer, Tile};
use crate::ptx::mbarrier::Mbarrier;
use crate::ptx::{fence, grid, ldst, special, tma, warp};

/// Keeps the rings full, and tells the other roles the units.
///
/// # Safety
/// Called by the load warp, converged; the parameters' addresses are those of device memory as they say.
#[inline(always)]
pub(super) unsafe fn run<V: Variant<Sequences = Ragged>, const TILES: u32, const STAGES: u32>(
    params: &ServeParams,
    maps: Maps,
    shared: Shared<TILES, STAGES>,
) {
    // SAFETY: called by a whole warp; the maps' boxes are those of the plan and the problem; this role fills each slot and Q once a round.
    unsafe {
        let leads = warp::elect();
        clear_spare_rows::<V>(params, shared.q_memory());
        // The list of tiles, and all else in global memory, may be what the kernel before this one writes. The other roles touch it after
        // they have been told a unit.
        grid::wait();
        grid::launch_dependents();
        let mut kv = if const { V::PLAN.converts() } { shared.raw } else { shared.kv }.split().0;
        let (own, blocks) = (entry::block_idx_x(), entry::grid_dim_x());
        let mut turn = 0;
        let mut round = 0;
        let entries = params.entries();
        while let Some(unit) = params.unit(serve::dealt(turn, own, blocks), entries) {
            turn += 1;
            if unit.m_block * params.tile_queries >= unit.sequence.q_len {
                continue; // past the end of a sequence that uses less than its room
            }
            let told = Told::of::<V>(params, unit);
            tell(&shared, round, leads, &told);
            // None where the unit sees none, so that its block is zeros.
            let keys = if told.sees { unit.sequence.k_len } else { 0 };
            let source = Source::of(params, &unit, keys, false);
            let loader = Loader { params, leads, source };
            let mut block = told.to - 1;
            let mut page = source.page(block, KEYS);
            loader.keys::<V, STAGES>(&mut kv, maps.k, block, page);
            let mut tile = 0;
            while tile < TILES {
                let slot = shared.q(tile).split_at(round).0.acquire();
                if leads {
                    queries::<V>(params, maps.q, slot, &unit, tile);
                }
                tile += 1;
            }
            // Two tiles multiply by V before they take the next K; one tile's next scores come first.
            while block > told.from {
                // Asked for before the waits for a stage, behind which its answer hides.
                let next = source.page(block - 1, KEYS);
                if const { TILES == 2 } {
                    loader.values::<V, STAGES>(&mut kv, maps.v, block, page);
                    loader.keys::<V, STAGES>(&mut kv, maps.k, block - 1, next);
                } else {
                    loader.keys::<V, STAGES>(&mut kv, maps.k, block - 1, next);
                    loader.values::<V, STAGES>(&mut kv, maps.v, block, page);
                }
                page = next;
                block -= 1;
            }
            loader.values::<V, STAGES>(&mut kv, maps.v, block, page);
            round += 1;
        }
        tell(&shared, round, leads, &Told::END);
    }
    // No drain: every stage is multiplied before the block ends.
}

/// Tells the other roles what comes in round `round`.
///
/// # Safety
/// Called by the load warp, converged, once a round.
#[inline(always)]
unsafe fn tell<const TILES: u32, const STAGES: u32>(
    shared: &Shared<TILES, STAGES>,
    round: u32,
    leads: bool,
    told: &Told,
) {
    let (ring, uses) = shared.unit(round);
    // SAFETY: the slot is this role's until it is committed.
    unsafe {
        let slot = ring.split_at(uses).0.acquire();
        if leads {
            told.write(slot.tile().cast());
        }
        slot.commit_by(leads);
    }
}

/// Loads query tile `tile` of a unit: of each query the heads of the pack. Rows past the sequence's end are nobody's answer.
///
/// # Safety
/// One thread calls it; the map's box is one panel of the queries of a tile.
#[inline(always)]
unsafe fn queries<V: Variant>(params: &ServeParams, map: *const TensorMap, slot: Filling, unit: &Unit, tile: u32) {
    let plan = const { V::PLAN };
    let (target, full) = (slot.tile(), slot.full());
    let bytes = plan.operand_bytes();
    slot.expect(params.queries * params.pack.get() * plan.d * bytes);
    let first = unit.m_block * params.tile_queries + tile * params.queries;
    let row = unit.sequence.q_start + first;
    let mut column = 0;
    while column < plan.d {
        let coords = [column as i32, 0, row as i32, unit.head as i32, 0];
        // SAFETY: the caller's promise.
        unsafe { tma::load(target.offset(column * ROWS * bytes), map, coords, full) };
        column += plan.panel(plan.d);
    }
}

/// The load warp, and the K and V of its unit.
#[derive(Clone, Copy)]
struct Loader<'a> {
    params: &'a ServeParams,
    leads: bool,
    source: Source<'a>,
}

impl Loader<'_> {
    /// Loads a K block, a part of its head dimensions a stage; `page` is the lane's.
    ///
    /// # Safety
    /// Called by the whole warp; the map's box is one panel of a chunk.
    #[inline(always)]
    unsafe fn keys<V: Variant, const STAGES: u32>(
        &self,
        kv: &mut Producer<STAGES>,
        map: *const TensorMap,
        block: u32,
        page: u32,
    ) {
        let plan = const { V::PLAN };
        let width = plan.d / plan.k_parts;
        let mut first = 0;
        while first < plan.d {
            let slot = kv.acquire();
            let to = Stage {
                tile: slot.tile(),
                full: slot.full(),
                rows: KEYS,
                columns: (first, width),
                panel: plan.raw_panel(plan.d),
            };
            slot.expect_by(self.leads, plan.k_loaded());
            // SAFETY: the caller's promise.
            unsafe { self.rows::<V>((map, self.params.k_room), to, block, 0, page) };
            first += width;
        }
    }

    /// Loads a V block, a part of its keys a stage.
    ///
    /// # Safety
    /// As [`keys`](Self::keys); a chunk has no more rows than a part.
    #[inline(always)]
    unsafe fn values<V: Variant, const STAGES: u32>(
        &self,
        kv: &mut Producer<STAGES>,
        map: *const TensorMap,
        block: u32,
        page: u32,
    ) {
        let plan = const { V::PLAN };
        let rows = KEYS / plan.v_parts;
        let mut first = 0;
        while first < KEYS {
            let slot = kv.acquire();
            let to = Stage {
                tile: slot.tile(),
                full: slot.full(),
                rows,
                columns: (0, plan.dv),
                panel: plan.raw_panel(plan.dv),
            };
            slot.expect_by(self.leads, plan.v_loaded());
            // SAFETY: the caller's promise.
            unsafe { self.rows::<V>((map, self.params.v_room), to, block, first, page) };
            first += rows;
        }
    }

    /// Fills a stage with rows of block `block` from its row `first` on, a chunk and panel a copy.
    #[inline(always)]
    unsafe fn rows<V: Variant>(
        &self,
        (map, room): (*const TensorMap, u32),
        to: Stage,
        block: u32,
        first: u32,
        page: u32,
    ) {
        let bytes = const { V::PLAN.key_bytes() };
        let (mut offset, mut lane) = (0, 0);
        // Lanes have the pages of the block's chunks, of which some come before `first`.
        let mut skipped = 0;
        while skipped < first {
            skipped += self.params.chunk;
            lane += 1;
        }
        while offset < to.rows {
            let page = warp::shfl_idx(page, lane);
            if self.leads {
                let [a, c] = self.source.chunk(block * KEYS + first + offset, page, room);
                let mut column = 0;
                while column < to.columns.1 {
                    let target = to.tile.offset(column * to.rows * bytes + offset * to.panel * bytes);
                    let coords = [(to.columns.0 + column) as i32, a, self.source.kv_head as i32, BOUND as i32, c];
                    // SAFETY: the caller's promise.
                    unsafe { tma::load(target, map, coords, to.full) };
                    column += to.panel;
                }
            }
            offset += self.params.chunk;
            lane += 1;
        }
    }
}

/// A stage that is filled with panels of `rows` rows.
#[derive(Clone, Copy)]
struct Stage {
    tile: Smem<Tile>,
    full: Smem<Mbarrier>,
    rows: u32,
    /// The first column of the tensor, and how many there are.
    columns: (u32, u32),
    panel: u32,
}

/// Fills the rows of Q's tiles that no copy writes with zeros: those that are left when its heads do not divide a tile's rows. What they
/// are is nobody's answer, but memory that nobody has written is no number to compute with.
///
/// # Safety
/// Called by the load warp, converged, before it loads; `q` is Q's memory.
#[inline(always)]
unsafe fn clear_spare_rows<V: Variant>(params: &ServeParams, q: Smem<()>) {
    let plan = const { V::PLAN };
    let (span, bytes) = const { (Swizzle::of_span(V::PLAN.span(V::PLAN.d)).span(), V::PLAN.operand_bytes()) };
    let first = params.queries * params.pack.get() * span;
    if first == ROWS * span {
        return;
    }
    let mut column = 0;
    while column < plan.tiles * plan.d {
        // Rows are whole multiples of the swizzle's pieces of 16 bytes, which stay in their row.
        let mut at = first + special::lane_id() * 16;
        while at < ROWS * span {
            // SAFETY: inside the panel.
            unsafe { ldst::st_shared_u32x4(q.offset(column * ROWS * bytes + at).cast(), [0; 4]) };
            at += 32 * 16;
        }
        column += plan.panel(plan.d);
    }
    fence::proxy_async_shared_cta(); // the multiplies read what is written here
    // SAFETY: called by a whole warp. The lane that says that Q has come does so after all the others' writes.
    unsafe { warp::sync() };
}
