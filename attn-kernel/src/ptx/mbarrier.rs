//! Mbarriers: 64-bit objects in shared memory that count arrivals and bytes, and flip phase when both are complete.
//!
//! A phase completes when no arrival is pending and the transaction count is zero; the barrier then rearms itself. A wait
//! names the parity of the phase it waits for. A fresh barrier is in phase 0, so a wait for parity 0 blocks until the first
//! completion and a wait for parity 1 passes at once. [`Ring`](crate::pipe::ring::Ring) keeps these parities.

use crate::mem::Smem;
use crate::ptx;

/// What lies at a [`Smem<Mbarrier>`]: 8 bytes, 8-byte aligned, opaque.
pub enum Mbarrier {}

/// Bytes of a barrier.
pub const BYTES: u32 = 8;

/// `mbarrier.init`: a fresh barrier whose every phase takes `arrivals` arrivals (1 to 2^20 - 1). sm_80.
///
/// Followed by [`fence::mbarrier_init`](super::fence::mbarrier_init) and a block or cluster barrier before anyone else uses it.
///
/// # Safety
/// One thread calls it, on 8 aligned bytes of shared memory that hold no live barrier.
#[inline(always)]
pub unsafe fn init(bar: Smem<Mbarrier>, arrivals: u32) {
    ptx!("mbarrier.init.shared::cta.b64 [{bar}], {n};", bar = in(reg32) bar.addr(), n = in(reg32) arrivals, options(nostack));
}

/// `mbarrier.inval`: ends the barrier's life, so that its memory may be used for something else. sm_80.
///
/// # Safety
/// `bar` is initialised and nobody uses it at the same time or later.
#[inline(always)]
pub unsafe fn inval(bar: Smem<Mbarrier>) {
    ptx!("mbarrier.inval.shared::cta.b64 [{bar}];", bar = in(reg32) bar.addr(), options(nostack));
}

/// `mbarrier.arrive` (release, block scope): one arrival. Earlier accesses of this thread are visible to whoever waits. sm_80.
///
/// # Safety
/// `bar` is an initialised mbarrier of this block with an arrival pending in the current phase.
#[inline(always)]
pub unsafe fn arrive(bar: Smem<Mbarrier>) {
    ptx!("mbarrier.arrive.shared::cta.b64 _, [{bar}];", bar = in(reg32) bar.addr(), options(nostack));
}

/// `mbarrier.arrive` with a count: `count` arrivals at once. sm_90.
///
/// # Safety
/// As [`arrive`], with `count` arrivals pending.
#[inline(always)]
pub unsafe fn arrive_count(bar: Smem<Mbarrier>, count: u32) {
    ptx!("mbarrier.arrive.shared::cta.b64 _, [{bar}], {n};", bar = in(reg32) bar.addr(), n = in(reg32) count, options(nostack));
}

/// `mbarrier.arrive.expect_tx`: the phase also waits for `bytes` of asynchronous copies, then one arrival. sm_90.
///
/// Called by the thread that issues the copies, before or after them: while its arrival is pending the phase cannot complete.
///
/// # Safety
/// As [`arrive`]; copies that complete exactly `bytes` on `bar` are issued in this phase, in all less than 2^20.
#[inline(always)]
pub unsafe fn arrive_expect_tx(bar: Smem<Mbarrier>, bytes: u32) {
    ptx!(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [{bar}], {n};",
        bar = in(reg32) bar.addr(), n = in(reg32) bytes, options(nostack)
    );
}

/// `mbarrier.expect_tx`: the phase also waits for `bytes` of asynchronous copies; no arrival. sm_90.
///
/// # Safety
/// As [`arrive_expect_tx`].
#[inline(always)]
pub unsafe fn expect_tx(bar: Smem<Mbarrier>, bytes: u32) {
    ptx!(
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [{bar}], {n};",
        bar = in(reg32) bar.addr(), n = in(reg32) bytes, options(nostack)
    );
}

/// `mbarrier.arrive.shared::cluster`: one arrival at a barrier of another block of the cluster. sm_90.
///
/// `bar` comes from [`cluster::map`](super::cluster::map). The default semantics cost one instruction; an explicit
/// `.release.cluster` would cost a GPU-wide memory barrier.
///
/// # Safety
/// As [`arrive`], and the block that owns `bar` has not exited.
#[inline(always)]
pub unsafe fn arrive_cluster(bar: Smem<Mbarrier>) {
    ptx!("mbarrier.arrive.shared::cluster.b64 _, [{bar}];", bar = in(reg32) bar.addr(), options(nostack));
}

/// `mbarrier.try_wait.parity` (acquire, block scope): whether the phase of that parity has completed. sm_90.
///
/// May suspend the thread for a while and still return false. After true, what was released by the phase's arrivals and
/// what its asynchronous copies wrote is visible.
///
/// # Safety
/// `bar` is an initialised mbarrier of this block, and the caller is at most one phase behind it.
#[inline(always)]
pub unsafe fn try_wait_parity(bar: Smem<Mbarrier>, parity: u32) -> bool {
    let done: u32;
    ptx!(
        "{{",
        ".reg .pred p;",
        "mbarrier.try_wait.parity.shared::cta.b64 p, [{bar}], {parity};",
        "selp.b32 {done}, 1, 0, p;",
        "}}",
        bar = in(reg32) bar.addr(), parity = in(reg32) parity, done = lateout(reg32) done, options(nostack)
    );
    done != 0
}

/// Waits until the phase of that parity has completed: [`try_wait_parity`] until it says so.
///
/// # Safety
/// As [`try_wait_parity`]; the phase's arrivals do not depend on this thread.
#[inline(always)]
pub unsafe fn wait_parity(bar: Smem<Mbarrier>, parity: u32) {
    // SAFETY: the caller's promise, word for word.
    while !unsafe { try_wait_parity(bar, parity) } {}
}
