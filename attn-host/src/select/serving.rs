//! Chooses among the kernels for serving.

use attn_kernel::forward::{Family, Kernel};

use crate::device::DeviceInfo;
use crate::problem::Problem;
use crate::serve::tiles::Cut;

/// Least wins, the first difference decides: no work on padded head dimensions; blocks for few keys where there are few; tiles for few queries
/// where there are few; no modification that the problem has not.
pub(super) fn cost(kernel: &Kernel, problem: &Problem, device: &DeviceInfo) -> (u32, u64, u32) {
    let order = match kernel.family {
        Family::Short => 0,
        Family::Decode if few_queries(kernel, problem, device) => 1,
        Family::Serve { modified: false } => 2,
        Family::Serve { modified: true } => 3,
        Family::Decode | Family::Dense => 4,
    };
    (kernel.launch.d + kernel.launch.dv, order, u32::MAX - kernel.launch.bm)
}

/// Whether every sequence has one tile of the kernel, or tiles are so few that larger ones would leave multiprocessors without any.
fn few_queries(kernel: &Kernel, problem: &Problem, device: &DeviceInfo) -> bool {
    let cut = Cut::of(kernel, problem);
    cut.m_blocks == 1 || cut.entries.saturating_mul(cut.heads) <= u64::from(device.sm_count)
}
