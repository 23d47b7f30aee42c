//! Numbers of the Blackwell kernels, one line per shape class.

use super::plan::{Plan, Registers};
use crate::attn::row::Share;
use crate::forward::plan::{Arch, Float8, Schedule};

/// Two softmax warpgroups of 192: a row of 128 scores, 16 packed probabilities on their way out, and what the loop keeps.
const WIDE: Registers = Registers { softmax: 184, correction: 88, other: 56, convert: 0 };
/// The same for head dimension 192, whose multiplies have more descriptors to keep.
const WIDE_192: Registers = Registers { softmax: 184, correction: 88, other: 56, convert: 0 };
/// For serving with two softmax warpgroups. What a tile's start and end keep beside a row of modified scores is more than 184 (48 bytes of spills
/// with 184, 96, 48); the correction, which writes splits too, spills with 72, and the load warp, which reads page tables, does not with 48.
const WIDE_SERVING: Registers = Registers { softmax: 192, correction: 80, other: 48, convert: 0 };
/// One softmax warpgroup: registers are no concern.
const SINGLE: Registers = Registers { softmax: 216, correction: 168, other: 120, convert: 0 };

/// What the lift of 8-bit probabilities leaves for the growth of the maximum: together they stay below the greatest, 2^8.8.
const GROWTH_E4M3: f32 = 3.75;

/// One softmax warpgroup, and one that widens K and V.
const SINGLE_KV8: Registers = Registers { softmax: 200, correction: 120, other: 96, convert: 96 };

/// The plan for head dimensions `(d, dv)`, causal or not, with one or two query tiles.
pub const fn plan(arch: Arch, d: u32, dv: u32, causal: bool, tiles: u32) -> Plan {
    unchecked(arch, d, dv, causal, tiles, Float8::None).checked()
}

/// The plan of a kernel for serving. One tile and two differ in nothing that a row's bits depend on: then a query has the same whether it is
/// decoded alone or in a prompt.
pub const fn serving(arch: Arch, d: u32, dv: u32, tiles: u32, float8: Float8) -> Plan {
    let plan = unchecked(arch, d, dv, false, tiles, float8);
    Plan { regs: if tiles == 2 { WIDE_SERVING } else { plan.regs }, ragged: true, ..plan }.checked()
}

const fn unchecked(arch: Arch, d: u32, dv: u32, causal: bool, tiles: u32, float8: Float8) -> Plan {
    let (stages, k_parts, v_parts) = match (float8, d, dv, tiles) {
        (Float8::None, 32, 32, 2) => (8, 1, 1),
        (Float8::None, 64, 64, 2) => (8, 1, 1),
        (Float8::None, 96, 96, 2) => (5, 1, 1),
        (Float8::None, 128, 128, 2) => (3, 1, 1),
        (Float8::None, 192, 128, 2) => (8, 3, 2),
        (Float8::None, 64, 64, 1) => (8, 1, 1),
        (Float8::None, 96, 96, 1) => (7, 1, 1),
        (Float8::None, 128, 128, 1) => (5, 1, 1),
        (Float8::None, 192, 128, 1) => (8, 3, 2),
        (Float8::None, 256, 256, 1) => (5, 2, 2),
        (Float8::Keys, 64, 64, 1) => (8, 1, 1),
        (Float8::Keys, 128, 128, 1) => (3, 1, 1),
        (Float8::Keys, 256, 256, 1) => (3, 2, 2),
        (Float8::All, 64, 64, _) => (12, 1, 1),
        (Float8::All, 128, 128, _) => (8, 1, 1),
        (Float8::All, 256, 256, 1) => (4, 1, 1),
        _ => panic!("no plan for these head dimensions"),
    };
    // By architecture, head dimension and mask: the share that keeps the MUFU unit below the tensor cores' time for a block, or, where 8-bit
    // multiplies take half of that, about as busy as the FMA units. Ultra has exponentials enough, and wide heads are bound by their
    // multiplies. No measurement tells masks apart yet.
    let exp2 = match (arch, float8, d, causal) {
        (Arch::Sm103a, ..) | (_, Float8::None | Float8::Keys, 256, _) => Share::HARDWARE,
        (_, Float8::All, 256, _) => Share { period: 8, emulated: 2, first_chunk: 1 },
        (_, Float8::All, ..) => Share { period: 8, emulated: 3, first_chunk: 1 },
        (_, _, 192, _) => Share { period: 16, emulated: 2, first_chunk: 1 },
        _ => Share { period: 8, emulated: 2, first_chunk: 1 },
    };
    Plan {
        d,
        dv,
        float8,
        tiles,
        stages,
        k_parts,
        v_parts,
        regs: match (float8, d, tiles) {
            (Float8::Keys, ..) => SINGLE_KV8,
            (_, 192, 2) => WIDE_192,
            (_, _, 2) => WIDE,
            _ => SINGLE,
        },
        rescale_threshold: if matches!(float8, Float8::All) { GROWTH_E4M3 } else { 8.0 },
        exp2,
        load_max: matches!(arch, Arch::Sm103a),
        schedule: if causal { Schedule::LongestFirst } else { Schedule::Persistent },
        ragged: false,
    }
}
