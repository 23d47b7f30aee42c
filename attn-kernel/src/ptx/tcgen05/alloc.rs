//! Allocation of tensor memory, by columns of all lanes.

use super::check_group;
use crate::mem::{Smem, Tmem};
use crate::ptx;

/// `tcgen05.alloc`: takes `columns` columns (a power of two, 32 to 512), waiting until they are free, and writes their address to `slot`.
///
/// The other threads read `slot` after a block barrier. Later allocations of a block are no larger than earlier ones. sm_100a.
///
/// # Safety
/// One warp together; for `G` = 2 one warp of each block of the pair. `slot` is 4 aligned bytes of shared memory that nobody else
/// uses meanwhile. What is allocated is freed by [`dealloc`] before the block exits.
#[inline(always)]
pub unsafe fn alloc<const G: u32>(slot: Smem<u32>, columns: u32) {
    const { check_group(G) };
    ptx!(
        "tcgen05.alloc.cta_group::{g}.sync.aligned.shared::cta.b32 [{slot}], {n};",
        g = const G, slot = in(reg32) slot.addr(), n = in(reg32) columns, options(nostack)
    );
}

/// `tcgen05.relinquish_alloc_permit`: this block allocates no more, so that the next one on the multiprocessor may. sm_100a.
///
/// # Safety
/// One warp together, as [`alloc`]; no [`alloc`] of the block follows.
#[inline(always)]
pub unsafe fn relinquish_alloc_permit<const G: u32>() {
    const { check_group(G) };
    ptx!("tcgen05.relinquish_alloc_permit.cta_group::{g}.sync.aligned;", g = const G, options(nostack));
}

/// `tcgen05.dealloc`: gives back `columns` columns at `at`, as they were allocated. sm_100a.
///
/// # Safety
/// One warp together, as [`alloc`]. Every access of the columns is over, by waits and a barrier; for `G` = 2 in both blocks, and neither
/// has exited.
#[inline(always)]
pub unsafe fn dealloc<const G: u32, T>(at: Tmem<T>, columns: u32) {
    const { check_group(G) };
    ptx!(
        "tcgen05.dealloc.cta_group::{g}.sync.aligned.b32 {at}, {n};",
        g = const G, at = in(reg32) at.addr(), n = in(reg32) columns, options(nostack)
    );
}
