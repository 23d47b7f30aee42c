//! What finishes and orders tensor-memory operations.

use super::ldst::powers;
use super::{Issuer, check_group};
use crate::mem::Smem;
use crate::ptx;
use crate::ptx::mbarrier::Mbarrier;

/// `tcgen05.commit`: one arrival at `bar` when every multiply and copy that this thread issued has finished.
///
/// Implies [`before_thread_sync`]. The waiter calls [`after_thread_sync`] before it touches the columns. sm_100a.
///
/// # Safety
/// The thread that issued them; `bar` is an initialised mbarrier of this block with an arrival pending.
#[inline(always)]
pub unsafe fn commit<const G: u32>(by: Issuer, bar: Smem<Mbarrier>) {
    const { check_group(G) };
    ptx!(
        "{{ .reg .pred q; setp.ne.b32 q, {by}, 0; ",
        "@q tcgen05.commit.cta_group::{g}.mbarrier::arrive::one.shared::cluster.b64 [{bar}]; }}",
        g = const G, bar = in(reg32) bar.addr(), by = in(reg32) by.bit(), options(nostack)
    );
}

/// [`commit`] that arrives at the same offset in every block of the cluster whose bit of `blocks` is set. sm_100a.
///
/// # Safety
/// As [`commit`], for the barrier of each of those blocks, none of which has exited.
#[inline(always)]
pub unsafe fn commit_multicast<const G: u32>(by: Issuer, bar: Smem<Mbarrier>, blocks: u16) {
    const { check_group(G) };
    ptx!(
        "{{ .reg .pred q; setp.ne.b32 q, {by}, 0; ",
        "@q tcgen05.commit.cta_group::{g}.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [{bar}], {mask}; }}",
        g = const G, bar = in(reg32) bar.addr(), mask = in(reg16) blocks, by = in(reg32) by.bit(), options(nostack)
    );
}

/// `tcgen05.fence::before_thread_sync`: this thread's finished tensor-memory accesses come before the barrier or arrival that follows.
///
/// Called by every thread that waited for loads or stores, before it signals. Costs nothing in machine code. sm_100a.
#[inline(always)]
pub fn before_thread_sync() {
    ptx!("tcgen05.fence::before_thread_sync;", options(nostack));
}

/// `tcgen05.fence::after_thread_sync`: this thread's later tensor-memory accesses come after the wait or barrier that precedes.
///
/// Called by every thread that was signalled, before it issues. Costs nothing in machine code. sm_100a.
#[inline(always)]
pub fn after_thread_sync() {
    ptx!("tcgen05.fence::after_thread_sync;", options(nostack));
}

/// `tcgen05.wait::ld`: until this thread's loads have finished. sm_100a.
///
/// # Safety
/// One warp together. The compiler does not connect this wait with any register: use [`wait_ld_with`] where results are read after it.
#[inline(always)]
pub unsafe fn wait_ld() {
    ptx!("tcgen05.wait::ld.sync.aligned;", options(nostack));
}

/// `tcgen05.wait::st`: until this thread's stores have finished. sm_100a.
///
/// # Safety
/// One warp together.
#[inline(always)]
pub unsafe fn wait_st() {
    ptx!("tcgen05.wait::st.sync.aligned;", options(nostack));
}

macro_rules! wait {
    (($regs:ident), $($i:literal)*) => {
        // A PTX comment names the operands, because each must be named.
        ptx!(concat!("tcgen05.wait::ld.sync.aligned; //", $(" {", $i, "}",)*), $(inout(reg32) $regs[$i],)* options(nostack))
    };
}

/// [`wait_ld`], after which `regs` hold what was loaded: the compiler can move no read of them above the wait.
///
/// Loads that were issued together need one wait; the others' registers are tied by a second call, which then costs nothing but its
/// place, or belong to the same array. A power of two of registers, up to 128.
///
/// # Safety
/// As [`wait_ld`].
#[inline(always)]
pub unsafe fn wait_ld_with<const N: usize>(regs: &mut [f32; N]) {
    powers!(N, wait(regs))
}

/// [`wait_ld_with`] of words.
///
/// # Safety
/// As [`wait_ld`].
#[inline(always)]
pub unsafe fn wait_ld_with_u32<const N: usize>(regs: &mut [u32; N]) {
    powers!(N, wait(regs))
}

/// [`wait_ld_with`] of several arrays that were loaded together: one wait, after which all of them hold what was loaded.
///
/// # Safety
/// As [`wait_ld`].
#[inline(always)]
pub unsafe fn wait_ld_parts<const N: usize, const PARTS: usize>(parts: &mut [[f32; N]; PARTS]) {
    // SAFETY: the caller's promise.
    unsafe { wait_ld() };
    let mut part = 0;
    while part < PARTS {
        tie(&mut parts[part]);
        part += 1;
    }
}

macro_rules! touch {
    (($regs:ident), $($i:literal)*) => {
        ptx!(concat!("//", $(" {", $i, "}",)*), $(inout(reg32) $regs[$i],)* options(nostack))
    };
}

/// No instruction: the compiler can move no read of `regs` above this place, nor this place above an earlier wait. For registers that a
/// wait without operands concerns.
#[inline(always)]
pub fn tie<const N: usize>(regs: &mut [f32; N]) {
    powers!(N, touch(regs))
}
