//! Hopper's warpgroup matrix multiply: `D[64, N] (+)= A[64, 16] B[N, 16]^T`, asynchronous, four warps together; of 8-bit elements 32
//! columns of A and B, the same 32 bytes, and both K-major. sm_90a.
//!
//! `D` is `R = N / 2` f32 per thread. With `w` the warp of the warpgroup, `g = lane / 4`, `q = lane % 4`, register `i` is row
//! `16 w + g + 8 ((i >> 1) & 1)`, column `8 (i >> 2) + 2 q + (i & 1)`. `A` comes from shared memory (`ss`) or registers (`rs`), `B` from
//! shared memory. As a register operand, `A` is four packed pairs: rows `g` and `g + 8` at columns `2q, 2q + 1`, then both rows at
//! columns 8 further, so `P[64, 16 j ..]` is `pack(D[8j], D[8j + 1])` and the three pairs after it. Of 8-bit elements it is the same bytes:
//! rows `g` and `g + 8` at columns `4q` to `4q + 3`, then both rows at columns 16 further.
//!
//! # What keeps two multiplies in flight
//!
//! Learned with rustc 1.96 (LLVM 22) and ptxas 13.5 on `probe_overlap`: S = Q K^T and O += P V in flight at once, softmax on S
//! under the second. The machine code has all HGMMAs of a product back to back, no moves of accumulators, no spills, no
//! "serialized" warning. What it takes:
//!
//! 1. Accumulators are register operands of every instruction (`inout`), and of the wait that finishes them ([`wait_with`]). Then
//!    neither LLVM nor ptxas can touch them between. A and P registers that are rewritten after a wait are tied to it too
//!    ([`tie_packed`]): to LLVM the old P is dead once the multiply has been issued, so it may compute the new P into the same
//!    registers above the wait.
//! 2. The first multiply of a fresh S is [`ss_zero`]: no 64 moves of zero, no dependence on the old S, which may still be read.
//! 3. One [`fence`] before the first multiply of both products, none between them; a `commit` after each.
//! 4. **ptxas moves a wait up.** `wait_with::<0>(O)` written after softmax's arithmetic was scheduled before it, right behind the first
//!    shuffle, and the overlap was gone: nothing in arithmetic orders it with a wait. It does not cross a branch. An mbarrier wait
//!    between softmax and the wait for O kept 52 to 66 of 66 exponentials under the multiply, as ptxas chose to sink the rest behind it;
//!    [`hold_waits`], given the row sums that depend on all of them, keeps every one. In a kernel, given the sums of a first part of the
//!    exponentials, it keeps that part before the wait and the rest after it. Count `MUFU` between the two `WARPGROUP.DEPBAR` to check.
//! 5. Descriptors belong in uniform registers, and adding to the low half alone ([`Descriptor`]) makes a k-step one uniform addition.
//!    ptxas keeps a loop's stage index there only if it is sure that all lanes go round together: one divergent edge to the header of the
//!    loop around it, such as lanes that leave the end of a tile early, and every step costs vector arithmetic and two `R2UR`, every
//!    shuffle a `BRA.DIV`, every multiply a `WARPSYNC`. A `bar.warp.sync` at the end of that loop is enough. A warp that the compiler cannot be
//!    sure of takes the stage from lane 0 ([`Consumer::wait_converged`](crate::pipe::ring::Consumer::wait_converged)).

use crate::mem::{Descriptor, Format, Operand};
use crate::ptx;

/// B's tile is K-major: the reduction dimension is contiguous.
pub const K_MAJOR: u32 = 0;
/// B's tile is MN-major: N is contiguous, and the instruction transposes.
pub const MN_MAJOR: u32 = 1;

/// `wgmma.fence.sync.aligned`: orders register accesses before it with the multiplies after it.
///
/// Before the first multiply of a batch, and whenever ordinary code has touched an accumulator or `A` register since the last.
///
/// # Safety
/// All four warps of the warpgroup execute it together.
#[inline(always)]
pub unsafe fn fence() {
    ptx!("wgmma.fence.sync.aligned;", options(nostack));
}

/// `wgmma.commit_group.sync.aligned`: the multiplies issued since the last commit become one group.
///
/// # Safety
/// As [`fence`].
#[inline(always)]
pub unsafe fn commit() {
    ptx!("wgmma.commit_group.sync.aligned;", options(nostack));
}

/// `wgmma.wait_group.sync.aligned`: until at most `N` groups are unfinished; groups finish in order.
///
/// # Safety
/// As [`fence`]. The compiler does not connect this wait with any register: use [`wait_with`] where results are read after it.
#[inline(always)]
pub unsafe fn wait<const N: u32>() {
    ptx!("wgmma.wait_group.sync.aligned {n};", n = const N, options(nostack));
}

/// Keeps the waits that follow behind the arithmetic that made `x`: synchronises the warp by a mask that depends on `x`.
///
/// Nothing orders arithmetic with `wait_group`, and ptxas (13.5) moves the wait up over a whole softmax, which then no longer
/// runs under the multiply. It moves nothing over a `bar.warp.sync` whose mask it does not know. The mask is "`x` is at most infinity or
/// not a number", all ones for every `x`. A trap on an impossible `x` held the wait too, but in `probe_overlap` such an exit with multiplies
/// in flight made ptxas serialise all of them (C7512, C7518). All 32 lanes call it together.
#[inline(always)]
pub fn hold_waits(x: f32) {
    ptx!("{{", ".reg .b32 m;", "set.leu.u32.f32 m, {x}, 0f7F800000;", "bar.warp.sync m;", "}}", x = in(reg32) x, options(nostack));
}

/// Expands `$op!` with the list of register indices of `R` registers: 8, 16, 24, ... 128. `R` is a constant and picks one.
macro_rules! registers {
    ($r:ident, $op:ident $args:tt) => {{
        const { assert!($r.is_multiple_of(8) && $r >= 8 && $r <= 128, "registers come in 8 to 128, in steps of 8: N in 16 to 256") };
        registers!(@pick $r, $op $args, [],
            [0 1 2 3 4 5 6 7] [8 9 10 11 12 13 14 15]
            [16 17 18 19 20 21 22 23] [24 25 26 27 28 29 30 31]
            [32 33 34 35 36 37 38 39] [40 41 42 43 44 45 46 47]
            [48 49 50 51 52 53 54 55] [56 57 58 59 60 61 62 63]
            [64 65 66 67 68 69 70 71] [72 73 74 75 76 77 78 79]
            [80 81 82 83 84 85 86 87] [88 89 90 91 92 93 94 95]
            [96 97 98 99 100 101 102 103] [104 105 106 107 108 109 110 111]
            [112 113 114 115 116 117 118 119] [120 121 122 123 124 125 126 127])
    }};
    (@pick $r:ident, $op:ident $args:tt, [$($done:literal)*],) => {
        unreachable!()
    };
    (@pick $r:ident, $op:ident $args:tt, [$($done:literal)*], [$($next:literal)*] $($rest:tt)*) => {
        if const { $r == [$($done,)* $($next),*].len() } {
            $op!($args, $($done)* $($next)*)
        } else {
            registers!(@pick $r, $op $args, [$($done)* $($next)*], $($rest)*)
        }
    };
}

/// One multiply of `$types`. `$access` is `inout` or `out` for the accumulators, `$a_set` what makes A's descriptor, `$a` the template of A,
/// `$add` whether D is added and `$major` the majors that follow. Descriptors come in halves and are put together by moves that cost nothing.
macro_rules! mma {
    (($types:literal, $access:ident, $acc:ident, $a_set:literal, $a:literal, $add:literal, $major:literal, $($operand:tt)*), $first:literal $($i:literal)*) => {
        ptx!(
            concat!(
                "{{ .reg .b64 a, b; ", $a_set, "mov.b64 b, {{{bl}, {bh}}}; ",
                "wgmma.mma_async.sync.aligned.m64n{n}", $types, " {{",
                "{", $first, "}", $(",{", $i, "}",)* "}}, ", $a, ", b, ", $add, ", 1, 1", $major, "; }}"
            ),
            $access(reg32) $acc[$first], $($access(reg32) $acc[$i],)* $($operand)*
            options(nostack)
        )
    };
}

/// One multiply of the format of `$e`. `$major` is what gives the majors, and `$tb` B's, where the format leaves a choice.
macro_rules! typed {
    ($e:ident, $r:ident, $access:ident, $acc:ident, $a_set:literal, $a:literal, $add:literal, $major:literal $tb:ident, $($operand:tt)*) => {
        match const { $e::FORMAT } {
            Format::Bf16 => registers!($r, mma("k16.f32.bf16.bf16", $access, $acc, $a_set, $a, $add, $major, $($operand)* tb = const $tb,)),
            Format::F16 => registers!($r, mma("k16.f32.f16.f16", $access, $acc, $a_set, $a, $add, $major, $($operand)* tb = const $tb,)),
            Format::E4m3 => {
                // Evaluated for the other formats too.
                const { assert!($tb == K_MAJOR || $e::FORMAT.bytes() > 1, "8-bit operands are K-major") };
                registers!($r, mma("k32.f32.e4m3.e4m3", $access, $acc, $a_set, $a, $add, "", $($operand)*))
            }
        }
    };
}

/// `wgmma.mma_async`, A and B from shared memory: `acc += A B`. A is K-major; B is [`K_MAJOR`] or [`MN_MAJOR`] by `TB`, of 8-bit elements
/// K-major.
///
/// # Safety
/// As [`fence`], after a [`fence`]. The tiles are complete and stay so, and nobody reads or writes `acc`, until a [`wait_with`] that covers
/// this multiply's group.
#[inline(always)]
pub unsafe fn ss<E: Operand, const R: usize, const TB: u32>(acc: &mut [f32; R], a: Descriptor, b: Descriptor) {
    typed!(E, R, inout, acc, "mov.b64 a, {{{al}, {ah}}}; ", "a", "1", ", 0, {tb}" TB,
        al = in(reg32) a.low(), ah = in(reg32) a.high(), bl = in(reg32) b.low(), bh = in(reg32) b.high(), n = const R * 2,)
}

/// [`ss`] without an addend: `A B`. The accumulator's old registers are not read, so nothing has to clear them.
///
/// # Safety
/// As [`ss`], for the returned registers.
#[inline(always)]
pub unsafe fn ss_zero<E: Operand, const R: usize, const TB: u32>(a: Descriptor, b: Descriptor) -> [f32; R] {
    let mut acc = [0.0; R];
    typed!(E, R, out, acc, "mov.b64 a, {{{al}, {ah}}}; ", "a", "0", ", 0, {tb}" TB,
        al = in(reg32) a.low(), ah = in(reg32) a.high(), bl = in(reg32) b.low(), bh = in(reg32) b.high(), n = const R * 2,);
    acc
}

/// `wgmma.mma_async`, A from registers: `acc += A B`.
///
/// # Safety
/// As [`ss`]; `a`'s registers are not written either until the wait.
#[inline(always)]
pub unsafe fn rs<E: Operand, const R: usize, const TB: u32>(acc: &mut [f32; R], a: [u32; 4], b: Descriptor) {
    typed!(E, R, inout, acc, "", "{{{a0}, {a1}, {a2}, {a3}}}", "1", ", {tb}" TB,
        a0 = in(reg32) a[0], a1 = in(reg32) a[1], a2 = in(reg32) a[2], a3 = in(reg32) a[3],
        bl = in(reg32) b.low(), bh = in(reg32) b.high(), n = const R * 2,)
}

/// [`rs`] without an addend: `A B`.
///
/// # Safety
/// As [`rs`], for the returned registers.
#[inline(always)]
pub unsafe fn rs_zero<E: Operand, const R: usize, const TB: u32>(a: [u32; 4], b: Descriptor) -> [f32; R] {
    let mut acc = [0.0; R];
    typed!(E, R, out, acc, "", "{{{a0}, {a1}, {a2}, {a3}}}", "0", ", {tb}" TB,
        a0 = in(reg32) a[0], a1 = in(reg32) a[1], a2 = in(reg32) a[2], a3 = in(reg32) a[3],
        bl = in(reg32) b.low(), bh = in(reg32) b.high(), n = const R * 2,);
    acc
}

/// Ties registers to a point of the program: an empty instruction that reads and writes them.
macro_rules! tie {
    (($template:expr, $acc:ident, $($operand:tt)*), $($i:literal)*) => {
        // A PTX comment names the operands, because each must be named.
        ptx!(concat!($template, " //", $(" {", $i, "}",)*), $(inout(reg32) $acc[$i],)* $($operand)* options(nostack))
    };
}

/// Tells the compiler that `regs` change here, and emits nothing: it can move no access to them across this point.
///
/// # Safety
/// Harmless by itself; stands for the moment at which a multiply has finished with the registers.
#[inline(always)]
pub unsafe fn tie<const R: usize>(regs: &mut [f32; R]) {
    registers!(R, tie("", regs,))
}

/// [`tie`] for packed registers, such as P: whole fragments of four.
///
/// # Safety
/// As [`tie`].
#[inline(always)]
pub unsafe fn tie_packed<const R: usize>(regs: &mut [u32; R]) {
    const { assert!(R.is_multiple_of(4), "an A fragment is four registers") };
    for fragment in regs.as_chunks_mut().0 {
        tie_fragment(fragment);
    }
}

/// [`tie_packed`] of one fragment.
#[inline(always)]
fn tie_fragment([a, b, c, d]: &mut [u32; 4]) {
    ptx!(
        "// {a} {b} {c} {d}",
        a = inout(reg32) * a,
        b = inout(reg32) * b,
        c = inout(reg32) * c,
        d = inout(reg32) * d,
        options(nostack)
    );
}

/// [`wait`], after which `acc` holds finished sums: the compiler can move no read of it above the wait.
///
/// # Safety
/// As [`fence`]; at most `N` groups were committed after the one that wrote `acc`.
#[inline(always)]
pub unsafe fn wait_with<const N: u32, const R: usize>(acc: &mut [f32; R]) {
    registers!(R, tie("wgmma.wait_group.sync.aligned {n};", acc, n = const N,))
}
