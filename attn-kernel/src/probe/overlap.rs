//! Two multiplies in flight with softmax under the second: the loop that decides a forward kernel's speed, reduced to its bones.
//!
//! Its machine code is what [`ptx::wgmma`](crate::ptx::wgmma) describes. Values do not matter and addresses wrap over two stages.

use super::Probe;
use crate::entry::{dynamic_shared, thread_idx_x};
use crate::kernel;
use crate::mem::{Bf16, Element, Layout, Smem, Swizzle};
use crate::pipe::Ring;
use crate::pipe::ring::{Consumer, Producer};
use crate::ptx::{barrier, fence, ldst, math, regs, warp, wgmma};

/// [`probe_overlap`]. Hopper only.
pub const PROBE: Probe =
    Probe { hopper_only: true, ..Probe::new("probe_overlap", 384, BARRIERS + Ring::<2>::BARRIER_BYTES) };

/// Rows of K and V, and head dimension.
const N: u32 = 128;
const Q: Layout = Layout { swizzle: Swizzle::B128, mn_major: false, mn: 64, k: N };
const K: Layout = Layout { swizzle: Swizzle::B128, mn_major: false, mn: N, k: N };
const V: Layout = Layout { swizzle: Swizzle::B128, mn_major: true, mn: N, k: N };
const K_STAGES: u32 = Q.bytes();
const V_STAGES: u32 = K_STAGES + 2 * K.bytes();
const BARRIERS: u32 = V_STAGES + 2 * V.bytes();

/// Scores, or an output: 64 x 128 over a warpgroup.
type Tile = [f32; 64];

kernel! {
    threads = PROBE.threads, registers = 168, shared = PROBE.shared;
    /// One warpgroup runs `n` rounds and writes its 64 x 128 registers to `out[128 i + thread]`; the others give their registers
    /// away, and one of their threads passes it a stage for every round but the first.
    pub unsafe fn probe_overlap(n: u32, out: *mut f32) {
        let base = dynamic_shared();
        // SAFETY: the ring's memory is its own; thread 0 initialises it before the block's barrier, after which the roles part, each
        // warpgroup as a whole.
        unsafe {
            let ring: Ring<2> = Ring::new(Smem::new(base + K_STAGES), K.bytes(), Smem::new(base + BARRIERS));
            if thread_idx_x() == 0 {
                ring.init(1, 128);
                fence::mbarrier_init();
            }
            barrier::sync_all();
            let (produce, consume) = ring.split();
            if warp::uniform(thread_idx_x() / 128) != 0 {
                regs::setmaxnreg_dec::<24>();
                if thread_idx_x() == 128 {
                    pass_stages(produce, n);
                }
            } else {
                regs::setmaxnreg_inc::<240>();
                let (o, row_sum) = attend(base, consume, n);
                let mut i = 0;
                while i < 64 {
                    ldst::st_global_f32(out.add(i * 128 + thread_idx_x() as usize), o[i] * row_sum[(i >> 1) & 1]);
                    i += 1;
                }
            }
        }
    }
}

/// Passes `n - 1` stages as they are.
#[inline(always)]
fn pass_stages(mut ring: Producer<2>, n: u32) {
    let mut i = 1;
    while i < n {
        ring.acquire().commit();
        i += 1;
    }
}

/// The consumer's loop over `n` blocks of keys.
#[inline(always)]
unsafe fn attend(base: u32, mut ring: Consumer<2>, n: u32) -> (Tile, [f32; 2]) {
    let (q, k) = (Smem::new(base), Smem::new(base + K_STAGES));
    let v = |stage: u32| Smem::new(base + V_STAGES + stage * V.bytes());
    let (mut row_max, mut row_sum) = ([f32::NEG_INFINITY; 2], [0.0; 2]);
    let (mut o, mut p) = ([0.0; 64], [0; 32]);
    // SAFETY: one warpgroup together; each product's registers are waited for before they are read.
    unsafe {
        wgmma::fence();
        let mut s = qk(q, k);
        wgmma::wait_with::<0, 64>(&mut s);
        softmax(&mut s, &mut row_max, &mut row_sum);
        pack(&s, &mut p);
        let mut i = 1;
        while i < n {
            wgmma::fence();
            let mut s = qk(q, k.offset((i & 1) * K.bytes()));
            pv(&mut o, &p, v(i & 1));
            wgmma::wait_with::<1, 64>(&mut s);
            let scale = softmax(&mut s, &mut row_max, &mut row_sum);
            let stage = ring.wait_converged();
            // The sums depend on every exponential: ptxas may not move the wait for O above the softmax.
            wgmma::hold_waits(row_sum[0] + row_sum[1]);
            wgmma::wait_with::<0, 64>(&mut o);
            wgmma::tie_packed(&mut p);
            stage.release();
            rescale(&mut o, scale);
            pack(&s, &mut p);
            i += 1;
        }
        wgmma::fence();
        pv(&mut o, &p, v(0));
        wgmma::wait_with::<0, 64>(&mut o);
    }
    (o, row_sum)
}

/// Issues `S = Q K^T` as one group.
#[inline(always)]
unsafe fn qk(q: Smem<()>, k: Smem<()>) -> Tile {
    // SAFETY: the caller has fenced and waits before it reads S.
    unsafe {
        let mut s = wgmma::ss_zero::<Bf16, 64, { wgmma::K_MAJOR }>(Q.descriptor(q, 0), K.descriptor(k, 0));
        let mut step = 1;
        while step < N / 16 {
            wgmma::ss::<Bf16, 64, { wgmma::K_MAJOR }>(&mut s, Q.descriptor(q, step), K.descriptor(k, step));
            step += 1;
        }
        wgmma::commit();
        s
    }
}

/// Issues `O += P V` as one group.
#[inline(always)]
unsafe fn pv(o: &mut Tile, p: &[u32; 32], v: Smem<()>) {
    let mut step = 0;
    while step < 8 {
        let a = [p[4 * step], p[4 * step + 1], p[4 * step + 2], p[4 * step + 3]];
        // SAFETY: the caller has fenced and waits before it touches O or P.
        unsafe { wgmma::rs::<Bf16, 64, { wgmma::MN_MAJOR }>(o, a, V.descriptor(v, step as u32)) };
        step += 1;
    }
    // SAFETY: all four warps are here.
    unsafe { wgmma::commit() };
}

#[inline(always)]
fn pack(s: &Tile, p: &mut [u32; 32]) {
    let mut j = 0;
    while j < 32 {
        p[j] = Bf16::pack(s[2 * j], s[2 * j + 1]);
        j += 1;
    }
}

#[inline(always)]
fn rescale(o: &mut Tile, scale: [f32; 2]) {
    let mut j = 0;
    while j < 64 {
        o[j] = math::mul(o[j], scale[(j >> 1) & 1]);
        j += 1;
    }
}

/// A plain online softmax of this thread's two rows; returns what O is multiplied by.
#[inline(always)]
fn softmax(s: &mut Tile, row_max: &mut [f32; 2], row_sum: &mut [f32; 2]) -> [f32; 2] {
    let old = *row_max;
    let mut j = 0;
    while j < 64 {
        row_max[(j >> 1) & 1] = math::max(row_max[(j >> 1) & 1], s[j]);
        j += 1;
    }
    let mut scale = [0.0; 2];
    let mut r = 0;
    while r < 2 {
        row_max[r] = math::max(row_max[r], warp::shfl_xor_f32(row_max[r], 1));
        row_max[r] = math::max(row_max[r], warp::shfl_xor_f32(row_max[r], 2));
        scale[r] = math::ex2(math::sub(old[r], row_max[r]));
        row_sum[r] = math::mul(row_sum[r], scale[r]);
        r += 1;
    }
    let mut j = 0;
    while j < 64 {
        s[j] = math::ex2(math::sub(s[j], row_max[(j >> 1) & 1]));
        row_sum[(j >> 1) & 1] = math::add(row_sum[(j >> 1) & 1], s[j]);
        j += 1;
    }
    scale
}
