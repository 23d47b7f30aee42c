//! The block's sixteen hardware barriers. [`NamedBarrier`](crate::pipe::named::NamedBarrier) gives them names and counts.

use crate::ptx;

/// `bar.sync`: waits until `threads` threads of the block have arrived at barrier `id`, this warp's included.
///
/// Orders shared and global memory accesses of the participants before it with those after it. Reusable at once. sm_70.
///
/// # Safety
/// `id` is 0 to 15; `threads` a multiple of 32, the same for every participant; all lanes of the warp call it together.
#[inline(always)]
pub unsafe fn sync(id: u32, threads: u32) {
    ptx!("bar.sync {id}, {n};", id = in(reg32) id, n = in(reg32) threads, options(nostack));
}

/// `bar.arrive`: counts this warp at barrier `id` without waiting; its earlier accesses are ordered before the others' `sync`. sm_70.
///
/// # Safety
/// As [`sync`]; the warp does not arrive again before the barrier has completed.
#[inline(always)]
pub unsafe fn arrive(id: u32, threads: u32) {
    ptx!("bar.arrive {id}, {n};", id = in(reg32) id, n = in(reg32) threads, options(nostack));
}

/// `bar.sync 0`: waits for every thread of the block.
///
/// # Safety
/// Every thread of the block calls it, each warp's lanes together, and barrier 0 is used for nothing else.
#[inline(always)]
pub unsafe fn sync_all() {
    ptx!("bar.sync 0;", options(nostack));
}
