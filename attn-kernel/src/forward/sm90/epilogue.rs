//! O and LSE leave the registers: O through shared memory and TMA, which cuts off what does not exist; LSE directly.

use super::block::Seat;
use super::{Sequences, Variant};
use crate::forward::TensorMap;
use crate::forward::plan::{Plan, ROWS};
use crate::mem::{Element, Smem, Swizzle};
use crate::ptx::{fence, ldst, matrix, special, tma};

/// Writes the warpgroup's 64 rows of O to shared memory, each times its factor, rounded and swizzled as the TMA store expects.
///
/// # Safety
/// `o` is the warpgroup's own 64 x dv tile; called by all its threads, converged.
#[inline(always)]
pub(super) unsafe fn stage_output<V: Variant, const O: usize>(
    seat: Seat,
    o: Smem<()>,
    acc: &[f32; O],
    factors: [f32; 2],
) {
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
    // Ragged sequences and wide heads leave few registers: there the addresses are worked out afresh for each tile.
    let thread =
        if const { V::Sequences::RAGGED || V::PLAN.o_in_q() } { special::fresh(seat.thread) } else { seat.thread };
    let lane = thread % 32;
    let row = (thread / 32 * 16 + lane % 16) * swizzle.span() + lane / 16 * 16;
    let mut i = 0;
    while i < O {
        let column = 2 * i; // 8 registers are 16 columns
        let at = (column / panel) as u32 * ROWS * swizzle.span() + (column % panel) as u32 * 2;
        let pairs = [0, 2, 4, 6].map(|j| {
            let factor = factors[j / 2 % 2];
            V::Element::pack(acc[i + j] * factor, acc[i + j + 1] * factor)
        });
        // SAFETY: inside the tile; the tile starts on the swizzle's period, so swizzling the offset swizzles the address.
        unsafe { matrix::stmatrix_x4(o.addr() + swizzle.apply(row + at), pairs) };
        i += 8;
    }
    fence::proxy_async_shared_cta();
    seat.sync();
}

/// Stores the staged rows, a panel a copy; the map cuts off rows and columns that do not exist. `at` is the first panel's place.
///
/// # Safety
/// Called by one thread after [`stage_output`]; the map is of rank `N`.
#[inline(always)]
pub(super) unsafe fn store_output<V: Variant, const N: usize>(map: *const TensorMap, o: Smem<()>, at: [i32; N]) {
    let dv = const { V::PLAN.dv };
    let mut column = 0;
    while column < dv {
        let mut coords = at;
        coords[0] = column as i32;
        // SAFETY: the panel lies in the staged tile.
        unsafe { tma::store(map, coords, o.offset(column * ROWS * 2)) };
        column += Plan::panel(dv);
    }
    tma::commit_group();
}

/// Writes element `at` of an array in global memory.
///
/// # Safety
/// The array has the element.
#[inline(always)]
pub(super) unsafe fn store_f32(array: *mut f32, at: u64, value: f32) {
    // SAFETY: the caller's promise.
    unsafe { ldst::st_global_f32(array.wrapping_add(at as usize), value) }
}
