//! TMA: copies of boxes of a tensor, described by a [`TensorMap`], between global and shared memory.
//!
//! Coordinates count elements, innermost dimension first, and may lie outside the tensor: a load fills zeros there, a store
//! drops them. One thread issues a copy ([`warp::elect`](super::warp::elect)); the map is a kernel parameter. A load completes the whole box's
//! bytes on an mbarrier, zero-filled ones included. Stores and reductions complete in groups of the issuing thread.

use crate::forward::TensorMap;
use crate::mem::Smem;
use crate::ptx;
use crate::ptx::mbarrier::Mbarrier;

/// L2 policy: evict first, for data read or written once.
pub const EVICT_FIRST: u64 = 0x12f0_0000_0000_0000;
/// L2 policy: as without a hint.
pub const EVICT_NORMAL: u64 = 0x1000_0000_0000_0000;
/// L2 policy: evict last, for data that other blocks read soon.
pub const EVICT_LAST: u64 = 0x14f0_0000_0000_0000;

/// Emits one tensor instruction for the rank `N` of `$coords`. `$head` ends before the rank, `$tail` starts after it and
/// names the coordinates as `{{..}}` through `$at`.
macro_rules! tensor {
    ($n:ident, $coords:ident, [$($head:literal)*], [$($mid:literal)*], [$($tail:literal)*], $($operand:tt)*) => {
        if const { $n == 1 } {
            tensor!(@emit $coords, [$($head)* "1" $($mid)* "{0}" $($tail)*], [0], $($operand)*)
        } else if const { $n == 2 } {
            tensor!(@emit $coords, [$($head)* "2" $($mid)* "{0}, {1}" $($tail)*], [0 1], $($operand)*)
        } else if const { $n == 3 } {
            tensor!(@emit $coords, [$($head)* "3" $($mid)* "{0}, {1}, {2}" $($tail)*], [0 1 2], $($operand)*)
        } else if const { $n == 4 } {
            tensor!(@emit $coords, [$($head)* "4" $($mid)* "{0}, {1}, {2}, {3}" $($tail)*], [0 1 2 3], $($operand)*)
        } else {
            const { assert!($n >= 1 && $n <= 5, "a tensor map has one to five dimensions") };
            tensor!(@emit $coords, [$($head)* "5" $($mid)* "{0}, {1}, {2}, {3}, {4}" $($tail)*], [0 1 2 3 4], $($operand)*)
        }
    };
    (@emit $coords:ident, [$($template:literal)*], [$($i:literal)*], $($operand:tt)*) => {
        ptx!(concat!($($template),*), $(in(reg32) $coords[$i],)* $($operand)* options(nostack))
    };
}

/// `cp.async.bulk.tensor`, global to shared: loads the box at `coords` to `dst`; its bytes complete on `bar`. sm_90.
///
/// # Safety
/// One thread issues it. `map` is a kernel parameter of rank `N` whose tensor outlives the kernel. The box fits at `dst`, which is aligned to
/// the map's swizzle period and read or written by nobody until `bar`'s phase completes; that phase expects the box's bytes.
#[inline(always)]
pub unsafe fn load<const N: usize, T>(dst: Smem<T>, map: *const TensorMap, coords: [i32; N], bar: Smem<Mbarrier>) {
    tensor!(
        N, coords, ["cp.async.bulk.tensor."],
        ["d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [{dst}], [{map}, {{"], ["}}], [{bar}];"],
        dst = in(reg32) dst.addr(), map = in(reg64) map, bar = in(reg32) bar.addr(),
    )
}

/// [`load`] with an L2 cache policy such as [`EVICT_LAST`]. sm_90.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub unsafe fn load_hint<const N: usize, T>(
    dst: Smem<T>,
    map: *const TensorMap,
    coords: [i32; N],
    bar: Smem<Mbarrier>,
    policy: u64,
) {
    tensor!(
        N, coords, ["cp.async.bulk.tensor."],
        ["d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [{dst}], [{map}, {{"], ["}}], [{bar}], {policy};"],
        dst = in(reg32) dst.addr(), map = in(reg64) map, bar = in(reg32) bar.addr(), policy = in(reg64) policy,
    )
}

/// [`load`] into several blocks of the cluster: bit `r` of `blocks` is the block of rank `r`. Data and completed bytes go to the same
/// offsets as `dst` and `bar` in each of them. sm_90.
///
/// # Safety
/// As [`load`], in each destination block.
#[inline(always)]
pub unsafe fn load_multicast<const N: usize, T>(
    dst: Smem<T>,
    map: *const TensorMap,
    coords: [i32; N],
    bar: Smem<Mbarrier>,
    blocks: u16,
) {
    tensor!(
        N, coords, ["cp.async.bulk.tensor."],
        ["d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [{dst}], [{map}, {{"], ["}}], [{bar}], {blocks};"],
        dst = in(reg32) dst.addr(), map = in(reg64) map, bar = in(reg32) bar.addr(), blocks = in(reg16) blocks,
    )
}

/// [`load_multicast`] with an L2 cache policy. sm_90.
///
/// # Safety
/// As [`load_multicast`].
#[inline(always)]
pub unsafe fn load_multicast_hint<const N: usize, T>(
    dst: Smem<T>,
    map: *const TensorMap,
    coords: [i32; N],
    bar: Smem<Mbarrier>,
    blocks: u16,
    policy: u64,
) {
    tensor!(
        N, coords, ["cp.async.bulk.tensor."],
        ["d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [{dst}], [{map}, {{"],
        ["}}], [{bar}], {blocks}, {policy};"],
        dst = in(reg32) dst.addr(), map = in(reg64) map, bar = in(reg32) bar.addr(), blocks = in(reg16) blocks,
        policy = in(reg64) policy,
    )
}

/// `cp.async.bulk.tensor`, shared to global: stores `src` to the box at `coords`, as part of this thread's open group. sm_90.
///
/// # Safety
/// One thread issues it, after every writer of `src` did [`fence::proxy_async_shared_cta`](super::fence::proxy_async_shared_cta) and a barrier. `src` stays as it is
/// until [`wait_group_read`]. `map` as in [`load`].
#[inline(always)]
pub unsafe fn store<const N: usize, T>(map: *const TensorMap, coords: [i32; N], src: Smem<T>) {
    tensor!(
        N, coords, ["cp.async.bulk.tensor."], ["d.global.shared::cta.tile.bulk_group [{map}, {{"], ["}}], [{src}];"],
        map = in(reg64) map, src = in(reg32) src.addr(),
    )
}

/// [`store`] with an L2 cache policy. sm_90.
///
/// # Safety
/// As [`store`].
#[inline(always)]
pub unsafe fn store_hint<const N: usize, T>(map: *const TensorMap, coords: [i32; N], src: Smem<T>, policy: u64) {
    tensor!(
        N, coords, ["cp.async.bulk.tensor."], ["d.global.shared::cta.tile.bulk_group.L2::cache_hint [{map}, {{"],
        ["}}], [{src}], {policy};"],
        map = in(reg64) map, src = in(reg32) src.addr(), policy = in(reg64) policy,
    )
}

macro_rules! reduce {
    ($(#[$doc:meta])* $name:ident: $op:literal) => {
        $(#[$doc])*
        /// Each element is one relaxed atomic operation; in what order blocks' contributions arrive is not determined. sm_90.
        ///
        /// # Safety
        /// As [`store`].
        #[inline(always)]
        pub unsafe fn $name<const N: usize, T>(map: *const TensorMap, coords: [i32; N], src: Smem<T>) {
            tensor!(
                N, coords, ["cp.reduce.async.bulk.tensor."], ["d.global.shared::cta." $op ".tile.bulk_group [{map}, {{"],
                ["}}], [{src}];"],
                map = in(reg64) map, src = in(reg32) src.addr(),
            )
        }
    };
}

reduce!(
    /// `cp.reduce.async.bulk.tensor.add`: adds `src` to the box at `coords`; f32, f16, bf16 or integers, by the map's type.
    reduce_add: "add"
);
reduce!(
    /// `cp.reduce.async.bulk.tensor.min`: the elementwise minimum; f16, bf16 or integers, by the map's type.
    reduce_min: "min"
);
reduce!(
    /// `cp.reduce.async.bulk.tensor.max`: the elementwise maximum; f16, bf16 or integers, by the map's type.
    reduce_max: "max"
);

/// `cp.async.bulk.prefetch.tensor`: brings the box at `coords` into L2. sm_90.
///
/// # Safety
/// One thread issues it; `map` as in [`load`].
#[inline(always)]
pub unsafe fn prefetch<const N: usize>(map: *const TensorMap, coords: [i32; N]) {
    tensor!(
        N, coords, ["cp.async.bulk.prefetch.tensor."], ["d.L2.global.tile [{map}, {{"], ["}}];"],
        map = in(reg64) map,
    )
}

/// `prefetch.tensormap`: brings the map itself into the descriptor cache, before the first copy needs it. sm_90.
///
/// # Safety
/// `map` is a kernel parameter.
#[inline(always)]
pub unsafe fn prefetch_map(map: *const TensorMap) {
    ptx!("prefetch.tensormap [{map}];", map = in(reg64) map, options(nostack));
}

/// `cp.async.bulk.commit_group`: closes this thread's group of stores and reductions. sm_90.
#[inline(always)]
pub fn commit_group() {
    ptx!("cp.async.bulk.commit_group;", options(nostack));
}

/// `cp.async.bulk.wait_group`: until at most `N` of this thread's latest groups are unfinished; the finished ones' writes are
/// visible to this thread. sm_90.
#[inline(always)]
pub fn wait_group<const N: u32>() {
    ptx!("cp.async.bulk.wait_group {n};", n = const N, options(nostack));
}

/// `cp.async.bulk.wait_group.read`: until all but `N` of this thread's latest groups have read their shared memory, which may then
/// be overwritten. Also called before the block exits. sm_90.
#[inline(always)]
pub fn wait_group_read<const N: u32>() {
    ptx!("cp.async.bulk.wait_group.read {n};", n = const N, options(nostack));
}
