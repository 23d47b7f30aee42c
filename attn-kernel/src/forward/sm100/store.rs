//! The store warp: O from shared to global memory.

use super::block::Shared;
use super::plan::ROWS;
use super::sequences::{Lanes, Sequences};
use super::{Params, Variant};
use crate::forward::TensorMap;
use crate::forward::plan::panel;
use crate::ptx::tma;

/// Stores O of all tiles of the block, a panel a copy; the map cuts off rows and columns that do not exist.
///
/// # Safety
/// Called by one thread of the block.
#[inline(always)]
pub(super) unsafe fn run<V: Variant, const TILES: u32, const STAGES: u32>(
    params: &Params<V>,
    map: *const TensorMap,
    shared: Shared<TILES, STAGES>,
    mut tiles: V::Sequences,
) {
    let plan = const { V::PLAN };
    // SAFETY: the role is this one lane.
    while let Some(work) = unsafe { tiles.next::<V, TILES, STAGES>(params, &shared, Lanes::One) } {
        let mut tile = 0;
        while tile < TILES {
            // SAFETY: this role takes each tile once a round.
            let full = unsafe { shared.o(tile).split_at(work.rounds) }.1.wait();
            if let Some(at) = tiles.output::<V>(params, &work, tile) {
                let mut column = 0;
                while column < plan.dv {
                    let mut coords = at;
                    coords[0] = column as i32;
                    // SAFETY: the panel lies in the tile, which the correction has handed over.
                    unsafe { tma::store(map, coords, full.tile().offset(column * ROWS * 2)) };
                    column += panel(plan.dv);
                }
            }
            tma::commit_group();
            tma::wait_group_read::<0>();
            full.release();
            if plan.o_in_q() {
                // SAFETY: Q's memory is read by the multiplies, which give it back too, and by this store.
                unsafe { shared.q(tile).give_back(0) }
            }
            tile += 1;
        }
        // SAFETY: as above.
        unsafe { tiles.done(&shared, Lanes::One) };
    }
}
