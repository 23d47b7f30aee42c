//! Exchanges within a warp, special registers, and every kind of waiting within a block.

use super::Probe;
use crate::entry::{block_dim_x, block_idx_x, block_idx_y, block_idx_z, grid_dim_x, thread_idx_x};
use crate::kernel;
use crate::pipe::NamedBarrier;
use crate::ptx::{barrier, fence, grid, ldst, regs, special, warp};

/// [`probe_warp`].
pub const PROBE: Probe = Probe::new("probe_warp", 128, 0);

/// Words that each thread writes.
pub const RESULTS: usize = 20;

const PAIR: NamedBarrier = NamedBarrier::new(1, 64);

/// What thread `thread` writes when the grid is one block. `elect` chooses a lane that the architecture picks; it is reported
/// as the number of elected lanes.
pub fn expected(thread: u32) -> [u32; RESULTS] {
    let lane = thread % 32;
    let odd = thread % 2 == 1;
    [
        thread,
        0,
        0,
        0,
        PROBE.threads,
        1,
        lane,
        thread / 32,
        0,
        1,
        thread / 32 * 32 + (lane + 5) % 32,
        thread ^ 3,
        ((thread ^ 1) as f32).to_bits(),
        if lane < 4 { thread } else { thread - 4 },
        0xaaaa_aaaa,
        u32::from(thread / 32 == 1),
        u32::from(thread / 32 != 1),
        u32::from(odd),
        1,
        0,
    ]
}

kernel! {
    threads = PROBE.threads, registers = 64, shared = PROBE.shared;
    /// `out[RESULTS * thread ..] = expected(thread)`; the block also passes every barrier once.
    pub unsafe fn probe_warp(out: *mut u32) {
        let thread = thread_idx_x();
        let odd = thread % 2 == 1;
        let second = thread / 32 == 1;
        grid::wait();
        // SAFETY: the block is one warpgroup, which gives registers away and gets them back.
        unsafe {
            regs::setmaxnreg_dec::<40>();
            regs::setmaxnreg_inc::<64>();
        }
        // SAFETY: every thread of the block gets here, each warp together; barrier 1 is used by warps 0 and 1 to wait and by 2 and 3
        // first to arrive, then to wait, 64 threads a round.
        let elected = unsafe {
            barrier::sync_all();
            let pair = NamedBarrier::new(2, 128);
            if thread < 64 {
                PAIR.sync();
                pair.sync();
            } else {
                PAIR.of(2).sync();
                pair.arrive();
            }
            warp::sync();
            warp::elect()
        };
        fence::acq_rel_cta();
        fence::acq_rel_gpu();
        fence::proxy_async();
        fence::proxy_async_global();
        fence::proxy_async_shared_cta();
        grid::launch_dependents();
        let lane = special::lane_id();
        let results = [
            thread,
            block_idx_x(),
            block_idx_y(),
            block_idx_z(),
            block_dim_x(),
            grid_dim_x(),
            lane,
            special::warp_id(),
            special::cluster_ctarank(),
            special::cluster_nctarank(),
            warp::shfl_idx(thread, (lane + 5) % 32),
            warp::shfl_xor(thread, 3),
            warp::shfl_xor_f32(thread as f32, 1).to_bits(),
            warp::shfl_up(thread, 4),
            warp::ballot(odd),
            u32::from(warp::any(second)),
            u32::from(warp::all(!second)),
            u32::from(odd),
            warp::ballot(elected).count_ones(),
            special::cluster_id_x() + special::cluster_dim_x() - 1 + (special::sm_id() & 0x8000_0000),
        ];
        let mut j = 0;
        while j < RESULTS {
            // SAFETY: `out` has `RESULTS` words for each thread.
            unsafe { ldst::st_global_u32(out.add(thread as usize * RESULTS + j), results[j]) };
            j += 1;
        }
    }
}
