//! What the roles of a block share: the rings between them, the named barriers, and a consumer thread's place.

use super::Variant;
use crate::attn::softmax::Quad;
use crate::entry;
use crate::forward::plan::{Plan, ROWS, WARPGROUP};
use crate::mem::Smem;
use crate::pipe::named::NamedBarrier;
use crate::pipe::ring::{self, Ring};
use crate::ptx::{math, special, warp};

/// Barrier-guarded buffers: Q, K and V, and 8-bit tiles on their way to those of K and V, where there are any.
#[derive(Clone, Copy)]
pub struct Rings<const STAGES: u32, const QUERIES: u32, const RAW: u32> {
    pub(super) q: Ring<QUERIES>,
    pub(super) k: Ring<STAGES>,
    pub(super) v: Ring<STAGES>,
    pub(super) raw: Ring<RAW>,
}

impl<const STAGES: u32, const QUERIES: u32, const RAW: u32> Rings<STAGES, QUERIES, RAW> {
    #[inline(always)]
    pub(super) fn new<V: Variant>(smem: Smem<()>) -> Self {
        let (plan, map) = const { (V::PLAN, V::PLAN.smem()) };
        let q = smem.offset(map.barriers);
        let k = q.offset(Ring::<QUERIES>::BARRIER_BYTES);
        let v = k.offset(Ring::<STAGES>::BARRIER_BYTES);
        let raw = v.offset(Ring::<STAGES>::BARRIER_BYTES);
        // SAFETY: the plan's map gives each ring memory of its own, and `forward` initialises before the roles part.
        unsafe {
            Rings {
                q: Ring::new(smem.offset(map.q).cast(), plan.q_bytes(), q.cast()),
                k: Ring::new(smem.offset(map.k).cast(), plan.k_bytes(), k.cast()),
                v: Ring::new(smem.offset(map.v).cast(), plan.v_bytes(), v.cast()),
                raw: Ring::new(smem.offset(map.raw).cast(), plan.raw_bytes(), raw.cast()),
            }
        }
    }

    /// # Safety
    /// Called by one thread, before any other touches the barriers.
    #[inline(always)]
    pub(super) unsafe fn init<V: Variant>(&self) {
        let arrivals = const { V::PLAN.arrivals() };
        // SAFETY: passed on to the caller.
        unsafe {
            self.q.init(arrivals.q.0, arrivals.q.1);
            self.k.init(arrivals.k.0, arrivals.k.1);
            self.v.init(arrivals.v.0, arrivals.v.1);
            if const { V::PLAN.raw > 0 } {
                self.raw.init(arrivals.raw.0, arrivals.raw.1);
            }
        }
    }
}

/// Named barriers of the ping-pong: the turn of each consumer warpgroup, met by it and by the one that passes the turn on.
pub(super) const TURN: NamedBarrier = NamedBarrier::new(1, 2 * WARPGROUP);
/// Named barriers inside each consumer warpgroup.
pub(super) const INSIDE: NamedBarrier = NamedBarrier::new(4, WARPGROUP);

/// What one of two warpgroups that split the keys has found lies in shared memory.
pub(super) const HANDED: NamedBarrier = NamedBarrier::new(8, 2 * WARPGROUP);
/// The other one has read it.
pub(super) const TAKEN: NamedBarrier = NamedBarrier::new(9, 2 * WARPGROUP);

/// The mbarriers are initialised: met by all threads of a block, of which the loading warp's, and idle ones, only arrive.
pub(super) const fn ready(plan: &Plan) -> NamedBarrier {
    NamedBarrier::new(7, plan.threads())
}

/// A thread's place among the consumers.
#[derive(Clone, Copy)]
pub struct Seat {
    /// Consumer warpgroup, from 0.
    pub(super) group: u32,
    /// First row of the warpgroup within the tile.
    pub(super) rows: u32,
    /// Which of the key blocks are its own, where warpgroups split them.
    pub(super) part: u32,
    /// Thread of the warpgroup.
    pub(super) thread: u32,
}

impl Seat {
    /// The calling thread's place in consumer warpgroup `group`.
    #[inline(always)]
    pub(super) fn of<V: Variant>(group: u32) -> Self {
        let split = const { V::PLAN.split };
        Seat { group, rows: group / split * ROWS, part: group % split, thread: entry::thread_idx_x() % WARPGROUP }
    }

    /// The same place, from which nothing is known before: what is computed from it is computed after ([`special::fresh`]).
    #[inline(always)]
    pub(super) fn fresh(self) -> Self {
        Seat { thread: special::fresh(self.thread), ..self }
    }

    /// First of the thread's two rows within the warpgroup's 64; the other one is 8 further.
    #[inline(always)]
    pub(super) fn row(self) -> u32 {
        self.thread / 32 * 16 + self.thread % 32 / 4
    }

    /// The thread's first column within every 8 of a fragment.
    #[inline(always)]
    pub(super) fn column(self) -> u32 {
        self.thread % 4 * 2
    }

    /// Gives a stage back: one arrival a warp.
    #[inline(always)]
    pub(super) fn release(self, stage: ring::Full) {
        stage.release_by(self.thread.is_multiple_of(32));
    }

    /// Waits until the tensor cores are this warpgroup's.
    #[inline(always)]
    pub(super) fn take_turn<V: Variant>(self) {
        if const { V::PLAN.ping_pong && V::PLAN.consumers() > 1 } {
            // SAFETY: all threads of this warpgroup wait here, and the warpgroup before it arrives once for each wait.
            unsafe { TURN.of(self.group).sync() }
        }
    }

    /// Hands the tensor cores to the next warpgroup.
    #[inline(always)]
    pub(super) fn pass_turn<V: Variant>(self) {
        if const { V::PLAN.ping_pong && V::PLAN.consumers() > 1 } {
            let next = self.group + 1;
            let next = if next == const { V::PLAN.consumers() } { 0 } else { next };
            // SAFETY: as in `take_turn`.
            unsafe { TURN.of(next).arrive() }
        }
    }

    /// All threads of this warpgroup meet.
    #[inline(always)]
    pub(super) fn sync(self) {
        // SAFETY: called on paths that the whole warpgroup takes.
        unsafe { INSIDE.of(self.group).sync() }
    }
}

/// The four threads of a warp that share a fragment's rows.
pub(super) struct WarpQuad;

impl Quad for WarpQuad {
    #[inline(always)]
    fn max(x: f32) -> f32 {
        let x = math::max(x, warp::shfl_xor_f32(x, 1));
        math::max(x, warp::shfl_xor_f32(x, 2))
    }

    #[inline(always)]
    fn sum(x: f32) -> f32 {
        let x = x + warp::shfl_xor_f32(x, 1);
        x + warp::shfl_xor_f32(x, 2)
    }

    #[inline(always)]
    fn any(x: bool) -> bool {
        let x = x as u32;
        let x = x | warp::shfl_xor(x, 1);
        x | warp::shfl_xor(x, 2) != 0
    }
}
