//! Moving registers between warpgroups.
//!
//! `ptxas` ignores both instructions when the kernel's register count at entry is not fixed: the launch bounds carry
//! `maxnreg` (see [`launch_bounds`](crate::launch_bounds)).

use crate::ptx;

const fn check(n: u32) -> u32 {
    assert!(n.is_multiple_of(8) && n >= 24 && n <= 256, "setmaxnreg takes a multiple of 8 from 24 to 256");
    n
}

/// `setmaxnreg.inc`: this warpgroup's threads own `N` registers each from now on; waits until the block's pool has them. sm_90a.
///
/// # Safety
/// All warps of a warpgroup execute it together; they own at most `N` registers now.
#[inline(always)]
pub unsafe fn setmaxnreg_inc<const N: u32>() {
    ptx!("setmaxnreg.inc.sync.aligned.u32 {n};", n = const check(N), options(nostack));
}

/// `setmaxnreg.dec`: this warpgroup's threads keep `N` registers each and give the rest back to the block's pool. sm_90a.
///
/// # Safety
/// All warps of a warpgroup execute it together; they own at least `N` registers now and hold no more than `N` live.
#[inline(always)]
pub unsafe fn setmaxnreg_dec<const N: u32>() {
    ptx!("setmaxnreg.dec.sync.aligned.u32 {n};", n = const check(N), options(nostack));
}
