//! Fences: between proxies (ordinary loads and stores on one side, TMA and tensor cores on the other) and between threads.

use crate::ptx;

macro_rules! fence {
    ($(#[$doc:meta])* $name:ident: $asm:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            ptx!($asm, options(nostack));
        }
    };
}

fence!(
    /// `fence.mbarrier_init.release.cluster`: makes this thread's `mbarrier.init`s visible to the cluster and to TMA.
    ///
    /// Called by the initialising thread, which may go on to use them; others do after a block or cluster barrier. Costs nothing in machine code.
    /// sm_90.
    mbarrier_init: "fence.mbarrier_init.release.cluster;"
);
fence!(
    /// `fence.proxy.async.shared::cta`: orders this thread's ordinary shared-memory accesses before later accesses of TMA and wgmma.
    ///
    /// Called by every thread that wrote, before the barrier after which one thread issues the copy. sm_90.
    proxy_async_shared_cta: "fence.proxy.async.shared::cta;"
);
fence!(
    /// `fence.proxy.async`: as [`proxy_async_shared_cta`], for global memory and the cluster's shared memory too; dearer. sm_90.
    proxy_async: "fence.proxy.async;"
);
fence!(
    /// `fence.proxy.async.global`: orders this thread's ordinary global-memory accesses before later TMA accesses. sm_90.
    proxy_async_global: "fence.proxy.async.global;"
);
fence!(
    /// `fence.acq_rel.cta`: acquire and release among the block's threads. sm_70.
    acq_rel_cta: "fence.acq_rel.cta;"
);
fence!(
    /// `fence.acq_rel.cluster`: acquire and release among the cluster's threads; as dear as [`acq_rel_gpu`]. sm_90.
    acq_rel_cluster: "fence.acq_rel.cluster;"
);
fence!(
    /// `fence.acq_rel.gpu`: acquire and release among all threads of the device. sm_70.
    acq_rel_gpu: "fence.acq_rel.gpu;"
);
