//! O and LSE leave the registers: O through shared memory and TMA, which cuts off what does not exist; LSE directly.

use super::Variant;
use super::block::Seat;
use crate::attn::walk::Tile;
use crate::forward::plan::{Plan, ROWS};
use crate::forward::{ForwardParams, TensorMap};
use crate::mem::{Element, Smem, Swizzle};
use crate::ptx::{fence, ldst, matrix, tma};

/// Writes the warpgroup's 64 rows of O to shared memory, rounded and swizzled as the TMA store expects.
///
/// # Safety
/// `o` is the warpgroup's own 64 x dv tile; called by all its threads, converged.
#[inline(always)]
pub(super) unsafe fn stage_output<V: Variant, const O: usize>(seat: Seat, o: Smem<()>, acc: &[f32; O]) {
    let swizzle = const { Swizzle::of_span(Plan::panel(V::PLAN.dv) * 2) };
    let panel = const { Plan::panel(V::PLAN.dv) as usize };
    // The previous tile's store has read this memory: where it is also Q's, the next Q came after that. The others are done with
    // what else lies in it.
    if const { !V::PLAN.o_in_q() } && seat.thread == 0 {
        tma::wait_group_read::<0>();
    }
    seat.sync();
    // stmatrix takes four 8x8 matrices: both row halves of two neighbouring column groups. Lane `l` names row `l % 16` of
    // group `l / 16`.
    let lane = seat.thread % 32;
    let row = (seat.thread / 32 * 16 + lane % 16) * swizzle.span() + lane / 16 * 16;
    let mut i = 0;
    while i < O {
        let column = 2 * i; // 8 registers are 16 columns
        let at = (column / panel) as u32 * ROWS * swizzle.span() + (column % panel) as u32 * 2;
        let pairs = [0, 2, 4, 6].map(|j| V::Element::pack(acc[i + j], acc[i + j + 1]));
        // SAFETY: inside the tile; the tile starts on the swizzle's period, so swizzling the offset swizzles the address.
        unsafe { matrix::stmatrix_x4(o.addr() + swizzle.apply(row + at), pairs) };
        i += 8;
    }
    fence::proxy_async_shared_cta();
    seat.sync();
}

/// Stores the staged rows, a panel a copy; the map cuts off rows and columns that do not exist.
///
/// # Safety
/// Called by one thread after [`stage_output`].
#[inline(always)]
pub(super) unsafe fn store_output<V: Variant>(
    map: *const TensorMap,
    o: Smem<()>,
    tile: Tile,
    first_row: u32,
    seqlen_q: u32,
) {
    if first_row >= seqlen_q {
        return;
    }
    let dv = const { V::PLAN.dv };
    let mut column = 0;
    while column < dv {
        let coords = [column as i32, first_row as i32, tile.head as i32, tile.batch as i32];
        // SAFETY: the panel lies in the staged tile.
        unsafe { tma::store(map, coords, o.offset(column * ROWS * 2)) };
        column += Plan::panel(dv);
    }
    tma::commit_group();
}

/// Writes the LSE of the warpgroup's rows, one thread of each quad.
///
/// # Safety
/// `params.lse` is null or the LSE array that [`ForwardParams`] describes.
#[inline(always)]
pub(super) unsafe fn store_lse(params: &ForwardParams, tile: Tile, first_row: u32, seat: Seat, lse: [f32; 2]) {
    if params.lse.is_null() || seat.column() != 0 {
        return;
    }
    let line = tile.batch as u64 * params.lse_batch_stride + tile.head as u64 * params.lse_head_stride;
    for (r, &value) in lse.iter().enumerate() {
        let row = first_row + seat.row() + 8 * r as u32;
        if row < params.seqlen_q {
            // SAFETY: the row exists.
            unsafe { ldst::st_global_f32(params.lse.wrapping_add((line + row as u64) as usize), value) };
        }
    }
}
