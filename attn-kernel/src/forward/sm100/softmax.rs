//! The softmax warpgroups: a thread turns a row of scores into probabilities, block after block.

use super::block::{self, Shared};
use super::plan::{CHUNK, CHUNKS, KEYS};
use super::sequences::{Lanes, Place, Sequences, Visible};
use super::{Params, Variant};
use crate::attn::mask::{self, Mask};
use crate::attn::row::{self, Knobs, Row};
use crate::attn::scores::Scores;
use crate::entry;
use crate::forward::plan::WARPGROUP;
use crate::mem::{Element, Operand, Tmem};
use crate::pipe::signal::Beat;
use crate::ptx::math::max3;
use crate::ptx::{float8, ldst, tcgen05, warp};

/// A thread's place, and what stays the same all along.
#[derive(Clone, Copy)]
struct Seat<const TILES: u32, const STAGES: u32> {
    shared: Shared<TILES, STAGES>,
    knobs: Knobs,
    tile: u32,
    /// Thread of the warpgroup, and row of the tile.
    thread: u32,
    /// Warp of the warpgroup.
    warp: u32,
}

/// What a row's scores go through before the softmax.
#[derive(Clone, Copy)]
struct Change<M> {
    scores: M,
    visible: Visible,
}

/// Works through all tiles of the block for query tile `tile`.
///
/// # Safety
/// Called by all threads of the tile's softmax warpgroup, converged; the parameters' addresses are those of device memory as they say.
#[inline(always)]
pub(super) unsafe fn run<V: Variant, const TILES: u32, const STAGES: u32>(
    params: &Params<V>,
    shared: Shared<TILES, STAGES>,
    mut tiles: V::Sequences,
    tile: u32,
) {
    let thread = entry::thread_idx_x() % WARPGROUP;
    let place = Place { tile, row: thread };
    let warp = warp::uniform(thread / 32);
    let mut beat = Beat::<TILES>::new();
    // SAFETY: passed on to the caller.
    unsafe {
        while let Some(work) = tiles.next::<V, TILES, STAGES>(params, &shared, Lanes::All) {
            let (threshold, lift) = (const { V::PLAN.rescale_threshold }, V::Operand::LIFT);
            let knobs = Knobs { scale_log2: V::Sequences::scale_log2::<V>(params, &work), threshold, lift };
            let seat = Seat { shared, knobs, tile, thread, warp };
            let visible = tiles.visible::<V>(params, &work, place);
            let change = Change { scores: V::Scores::of(tiles.modified::<V>(params, &work, place)), visible };
            let mut row = Row::new();
            let mut block = work.to - 1;
            let mut first = true;
            // Down to the last block that every row sees whole, then to the last one that only the left edge cuts, then the rest.
            let mut masked_to = larger(visible.whole.1, work.from);
            loop {
                // The block with the tile's last key too, first of all.
                loop {
                    step::<V, TILES, STAGES, true>(&seat, &mut beat, &mut row, &change, first, block);
                    if !V::Mask::PARTIAL_BLOCKS || block <= masked_to {
                        break;
                    }
                    block -= 1;
                    first = false;
                }
                while block > larger(visible.whole.0, work.from) {
                    block -= 1;
                    step::<V, TILES, STAGES, false>(&seat, &mut beat, &mut row, &change, false, block);
                }
                if !V::Mask::LEFT || block <= work.from {
                    break;
                }
                block -= 1;
                first = false;
                masked_to = work.from;
            }
            let work = tiles.again::<V, TILES, STAGES>(params, &shared, work);
            let (inverse, lse) = tiles.finish::<V>(params, &work, place, &row, &knobs);
            let slot = shared.inverses(tile).split_at(work.rounds).0.acquire();
            ldst::st_shared_f32(slot.tile().offset(thread * 4).cast(), inverse);
            slot.commit_by(block::warp_done());
            tiles.store_lse::<V>(params, &work, place, lse);
            tiles.done(&shared, Lanes::All);
        }
    }
}

/// The larger of two.
#[inline(always)]
fn larger(a: u32, b: u32) -> u32 {
    if a > b { a } else { b }
}

/// One block: scores in, probabilities out, the statistics carried on.
#[inline(always)]
unsafe fn step<V: Variant, const TILES: u32, const STAGES: u32, const MASKED: bool>(
    seat: &Seat<TILES, STAGES>,
    beat: &mut Beat<TILES>,
    row: &mut Row,
    change: &Change<V::Scores>,
    first: bool,
    block: u32,
) {
    let (shared, slot) = (&seat.shared, beat.slot(seat.tile));
    let key = block * KEYS;
    // SAFETY: whole warps, each in its own lanes; the waits and signals are those of the module's table.
    unsafe {
        shared.scores.wait(slot, beat.parity());
        tcgen05::after_thread_sync();
        let from = block::scores::<V>(slot).of_warp(seat.warp);
        let (mut scores, max) = if const { V::PLAN.load_max && !MASKED && !V::Scores::MODIFIED } {
            load_max(from, row.max())
        } else {
            let mut scores = load(from);
            change.scores.apply_row(&mut scores, key);
            let Visible { floor, limit, .. } = change.visible;
            if MASKED && V::Mask::LEFT {
                mask::apply_row_window(&mut scores, floor - key as i32, limit - key as i32);
            } else if MASKED {
                mask::apply_row(&mut scores, limit - key as i32);
            }
            (scores, row::row_max(&scores, row.max()))
        };
        let factor = row.raise(max, &seat.knobs);
        if !first {
            ldst::st_shared_f32(shared.factor(slot, seat.thread), factor);
            // No fence of tcgen05: that O is complete, which this tells the correction too, the commit has ordered before it.
            block::factors_written(slot, seat.warp).arrive();
        }

        let offset = row.offset(&seat.knobs);
        let to = block::probabilities::<V>(slot).of_warp(seat.warp);
        let mut chunk = 0;
        while chunk < CHUNKS {
            let share = const { V::PLAN.exp2 };
            row::exponentiate(&mut scores, chunk as usize, CHUNK as usize, share, seat.knobs.scale_log2, offset);
            store::<V>(to, &scores, chunk);
            chunk += 1;
            if chunk + 1 >= CHUNKS {
                // Before the last chunk, and after it.
                tcgen05::wait_st();
                let signal = if chunk < CHUNKS { shared.ready } else { shared.last };
                if block::warp_done_with_tensor_memory() {
                    signal.arrive(slot);
                }
            }
        }
        row.add(&scores, factor);
    }
    beat.next();
}

/// The thread's row of scores.
#[inline(always)]
unsafe fn load(from: Tmem<f32>) -> [f32; KEYS as usize] {
    // SAFETY: whole warps, each in its own lanes.
    unsafe {
        let mut parts: [[f32; CHUNK as usize]; CHUNKS as usize] =
            core::array::from_fn(|i| tcgen05::ld(from.columns(i as u32 * CHUNK)));
        tcgen05::wait_ld_parts(&mut parts);
        flatten(&parts)
    }
}

/// The thread's row of scores, and the greatest of `seed` and them, by the load itself.
#[inline(always)]
unsafe fn load_max(from: Tmem<f32>, seed: f32) -> ([f32; KEYS as usize], f32) {
    // SAFETY: as in `load`.
    unsafe {
        let loaded: [([f32; CHUNK as usize], f32); CHUNKS as usize] =
            core::array::from_fn(|i| tcgen05::ld_max(from.columns(i as u32 * CHUNK)));
        let mut parts = loaded.map(|(part, _)| part);
        let mut max = loaded.map(|(_, max)| max);
        tcgen05::wait_ld_parts(&mut parts);
        tcgen05::tie(&mut max);
        (flatten(&parts), max3(max3(seed, max[0], max[1]), max[2], max[3]))
    }
}

#[inline(always)]
fn flatten(parts: &[[f32; CHUNK as usize]; CHUNKS as usize]) -> [f32; KEYS as usize] {
    let mut all = [0.0; KEYS as usize];
    let mut i = 0;
    while i < all.len() {
        all[i] = parts[i / CHUNK as usize][i % CHUNK as usize];
        i += 1;
    }
    all
}

/// Rounds one chunk to what is multiplied, two values to a column or four of 8 bits, and stores it in its place.
#[inline(always)]
unsafe fn store<V: Variant>(to: Tmem<u32>, p: &[f32; KEYS as usize], chunk: u32) {
    let to = to.columns(chunk * CHUNK * const { V::PLAN.operand_bytes() } / 4);
    let first = (chunk * CHUNK) as usize;
    // SAFETY: whole warps, each in its own lanes.
    unsafe {
        if const { V::PLAN.operand_bytes() == 1 } {
            tcgen05::st(to, pack_fours(p, first));
        } else {
            tcgen05::st(to, pack_pairs::<V::Element>(p, first));
        }
    }
}

#[inline(always)]
fn pack_pairs<E: Element>(p: &[f32; KEYS as usize], first: usize) -> [u32; CHUNK as usize / 2] {
    let mut words = [0; CHUNK as usize / 2];
    let mut i = 0;
    while i < words.len() {
        let at = first + 2 * i;
        words[i] = E::pack(p[at], p[at + 1]);
        i += 1;
    }
    words
}

#[inline(always)]
fn pack_fours(p: &[f32; KEYS as usize], first: usize) -> [u32; CHUNK as usize / 4] {
    let mut words = [0; CHUNK as usize / 4];
    let mut i = 0;
    while i < words.len() {
        let at = first + 4 * i;
        words[i] = float8::pack_e4m3([p[at], p[at + 1], p[at + 2], p[at + 3]]);
        i += 1;
    }
    words
}
