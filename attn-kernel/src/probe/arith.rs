//! Arithmetic and conversions against their host twins.

use super::Probe;
use crate::attn::exp2;
use crate::entry::{block_dim_x, block_idx_x, grid_dim_x, thread_idx_x};
use crate::kernel;
use crate::ptx::{convert, ldst, math};

/// [`probe_arith`]: any grid.
pub const PROBE: Probe = Probe::new("probe_arith", 128, 0);

/// Words that [`arith`] computes of a pair.
pub const RESULTS: usize = 28;
/// Of these, the first ones are the same bits on the GPU and the host; the rest are approximations: `ex2`, `lg2`, `rcp`.
pub const EXACT: usize = 25;

/// Everything computed of `x` and `y`, as bits. The host twin of [`probe_arith`].
#[inline(always)]
pub fn arith(x: f32, y: f32) -> [u32; RESULTS] {
    let (bf16, f16) = (convert::pack_bf16(x, y), convert::pack_f16(x, y));
    let (from_bf16, from_f16) = (convert::unpack_bf16(bf16), convert::unpack_f16(f16));
    let (pair, swapped) = ([x, y], [y, x]);
    let (fma2, add2) = (math::fma2(pair, swapped, pair), math::add2(pair, swapped));
    let (sub2, mul2) = (math::sub2(pair, swapped), math::mul2(pair, pair));
    let down2 = math::add_down2(pair, swapped);
    let exp2_pair = exp2::exp2_pair::<3>(pair);
    let floats = [
        math::fma(x, y, x),
        math::add(x, y),
        math::sub(x, y),
        math::mul(x, y),
        math::add_down(x, y),
        math::max(x, y),
        math::min(x, y),
        math::max3(x, y, 0.5),
        exp2::exp2::<2>(x),
        exp2::exp2::<3>(x),
        exp2::exp2::<4>(x),
        exp2::exp2::<5>(x),
        exp2_pair[1],
        from_bf16.1,
        from_f16.1,
        fma2[1],
        add2[0],
        sub2[1],
        mul2[1],
        down2[0],
        from_bf16.0,
        from_f16.0,
        exp2_pair[0],
        math::ex2(x),
        math::lg2(x),
        math::rcp(x),
    ];
    let mut out = [0; RESULTS];
    (out[0], out[1]) = (bf16, f16);
    let mut i = 0;
    while i < floats.len() {
        out[i + 2] = floats[i].to_bits();
        i += 1;
    }
    out
}

kernel! {
    threads = PROBE.threads, registers = 128, shared = PROBE.shared;
    /// `out[RESULTS * i ..] = arith(x[i], x[(i + 1) % n])` for every `i` below `n`, by a grid of any size.
    ///
    /// NaNs are compared as NaNs: the host twin promises their bits only for conversions and maxima.
    pub unsafe fn probe_arith(x: *const f32, out: *mut u32, n: u32) {
        let mut i = block_idx_x() * block_dim_x() + thread_idx_x();
        while i < n {
            let next = if i + 1 == n { 0 } else { i + 1 };
            // SAFETY: both indices are below `n`, the length of `x`.
            let results = unsafe { arith(ldst::ld_global_f32(x.add(i as usize)), ldst::ld_global_f32(x.add(next as usize))) };
            let mut j = 0;
            while j < RESULTS {
                // SAFETY: `out` has `RESULTS` words for each of the `n` inputs.
                unsafe { ldst::st_global_u32(out.add(i as usize * RESULTS + j), results[j]) };
                j += 1;
            }
            i += grid_dim_x() * block_dim_x();
        }
    }
}
