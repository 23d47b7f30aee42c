//! Two blocks that read and signal each other's shared memory.

use super::Probe;
use crate::entry::{dynamic_shared, thread_idx_x};
use crate::forward::TensorMap;
use crate::kernel;
use crate::mem::Smem;
use crate::ptx::{bulk, cluster, fence, ldst, mbarrier, tma};

/// [`probe_cluster`].
pub const PROBE: Probe = Probe { cluster: 2, ..Probe::new("probe_cluster", 32, PIECES * BYTES + 16) };

/// What each block has room for.
pub const PIECES: u32 = 5;
/// Bytes of a piece: 256 words.
pub const BYTES: u32 = 1024;

kernel! {
    threads = PROBE.threads, registers = 64, shared = PROBE.shared, tensor_maps = "0", cluster = "2,1,1";
    /// Block `r` of a cluster of two writes five pieces of 256 words to `out[1280 r ..]`: the first 256 words of `src` (loaded by block
    /// 0 into both), words 256 to 511 (by block 1 into both), the tensor's first box (256 words of rank 1, by block 0 into both), the
    /// same box again (by block 1 with a cache policy), and the other block's first piece, copied from shared to shared memory.
    pub unsafe fn probe_cluster(map: *const TensorMap, src: *const u32, out: *mut u32) {
        let (base, rank) = (dynamic_shared(), cluster::rank());
        let piece = |i: u32| Smem::<u32>::new(base + i * BYTES);
        let loaded = Smem::new(base + PIECES * BYTES);
        let copied = loaded.offset(mbarrier::BYTES);
        let leader = thread_idx_x() == 0;
        // SAFETY: one warp a block, together; thread 0 issues everything. Both blocks pass the cluster barrier after initialising and
        // once more before they exit, so barriers and memory exist while the peer uses them.
        unsafe {
            if leader {
                // Besides the bytes, each block waits for its own arrival and its peer's.
                mbarrier::init(loaded, 2);
                mbarrier::init(copied, 1);
                fence::mbarrier_init();
            }
            cluster::arrive();
            cluster::wait();
            if leader {
                mbarrier::expect_tx(loaded, 4 * BYTES);
                mbarrier::arrive(loaded);
                mbarrier::arrive_cluster(cluster::map(loaded, rank ^ 1));
                bulk::load_multicast(piece(rank), src.add((rank * BYTES / 4) as usize), BYTES, loaded, 3);
                if rank == 0 {
                    tma::load_multicast(piece(2), map, [0], loaded, 3);
                } else {
                    tma::load_multicast_hint(piece(3), map, [0], loaded, 3, tma::EVICT_NORMAL);
                }
            }
            mbarrier::wait_parity(loaded, 0);
            fence::acq_rel_cluster();
            if leader {
                mbarrier::arrive_expect_tx(copied, BYTES);
                let peer = cluster::map(copied, rank ^ 1);
                bulk::copy_cluster(cluster::map(piece(4), rank ^ 1), piece(0), BYTES, peer);
            }
            mbarrier::wait_parity(copied, 0);
            let mut word = thread_idx_x();
            while word < PIECES * BYTES / 4 {
                let x = ldst::ld_shared_u32(Smem::new(base + 4 * word));
                ldst::st_global_u32(out.add((rank * PIECES * BYTES / 4 + word) as usize), x);
                word += PROBE.threads;
            }
            cluster::arrive_relaxed();
            cluster::wait();
        }
    }
}
