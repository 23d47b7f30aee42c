//! The correction warpgroup: rescales O while the tiles are computed, and finishes O.

use super::block::{self, Shared};
use super::plan::{CHUNK, ROWS};
use super::sequences::{Lanes, Part, Place, Sequences};
use super::{Params, Variant};
use crate::entry;
use crate::forward::plan::{WARPGROUP, panel};
use crate::mem::{Element, Smem, Swizzle, Tmem};
use crate::pipe::signal::Beat;
use crate::ptx::math::mul2;
use crate::ptx::{fence, ldst, special, tcgen05, warp};

/// A thread's place: the row of a tile that it corrects.
#[derive(Clone, Copy)]
struct Seat<const TILES: u32, const STAGES: u32> {
    shared: Shared<TILES, STAGES>,
    thread: u32,
    warp: u32,
}

/// Works through all tiles of the block.
///
/// # Safety
/// Called by all threads of the correction warpgroup, converged.
#[inline(always)]
pub(super) unsafe fn run<V: Variant, const TILES: u32, const STAGES: u32>(
    params: &Params<V>,
    shared: Shared<TILES, STAGES>,
    mut tiles: V::Sequences,
) {
    let thread = entry::thread_idx_x() % WARPGROUP;
    let seat = Seat { shared, thread, warp: warp::uniform(thread / 32) };
    let mut beat = Beat::<TILES>::new();
    let mut blocks = 0; // with one tile O is complete once a block, with two once a round
    // SAFETY: passed on to the caller.
    unsafe {
        let mut tile = 0;
        while tile < TILES {
            if warp::elect() {
                shared.ready.arrive(beat.slot(tile)); // nothing of O is left to read
            }
            tile += 1;
        }
        while let Some(work) = tiles.next::<V, TILES, STAGES>(params, &shared, Lanes::All) {
            beat.next(); // the first block has no O to rescale
            let mut block = work.to - 1;
            while block > work.from {
                let mut tile = 0;
                while tile < TILES {
                    let slot = beat.slot(tile);
                    let factor = seat.factor(slot);
                    if const { TILES == 1 } {
                        shared.output.wait(0, blocks & 1);
                        blocks += 1;
                    }
                    tcgen05::after_thread_sync();
                    rescale::<V>(block::output::<V>(tile).of_warp(seat.warp), factor);
                    seat.ready(slot);
                    tile += 1;
                }
                beat.next();
                block -= 1;
            }
            let mut tile = 0;
            while tile < TILES {
                let end = shared.inverses(tile).split_at(work.rounds).1.wait();
                let inverse = ldst::ld_shared_f32(end.tile().offset(thread * 4).cast());
                end.release_by(block::warp_done());
                shared.output.wait(tile, if const { TILES == 1 } { blocks } else { work.rounds } & 1);
                tcgen05::after_thread_sync();
                let slot = shared.o(tile).split_at(work.rounds).0.acquire();
                let o = block::output::<V>(tile).of_warp(seat.warp);
                let work = tiles.again::<V, TILES, STAGES>(params, &shared, work);
                match tiles.part::<V>(params, &work, Place { tile, row: thread }) {
                    Part::Whole => write_output::<V>(o, slot.tile().cast(), thread, inverse),
                    Part::Split { to, columns } => write_part::<V>(o, to, columns, inverse),
                }
                fence::proxy_async_shared_cta();
                let done = block::warp_done_with_tensor_memory();
                if done {
                    shared.ready.arrive(beat.slot(tile)); // the next tile's first P V may overwrite O
                }
                slot.commit_by(done);
                tile += 1;
            }
            tiles.done(&shared, Lanes::All);
            blocks += 1;
        }
    }
}

impl<const TILES: u32, const STAGES: u32> Seat<TILES, STAGES> {
    /// Tells the tensor core that this warp's rows of O are as the slot's next P V needs them.
    #[inline(always)]
    unsafe fn ready(&self, slot: u32) {
        // SAFETY: the correction's warps arrive once a block and tile.
        unsafe {
            if block::warp_done_with_tensor_memory() {
                self.shared.ready.arrive(slot);
            }
        }
    }

    /// Waits for the factor of this thread's row.
    #[inline(always)]
    unsafe fn factor(&self, slot: u32) -> f32 {
        // SAFETY: the softmax warp of the same rows arrives once a block and tile.
        unsafe {
            block::factors_written(slot, self.warp).sync();
            ldst::ld_shared_f32(self.shared.factor(slot, self.thread))
        }
    }
}

/// Multiplies this thread's row of O, unless the factor is 1 for the whole warp.
#[inline(always)]
unsafe fn rescale<V: Variant>(o: Tmem<f32>, factor: f32) {
    if !warp::any(factor < 1.0) {
        return;
    }
    let mut column = 0;
    while column < const { V::PLAN.dv } {
        // SAFETY: whole warps, each in its own lanes, while no multiply touches O.
        unsafe {
            let mut part = tcgen05::ld::<{ CHUNK as usize }>(o.columns(column));
            tcgen05::wait_ld_with(&mut part);
            tcgen05::st_f32(o.columns(column), scaled(&part, factor));
        }
        column += CHUNK;
    }
    // SAFETY: whole warps.
    unsafe { tcgen05::wait_st() }
}

/// Writes this thread's row of O, normalised and rounded, to shared memory as the TMA store expects it.
#[inline(always)]
unsafe fn write_output<V: Variant>(o: Tmem<f32>, to: Smem<u32>, row: u32, inverse: f32) {
    let (dv, width) = const { (V::PLAN.dv, panel(V::PLAN.dv)) };
    let swizzle = const { Swizzle::of_span(panel(V::PLAN.dv) * 2) };
    // The swizzle exchanges pieces of 16 bytes within a row, so that piece `p` of it lies at `start ^ 16 p`.
    // Worked out afresh for each tile: eight of them would be registers that live all along.
    let start = swizzle.apply(special::fresh(row) * swizzle.span());
    let mut column = 0;
    while column < dv {
        // SAFETY: whole warps, each in its own lanes; the tile starts on the swizzle's period, so swizzling the offset swizzles the
        // address.
        unsafe {
            let mut part = tcgen05::ld::<{ CHUNK as usize }>(o.columns(column));
            tcgen05::wait_ld_with(&mut part);
            let part = scaled(&part, inverse);
            let mut i = 0;
            while i < CHUNK as usize {
                let words = [0, 2, 4, 6].map(|j| V::Element::pack(part[i + j], part[i + j + 1]));
                let at = column + i as u32;
                let panel = to.offset(at / width * ROWS * swizzle.span());
                ldst::st_shared_u32x4(panel.offset(start ^ (at % width * 2)), words);
                i += 8;
            }
        }
        column += CHUNK;
    }
}

/// Writes the first `columns` columns of this thread's row of O, normalised, to device memory.
#[inline(always)]
unsafe fn write_part<V: Variant>(o: Tmem<f32>, to: *mut f32, columns: u32, inverse: f32) {
    // Not unrolled, few columns at a time: a loop that has few registers to itself.
    let mut column = special::fresh(0);
    while column < const { V::PLAN.dv } {
        // SAFETY: whole warps, each in its own lanes; the row has its columns at `to`.
        unsafe {
            let mut part = tcgen05::ld::<8>(o.columns(column));
            tcgen05::wait_ld_with(&mut part);
            let [a, b, c, d, e, f, g, h] = part.map(|x| x * inverse);
            if column < columns {
                let to = to.wrapping_add(column as usize);
                ldst::st_global_f32x4(to, a, b, c, d);
                if column + 4 < columns {
                    ldst::st_global_f32x4(to.wrapping_add(4), e, f, g, h);
                }
            }
        }
        column += 8;
    }
}

#[inline(always)]
fn scaled(x: &[f32; CHUNK as usize], factor: f32) -> [f32; CHUNK as usize] {
    let mut y = [0.0; CHUNK as usize];
    let mut i = 0;
    while i < CHUNK as usize {
        [y[i], y[i + 1]] = mul2([x[i], x[i + 1]], [factor; 2]);
        i += 2;
    }
    y
}
