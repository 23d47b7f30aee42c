//! The warps that widen 8-bit K and V: what TMA has brought goes through their hands to the ring that the multiplies read.
//!
//! Like every role, they are told the units, and take the parts in the order in which one query tile multiplies: K of the next block comes
//! before V of this one.

use super::block::{self, Shared};
use super::plan::KEYS;
use super::sequences::{Lanes, Sequences};
use super::{Params, Variant};
use crate::entry;
use crate::forward::narrow::{Crew, Narrow};
use crate::forward::plan::WARPGROUP;
use crate::mem::Smem;
use crate::ptx::{fence, warp};

/// Widens K and V of all tiles of the block.
///
/// # Safety
/// Called by all threads of the plan's converting warpgroup, converged.
#[inline(always)]
pub(super) unsafe fn run<V: Variant, const TILES: u32, const STAGES: u32>(
    params: &Params<V>,
    shared: Shared<TILES, STAGES>,
    mut tiles: V::Sequences,
) {
    let plan = const { V::PLAN };
    let crew = Crew::of(warp::uniform(entry::thread_idx_x() / 32) - plan.convert_warp(), WARPGROUP / 32);
    let (mut raw, mut kv) = (shared.raw.split().1, shared.kv.split().0);
    // SAFETY: whole warps come here; each stage is this role's between its wait and its commit or release.
    unsafe {
        while let Some(work) = tiles.next::<V, TILES, STAGES>(params, &shared, Lanes::All) {
            let turns = 2 * (work.to - work.from);
            tiles.done(&shared, Lanes::All);
            let mut turn = 0;
            while turn < turns {
                let keys = turn == 0 || turn % 2 == 1 && turn + 1 < turns;
                let mut parts = if keys { plan.k_parts } else { plan.v_parts };
                while parts > 0 {
                    let (from, to) = (raw.wait(), kv.acquire());
                    widen::<V>(keys, from.tile().cast(), to.tile().cast(), crew);
                    fence::proxy_async_shared_cta(); // the multiplies read what is written here
                    let done = block::warp_done();
                    to.commit_by(done);
                    from.release_by(done);
                    parts -= 1;
                }
                turn += 1;
            }
        }
    }
}

/// Widens a part of K, or one of V: of some head dimensions, or of some keys.
#[inline(always)]
unsafe fn widen<V: Variant>(keys: bool, from: Smem<()>, to: Smem<()>, crew: Crew) {
    let of_keys = const { Narrow { rows: KEYS, d: V::PLAN.d / V::PLAN.k_parts } };
    let of_values = const { Narrow { rows: KEYS / V::PLAN.v_parts, d: V::PLAN.dv } };
    // SAFETY: the caller's promise.
    unsafe {
        if keys || of_keys == of_values {
            of_keys.widen::<V::Element>(from, to, crew);
        } else {
            of_values.widen::<V::Element>(from, to, crew);
        }
    }
}
