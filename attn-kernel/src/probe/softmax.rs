//! Softmax of rows of f32: a whole kernel small enough to be the one that the guide writes (`guide/src/kernel.md`).
//!
//! | load, warp 0     | softmax, warp 1                                         |
//! |---|---|
//! | row 0 to stage 0 |                                                         |
//! | row 1 to stage 1 | row 0: maximum, exponentials, sum, back into the stage  |
//! | row 2 to stage 2 | stage 0 to memory; once it has been read, it is released |
//!
//! A block takes every `grid`-th row, so any grid will do.

use super::Probe;
use crate::entry::{block_idx_x, dynamic_shared, grid_dim_x, thread_idx_x};
use crate::kernel;
use crate::mem::Smem;
use crate::pipe::Ring;
use crate::pipe::ring::{Consumer, Producer};
use crate::ptx::{barrier, bulk, fence, ldst, math, special, tma, warp};

/// [`probe_softmax`].
pub const PROBE: Probe = Probe::new("probe_softmax", 64, BARRIERS + Ring::<STAGES>::BARRIER_BYTES);

/// Elements of a row.
pub const WIDTH: u32 = 256;
const ROW_BYTES: u32 = 4 * WIDTH;
const STAGES: u32 = 3;
const BARRIERS: u32 = STAGES * ROW_BYTES;
/// Elements of a row that a lane holds.
const PER_LANE: usize = WIDTH as usize / 32;

kernel! {
    threads = PROBE.threads, registers = 64, shared = PROBE.shared;
    /// `y[r] = softmax(x[r])` for `rows` rows of [`WIDTH`] finite elements. Both addresses are on 16 bytes.
    pub unsafe fn probe_softmax(x: *const f32, y: *mut f32, rows: u32) {
        let base = dynamic_shared();
        // SAFETY: the ring has the shared memory to itself; thread 0 initialises it before the block's barrier.
        let ring: Ring<STAGES> = unsafe { Ring::new(Smem::new(base), ROW_BYTES, Smem::new(base + BARRIERS)) };
        // SAFETY: one thread initialises, then all meet.
        unsafe {
            if thread_idx_x() == 0 {
                ring.init(1, 32);
                fence::mbarrier_init();
            }
            barrier::sync_all();
        }
        let (empty, full) = ring.split();
        // SAFETY: whole warps take a role; the addresses are the launcher's promise.
        unsafe {
            match special::warp_id() {
                0 => load(empty, x, rows),
                _ => softmax(full, y, rows),
            }
        }
    }
}

/// Where a row begins.
#[inline(always)]
fn start(row: u32) -> usize {
    row as usize * WIDTH as usize
}

/// One lane asks for a row as soon as a stage is empty; the copy itself says when it has come.
///
/// # Safety
/// A whole warp calls it; `x` has `rows` rows.
#[inline(always)]
unsafe fn load(mut stages: Producer<STAGES>, x: *const f32, rows: u32) {
    // SAFETY: the warp is together.
    if !unsafe { warp::elect() } {
        return;
    }
    let mut row = block_idx_x();
    while row < rows {
        let stage = stages.acquire();
        let (tile, arrived) = (stage.tile().cast(), stage.full());
        stage.expect(ROW_BYTES);
        // SAFETY: one thread issues; the stage is empty, and the phase of its barrier expects these bytes.
        unsafe { bulk::load(tile, x.add(start(row)), ROW_BYTES, arrived) };
        row += grid_dim_x();
    }
}

/// Computes a row in its stage and stores it from there.
///
/// # Safety
/// A whole warp calls it; `y` has `rows` rows.
#[inline(always)]
unsafe fn softmax(mut stages: Consumer<STAGES>, y: *mut f32, rows: u32) {
    let lane = special::lane_id();
    let mut row = block_idx_x();
    while row < rows {
        let stage = stages.wait();
        // Neighbouring lanes have neighbouring elements: no bank conflicts.
        let own = stage.tile().cast::<f32>().offset(4 * lane);
        // SAFETY: the stage is full, and this warp's until it is released; each lane touches its own elements.
        unsafe { normalise(own) };
        // What the lanes wrote is seen by the copy: each fences its own writes, then one lane issues for all.
        fence::proxy_async_shared_cta();
        // SAFETY: the warp is together.
        let issues = unsafe {
            warp::sync();
            warp::elect()
        };
        if issues {
            // SAFETY: one thread issues; the stage is left alone until the copy has read it.
            unsafe { bulk::store(y.add(start(row)), stage.tile().cast(), ROW_BYTES) };
            tma::commit_group();
            tma::wait_group_read::<0>();
        }
        stage.release();
        row += grid_dim_x();
    }
}

/// The softmax of a row of which this lane has every 32nd element.
///
/// # Safety
/// A whole warp calls it, each lane with elements that no other one touches.
#[inline(always)]
unsafe fn normalise(own: Smem<f32>) {
    let mut p = [0.0; PER_LANE];
    let mut greatest = f32::NEG_INFINITY;
    for (i, p) in p.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *p = unsafe { ldst::ld_shared_f32(own.offset(128 * i as u32)) };
        greatest = math::max(greatest, *p);
    }
    greatest = across(greatest, math::max);
    let mut sum = 0.0;
    for p in &mut p {
        *p = math::ex2(math::mul(math::sub(*p, greatest), core::f32::consts::LOG2_E));
        sum = math::add(sum, *p);
    }
    let factor = math::rcp(across(sum, math::add));
    for (i, p) in p.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { ldst::st_shared_f32(own.offset(128 * i as u32), math::mul(*p, factor)) };
    }
}

/// Combines a value of every lane; all get the result.
#[inline(always)]
fn across(mut x: f32, combine: fn(f32, f32) -> f32) -> f32 {
    let mut distance = 16;
    while distance > 0 {
        x = combine(x, warp::shfl_xor_f32(x, distance));
        distance /= 2;
    }
    x
}
