//! Exchanges within a warp. All 32 lanes take part in each.

use crate::ptx;

/// `elect.sync`: true in exactly one lane, always the same one. sm_90.
///
/// Unlike `lane == 0` it tells `ptxas` that one thread runs what follows, so that a TMA issue needs no loop over lanes.
///
/// # Safety
/// All 32 lanes call it together.
#[inline(always)]
pub unsafe fn elect() -> bool {
    let one: u32;
    ptx!(
        "{{",
        ".reg .pred p;",
        "elect.sync _|p, 0xffffffff;",
        "selp.b32 {one}, 1, 0, p;",
        "}}",
        one = lateout(reg32) one, options(nostack)
    );
    one != 0
}

/// Lane 0's `x` in every lane (`shfl.sync.idx`), which `ptxas` then keeps in a uniform register. sm_70.
///
/// For values that are equal in all lanes anyway, such as a warp's index or a ring's stage. All 32 lanes call it together.
#[inline(always)]
pub fn uniform(x: u32) -> u32 {
    shfl_idx(x, 0)
}

/// `shfl.sync.idx`: `x` of lane `lane` (modulo 32). sm_70. All 32 lanes call it together.
#[inline(always)]
pub fn shfl_idx(x: u32, lane: u32) -> u32 {
    let y: u32;
    ptx!("shfl.sync.idx.b32 {y}, {x}, {lane}, 31, 0xffffffff;", y = lateout(reg32) y, x = in(reg32) x, lane = in(reg32) lane, options(nomem, nostack));
    y
}

/// `shfl.sync.bfly`: `x` of the lane whose index differs by `mask`'s bits. sm_70. All 32 lanes call it together.
#[inline(always)]
pub fn shfl_xor(x: u32, mask: u32) -> u32 {
    let y: u32;
    ptx!("shfl.sync.bfly.b32 {y}, {x}, {mask}, 31, 0xffffffff;", y = lateout(reg32) y, x = in(reg32) x, mask = in(reg32) mask, options(nomem, nostack));
    y
}

/// [`shfl_xor`] of an f32: the step of a butterfly reduction. A row of a wgmma accumulator lies in four neighbouring lanes, so
/// masks 1 and 2 reduce it.
#[inline(always)]
pub fn shfl_xor_f32(x: f32, mask: u32) -> f32 {
    f32::from_bits(shfl_xor(x.to_bits(), mask))
}

/// `shfl.sync.up`: `x` of the lane `delta` below; lanes below `delta` keep their own. sm_70. All 32 lanes call it together.
#[inline(always)]
pub fn shfl_up(x: u32, delta: u32) -> u32 {
    let y: u32;
    ptx!("shfl.sync.up.b32 {y}, {x}, {delta}, 0, 0xffffffff;", y = lateout(reg32) y, x = in(reg32) x, delta = in(reg32) delta, options(nomem, nostack));
    y
}

/// `vote.sync.ballot`: bit `l` is lane `l`'s `value`. sm_70. All 32 lanes call it together.
#[inline(always)]
pub fn ballot(value: bool) -> u32 {
    let bits: u32;
    ptx!(
        "{{",
        ".reg .pred p;",
        "setp.ne.b32 p, {v}, 0;",
        "vote.sync.ballot.b32 {bits}, p, 0xffffffff;",
        "}}",
        v = in(reg32) value as u32, bits = lateout(reg32) bits, options(nomem, nostack)
    );
    bits
}

/// `redux.sync.or`: the bits that any lane's `bits` has, the same in every lane. sm_80. All 32 lanes call it together.
#[inline(always)]
pub fn or(bits: u32) -> u32 {
    let all: u32;
    ptx!("redux.sync.or.b32 {all}, {bits}, 0xffffffff;", all = lateout(reg32) all, bits = in(reg32) bits, options(nomem, nostack));
    all
}

/// `vote.sync.any`: whether any lane's `value` is true, the same answer in every lane. sm_70. All 32 lanes call it together.
#[inline(always)]
pub fn any(value: bool) -> bool {
    let out: u32;
    ptx!(
        "{{",
        ".reg .pred p;",
        "setp.ne.b32 p, {v}, 0;",
        "vote.sync.any.pred p, p, 0xffffffff;",
        "selp.b32 {out}, 1, 0, p;",
        "}}",
        v = in(reg32) value as u32, out = lateout(reg32) out, options(nomem, nostack)
    );
    out != 0
}

/// `vote.sync.all`: whether every lane's `value` is true, the same answer in every lane. sm_70. All 32 lanes call it together.
#[inline(always)]
pub fn all(value: bool) -> bool {
    let out: u32;
    ptx!(
        "{{",
        ".reg .pred p;",
        "setp.ne.b32 p, {v}, 0;",
        "vote.sync.all.pred p, p, 0xffffffff;",
        "selp.b32 {out}, 1, 0, p;",
        "}}",
        v = in(reg32) value as u32, out = lateout(reg32) out, options(nomem, nostack)
    );
    out != 0
}

/// `bar.warp.sync`: the lanes reconverge, and their earlier memory accesses are visible to each other. sm_70.
///
/// # Safety
/// All 32 lanes call it together.
#[inline(always)]
pub unsafe fn sync() {
    ptx!("bar.warp.sync 0xffffffff;", options(nostack));
}
