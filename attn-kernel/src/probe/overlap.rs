use crate::entry::{dynamic_shared, thread_idx_x};
use crate::kernel;
use crate::mem::descriptor::{k_major_step, mn_major_step};
use crate::mem::{Bf16, Descriptor, Element, Smem, Swizzle};
use crate::ptx::{math, mbarrier, wgmma};

const BN: u32 = 128;
const D: u32 = 128;

#[inline(always)]
unsafe fn qk(q: Descriptor, k: Descriptor) -> [f32; 64] {
    unsafe {
        let mut s = wgmma::ss_zero::<Bf16, 64, { wgmma::K_MAJOR }>(q, k);
        let mut step = 1;
        while step < D / 16 {
            wgmma::ss::<Bf16, 64, { wgmma::K_MAJOR }>(
                &mut s,
                q.advance(k_major_step(Swizzle::B128, 64, step)),
                k.advance(k_major_step(Swizzle::B128, BN, step)),
            );
            step += 1;
        }
        wgmma::commit();
        s
    }
}

#[inline(always)]
unsafe fn pv(o: &mut [f32; 64], p: &[u32; 32], v: Descriptor) {
    unsafe {
        let mut step = 0;
        while step < 8 {
            let i = 4 * step;
            wgmma::rs::<Bf16, 64, { wgmma::MN_MAJOR }>(
                o,
                [p[i], p[i + 1], p[i + 2], p[i + 3]],
                v.advance(mn_major_step(Swizzle::B128, step as u32)),
            );
            step += 1;
        }
        wgmma::commit();
    }
}

kernel! {
    threads = 384, registers = 168, shared = 200000;
    pub unsafe fn probe_wgmma_overlap(n: u32, out: *mut f32) { unsafe {
        if thread_idx_x() >= 128 { crate::ptx::regs::setmaxnreg_dec::<24>(); return; }
        crate::ptx::regs::setmaxnreg_inc::<240>();
        let base = dynamic_shared();
        let q = Descriptor::k_major(Swizzle::B128, Smem::<()>::new(base));
        let k0 = Smem::<()>::new(base + 32768);
        let v0 = Smem::<()>::new(base + 98304);
        let bar = Smem::new(base + 198000);
        wgmma::fence();
        let mut s = qk(q, Descriptor::k_major(Swizzle::B128, k0));
        wgmma::wait_with::<0, 64>(&mut s);
        let mut o = [0f32; 64];
        let mut row_max = [f32::NEG_INFINITY; 2];
        let mut row_sum = [0f32; 2];
        let mut p = [0u32; 32];
        let scale = softmax(&mut s, &mut row_max, &mut row_sum);
        let _ = scale;
        pack(&s, &mut p);
        let mut i = 1;
        let mut stage = 0;
        let mut parity = 0;
        while i < n {
            let v = Descriptor::mn_major(Swizzle::B128, v0.offset(stage * 32768), BN * 128);
            stage += 1;
            if stage == 2 { stage = 0; parity ^= 1; }
            let k = Descriptor::k_major(Swizzle::B128, k0.offset(stage * 32768));
            wgmma::fence();
            let mut s = qk(q, k);
            pv(&mut o, &p, v);
            wgmma::wait_with::<1, 64>(&mut s);
            let scale = softmax(&mut s, &mut row_max, &mut row_sum);
            mbarrier::wait_parity(bar, parity);
            wgmma::wait_with::<0, 64>(&mut o);
            wgmma::tie_packed(&mut p);
            let mut j = 0;
            while j < 64 { o[j] = math::mul(o[j], scale[(j >> 1) & 1]); j += 1; }
            pack(&s, &mut p);
            i += 1;
        }
        wgmma::fence();
        pv(&mut o, &p, Descriptor::mn_major(Swizzle::B128, v0.offset(stage * 32768), BN * 128));
        wgmma::wait_with::<0, 64>(&mut o);
        let mut j = 0;
        while j < 64 { *out.add(j * 128 + thread_idx_x() as usize) = o[j] * row_sum[(j >> 1) & 1]; j += 1; }
    }}
}

#[inline(always)]
fn pack(s: &[f32; 64], p: &mut [u32; 32]) {
    let mut j = 0;
    while j < 32 {
        p[j] = Bf16::pack(s[2 * j], s[2 * j + 1]);
        j += 1;
    }
}

#[inline(always)]
fn softmax(s: &mut [f32; 64], row_max: &mut [f32; 2], row_sum: &mut [f32; 2]) -> [f32; 2] {
    let old = *row_max;
    let mut j = 0;
    while j < 64 {
        row_max[(j >> 1) & 1] = math::max(row_max[(j >> 1) & 1], s[j]);
        j += 1;
    }
    let mut r = 0;
    let mut scale = [0f32; 2];
    while r < 2 {
        row_max[r] = math::max(row_max[r], crate::ptx::warp::shfl_xor_f32(row_max[r], 1));
        row_max[r] = math::max(row_max[r], crate::ptx::warp::shfl_xor_f32(row_max[r], 2));
        scale[r] = math::ex2(math::sub(old[r], row_max[r]));
        row_sum[r] = math::mul(row_sum[r], scale[r]);
        r += 1;
    }
    let mut j = 0;
    while j < 64 {
        s[j] = math::ex2(math::fma(s[j], 0.125, -row_max[(j >> 1) & 1]));
        row_sum[(j >> 1) & 1] = math::add(row_sum[(j >> 1) & 1], s[j]);
        j += 1;
    }
    scale
}
