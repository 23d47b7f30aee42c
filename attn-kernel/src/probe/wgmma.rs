//! Every form of the warpgroup multiply that the kernels use, each as a kernel of its own: `D[64, N] = A[64, 64] B[N, 64]^T`, with twice as
//! many columns of 8-bit elements.

use crate::entry::{dynamic_shared, thread_idx_x};
use crate::forward::plan::WARPGROUP;
use crate::kernel;
use crate::mem::{Bf16, E4m3, F16, Format, Layout, Operand, Smem, Swizzle};
use crate::ptx::{barrier, fence, ldst, matrix, wgmma};

/// Rows of A and D.
pub const M: u32 = 64;
/// 16-bit columns of A and B: four k-steps. Two 8-bit elements are taken for a column.
pub const K: u32 = 64;

/// A multiply probe: 128 threads, one block, parameters `(a: *const u16, b: *const u16, d: *mut f32)`.
///
/// `a` is 64 x 64, `b` is N x 64 and `d` is 64 x N, all dense and row-major, whatever the layout in shared memory. Of 8-bit elements `a` and
/// `b` have 128 columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiply {
    /// Entry point.
    pub name: &'static str,
    /// Of A and B.
    pub format: Format,
    /// Columns of D.
    pub n: u32,
    /// A comes from registers.
    pub a_in_registers: bool,
    /// Layout of B; A is K-major in the same swizzle.
    pub b: Layout,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

const fn layout(swizzle: Swizzle, mn_major: bool, mn: u32) -> Layout {
    Layout { swizzle, mn_major, mn, k: K }
}

/// A's tile and B's, which starts on the next 1024 bytes.
const fn shared(a: Layout, b: Layout) -> u32 {
    a.bytes().next_multiple_of(1024) + b.bytes()
}

macro_rules! multiplies {
    ($($name:ident: $e:ident, $n:literal, $form:ident, $mn_major:literal, $swizzle:ident;)*) => {
        /// The multiply probes. Hopper only.
        pub const MULTIPLIES: &[Multiply] = &[$({
            let swizzle = Swizzle::$swizzle;
            let b = layout(swizzle, $mn_major, $n);
            Multiply {
                name: stringify!($name),
                format: $e::FORMAT,
                n: $n,
                a_in_registers: multiplies!(@registers $form),
                b,
                shared: shared(layout(swizzle, false, M), b),
            }
        }),*];

        $(kernel! {
            threads = WARPGROUP, registers = 240,
            shared = shared(layout(Swizzle::$swizzle, false, M), layout(Swizzle::$swizzle, $mn_major, $n));
            /// `d = a b^T`; see [`Multiply`].
            pub unsafe fn $name(a: *const u16, b: *const u16, d: *mut f32) {
                const A: Layout = layout(Swizzle::$swizzle, false, M);
                const B: Layout = layout(Swizzle::$swizzle, $mn_major, $n);
                // SAFETY: the launch is one block of one warpgroup with `shared(A, B)` bytes; the matrices have the promised sizes.
                unsafe {
                    let (a_tile, b_tile) = fill(A, a, B, b);
                    let acc = $form::<$e, { $n / 2 }, { $mn_major as u32 }>(A, a_tile, B, b_tile);
                    store(d, $n, &acc);
                }
            }
        })*
    };
    (@registers ss) => { false };
    (@registers rs) => { true };
}

/// Copies both matrices to their tiles, ready for the tensor cores.
#[inline(always)]
unsafe fn fill(a: Layout, a_from: *const u16, b: Layout, b_from: *const u16) -> (Smem<u16>, Smem<u16>) {
    let a_tile = Smem::new(dynamic_shared());
    let b_tile = a_tile.offset(a.bytes().next_multiple_of(1024));
    // SAFETY: every thread writes its own elements, publishes them to the asynchronous proxy and meets the others.
    unsafe {
        fill_one(a, a_tile, a_from);
        fill_one(b, b_tile, b_from);
        fence::proxy_async_shared_cta();
        barrier::sync_all();
    }
    (a_tile, b_tile)
}

#[inline(always)]
unsafe fn fill_one(layout: Layout, tile: Smem<u16>, from: *const u16) {
    let mut i = thread_idx_x();
    while i < layout.mn * K {
        // SAFETY: `i` is below the number of elements, on both sides.
        unsafe { ldst::st_shared_u16(tile.offset(layout.offset(i / K, i % K)), *from.add(i as usize)) };
        i += WARPGROUP;
    }
}

/// Both operands from shared memory.
#[inline(always)]
unsafe fn ss<E: Operand, const R: usize, const TB: u32>(
    a: Layout,
    a_tile: Smem<u16>,
    b: Layout,
    b_tile: Smem<u16>,
) -> [f32; R] {
    // SAFETY: one warpgroup, all together; the tiles are complete.
    unsafe {
        wgmma::fence();
        let mut acc = wgmma::ss_zero::<E, R, TB>(a.descriptor(a_tile, 0), b.descriptor(b_tile, 0));
        let mut step = 1;
        while step < K / 16 {
            wgmma::ss::<E, R, TB>(&mut acc, a.descriptor(a_tile, step), b.descriptor(b_tile, step));
            step += 1;
        }
        wgmma::commit();
        wgmma::wait_with::<0, R>(&mut acc);
        acc
    }
}

/// A through registers, read from its swizzled tile by `ldmatrix`.
#[inline(always)]
unsafe fn rs<E: Operand, const R: usize, const TB: u32>(
    a: Layout,
    a_tile: Smem<u16>,
    b: Layout,
    b_tile: Smem<u16>,
) -> [f32; R] {
    let (warp, lane) = (thread_idx_x() / 32, thread_idx_x() % 32);
    // Matrices 0 and 1 are rows 0 to 7 and 8 to 15 of the first eight columns, 2 and 3 of the next eight.
    let row = 16 * warp + lane % 16;
    let mut fragments = [0u32; 16];
    // SAFETY: one warpgroup, all together; the tiles are complete and the named rows lie in A's.
    unsafe {
        let mut step = 0;
        while step < 4 {
            let address = a_tile.offset(a.offset(row, 16 * step as u32 + 8 * (lane / 16))).addr();
            let r = matrix::ldmatrix_x4(address);
            let mut i = 0;
            while i < 4 {
                fragments[4 * step + i] = r[i];
                i += 1;
            }
            step += 1;
        }
        let f = |step: usize| {
            [fragments[4 * step], fragments[4 * step + 1], fragments[4 * step + 2], fragments[4 * step + 3]]
        };
        wgmma::fence();
        let mut acc = wgmma::rs_zero::<E, R, TB>(f(0), b.descriptor(b_tile, 0));
        let mut step = 1;
        while step < 4 {
            wgmma::rs::<E, R, TB>(&mut acc, f(step), b.descriptor(b_tile, step as u32));
            step += 1;
        }
        wgmma::commit();
        wgmma::wait_with::<0, R>(&mut acc);
        wgmma::tie_packed(&mut fragments);
        acc
    }
}

/// Writes the fragments of D to row-major memory of `n` columns.
#[inline(always)]
unsafe fn store<const R: usize>(d: *mut f32, n: u32, acc: &[f32; R]) {
    let thread = thread_idx_x();
    let (g, q) = (thread % 32 / 4, thread % 4);
    let mut i = 0;
    while i < R as u32 {
        let row = thread / 32 * 16 + g + 8 * ((i >> 1) & 1);
        let column = 8 * (i >> 2) + 2 * q + (i & 1);
        // SAFETY: the row is below 64 and the column below `n`.
        unsafe { ldst::st_global_f32(d.add((row * n + column) as usize), acc[i as usize]) };
        i += 1;
    }
}

multiplies! {
    // Q K^T: every N, K-major.
    probe_wgmma_ss_k_n16: Bf16, 16, ss, false, B128;
    probe_wgmma_ss_k_n32: Bf16, 32, ss, false, B128;
    probe_wgmma_ss_k_n64: Bf16, 64, ss, false, B128;
    probe_wgmma_ss_k_n80: Bf16, 80, ss, false, B128;
    probe_wgmma_ss_k_n96: Bf16, 96, ss, false, B128;
    probe_wgmma_ss_k_n112: Bf16, 112, ss, false, B128;
    probe_wgmma_ss_k_n128: Bf16, 128, ss, false, B128;
    probe_wgmma_ss_k_n144: Bf16, 144, ss, false, B128;
    probe_wgmma_ss_k_n160: Bf16, 160, ss, false, B128;
    probe_wgmma_ss_k_n176: Bf16, 176, ss, false, B128;
    probe_wgmma_ss_k_n192: Bf16, 192, ss, false, B128;
    probe_wgmma_ss_k_n208: Bf16, 208, ss, false, B128;
    probe_wgmma_ss_k_n224: Bf16, 224, ss, false, B128;
    probe_wgmma_ss_k_n240: Bf16, 240, ss, false, B128;
    probe_wgmma_ss_k_n256: Bf16, 256, ss, false, B128;
    // P V: A from registers, MN-major.
    probe_wgmma_rs_mn_n32: Bf16, 32, rs, true, B64;
    probe_wgmma_rs_mn_n64: Bf16, 64, rs, true, B128;
    probe_wgmma_rs_mn_n96: Bf16, 96, rs, true, B64;
    probe_wgmma_rs_mn_n128: Bf16, 128, rs, true, B128;
    probe_wgmma_rs_mn_n192: Bf16, 192, rs, true, B128;
    probe_wgmma_rs_mn_n256: Bf16, 256, rs, true, B128;
    // Every swizzle in both majors.
    probe_wgmma_ss_k_n64_b64: Bf16, 64, ss, false, B64;
    probe_wgmma_ss_k_n64_b32: Bf16, 64, ss, false, B32;
    probe_wgmma_ss_k_n64_none: Bf16, 64, ss, false, None;
    probe_wgmma_ss_mn_n64: Bf16, 64, ss, true, B128;
    probe_wgmma_ss_mn_n64_b64: Bf16, 64, ss, true, B64;
    probe_wgmma_ss_mn_n64_b32: Bf16, 64, ss, true, B32;
    probe_wgmma_ss_mn_n64_none: Bf16, 64, ss, true, None;
    probe_wgmma_rs_k_n64_b32: Bf16, 64, rs, false, B32;
    probe_wgmma_rs_k_n64_none: Bf16, 64, rs, false, None;
    // f16.
    probe_wgmma_f16_ss_k_n128: F16, 128, ss, false, B128;
    probe_wgmma_f16_ss_mn_n64: F16, 64, ss, true, B128;
    probe_wgmma_f16_rs_k_n96: F16, 96, rs, false, B64;
    probe_wgmma_f16_rs_mn_n128: F16, 128, rs, true, B128;
    // e4m3, which is K-major only.
    probe_wgmma_e4m3_ss_n64: E4m3, 64, ss, false, B128;
    probe_wgmma_e4m3_ss_n128: E4m3, 128, ss, false, B128;
    probe_wgmma_e4m3_ss_n96_b64: E4m3, 96, ss, false, B64;
    probe_wgmma_e4m3_ss_n64_b32: E4m3, 64, ss, false, B32;
    probe_wgmma_e4m3_rs_n64: E4m3, 64, rs, false, B128;
    probe_wgmma_e4m3_rs_n128_b64: E4m3, 128, rs, false, B64;
    probe_wgmma_e4m3_rs_n256: E4m3, 256, rs, false, B128;
}
