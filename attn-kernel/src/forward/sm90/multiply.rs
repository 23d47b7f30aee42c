//! The two products of a block on the tensor cores: S = Q Kᵀ with both factors in shared memory, O += P V with P in registers.

use super::Variant;
use crate::forward::narrow;
use crate::forward::plan::{Plan, ROWS};
use crate::mem::descriptor::{Descriptor, k_major_step, mn_major_step};
use crate::mem::{Operand, Smem, Swizzle};
use crate::pipe::ring;
use crate::ptx::wgmma::{self, K_MAJOR, MN_MAJOR};

/// Issues S = Q Kᵀ as one committed group.
#[inline(always)]
pub(super) fn issue_scores<V: Variant, const S: usize>(queries: Descriptor, keys: Smem<ring::Tile>) -> [f32; S] {
    let plan = const { V::PLAN };
    let swizzle = const { Swizzle::of_span(V::PLAN.span(V::PLAN.d)) };
    let keys = Descriptor::k_major(swizzle, keys);
    // SAFETY: both tiles have been waited for and stay until the group has been waited for; the whole warpgroup issues.
    unsafe {
        wgmma::fence();
        let mut scores = wgmma::ss_zero::<V::Operand, S, K_MAJOR>(queries, keys);
        let mut i = 1;
        while i < plan.d * plan.operand_bytes() / 32 {
            let a = queries.advance(k_major_step(swizzle, ROWS, i));
            let b = keys.advance(k_major_step(swizzle, plan.bn, i));
            wgmma::ss::<V::Operand, S, K_MAJOR>(&mut scores, a, b);
            i += 1;
        }
        wgmma::commit();
        scores
    }
}

/// Issues O += P V as one committed group, or returns P V where it is added in parts. P's packed registers are A fragments as they are.
///
/// In [`step`](super::step) the scores' fence orders these registers already, but ptxas (13.5) does not see it over the wait for V: without
/// a fence of its own it inserts one into that wait's loop, and serialises the multiplies (C7519).
#[inline(always)]
pub(super) fn issue_output<V: Variant, const O: usize, const P: usize>(
    acc: &mut [f32; O],
    p: &[u32; P],
    values: Smem<ring::Tile>,
) -> [f32; O] {
    if const { V::PLAN.in_parts() } {
        return issue_part::<V, O, P>(p, values);
    }
    let plan = const { V::PLAN };
    let swizzle = const { Swizzle::of_span(Plan::panel(V::PLAN.dv) * 2) };
    let values = Descriptor::mn_major(swizzle, values, plan.bn * swizzle.span());
    // SAFETY: as in `issue_scores`.
    unsafe {
        wgmma::fence();
        let mut i = 0;
        if const { V::PLAN.single } {
            // Zeros to add to would be put into their registers behind the fence, as they are known.
            *acc = wgmma::rs_zero::<V::Element, O, MN_MAJOR>([p[0], p[1], p[2], p[3]], values);
            i = 4;
        }
        while i < P {
            let b = values.advance(mn_major_step(swizzle, i as u32 / 4));
            wgmma::rs::<V::Element, O, MN_MAJOR>(acc, [p[i], p[i + 1], p[i + 2], p[i + 3]], b);
            i += 4;
        }
        wgmma::commit();
    }
    [0.0; O]
}

/// Issues P V of 8-bit factors as one committed group. V is transposed.
#[inline(always)]
fn issue_part<V: Variant, const O: usize, const P: usize>(p: &[u32; P], values: Smem<ring::Tile>) -> [f32; O] {
    let plan = const { V::PLAN };
    let swizzle = const { Swizzle::of_span(narrow::span(V::PLAN.bn)) };
    let values = Descriptor::k_major(swizzle, values);
    // SAFETY: as in `issue_scores`.
    unsafe {
        wgmma::fence();
        let mut part = wgmma::rs_zero::<V::Operand, O, K_MAJOR>([p[0], p[1], p[2], p[3]], values);
        let mut i = 4;
        while i < P {
            let b = values.advance(k_major_step(swizzle, plan.dv, i as u32 / 4));
            wgmma::rs::<V::Operand, O, K_MAJOR>(&mut part, [p[i], p[i + 1], p[i + 2], p[i + 3]], b);
            i += 4;
        }
        wgmma::commit();
        part
    }
}

/// Adds a block's P V that has been waited for, where O is added in parts.
#[inline(always)]
pub(super) fn add_part<V: Variant, const O: usize>(acc: &mut [f32; O], part: &[f32; O]) {
    if const { V::PLAN.in_parts() } {
        let mut i = 0;
        while i < O {
            acc[i] += part[i];
            i += 1;
        }
    }
}

/// Rounds probabilities to what is multiplied.
#[inline(always)]
pub(super) fn pack<E: Operand, const S: usize, const P: usize>(scores: &[f32; S]) -> [u32; P] {
    let mut p = [0; P];
    let mut i = 0;
    while i < S / 2 {
        E::store(&mut p, i, scores[2 * i], scores[2 * i + 1]);
        i += 1;
    }
    p
}
