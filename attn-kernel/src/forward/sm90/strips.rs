//! O += P V of 8-bit factors where O is so wide that a thread has no registers for a second one: in strips of O's columns.
//!
//! | tensor cores        | FMA                       |
//! |---------------------|---------------------------|
//! | P V, columns 0..32  |                           |
//! | P V, columns 32..64 | O += P V, columns 0..32   |
//! | P V, columns 64..96 | O += P V, columns 32..64  |
//! | ...                 |                           |

use super::Variant;
use crate::forward::narrow;
use crate::forward::plan::STRIP;
use crate::mem::descriptor::{Descriptor, k_major_step};
use crate::mem::{Smem, Swizzle};
use crate::pipe::ring;
use crate::ptx::wgmma::{self, K_MAJOR};

/// A thread's sums of a strip.
const SUMS: usize = STRIP as usize / 2;

/// Adds a block's P V to O, of which V is transposed.
///
/// # Safety
/// The whole warpgroup calls it, with nothing of its own on its way to the tensor cores; `values` has been waited for.
#[inline(always)]
pub(super) unsafe fn add_product<V: Variant, const O: usize, const P: usize>(
    acc: &mut [f32; O],
    p: &mut [u32; P],
    values: Smem<ring::Tile>,
) {
    // SAFETY: the caller's promise; each strip is waited for before it is added, and added before its registers are another's.
    unsafe {
        let mut sums = issue::<V, P>(p, values, 0);
        let mut strip = 0;
        while strip + 1 < O / SUMS {
            let next = issue::<V, P>(p, values, strip + 1);
            wgmma::wait_with::<1, SUMS>(&mut sums);
            add(acc, &sums, strip);
            sums = next;
            strip += 1;
        }
        wgmma::wait_with::<0, SUMS>(&mut sums);
        wgmma::tie_packed(p);
        add(acc, &sums, strip);
    }
}

/// Issues P V of strip `strip` as one committed group.
///
/// # Safety
/// As [`add_product`]; the sums and P are left alone until the group has been waited for.
#[inline(always)]
unsafe fn issue<V: Variant, const P: usize>(p: &[u32; P], values: Smem<ring::Tile>, strip: usize) -> [f32; SUMS] {
    let plan = const { V::PLAN };
    let swizzle = const { Swizzle::of_span(narrow::span(V::PLAN.bn)) };
    // A row for each column.
    let values = Descriptor::k_major(swizzle, values).advance(strip as u32 * STRIP * swizzle.span());
    let fragment = |i: usize| [p[i], p[i + 1], p[i + 2], p[i + 3]];
    // SAFETY: the caller's promise.
    unsafe {
        wgmma::fence();
        let mut sums = wgmma::rs_zero::<V::Operand, SUMS, K_MAJOR>(fragment(0), values);
        let mut i = 4;
        while i < P {
            let b = values.advance(k_major_step(swizzle, plan.dv, i as u32 / 4));
            wgmma::rs::<V::Operand, SUMS, K_MAJOR>(&mut sums, fragment(i), b);
            i += 4;
        }
        wgmma::commit();
        sums
    }
}

/// Adds the sums of strip `strip` to the thread's part of O.
#[inline(always)]
fn add<const O: usize>(acc: &mut [f32; O], sums: &[f32; SUMS], strip: usize) {
    let mut i = 0;
    while i < SUMS {
        acc[strip * SUMS + i] += sums[i];
        i += 1;
    }
}
