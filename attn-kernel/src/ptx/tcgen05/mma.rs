//! Multiplies of 16-bit and of 8-bit elements, and the copy from shared to tensor memory.

use super::{Issuer, check_group};
use crate::mem::{Instruction, Operand, Tmem, UmmaDescriptor};
use crate::ptx;

/// Expands `$op!` with the kind of multiply that takes elements of `$E`.
macro_rules! of_kind {
    ($E:ident, $op:ident) => {
        if const { $E::FORMAT.bytes() == 1 } { $op!("f8f6f4") } else { $op!("f16") }
    };
}

/// `tcgen05.mma`, A and B from shared memory: `D (+)= A[M, K] B[N, K]^T` with 32 bytes of `K`, `kind::f16` or `kind::f8f6f4` as the elements
/// ask for. sm_100a.
///
/// Without `accumulate` D's old contents are not read. For `M` = 128 row `m` of D is lane `m`, column `n` the `n`-th from `d`. For `G` = 2
/// each block of the pair holds its half of A's rows, D's rows and B's rows at the same addresses. Asynchronous: see
/// [`commit`](super::commit). The floor is `M N 16 / 4096` cycles for one block, half of that for a pair.
///
/// # Safety
/// The instruction is one of `E`. One thread issues, of the even block for `G` = 2. The tiles are complete, visible to the asynchronous proxy and stay so until a commit of
/// this multiply arrives; D is allocated, and what others did to it is ordered before by the module's table.
#[inline(always)]
pub unsafe fn mma_ss<const G: u32, E: Operand>(
    by: Issuer,
    d: Tmem<f32>,
    a: UmmaDescriptor,
    b: UmmaDescriptor,
    instruction: Instruction,
    accumulate: bool,
) {
    const { check_group(G) };
    macro_rules! issue {
        ($kind:literal) => {
            ptx!(
                "{{ .reg .b64 a, b; .reg .pred p, q; mov.b64 a, {{{al}, {ah}}}; mov.b64 b, {{{bl}, {bh}}}; setp.ne.b32 p, {acc}, 0; ",
                concat!("setp.ne.b32 q, {by}, 0; @q tcgen05.mma.cta_group::{g}.kind::", $kind, " [{d}], a, b, {i}, p; }}"),
                g = const G, d = in(reg32) d.addr(), al = in(reg32) a.low(), ah = in(reg32) a.high(),
                bl = in(reg32) b.low(), bh = in(reg32) b.high(), i = in(reg32) instruction.bits(),
                acc = in(reg32) accumulate as u32, by = in(reg32) by.bit(), options(nostack)
            )
        };
    }
    of_kind!(E, issue);
}

/// [`mma_ss`] with A from tensor memory, eight columns of two elements each, or four of 8 bits: row `m` in lane `m`, the lower K in the lower
/// bits.
///
/// A store of packed elements by [`st`](super::st) writes that. sm_100a.
///
/// # Safety
/// As [`mma_ss`]; A's stores are ordered before by the module's table.
#[inline(always)]
pub unsafe fn mma_ts<const G: u32, E: Operand>(
    by: Issuer,
    d: Tmem<f32>,
    a: Tmem<u32>,
    b: UmmaDescriptor,
    instruction: Instruction,
    accumulate: bool,
) {
    const { check_group(G) };
    macro_rules! issue {
        ($kind:literal) => {
            ptx!(
                "{{ .reg .b64 b; .reg .pred p, q; mov.b64 b, {{{bl}, {bh}}}; setp.ne.b32 p, {acc}, 0; ",
                concat!("setp.ne.b32 q, {by}, 0; @q tcgen05.mma.cta_group::{g}.kind::", $kind, " [{d}], [{a}], b, {i}, p; }}"),
                g = const G, d = in(reg32) d.addr(), a = in(reg32) a.addr(), bl = in(reg32) b.low(), bh = in(reg32) b.high(),
                i = in(reg32) instruction.bits(), acc = in(reg32) accumulate as u32, by = in(reg32) by.bit(), options(nostack)
            )
        };
    }
    of_kind!(E, issue);
}

/// `tcgen05.cp.128x256b`: 128 rows of 32 bytes, by a K-major descriptor, to eight columns of all lanes. sm_100a.
///
/// Ordered before later multiplies of the thread; for others as a multiply, by a commit. For `G` = 2 each block copies its own.
///
/// # Safety
/// As [`mma_ss`], of the source and the columns at `to`.
#[inline(always)]
pub unsafe fn cp_128x256b<const G: u32, T>(by: Issuer, to: Tmem<T>, from: UmmaDescriptor) {
    const { check_group(G) };
    ptx!(
        "{{ .reg .b64 s; .reg .pred q; mov.b64 s, {{{l}, {h}}}; setp.ne.b32 q, {by}, 0; @q tcgen05.cp.cta_group::{g}.128x256b [{to}], s; }}",
        g = const G, to = in(reg32) to.addr(), l = in(reg32) from.low(), h = in(reg32) from.high(), by = in(reg32) by.bit(),
        options(nostack)
    );
}
