//! A ring between a producer warp and two consumer warps.

use super::Probe;
use crate::entry::{dynamic_shared, thread_idx_x};
use crate::kernel;
use crate::mem::Smem;
use crate::pipe::Ring;
use crate::ptx::{barrier, fence, ldst, mbarrier, special, warp};

/// [`probe_ring`].
pub const PROBE: Probe = Probe::new("probe_ring", 96, BARRIERS + Ring::<STAGES>::BARRIER_BYTES + mbarrier::BYTES);

const STAGES: u32 = 3;
const TILE_BYTES: u32 = 128;
const BARRIERS: u32 = STAGES * TILE_BYTES;

/// What consumer thread `thread` (32 to 95) writes: the sum over rounds of the word that its lane finds.
pub fn expected(thread: u32, rounds: u32) -> u32 {
    (0..rounds).fold(0, |sum: u32, i| sum.wrapping_add(word(i, thread % 32)))
}

/// Word `lane` of round `i`'s tile.
#[inline(always)]
const fn word(i: u32, lane: u32) -> u32 {
    i * 1000 + lane
}

kernel! {
    threads = PROBE.threads, registers = 64, shared = PROBE.shared;
    /// Warp 0 fills `rounds` tiles of 32 words; warps 1 and 2 add them up: `out[thread - 32] = expected(thread, rounds)`.
    ///
    /// A stage is full after 32 arrivals and empty after two: one elected lane of each consumer warp.
    pub unsafe fn probe_ring(out: *mut u32, rounds: u32) {
        let (lane, base) = (special::lane_id(), dynamic_shared());
        // SAFETY: the memory is the ring's own; thread 0 initialises it before the block's barrier.
        let ring: Ring<STAGES> = unsafe { Ring::new(Smem::new(base), TILE_BYTES, Smem::new(base + BARRIERS)) };
        let spare = Smem::new(base + BARRIERS + Ring::<STAGES>::BARRIER_BYTES);
        // SAFETY: one thread initialises; the spare barrier is used by this thread alone and ends before anything else.
        unsafe {
            if thread_idx_x() == 0 {
                ring.init(32, 2);
                mbarrier::init(spare, 3);
                mbarrier::arrive(spare);
                mbarrier::arrive_count(spare, 2);
                mbarrier::wait_parity(spare, 0);
                mbarrier::inval(spare);
                fence::mbarrier_init();
            }
            barrier::sync_all();
        }
        let (mut fill, mut read) = ring.split();
        let mut i = 0;
        if special::warp_id() == 0 {
            while i < rounds {
                let slot = fill.acquire();
                // SAFETY: the stage is this warp's until it commits; each lane writes its own word.
                unsafe { ldst::st_shared_u32(slot.tile().offset(4 * lane).cast(), word(i, lane)) };
                slot.commit();
                i += 1;
            }
            fill.drain();
        } else {
            let mut sum = 0u32;
            while i < rounds {
                let slot = read.wait();
                // SAFETY: the stage is full, and nobody writes it until both warps have released it.
                sum = sum.wrapping_add(unsafe { ldst::ld_shared_u32(slot.tile().offset(4 * lane).cast()) });
                // SAFETY: the warp's lanes run this loop together.
                let arrives = unsafe {
                    warp::sync();
                    warp::elect()
                };
                slot.release_by(arrives);
                i += 1;
            }
            // SAFETY: `out` has a word for each of the 64 consumer threads.
            unsafe { ldst::st_global_u32(out.add(thread_idx_x() as usize - 32), sum) };
        }
    }
}
