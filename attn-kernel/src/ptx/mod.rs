//! The instructions: one file per hardware unit, an instruction a function.
//!
//! Each wrapper's documentation names its PTX, who calls it and what it orders. Arithmetic ([`math`], [`convert`]) has a
//! host twin and runs anywhere; everything else panics on the host.
#![cfg_attr(
    not(target_arch = "nvptx64"),
    allow(
        unused_variables,
        unused_mut,
        unreachable_code,
        dead_code,
        reason = "on the host an instruction diverges and uses no operand"
    )
)]

pub mod barrier;
pub mod bulk;
pub mod cluster;
pub mod convert;
pub mod fence;
pub mod float8;
pub mod grid;
pub mod ldst;
pub mod math;
pub mod matrix;
pub mod mbarrier;
pub mod regs;
pub mod special;
pub mod tcgen05;
pub mod tma;
pub mod warp;
pub mod wgmma;
