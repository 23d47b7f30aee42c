//! Numbers found by measuring, one line per shape class. Alternatives and their ratios: `PERFORMANCE.md`; H100 80GB HBM3,
//! `attn-gpu-bench`, 2026-11-22.

use super::plan::{Exp2, Plan, Registers, Schedule};

const TWO: Registers = Registers { consumer: 240, producer: 24 };
const THREE: Registers = Registers { consumer: 160, producer: 32 };

/// The plan for head dimensions `(d, dv)`, causal or not.
pub const fn plan(d: u32, dv: u32, causal: bool) -> Plan {
    let (bm, bn, stages, regs, exp2, threshold) = match (d, dv, causal) {
        (32, 32, false) => (192, 128, 2, THREE, Exp2 { period: 16, emulated: 1 }, 8.0),
        (32, 32, true) => (192, 128, 2, THREE, Exp2::HARDWARE, 8.0),
        (64, 64, false) => (192, 128, 2, THREE, Exp2::HARDWARE, 8.0),
        (64, 64, true) => (192, 112, 2, THREE, Exp2::HARDWARE, 8.0),
        (96, 96, _) => (128, 128, 2, TWO, Exp2::HARDWARE, 8.0),
        (128, 128, _) => (128, 128, 2, TWO, Exp2::HARDWARE, 8.0),
        (192, 128, _) => (128, 128, 2, TWO, Exp2::HARDWARE, 8.0),
        (192, 192, false) => (128, 96, 2, TWO, Exp2::HARDWARE, 8.0),
        (192, 192, true) => (128, 80, 2, TWO, Exp2::HARDWARE, 8.0),
        (256, 256, false) => (128, 80, 2, TWO, Exp2::HARDWARE, 8.0),
        (256, 256, true) => (128, 64, 2, TWO, Exp2::HARDWARE, 8.0),
        _ => panic!("no plan for these head dimensions"),
    };
    // Turns on the tensor cores: 1 % slower at head_dim 128, 1 % faster at 64, no difference at 256.
    let ping_pong = !(d == 128 && dv == 128);
    // The wait for P V after the exponentials: 7 % faster at head_dim 256 with a mask, no difference at 32 and 96, 3 to 10 % slower elsewhere.
    let softmax_under_output = d == 32 || d == 96 || d == 256;
    let schedule = if causal { Schedule::Paired } else { Schedule::Persistent };
    Plan { d, dv, bm, bn, stages, regs, rescale_threshold: threshold, exp2, ping_pong, softmax_under_output, schedule }
        .checked()
}
