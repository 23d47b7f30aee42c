//! The multiply warp: one lane issues every multiply of the block; the others come along, so that the warp stays uniform.

use super::block::{self, Shared};
use super::plan::{KEYS, ROWS};
use super::sequences::{Lanes, Sequences};
use super::{Params, Variant};
use crate::mem::descriptor::{k_major_step, mn_major_step};
use crate::mem::umma::{Factor, Sum};
use crate::mem::{Descriptor, Instruction, Smem, Swizzle, Tmem, UmmaDescriptor};
use crate::pipe::ring::{Consumer, Full, Tile};
use crate::pipe::signal::Beat;
use crate::ptx::tcgen05::{self, Issuer};
use crate::ptx::{ldst, special, warp};

/// The lane that issues, and the first column of the block's tensor memory.
#[derive(Clone, Copy)]
struct Issue {
    lane: Issuer,
    tmem: Tmem<()>,
}

impl Issue {
    /// The place of `at`, which counts from column 0.
    #[inline(always)]
    fn place<T>(&self, at: Tmem<T>) -> Tmem<T> {
        self.tmem.columns(at.addr()).cast()
    }
}

/// Multiplies through all tiles of the block. `K_PARTS` and `V_PARTS` are the plan's.
///
/// # Safety
/// Called by all lanes of one warp of the block, converged.
#[inline(always)]
pub(super) unsafe fn run<
    V: Variant,
    const TILES: u32,
    const STAGES: u32,
    const K_PARTS: usize,
    const V_PARTS: usize,
>(
    params: &Params<V>,
    shared: Shared<TILES, STAGES>,
    mut tiles: V::Sequences,
) {
    let mut kv = shared.kv.split().1;
    let mut beat = Beat::new();
    // SAFETY: the warp is converged, and no branch below parts it.
    let lane = unsafe { Issuer::elected() };
    // SAFETY: the slot was written before the roles parted.
    let tmem = Tmem::new(warp::uniform(unsafe { ldst::ld_shared_u32(shared.tmem_slot()) }));
    // Known to be 0, but read: `ptxas` would move a constant from an ordinary register for every multiply.
    let by = Issue { lane, tmem };
    // SAFETY: called by a whole warp.
    while let Some(work) = unsafe { tiles.next::<V, TILES, STAGES>(params, &shared, Lanes::All) } {
        let blocks = work.to - work.from;
        // SAFETY: likewise.
        unsafe { tiles.done(&shared, Lanes::All) };
        // SAFETY: passed on to the caller; this role takes each query tile once a round.
        unsafe {
            let q = [0, 1].map(|tile| shared.q(tile).split_at(work.rounds).1);
            if const { TILES == 2 } {
                two_tiles::<V, TILES, STAGES, K_PARTS, V_PARTS>(by, &shared, q, &mut kv, &mut beat, blocks);
            } else {
                let [first, _] = q;
                one_tile::<V, TILES, STAGES, K_PARTS, V_PARTS>(by, &shared, first, &mut kv, &mut beat, blocks);
            }
        }
    }
}

/// A work tile of two query tiles: S of both, then for every block O and the next S of one tile after the other.
#[inline(always)]
unsafe fn two_tiles<V: Variant, const TILES: u32, const STAGES: u32, const K_PARTS: usize, const V_PARTS: usize>(
    by: Issue,
    shared: &Shared<TILES, STAGES>,
    [mut q0, mut q1]: [Consumer<1>; 2],
    kv: &mut Consumer<STAGES>,
    beat: &mut Beat<TILES>,
    blocks: u32,
) {
    // SAFETY: the caller's promise; each multiply follows the waits for what it reads and overwrites.
    unsafe {
        let mut keys = Held::<K_PARTS>::wait(kv);
        let first = q0.wait();
        scores::<V, TILES, STAGES, K_PARTS>(by, shared, 0, &first, &mut keys);
        let second = q1.wait();
        scores::<V, TILES, STAGES, K_PARTS>(by, shared, 1, &second, &mut keys);
        keys.release(by);

        let mut block = blocks - 1;
        while block > 0 {
            let mut values = Held::<V_PARTS>::wait(kv);
            let fresh = block + 1 == blocks;
            output::<V, TILES, STAGES, V_PARTS>(by, shared, 0, beat, &mut values, fresh);
            let mut keys = Held::<K_PARTS>::wait(kv);
            scores::<V, TILES, STAGES, K_PARTS>(by, shared, 0, &first, &mut keys);
            output::<V, TILES, STAGES, V_PARTS>(by, shared, 1, beat, &mut values, fresh);
            values.release(by);
            scores::<V, TILES, STAGES, K_PARTS>(by, shared, 1, &second, &mut keys);
            keys.release(by);
            beat.next();
            block -= 1;
        }

        first.release_by_commit(by.lane);
        second.release_by_commit(by.lane);
        let mut values = Held::<V_PARTS>::wait(kv);
        output::<V, TILES, STAGES, V_PARTS>(by, shared, 0, beat, &mut values, blocks == 1);
        shared.output.commit(by.lane, 0);
        output::<V, TILES, STAGES, V_PARTS>(by, shared, 1, beat, &mut values, blocks == 1);
        shared.output.commit(by.lane, 1);
        values.release(by);
        beat.next();
    }
}

/// A work tile of one query tile: S of the next block is issued before O of this one, so that its softmax runs under that multiply.
#[inline(always)]
unsafe fn one_tile<V: Variant, const TILES: u32, const STAGES: u32, const K_PARTS: usize, const V_PARTS: usize>(
    by: Issue,
    shared: &Shared<TILES, STAGES>,
    mut q: Consumer<1>,
    kv: &mut Consumer<STAGES>,
    beat: &mut Beat<TILES>,
    blocks: u32,
) {
    // SAFETY: as in `two_tiles`.
    unsafe {
        let queries = q.wait();
        part_by_part_scores::<V, TILES, STAGES, K_PARTS>(by, shared, beat.slot(0), &queries, kv);
        let mut block = blocks - 1;
        while block > 0 {
            // The other slot: its probabilities were multiplied in the last round.
            part_by_part_scores::<V, TILES, STAGES, K_PARTS>(by, shared, beat.slot(0) ^ 1, &queries, kv);
            part_by_part_output::<V, TILES, STAGES, V_PARTS>(by, shared, beat, kv, block + 1 == blocks);
            beat.next();
            block -= 1;
        }
        queries.release_by_commit(by.lane);
        part_by_part_output::<V, TILES, STAGES, V_PARTS>(by, shared, beat, kv, blocks == 1);
        beat.next();
    }
}

/// The stages of a K or V block, waited for and not yet given back.
struct Held<const N: usize>([Option<Full>; N]);

impl<const N: usize> Held<N> {
    /// Waits for all of them.
    #[inline(always)]
    fn wait<const STAGES: u32>(kv: &mut Consumer<STAGES>) -> Self {
        // Not `from_fn`, which goes through memory that the compiler does not resolve.
        let mut stages = [const { None }; N];
        let mut part = 0;
        while part < N {
            stages[part] = Some(kv.wait_converged());
            part += 1;
        }
        Held(stages)
    }

    /// Where part `part` lies.
    #[inline(always)]
    fn tile(&self, part: usize) -> Smem<Tile> {
        match &self.0[part] {
            Some(stage) => stage.tile(),
            None => unreachable!(),
        }
    }

    /// Gives a part's stage back when what has been issued is finished.
    #[inline(always)]
    fn release_part(&mut self, by: Issue, part: usize) {
        if let Some(stage) = self.0[part].take() {
            stage.release_by_commit(by.lane);
        }
    }

    /// Gives back the stages that are left.
    #[inline(always)]
    fn release(mut self, by: Issue) {
        let mut part = 0;
        while part < N {
            self.release_part(by, part);
            part += 1;
        }
    }
}

/// S of query tile `tile`, into its slot. The second tile gives parts of K back on the way, all but the last.
#[inline(always)]
unsafe fn scores<V: Variant, const TILES: u32, const STAGES: u32, const K_PARTS: usize>(
    by: Issue,
    shared: &Shared<TILES, STAGES>,
    tile: u32,
    queries: &Full,
    keys: &mut Held<K_PARTS>,
) {
    let mut part = 0;
    while part < K_PARTS {
        // SAFETY: passed on to the caller.
        unsafe { issue_scores::<V, K_PARTS>(by, tile, queries.tile(), keys.tile(part), part as u32) };
        if tile == 1 && part + 1 < K_PARTS {
            keys.release_part(by, part);
        }
        part += 1;
    }
    // SAFETY: the softmax waits for one commit a block.
    unsafe { shared.scores.commit(by.lane, tile) }
}

/// S of the one query tile, each part of K as it comes.
#[inline(always)]
unsafe fn part_by_part_scores<V: Variant, const TILES: u32, const STAGES: u32, const K_PARTS: usize>(
    by: Issue,
    shared: &Shared<TILES, STAGES>,
    slot: u32,
    queries: &Full,
    kv: &mut Consumer<STAGES>,
) {
    let mut part = 0;
    while part < K_PARTS {
        let keys = kv.wait_converged();
        // SAFETY: passed on to the caller.
        unsafe { issue_scores::<V, K_PARTS>(by, slot, queries.tile(), keys.tile(), part as u32) };
        keys.release_by_commit(by.lane);
        part += 1;
    }
    // SAFETY: the softmax waits for one commit a block.
    unsafe { shared.scores.commit(by.lane, slot) }
}

/// O of query tile `tile`; `fresh` when this is its first block. The second tile gives parts of V back on the way, all but the last.
#[inline(always)]
unsafe fn output<V: Variant, const TILES: u32, const STAGES: u32, const V_PARTS: usize>(
    by: Issue,
    shared: &Shared<TILES, STAGES>,
    tile: u32,
    beat: &Beat<TILES>,
    values: &mut Held<V_PARTS>,
    fresh: bool,
) {
    let slot = beat.slot(tile);
    // SAFETY: passed on to the caller; the waits are those that P and O need.
    unsafe {
        shared.ready.wait(slot, beat.parity());
        tcgen05::after_thread_sync();
        let (all, early) = const { (KEYS / V::PLAN.step_keys(), V::PLAN.early_steps()) };
        let mut step = 0;
        while step < all {
            if step == early {
                shared.last.wait(slot, beat.parity());
                tcgen05::after_thread_sync();
            }
            let part = (step / (all / V_PARTS as u32)) as usize;
            issue_output::<V, V_PARTS>(by, tile, slot, values.tile(part), step, step > 0 || !fresh);
            step += 1;
            if tile == 1 && part + 1 < V_PARTS && step % (all / V_PARTS as u32) == 0 {
                values.release_part(by, part);
            }
        }
    }
}

/// O of the one query tile, each part of V as it comes, and the signal that it is complete.
#[inline(always)]
unsafe fn part_by_part_output<V: Variant, const TILES: u32, const STAGES: u32, const V_PARTS: usize>(
    by: Issue,
    shared: &Shared<TILES, STAGES>,
    beat: &Beat<TILES>,
    kv: &mut Consumer<STAGES>,
    fresh: bool,
) {
    let slot = beat.slot(0);
    let (steps, early) = const { (KEYS / V::PLAN.step_keys() / V_PARTS as u32, V::PLAN.early_steps()) };
    // SAFETY: as in `output`.
    unsafe {
        shared.ready.wait(slot, beat.parity());
        tcgen05::after_thread_sync();
        let mut part = 0;
        while part < V_PARTS as u32 {
            let values = kv.wait_converged();
            let mut step = part * steps;
            while step < (part + 1) * steps {
                if step == early {
                    shared.last.wait(slot, beat.parity());
                    tcgen05::after_thread_sync();
                }
                issue_output::<V, V_PARTS>(by, 0, slot, values.tile(), step, step > 0 || !fresh);
                step += 1;
            }
            values.release_by_commit(by.lane);
            part += 1;
        }
        shared.output.commit(by.lane, 0);
    }
}

/// Issues the multiplies of S with part `part` of K. Both factors are K-major, in panels.
#[inline(always)]
unsafe fn issue_scores<V: Variant, const K_PARTS: usize>(
    by: Issue,
    slot: u32,
    queries: Smem<Tile>,
    keys: Smem<Tile>,
    part: u32,
) {
    let swizzle = const { Swizzle::of_span(V::PLAN.span(V::PLAN.d)) };
    let instruction = const {
        let element = Factor::of::<V::Operand>();
        Instruction::new(Sum::F32, element, element, ROWS, KEYS)
    };
    let steps = const { V::PLAN.d * V::PLAN.operand_bytes() / 32 / K_PARTS as u32 };
    // A register for each k-step's descriptor of Q, kept all along, saves no instruction, and of a wide head there are too many.
    let wide = const { V::PLAN.d * V::PLAN.operand_bytes() > 256 };
    let queries = if wide { Smem::new(special::fresh(queries.addr())) } else { queries };
    let queries = UmmaDescriptor::of(Descriptor::k_major(swizzle, queries));
    let keys = UmmaDescriptor::of(Descriptor::k_major(swizzle, keys));
    let mut step = 0;
    while step < steps {
        let a = queries.advance(k_major_step(swizzle, ROWS, part * steps + step));
        let b = keys.advance(k_major_step(swizzle, KEYS, step));
        let to = by.place(block::scores::<V>(slot));
        // SAFETY: the caller has waited for both tiles and for the slot.
        unsafe { tcgen05::mma_ss::<1, V::Operand>(by.lane, to, a, b, instruction, part + step > 0) };
        step += 1;
    }
}

/// Issues k-step `step` of O, with the part of V that holds it. V is as it was loaded, MN-major in panels.
#[inline(always)]
unsafe fn issue_output<V: Variant, const V_PARTS: usize>(
    by: Issue,
    tile: u32,
    slot: u32,
    values: Smem<Tile>,
    step: u32,
    accumulate: bool,
) {
    let swizzle = const { Swizzle::of_span(V::PLAN.span(V::PLAN.dv)) };
    let instruction = const {
        let element = Factor::of::<V::Operand>();
        Instruction::new(Sum::F32, element, element, ROWS, V::PLAN.dv).b_mn_major()
    };
    let rows = const { KEYS / V_PARTS as u32 };
    let values = UmmaDescriptor::of(Descriptor::mn_major(swizzle, values, rows * swizzle.span()));
    let keys = const { V::PLAN.step_keys() };
    let b = values.advance(mn_major_step(swizzle, step % (rows / keys) * (keys / 16)));
    let a = by.place(block::probabilities::<V>(slot)).columns(8 * step);
    let to = by.place(block::output::<V>(tile));
    // SAFETY: the caller has waited for P, for O and for V.
    unsafe { tcgen05::mma_ts::<1, V::Operand>(by.lane, to, a, b, instruction, accumulate) }
}
