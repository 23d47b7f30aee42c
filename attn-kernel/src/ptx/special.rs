//! Special registers that no compiler wraps differently: who this thread is.

use crate::ptx;

macro_rules! special {
    ($(#[$doc:meta])* $name:ident: $register:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u32 {
            let value: u32;
            ptx!(concat!("mov.u32 {v}, %", $register, ";"), v = lateout(reg32) value, options(pure, nomem, nostack));
            value
        }
    };
}

special!(
    /// `%laneid`: the thread's lane in its warp, 0 to 31.
    lane_id: "laneid"
);
special!(
    /// `%cluster_ctarank`: the block's rank in its cluster.
    cluster_ctarank: "cluster_ctarank"
);
special!(
    /// `%cluster_nctarank`: blocks of the cluster.
    cluster_nctarank: "cluster_nctarank"
);
special!(
    /// `%clusterid.x`: index of the cluster in the grid.
    cluster_id_x: "clusterid.x"
);
special!(
    /// `%nclusterid.x`: clusters of the grid.
    cluster_dim_x: "nclusterid.x"
);
special!(
    /// `%smid`: the multiprocessor that runs the block. For diagnosis: it may change and numbers may have gaps.
    sm_id: "smid"
);

/// The warp's index in its block, the same value in every lane and known to be so by the compiler's uniform datapath.
#[inline(always)]
pub fn warp_id() -> u32 {
    super::warp::uniform(crate::entry::thread_idx_x() / 32)
}

/// `x`, of which the compiler knows nothing before this place: what is computed from it is computed after, every time.
///
/// For addresses that cost an instruction each, where hoisting them out of a loop costs a register each instead. No instruction.
#[inline(always)]
pub fn fresh(x: u32) -> u32 {
    let mut x = x;
    ptx!("// {x}", x = inout(reg32) x, options(nomem, nostack));
    x
}
