//! `stmatrix`, `ldmatrix`, and plain accesses of every width.

use super::Probe;
use crate::entry::{dynamic_shared, thread_idx_x};
use crate::kernel;
use crate::mem::Smem;
use crate::ptx::{ldst, matrix, warp};

/// [`probe_matrix`].
pub const PROBE: Probe = Probe::new("probe_matrix", 32, STAGES as u32 * STAGE_BYTES + 512);

/// Steps of the probe, each with 512 bytes of shared memory: four matrices of 8 rows of 16 bytes.
pub const STAGES: usize = 6;
const STAGE_BYTES: u32 = 512;
/// Words that the probe writes: the memory of each step, then each lane's reloaded registers.
pub const RESULTS: usize = STAGES * 128 + 32 * 20;

/// Register `i` of lane `lane` before the stores: the two elements' lane and register in their bytes.
pub const fn register(lane: u32, i: u32) -> u32 {
    let low = lane << 8 | i << 1;
    low | (low | 1) << 16
}

kernel! {
    threads = PROBE.threads, registers = 128, shared = PROBE.shared;
    /// Stores registers `register(lane, i)` as matrices in six ways (x4, x2, x1, then transposed x4, x2, x1; unused matrices keep
    /// `0xffff_ffff`), writes each step's 128 words to `out`, then for each lane the 20 words that it reloads: `ldmatrix` x4, x2, x4 and x2
    /// transposed (4 + 2 + 4 + 2) of step 0, and a round trip of 8 words through vector stores and loads.
    ///
    /// Row `r` of matrix `i` of a step lies at byte `16 (8 i + r)`.
    pub unsafe fn probe_matrix(out: *mut u32) {
        let lane = thread_idx_x();
        let base = dynamic_shared();
        let r = [register(lane, 0), register(lane, 1), register(lane, 2), register(lane, 3)];
        let step = |s: u32| base + s * STAGE_BYTES;
        let row = |s: u32| step(s) + 16 * lane;
        // SAFETY: one warp, all lanes together; each step has its own 512 bytes and the last 512 are for the round trip.
        unsafe {
            let mut s = 0;
            while s < STAGES as u32 {
                ldst::st_shared_u32x4(Smem::new(row(s)), [u32::MAX; 4]);
                s += 1;
            }
            warp::sync();
            matrix::stmatrix_x4(row(0), r);
            matrix::stmatrix_x2(row(1), [r[0], r[1]]);
            matrix::stmatrix_x1(row(2), [r[0]]);
            matrix::stmatrix_x4_trans(row(3), r);
            matrix::stmatrix_x2_trans(row(4), [r[0], r[1]]);
            matrix::stmatrix_x1_trans(row(5), [r[0]]);
            warp::sync();
            let mut word = lane;
            while word < STAGES as u32 * 128 {
                ldst::st_global_u32(out.add(word as usize), ldst::ld_shared_u32(Smem::new(base + 4 * word)));
                word += 32;
            }
            let own = out.add(STAGES * 128 + 20 * lane as usize);
            let [a, b, c, d] = matrix::ldmatrix_x4(row(0));
            ldst::st_global_u32x4(own, a, b, c, d);
            let [a, b] = matrix::ldmatrix_x2(row(0));
            ldst::st_global_u32x2(own.add(4), a, b);
            let [c, d] = matrix::ldmatrix_x2_trans(row(0));
            ldst::st_global_u32x2(own.add(6), c, d);
            let [a, b, c, d] = matrix::ldmatrix_x4_trans(row(0));
            ldst::st_global_u32x4(own.add(8), a, b, c, d);
            round_trip(step(STAGES as u32) + 16 * lane, own.add(12).cast(), lane);
        }
    }
}

/// Eight floats `lane`, `lane + 1`, ... through shared memory by each width of store and load.
#[inline(always)]
unsafe fn round_trip(slot: u32, out: *mut f32, lane: u32) {
    let x = |i: u32| (lane + i) as f32;
    // SAFETY: `slot` is this lane's own 16 bytes, `out` eight floats on 16 bytes.
    unsafe {
        ldst::st_shared_f32x2(Smem::new(slot), [x(0), x(1)]);
        ldst::st_shared_f32(Smem::new(slot + 8), x(2));
        ldst::st_shared_u16(Smem::new(slot + 12), x(3).to_bits() as u16);
        ldst::st_shared_u16(Smem::new(slot + 14), (x(3).to_bits() >> 16) as u16);
        let [a, b, c, d] = ldst::ld_shared_f32x4(Smem::new(slot));
        ldst::st_global_f32x4(out, a, b, c, d);
        ldst::st_shared_u32x4(Smem::new(slot), [x(4), x(5), x(6), x(7)].map(f32::to_bits));
        let [a, b] = ldst::ld_shared_f32x2(Smem::new(slot));
        ldst::st_global_f32x2(out.add(4), a, b);
        ldst::st_global_f32(out.add(6), ldst::ld_shared_f32(Smem::new(slot + 8)));
        let last = ldst::ld_shared_u32x4(Smem::new(slot))[3];
        ldst::st_shared_u32(Smem::new(slot), last);
        ldst::st_global_u32(out.add(7).cast(), ldst::ld_shared_u32(Smem::new(slot)));
    }
}
