//! Numbers of the Blackwell kernels, one line per shape class.

use super::plan::{Plan, Registers};
use crate::attn::row::Share;
use crate::forward::plan::{Arch, Schedule};

/// Two softmax warpgroups of 192: a row of 128 scores, 16 packed probabilities on their way out, and what the loop keeps.
const WIDE: Registers = Registers { softmax: 184, correction: 88, other: 56 };
/// The same for head dimension 192, whose multiplies have more descriptors to keep.
const WIDE_192: Registers = Registers { softmax: 184, correction: 88, other: 56 };
/// For serving with two softmax warpgroups: the correction writes splits too, and the load warp works out tiles and reads page tables.
const WIDE_SERVING: Registers = Registers { softmax: 184, correction: 88, other: 56 };
/// One softmax warpgroup: registers are no concern.
const SINGLE: Registers = Registers { softmax: 216, correction: 168, other: 120 };

/// The plan for head dimensions `(d, dv)`, causal or not, with one or two query tiles.
pub const fn plan(arch: Arch, d: u32, dv: u32, causal: bool, tiles: u32) -> Plan {
    unchecked(arch, d, dv, causal, tiles).checked()
}

/// The plan of a kernel for serving. One tile and two differ in nothing that a row's bits depend on: then a query has the same whether it is
/// decoded alone or in a prompt.
pub const fn serving(arch: Arch, d: u32, dv: u32, tiles: u32) -> Plan {
    let plan = unchecked(arch, d, dv, false, tiles);
    Plan { regs: if tiles == 2 { WIDE_SERVING } else { plan.regs }, ragged: true, ..plan }.checked()
}

const fn unchecked(arch: Arch, d: u32, dv: u32, causal: bool, tiles: u32) -> Plan {
    let (stages, k_parts, v_parts) = match (d, dv, tiles) {
        (32, 32, 2) => (8, 1, 1),
        (64, 64, 2) => (8, 1, 1),
        (96, 96, 2) => (5, 1, 1),
        (128, 128, 2) => (3, 1, 1),
        (192, 128, 2) => (8, 3, 2),
        (64, 64, 1) => (8, 1, 1),
        (96, 96, 1) => (7, 1, 1),
        (128, 128, 1) => (5, 1, 1),
        (192, 128, 1) => (8, 3, 2),
        (256, 256, 1) => (5, 2, 2),
        _ => panic!("no plan for these head dimensions"),
    };
    // By architecture, head dimension and mask: the share that keeps the MUFU unit below the tensor cores' time for a block. Ultra has
    // exponentials enough, and wide heads are bound by their multiplies. No measurement tells masks apart yet.
    let exp2 = match (arch, d, causal) {
        (Arch::Sm103a, _, _) | (_, 256, _) => Share::HARDWARE,
        (_, 192, _) => Share { period: 16, emulated: 2, first_chunk: 1 },
        _ => Share { period: 8, emulated: 2, first_chunk: 1 },
    };
    Plan {
        d,
        dv,
        tiles,
        stages,
        k_parts,
        v_parts,
        regs: match (d, tiles) {
            (192, 2) => WIDE_192,
            (_, 2) => WIDE,
            _ => SINGLE,
        },
        rescale_threshold: 8.0,
        exp2,
        load_max: matches!(arch, Arch::Sm103a),
        schedule: if causal { Schedule::LongestFirst } else { Schedule::Persistent },
        ragged: false,
    }
}
