//! TMA and bulk copies.

use super::Probe;
use crate::entry::{dynamic_shared, thread_idx_x};
use crate::forward::TensorMap;
use crate::kernel;
use crate::mem::Smem;
use crate::ptx::mbarrier::{self, Mbarrier};
use crate::ptx::{barrier, bulk, fence, ldst, tma};

/// [`probe_tma`].
pub const RANKS: Probe = Probe::new("probe_tma", 32, BOX_BYTES + 8);
/// [`probe_bulk`].
pub const BULK: Probe = Probe::new("probe_bulk", 32, BOX_BYTES + 8);

/// Room for one box.
const BOX_BYTES: u32 = 32 * 1024;

/// A barrier behind the box, ready for use by every thread.
///
/// # Safety
/// All threads of the block call it once, at the start.
#[inline(always)]
unsafe fn ready() -> (u32, Smem<Mbarrier>) {
    let base = dynamic_shared();
    let bar = Smem::new(base + BOX_BYTES);
    // SAFETY: thread 0 initialises the 8 bytes behind the box, before the block's barrier.
    unsafe {
        if thread_idx_x() == 0 {
            mbarrier::init(bar, 1);
            fence::mbarrier_init();
        }
        barrier::sync_all();
    }
    (base, bar)
}

kernel! {
    threads = RANKS.threads, registers = 128, shared = RANKS.shared, tensor_maps = "0,1,2";
    /// Loads a box of `bytes` bytes through `src` at coordinates `(at, at, ..)`, writes shared memory as it lies to `image`, stores the box
    /// through `dst` at the same coordinates and combines it with `sum` there.
    ///
    /// The maps have rank `rank` (1 to 5). `bytes` is at most 32 KiB; `mode` picks the combination: 0 adds, 1 takes minima, 2 maxima. With
    /// `hint` the copies carry cache policies.
    pub unsafe fn probe_tma(
        src: *const TensorMap, dst: *const TensorMap, sum: *const TensorMap, image: *mut u32,
        rank: u32, at: i32, bytes: u32, mode: u32, hint: u32,
    ) {
        // SAFETY: the block is one warp and gets here together; maps and sizes are the launcher's promise.
        unsafe {
            let (base, bar) = ready();
            let run = Run { src, dst, sum, tile: Smem::new(base), bar, at, bytes, mode, hint: hint != 0 };
            match rank {
                1 => run.rank::<1>(),
                2 => run.rank::<2>(),
                3 => run.rank::<3>(),
                4 => run.rank::<4>(),
                _ => run.rank::<5>(),
            }
            let mut word = thread_idx_x();
            while word < bytes / 4 {
                ldst::st_global_u32(image.add(word as usize), ldst::ld_shared_u32(Smem::new(base + 4 * word)));
                word += RANKS.threads;
            }
        }
    }
}

/// The arguments of [`probe_tma`] for one rank.
struct Run {
    src: *const TensorMap,
    dst: *const TensorMap,
    sum: *const TensorMap,
    tile: Smem<u32>,
    bar: Smem<Mbarrier>,
    at: i32,
    bytes: u32,
    mode: u32,
    hint: bool,
}

impl Run {
    /// Thread 0 loads, every thread waits, thread 0 stores and reduces.
    #[inline(always)]
    unsafe fn rank<const N: usize>(&self) {
        let coords = [self.at; N];
        // SAFETY: one thread issues; it waits for its reads of shared memory before it ends.
        unsafe {
            if thread_idx_x() == 0 {
                tma::prefetch_map(self.src);
                tma::prefetch(self.src, coords);
                mbarrier::expect_tx(self.bar, self.bytes);
                if self.hint {
                    tma::load_hint(self.tile, self.src, coords, self.bar, tma::EVICT_FIRST);
                } else {
                    tma::load(self.tile, self.src, coords, self.bar);
                }
                mbarrier::arrive(self.bar);
            }
            mbarrier::wait_parity(self.bar, 0);
            if thread_idx_x() == 0 {
                fence::proxy_async_shared_cta();
                if self.hint {
                    tma::store_hint(self.dst, coords, self.tile, tma::EVICT_LAST);
                } else {
                    tma::store(self.dst, coords, self.tile);
                }
                tma::commit_group();
                match self.mode {
                    0 => tma::reduce_add(self.sum, coords, self.tile),
                    1 => tma::reduce_min(self.sum, coords, self.tile),
                    _ => tma::reduce_max(self.sum, coords, self.tile),
                }
                tma::commit_group();
                tma::wait_group_read::<1>();
                tma::wait_group::<0>();
            }
        }
    }
}

kernel! {
    threads = BULK.threads, registers = 64, shared = BULK.shared;
    /// Copies `bytes` bytes (a multiple of 16, at most 32 KiB) from `src` to `dst` by way of shared memory, and adds them as f32 to `sum`.
    pub unsafe fn probe_bulk(src: *const f32, dst: *mut f32, sum: *mut f32, bytes: u32) {
        // SAFETY: one warp together; one thread issues and waits; the three ranges are `bytes` long and 16-byte aligned.
        unsafe {
            let (base, bar) = ready();
            let tile = Smem::new(base);
            if thread_idx_x() == 0 {
                bulk::prefetch(src, bytes);
                mbarrier::arrive_expect_tx(bar, bytes);
                bulk::load(tile, src, bytes, bar);
                mbarrier::wait_parity(bar, 0);
                bulk::store(dst, tile, bytes);
                bulk::reduce_add_f32(sum, tile, bytes);
                tma::commit_group();
                tma::wait_group::<0>();
            }
        }
    }
}
