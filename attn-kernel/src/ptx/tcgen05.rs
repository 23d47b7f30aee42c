//! Blackwell's matrix unit and its tensor memory. sm_100a, sm_103a.
//!
//! One thread issues multiplies, copies and commits ([`Issuer`]); a warp together allocates, loads and stores. `G`, where it appears, is the
//! number of blocks that work together: 1, or 2 for a pair of neighbours in a cluster, of which the even one issues. A kernel uses one
//! value throughout.
//!
//! # What orders what
//!
//! Multiplies of one thread into one accumulator run in order, and after its earlier copies. Everything else is asynchronous:
//!
//! | then | what lies between |
//! |---|---|
//! | multiply, load of its D | [`commit`] to an mbarrier; wait there, [`after_thread_sync`] |
//! | load, multiply into the same columns | [`wait_ld_with`], [`before_thread_sync`], arrive; wait, [`after_thread_sync`] |
//! | store of A (P), multiply by it | [`wait_st`], [`before_thread_sync`], arrive; wait, [`after_thread_sync`] |
//! | multiply, new contents of its shared memory | [`commit`] to an mbarrier; wait there |
//! | ordinary stores to shared memory, multiply | [`fence::proxy_async_shared_cta`](super::fence::proxy_async_shared_cta), arrive; wait |

mod alloc;
mod ldst;
mod mma;
mod sync;

pub use alloc::{alloc, dealloc, relinquish_alloc_permit};
pub use ldst::{ld, ld_16x256b, ld_max, ld_min, ld_u32, st, st_16x256b, st_f32};
pub use mma::{cp_128x256b, mma_ss, mma_ts};
pub use sync::{
    after_thread_sync, before_thread_sync, commit, commit_multicast, tie, wait_ld, wait_ld_parts, wait_ld_with,
    wait_ld_with_u32, wait_st,
};

/// Fails to compile unless one block works alone or two as a pair.
const fn check_group(g: u32) {
    assert!(g == 1 || g == 2, "a cta_group is 1 block, or 2 of a cluster");
}

/// Which thread issues: this one, or the elected one of a warp whose lanes all come by.
///
/// A warp that stays together keeps loop counters, addresses and descriptors in uniform registers, where the instructions want them; in
/// code that one thread alone runs, `ptxas` moves each of them there from an ordinary register.
#[derive(Clone, Copy, Debug)]
pub struct Issuer(u32);

impl Issuer {
    /// The calling thread, alone.
    pub const THIS_THREAD: Issuer = Issuer(1);

    /// One lane of the calling warp. The others execute the same calls and issue nothing.
    ///
    /// # Safety
    /// All lanes of the warp call it together, and stay together.
    #[inline(always)]
    pub unsafe fn elected() -> Self {
        // SAFETY: the caller's promise.
        Issuer(unsafe { super::warp::elect() } as u32)
    }

    /// Whether this thread issues, as a predicate's source.
    #[inline(always)]
    const fn bit(self) -> u32 {
        self.0
    }
}
