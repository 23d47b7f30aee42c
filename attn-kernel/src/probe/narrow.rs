//! 8-bit floats: rounded from f32, and tiles of them widened and transposed in shared memory, each shape as a kernel of its own.

use super::Probe;
use crate::entry::{block_dim_x, block_idx_x, dynamic_shared, grid_dim_x, thread_idx_x};
use crate::forward::narrow::{Crew, Narrow};
use crate::kernel;
use crate::mem::{Bf16, F16, Format, Layout, Operand, Smem};
use crate::ptx::{barrier, float8, ldst};

/// [`probe_pack_e4m3`]: any grid.
pub const PACK: Probe = Probe::new("probe_pack_e4m3", 128, 0);

kernel! {
    threads = PACK.threads, registers = 64, shared = PACK.shared;
    /// `out[i] = pack_e4m3(x[4 i .. 4 i + 4])` for every `i` below `n`.
    pub unsafe fn probe_pack_e4m3(x: *const f32, out: *mut u32, n: u32) {
        let mut i = block_idx_x() * block_dim_x() + thread_idx_x();
        while i < n {
            // SAFETY: `x` has four numbers, on 16 bytes, for each of the `n` words of `out`.
            unsafe {
                let four = ldst::ld_global_f32x4(x.add(4 * i as usize));
                ldst::st_global_u32(out.add(i as usize), float8::pack_e4m3(four));
            }
            i += grid_dim_x() * block_dim_x();
        }
    }
}

/// Warps of a probe of a tile: a number that divides no tile.
const WARPS: u32 = 3;

/// A probe with parameters `(from: *const u16, out: *mut u32)`: `from` is the dense tile, two elements a `u16`, and `out` the words of the other
/// tile as they lie in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What a launcher needs.
    pub probe: Probe,
    /// The tile.
    pub tile: Narrow,
    /// What it is widened to; transposed if to nothing.
    pub to: Option<Format>,
}

impl Change {
    /// Where the elements of the other tile lie.
    pub const fn layout(&self) -> Layout {
        if self.to.is_some() { self.tile.widened() } else { self.tile.transposed() }
    }
}

/// The tile, and behind it the other one on the next 1024 bytes.
const fn shared(tile: Narrow, other: Layout) -> u32 {
    (tile.rows * tile.d).next_multiple_of(1024) + other.bytes()
}

macro_rules! changes {
    ($($name:ident: $d:literal x $rows:literal $how:ident $($to:ident)?;)*) => {
        /// The probes.
        pub const CHANGES: &[Change] = &[$({
            let tile = Narrow { rows: $rows, d: $d };
            let to = changes!(@format $($to)?);
            let mut change = Change { probe: Probe::new(stringify!($name), 32 * WARPS, 0), tile, to };
            change.probe.shared = shared(tile, change.layout());
            change
        }),*];

        $(kernel! {
            threads = 32 * WARPS, registers = 128,
            shared = shared(Narrow { rows: $rows, d: $d }, changes!(@layout Narrow { rows: $rows, d: $d }, $how));
            /// See [`Change`].
            pub unsafe fn $name(from: *const u16, out: *mut u32) {
                const TILE: Narrow = Narrow { rows: $rows, d: $d };
                const OTHER: Layout = changes!(@layout TILE, $how);
                let crew = Crew::of(thread_idx_x() / 32, WARPS);
                let tile = Smem::new(dynamic_shared());
                let other = tile.offset((TILE.rows * TILE.d).next_multiple_of(1024));
                // SAFETY: the launch is one block of the crew with `shared` bytes; everybody meets before and after.
                unsafe {
                    fill(TILE.layout(), tile.cast(), from);
                    barrier::sync_all();
                    TILE.$how$(::<$to>)?(tile, other, crew);
                    barrier::sync_all();
                    let mut at = 4 * thread_idx_x();
                    while at < OTHER.bytes() {
                        ldst::st_global_u32(out.add(at as usize / 4), ldst::ld_shared_u32(other.offset(at).cast()));
                        at += 4 * 32 * WARPS;
                    }
                }
            }
        })*
    };
    (@format $to:ident) => { Some($to::FORMAT) };
    (@format) => { None };
    (@layout $tile:expr, widen) => { $tile.widened() };
    (@layout $tile:expr, transpose) => { $tile.transposed() };
}

/// Copies a dense matrix of 16-bit elements to its tile.
#[inline(always)]
unsafe fn fill(layout: Layout, tile: Smem<u16>, from: *const u16) {
    let mut i = thread_idx_x();
    while i < layout.mn * layout.k {
        let at = layout.offset(i / layout.k, i % layout.k);
        // SAFETY: `i` is below the number of elements, on both sides.
        unsafe { ldst::st_shared_u16(tile.offset(at), *from.add(i as usize)) };
        i += 32 * WARPS;
    }
}

changes! {
    probe_widen_d32: 32 x 64 widen Bf16;
    probe_widen_d64: 64 x 80 widen Bf16;
    probe_widen_d96: 96 x 96 widen F16;
    probe_widen_d128: 128 x 128 widen Bf16;
    probe_widen_d256: 256 x 64 widen F16;
    probe_transpose_d64: 64 x 128 transpose;
    probe_transpose_d96: 96 x 96 transpose;
    probe_transpose_d128: 128 x 192 transpose;
    probe_transpose_d256: 256 x 64 transpose;
}
