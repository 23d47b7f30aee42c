//! The multiply warp: one lane issues every multiply of the block; the others come along, so that the warp stays uniform.

use super::Variant;
use super::block::{self, Shared, Walker};
use super::plan::{EARLY_STEPS, KEYS, ROWS};
use crate::forward::plan::panel;
use crate::mem::descriptor::{k_major_step, mn_major_step};
use crate::mem::umma::{Factor, Sum};
use crate::mem::{Descriptor, Instruction, Smem, Swizzle, UmmaDescriptor};
use crate::pipe::ring::{Consumer, Full, Tile};
use crate::pipe::signal::Beat;
use crate::ptx::tcgen05::{self, Issuer};

/// K-steps of 16 keys in P V.
const STEPS: u32 = KEYS / 16;

/// Multiplies through all tiles of the block. `K` and `V_` are the plan's parts of a K and of a V block.
///
/// # Safety
/// Called by all lanes of one warp of the block, converged.
#[inline(always)]
pub(super) unsafe fn run<V: Variant, const TILES: u32, const STAGES: u32, const K: usize, const V_: usize>(
    shared: Shared<TILES, STAGES>,
    mut walker: Walker,
) {
    let mut q = shared.of_both(|shared, tile| shared.q(tile).split().1);
    let mut kv = shared.kv.split().1;
    let mut beat = Beat::new();
    // SAFETY: the warp is converged, and no branch below parts it.
    let by = unsafe { Issuer::elected() };
    while let Some(work) = walker.next::<V>() {
        // SAFETY: passed on to the caller.
        unsafe {
            if const { TILES == 2 } {
                two_tiles::<V, TILES, STAGES, K, V_>(by, &shared, &mut q, &mut kv, &mut beat, work.blocks);
            } else {
                one_tile::<V, TILES, STAGES, K, V_>(by, &shared, &mut q[0], &mut kv, &mut beat, work.blocks);
            }
        }
    }
}

/// A work tile of two query tiles: S of both, then for every block O and the next S of one tile after the other.
#[inline(always)]
unsafe fn two_tiles<V: Variant, const TILES: u32, const STAGES: u32, const K: usize, const V_: usize>(
    by: Issuer,
    shared: &Shared<TILES, STAGES>,
    q: &mut [Consumer<1>; 2],
    kv: &mut Consumer<STAGES>,
    beat: &mut Beat<TILES>,
    blocks: u32,
) {
    // SAFETY: the caller's promise; each multiply follows the waits for what it reads and overwrites.
    unsafe {
        let keys = wait::<STAGES, K>(kv);
        let first = q[0].wait();
        scores::<V, TILES, STAGES, K>(by, shared, 0, &first, &keys);
        let second = q[1].wait();
        scores::<V, TILES, STAGES, K>(by, shared, 1, &second, &keys);
        release(by, keys);

        let mut block = blocks - 1;
        while block > 0 {
            let values = wait::<STAGES, V_>(kv);
            let fresh = block + 1 == blocks;
            output::<V, TILES, STAGES, V_>(by, shared, 0, beat, &values, fresh);
            let keys = wait::<STAGES, K>(kv);
            scores::<V, TILES, STAGES, K>(by, shared, 0, &first, &keys);
            output::<V, TILES, STAGES, V_>(by, shared, 1, beat, &values, fresh);
            release(by, values);
            scores::<V, TILES, STAGES, K>(by, shared, 1, &second, &keys);
            release(by, keys);
            beat.next();
            block -= 1;
        }

        first.release_by_commit(by);
        second.release_by_commit(by);
        let values = wait::<STAGES, V_>(kv);
        output::<V, TILES, STAGES, V_>(by, shared, 0, beat, &values, blocks == 1);
        shared.output.commit(by, 0);
        output::<V, TILES, STAGES, V_>(by, shared, 1, beat, &values, blocks == 1);
        shared.output.commit(by, 1);
        release(by, values);
        beat.next();
    }
}

/// A work tile of one query tile: S of the next block is issued before O of this one, so that its softmax runs under that multiply.
#[inline(always)]
unsafe fn one_tile<V: Variant, const TILES: u32, const STAGES: u32, const K: usize, const V_: usize>(
    by: Issuer,
    shared: &Shared<TILES, STAGES>,
    q: &mut Consumer<1>,
    kv: &mut Consumer<STAGES>,
    beat: &mut Beat<TILES>,
    blocks: u32,
) {
    // SAFETY: as in `two_tiles`.
    unsafe {
        let queries = q.wait();
        part_by_part_scores::<V, TILES, STAGES, K>(by, shared, beat.slot(0), &queries, kv);
        let mut block = blocks - 1;
        while block > 0 {
            // The other slot: its probabilities were multiplied in the last round.
            part_by_part_scores::<V, TILES, STAGES, K>(by, shared, beat.slot(0) ^ 1, &queries, kv);
            part_by_part_output::<V, TILES, STAGES, V_>(by, shared, beat, kv, block + 1 == blocks);
            beat.next();
            block -= 1;
        }
        queries.release_by_commit(by);
        part_by_part_output::<V, TILES, STAGES, V_>(by, shared, beat, kv, blocks == 1);
        beat.next();
    }
}

/// Waits for the `N` stages of a block.
#[inline(always)]
fn wait<const STAGES: u32, const N: usize>(kv: &mut Consumer<STAGES>) -> [Full; N] {
    core::array::from_fn(|_| kv.wait_converged())
}

/// Gives a block's stages back when what has been issued is finished.
#[inline(always)]
fn release<const N: usize>(by: Issuer, stages: [Full; N]) {
    for stage in stages {
        stage.release_by_commit(by);
    }
}

/// S of query tile `tile`, into its slot.
#[inline(always)]
unsafe fn scores<V: Variant, const TILES: u32, const STAGES: u32, const K: usize>(
    by: Issuer,
    shared: &Shared<TILES, STAGES>,
    tile: u32,
    queries: &Full,
    keys: &[Full; K],
) {
    let mut part = 0;
    while part < K {
        // SAFETY: passed on to the caller.
        unsafe { issue_scores::<V, K>(by, tile, queries.tile(), keys[part].tile(), part as u32) };
        part += 1;
    }
    // SAFETY: the softmax waits for one commit a block.
    unsafe { shared.scores.commit(by, tile) }
}

/// S of the one query tile, each part of K as it comes.
#[inline(always)]
unsafe fn part_by_part_scores<V: Variant, const TILES: u32, const STAGES: u32, const K: usize>(
    by: Issuer,
    shared: &Shared<TILES, STAGES>,
    slot: u32,
    queries: &Full,
    kv: &mut Consumer<STAGES>,
) {
    let mut part = 0;
    while part < K {
        let keys = kv.wait_converged();
        // SAFETY: passed on to the caller.
        unsafe { issue_scores::<V, K>(by, slot, queries.tile(), keys.tile(), part as u32) };
        keys.release_by_commit(by);
        part += 1;
    }
    // SAFETY: the softmax waits for one commit a block.
    unsafe { shared.scores.commit(by, slot) }
}

/// O of query tile `tile`; `fresh` when this is its first block.
#[inline(always)]
unsafe fn output<V: Variant, const TILES: u32, const STAGES: u32, const V_: usize>(
    by: Issuer,
    shared: &Shared<TILES, STAGES>,
    tile: u32,
    beat: &Beat<TILES>,
    values: &[Full; V_],
    fresh: bool,
) {
    let slot = beat.slot(tile);
    // SAFETY: passed on to the caller; the waits are those that P and O need.
    unsafe {
        shared.ready.wait(slot, beat.parity());
        tcgen05::after_thread_sync();
        let mut step = 0;
        while step < STEPS {
            if step == EARLY_STEPS {
                shared.last.wait(slot, beat.parity());
                tcgen05::after_thread_sync();
            }
            let values = values[(step / (STEPS / V_ as u32)) as usize].tile();
            issue_output::<V, V_>(by, tile, slot, values, step, step > 0 || !fresh);
            step += 1;
        }
    }
}

/// O of the one query tile, each part of V as it comes, and the signal that it is complete.
#[inline(always)]
unsafe fn part_by_part_output<V: Variant, const TILES: u32, const STAGES: u32, const V_: usize>(
    by: Issuer,
    shared: &Shared<TILES, STAGES>,
    beat: &Beat<TILES>,
    kv: &mut Consumer<STAGES>,
    fresh: bool,
) {
    let slot = beat.slot(0);
    let steps = STEPS / V_ as u32;
    // SAFETY: as in `output`.
    unsafe {
        shared.ready.wait(slot, beat.parity());
        tcgen05::after_thread_sync();
        let mut part = 0;
        while part < V_ as u32 {
            let values = kv.wait_converged();
            let mut step = part * steps;
            while step < (part + 1) * steps {
                if step == EARLY_STEPS {
                    shared.last.wait(slot, beat.parity());
                    tcgen05::after_thread_sync();
                }
                issue_output::<V, V_>(by, 0, slot, values.tile(), step, step > 0 || !fresh);
                step += 1;
            }
            values.release_by_commit(by);
            part += 1;
        }
        shared.output.commit(by, 0);
    }
}

/// Issues the multiplies of S with part `part` of K. Both factors are K-major, in panels.
#[inline(always)]
unsafe fn issue_scores<V: Variant, const K: usize>(
    by: Issuer,
    slot: u32,
    queries: Smem<Tile>,
    keys: Smem<Tile>,
    part: u32,
) {
    let swizzle = const { Swizzle::of_span(panel(V::PLAN.d) * 2) };
    let instruction = const {
        let element = Factor::of::<V::Element>();
        Instruction::new(Sum::F32, element, element, ROWS, KEYS)
    };
    let steps = const { V::PLAN.d / 16 / K as u32 };
    let queries = UmmaDescriptor::of(Descriptor::k_major(swizzle, queries));
    let keys = UmmaDescriptor::of(Descriptor::k_major(swizzle, keys));
    let mut step = 0;
    while step < steps {
        let a = queries.advance(k_major_step(swizzle, ROWS, part * steps + step));
        let b = keys.advance(k_major_step(swizzle, KEYS, step));
        // SAFETY: the caller has waited for both tiles and for the slot.
        unsafe { tcgen05::mma_ss::<1>(by, block::scores::<V>(slot), a, b, instruction, part + step > 0) };
        step += 1;
    }
}

/// Issues k-step `step` of O, with the part of V that holds it. V is as it was loaded, MN-major in panels.
#[inline(always)]
unsafe fn issue_output<V: Variant, const V_: usize>(
    by: Issuer,
    tile: u32,
    slot: u32,
    values: Smem<Tile>,
    step: u32,
    accumulate: bool,
) {
    let swizzle = const { Swizzle::of_span(panel(V::PLAN.dv) * 2) };
    let instruction = const {
        let element = Factor::of::<V::Element>();
        Instruction::new(Sum::F32, element, element, ROWS, V::PLAN.dv).b_mn_major()
    };
    let rows = const { KEYS / V_ as u32 };
    let values = UmmaDescriptor::of(Descriptor::mn_major(swizzle, values, rows * swizzle.span()));
    let b = values.advance(mn_major_step(swizzle, step % (rows / 16)));
    let a = block::probabilities::<V>(slot).columns(8 * step);
    // SAFETY: the caller has waited for P, for O and for V.
    unsafe { tcgen05::mma_ts::<1>(by, block::output::<V>(tile), a, b, instruction, accumulate) }
}
