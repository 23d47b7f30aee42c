//! What the roles of a block share: the memory and the barriers between them.

use super::Variant;
use super::plan::signals::FACTORS;
use super::plan::{Plan, ROWS, SLOTS, UNIT_BYTES, UNIT_SLOTS};
use crate::mem::{Smem, Tmem};
use crate::pipe::named::NamedBarrier;
use crate::pipe::ring::Ring;
use crate::pipe::signal::Signals;
use crate::ptx::{tcgen05, warp};

/// Everything in shared memory that one role hands to another.
#[derive(Clone, Copy)]
pub struct Shared<const TILES: u32, const STAGES: u32> {
    smem: Smem<()>,
    plan: Plan,
    /// K and V parts.
    pub(super) kv: Ring<STAGES>,
    /// Their 8-bit parts, which are to be widened, where there are any.
    pub(super) raw: Ring<STAGES>,
    /// By slot, the tensor core to the softmax: the scores are complete.
    pub(super) scores: Signals<SLOTS>,
    /// By slot, the softmax and the correction to the tensor core: all but the last probabilities are stored, O is rescaled.
    pub(super) ready: Signals<SLOTS>,
    /// By slot, the softmax to the tensor core: the last probabilities are stored.
    pub(super) last: Signals<SLOTS>,
    /// By tile, the tensor core to the correction: O is complete.
    pub(super) output: Signals<TILES>,
}

impl<const TILES: u32, const STAGES: u32> Shared<TILES, STAGES> {
    #[inline(always)]
    pub(super) fn new<V: Variant>(smem: Smem<()>) -> Self {
        let (plan, map, bars) = const { (V::PLAN, V::PLAN.smem(), V::PLAN.barriers()) };
        let first = smem.offset(map.barriers);
        // SAFETY: the plan's map gives each barrier memory of its own, and `forward` initialises before the roles part.
        unsafe {
            Shared {
                smem,
                plan,
                kv: Ring::new(smem.offset(map.kv).cast(), plan.stage_bytes(), first.offset(bars.kv).cast()),
                raw: Ring::new(smem.offset(map.raw).cast(), plan.raw_bytes(), first.offset(bars.raw).cast()),
                scores: Signals::new(first.offset(bars.scores).cast()),
                ready: Signals::new(first.offset(bars.ready).cast()),
                last: Signals::new(first.offset(bars.last).cast()),
                output: Signals::new(first.offset(bars.output).cast()),
            }
        }
    }

    /// A ring of one stage for each tile, used once a work tile: `at` and `bytes` are the first tile's memory, `bars` its barriers.
    #[inline(always)]
    fn of_tile(&self, at: u32, bytes: u32, bars: u32, tile: u32) -> Ring<1> {
        let barriers = self.smem.offset(self.plan.smem().barriers + bars + tile * Ring::<1>::BARRIER_BYTES);
        // SAFETY: as in `new`.
        unsafe { Ring::new(self.smem.offset(at + tile * bytes).cast(), bytes, barriers.cast()) }
    }

    /// Q of tile `tile`, the load warp to the tensor core.
    #[inline(always)]
    pub(super) fn q(&self, tile: u32) -> Ring<1> {
        self.of_tile(self.plan.smem().q, self.plan.q_bytes(), self.plan.barriers().q, tile)
    }

    /// O of tile `tile`, the correction to the store warp.
    #[inline(always)]
    pub(super) fn o(&self, tile: u32) -> Ring<1> {
        let bytes = if self.plan.o_in_q() { self.plan.q_bytes() } else { self.plan.o_bytes() };
        self.of_tile(self.plan.smem().o, bytes, self.plan.barriers().o, tile)
    }

    /// What tile `tile`'s rows of O are multiplied with at the end, the softmax to the correction.
    #[inline(always)]
    pub(super) fn inverses(&self, tile: u32) -> Ring<1> {
        self.of_tile(self.plan.smem().inverses, ROWS * 4, self.plan.barriers().inverses, tile)
    }

    /// The slot in which the load warp tells the others unit `round` of the block, and its use of it: of ragged sequences.
    #[inline(always)]
    pub(super) fn unit(&self, round: u32) -> (Ring<1>, u32) {
        (self.unit_ring(round % UNIT_SLOTS), round / UNIT_SLOTS)
    }

    /// That slot's memory.
    #[inline(always)]
    pub(super) fn unit_slot(&self, round: u32) -> Smem<u32> {
        self.smem.offset(self.plan.smem().units + round % UNIT_SLOTS * UNIT_BYTES).cast()
    }

    #[inline(always)]
    fn unit_ring(&self, slot: u32) -> Ring<1> {
        self.of_tile(self.plan.smem().units, UNIT_BYTES, self.plan.barriers().units, slot)
    }

    /// Q's memory, all tiles.
    #[inline(always)]
    pub(super) fn q_memory(&self) -> Smem<()> {
        self.smem.offset(self.plan.smem().q)
    }

    /// The factor of row `row` in slot `slot`.
    #[inline(always)]
    pub(super) fn factor(&self, slot: u32, row: u32) -> Smem<f32> {
        self.smem.offset(self.plan.smem().factors + slot * (ROWS * 4) + row * 4).cast()
    }

    /// Where the allocation of tensor memory is reported.
    #[inline(always)]
    pub(super) fn tmem_slot(&self) -> Smem<u32> {
        self.smem.offset(self.plan.smem().tmem).cast()
    }

    /// # Safety
    /// Called by one thread, before any other touches the barriers.
    #[inline(always)]
    pub(super) unsafe fn init<V: Variant>(&self) {
        let arrivals = const { V::PLAN.arrivals() };
        // SAFETY: passed on to the caller.
        unsafe {
            let mut tile = 0;
            while tile < TILES {
                self.q(tile).init(arrivals.q.0, arrivals.q.1);
                self.o(tile).init(arrivals.o.0, arrivals.o.1);
                self.inverses(tile).init(arrivals.inverses.0, arrivals.inverses.1);
                tile += 1;
            }
            let mut slot = 0;
            while slot < const { V::PLAN.unit_slots() } {
                self.unit_ring(slot).init(arrivals.units.0, arrivals.units.1);
                slot += 1;
            }
            self.kv.init(arrivals.kv.0, arrivals.kv.1);
            if const { V::PLAN.converts() } {
                self.raw.init(arrivals.raw.0, arrivals.raw.1);
            }
            self.scores.init(arrivals.scores);
            self.ready.init(arrivals.ready);
            self.last.init(arrivals.last);
            self.output.init(arrivals.output);
        }
    }
}

/// Scores of `slot`. All of tensor memory is the block's, so that its address is 0 and every column a constant.
#[inline(always)]
pub(super) fn scores<V: Variant>(slot: u32) -> Tmem<f32> {
    let [first, second] = const { V::PLAN.tmem().scores };
    Tmem::new(first + slot * (second - first))
}

/// Packed probabilities of `slot`.
#[inline(always)]
pub(super) fn probabilities<V: Variant>(slot: u32) -> Tmem<u32> {
    let [first, second] = const { V::PLAN.tmem().probabilities };
    Tmem::new(first + slot * (second - first))
}

/// O of tile `tile`.
#[inline(always)]
pub(super) fn output<V: Variant>(tile: u32) -> Tmem<f32> {
    let (first, width) = const { (V::PLAN.tmem().output, V::PLAN.dv) };
    Tmem::new(first + tile * width)
}

/// The barrier of slot `slot` and warp `warp` of its warpgroup.
#[inline(always)]
pub(super) fn factors_written(slot: u32, warp: u32) -> NamedBarrier {
    FACTORS.of(slot * 4 + warp)
}

/// The warp's lanes are done with shared memory: all their earlier accesses come before what one lane then signals. True in that lane.
///
/// # Safety
/// All lanes of the warp call it together.
#[inline(always)]
pub(super) unsafe fn warp_done() -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        warp::sync();
        warp::elect()
    }
}

/// [`warp_done`] with tensor memory too.
///
/// # Safety
/// As [`warp_done`], after waiting for the loads and stores of tensor memory.
#[inline(always)]
pub(super) unsafe fn warp_done_with_tensor_memory() -> bool {
    tcgen05::before_thread_sync();
    // SAFETY: the caller's promise.
    unsafe { warp_done() }
}
