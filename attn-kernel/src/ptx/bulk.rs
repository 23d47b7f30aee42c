//! Bulk copies of contiguous bytes, no tensor map: rows, statistics, partial results.
//!
//! Addresses and sizes are multiples of 16 bytes. Loads and copies between blocks complete on an mbarrier; stores and reductions
//! complete in groups, like those of [`tma`](super::tma), with its `commit_group` and `wait_group`.

use crate::mem::Smem;
use crate::ptx;
use crate::ptx::mbarrier::Mbarrier;

/// `cp.async.bulk`, global to shared: `bytes` from `src` to `dst`, completing on `bar`. sm_90.
///
/// # Safety
/// One thread issues it. Both ranges are valid; nobody touches `dst` until the phase of `bar`, which expects the bytes, completes.
#[inline(always)]
pub unsafe fn load<T>(dst: Smem<T>, src: *const T, bytes: u32, bar: Smem<Mbarrier>) {
    ptx!(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{dst}], [{src}], {n}, [{bar}];",
        dst = in(reg32) dst.addr(), src = in(reg64) src, n = in(reg32) bytes, bar = in(reg32) bar.addr(), options(nostack)
    );
}

/// [`load`] into every block of the cluster whose rank's bit is set in `blocks`, at the same offsets. sm_90.
///
/// # Safety
/// As [`load`], in each destination block.
#[inline(always)]
pub unsafe fn load_multicast<T>(dst: Smem<T>, src: *const T, bytes: u32, bar: Smem<Mbarrier>, blocks: u16) {
    ptx!(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [{dst}], [{src}], {n}, [{bar}], {blocks};",
        dst = in(reg32) dst.addr(), src = in(reg64) src, n = in(reg32) bytes, bar = in(reg32) bar.addr(),
        blocks = in(reg16) blocks, options(nostack)
    );
}

/// `cp.async.bulk`, shared to global: `bytes` from `src` to `dst`, as part of this thread's open group. sm_90.
///
/// # Safety
/// One thread issues it, after every writer of `src` did [`fence::proxy_async_shared_cta`](super::fence::proxy_async_shared_cta) and a
/// barrier. `src` stays as it is until [`tma::wait_group_read`](super::tma::wait_group_read).
#[inline(always)]
pub unsafe fn store<T>(dst: *mut T, src: Smem<T>, bytes: u32) {
    ptx!(
        "cp.async.bulk.global.shared::cta.bulk_group [{dst}], [{src}], {n};",
        dst = in(reg64) dst, src = in(reg32) src.addr(), n = in(reg32) bytes, options(nostack)
    );
}

/// `cp.async.bulk`, shared to the shared memory of another block of the cluster: completes on that block's `bar`. sm_90.
///
/// # Safety
/// As [`store`] for `src` and as [`load`] for `dst` and `bar`, both of which lie in one block that has not exited.
#[inline(always)]
pub unsafe fn copy_cluster<T>(dst: Smem<T>, src: Smem<T>, bytes: u32, bar: Smem<Mbarrier>) {
    ptx!(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [{dst}], [{src}], {n}, [{bar}];",
        dst = in(reg32) dst.addr(), src = in(reg32) src.addr(), n = in(reg32) bytes, bar = in(reg32) bar.addr(), options(nostack)
    );
}

/// `cp.reduce.async.bulk.add.f32`, shared to global: adds `bytes / 4` elements to those at `dst`, each by one relaxed atomic
/// operation that flushes subnormals. As part of this thread's open group. sm_90.
///
/// # Safety
/// As [`store`].
#[inline(always)]
pub unsafe fn reduce_add_f32(dst: *mut f32, src: Smem<f32>, bytes: u32) {
    ptx!(
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [{dst}], [{src}], {n};",
        dst = in(reg64) dst, src = in(reg32) src.addr(), n = in(reg32) bytes, options(nostack)
    );
}

/// `cp.async.bulk.prefetch.L2`: brings `bytes` at `src` into L2. sm_90.
///
/// # Safety
/// The range is valid device memory.
#[inline(always)]
pub unsafe fn prefetch<T>(src: *const T, bytes: u32) {
    ptx!("cp.async.bulk.prefetch.L2.global [{src}], {n};", src = in(reg64) src, n = in(reg32) bytes, options(nostack));
}
