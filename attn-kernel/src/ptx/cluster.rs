//! Clusters: blocks that run together on neighbouring multiprocessors and reach each other's shared memory.

use crate::mem::Smem;
use crate::ptx;

pub use super::special::{cluster_ctarank as rank, cluster_nctarank as size};

/// `mapa.shared::cluster`: the address, in block `rank` of the cluster, of what lies at `local` in this one. sm_90.
#[inline(always)]
pub fn map<T>(local: Smem<T>, rank: u32) -> Smem<T> {
    let remote: u32;
    ptx!(
        "mapa.shared::cluster.u32 {remote}, {local}, {rank};",
        remote = lateout(reg32) remote, local = in(reg32) local.addr(), rank = in(reg32) rank,
        options(pure, nomem, nostack)
    );
    Smem::new(remote)
}

/// `barrier.cluster.arrive` (release): this thread has come; its earlier accesses are ordered before the others' [`wait`]. sm_90.
///
/// # Safety
/// Every thread of the cluster arrives once per round, the lanes of a warp together, and then waits.
#[inline(always)]
pub unsafe fn arrive() {
    ptx!("barrier.cluster.arrive.release.aligned;", options(nostack));
}

/// `barrier.cluster.arrive.relaxed`: as [`arrive`] without ordering memory, for when nothing but liveness matters. sm_90.
///
/// # Safety
/// As [`arrive`].
#[inline(always)]
pub unsafe fn arrive_relaxed() {
    ptx!("barrier.cluster.arrive.relaxed.aligned;", options(nostack));
}

/// `barrier.cluster.wait` (acquire): until every thread of the cluster has arrived or exited. sm_90.
///
/// # Safety
/// The thread has arrived in this round; the lanes of a warp wait together.
#[inline(always)]
pub unsafe fn wait() {
    ptx!("barrier.cluster.wait.acquire.aligned;", options(nostack));
}
