//! The load warp: Q, and K and V in the order in which the tensor core takes them.

use super::block::{Shared, Walker, Work};
use super::plan::{KEYS, ROWS};
use super::{Maps, Variant};
use crate::forward::ForwardParams;
use crate::forward::plan::panel;
use crate::pipe::ring::{Filling, Producer};
use crate::ptx::tma;

/// Keeps the rings full.
///
/// # Safety
/// Called by one thread of the block.
#[inline(always)]
pub(super) unsafe fn run<V: Variant, const TILES: u32, const STAGES: u32>(
    params: &ForwardParams,
    maps: Maps,
    shared: Shared<TILES, STAGES>,
    mut walker: Walker,
) {
    let mut kv = shared.kv.split().0;
    while let Some(work) = walker.next::<V>() {
        let kv_head = params.group.div_rem(work.tile.head).0 as i32;
        let at = |block: u32| [0, (block * KEYS) as i32, kv_head, work.tile.batch as i32];
        // SAFETY: each map's box is one panel of what it loads, and the panels fill the stage exactly.
        unsafe {
            let mut block = work.blocks - 1;
            keys::<V, STAGES>(&mut kv, maps, at(block));
            let mut tile = 0;
            while tile < TILES {
                queries::<V>(shared.q(tile).split_at(work.rounds).0.acquire(), maps, &work, tile, walker.pack);
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

/// Loads a Q tile. Rows are queries, or with packed heads `2^pack` heads of each query: the map's box is `2^pack` heads high.
#[inline(always)]
unsafe fn queries<V: Variant>(slot: Filling, maps: Maps, work: &Work, tile: u32, pack: u32) {
    let plan = const { V::PLAN };
    let (target, full) = (slot.tile(), slot.full());
    slot.expect(plan.q_bytes());
    let query = (work.first_row + tile * ROWS) >> pack;
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
