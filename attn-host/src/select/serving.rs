//! Chooses among the kernels for serving.

use attn_kernel::forward::{Family, Kernel};

use crate::device::DeviceInfo;
use crate::problem::Problem;
use crate::serve::tiles::{Cut, splits_of};

/// Least wins, the first difference decides: no work on padded head dimensions; blocks for few keys where there are few; tiles for few queries
/// where there are few; no modification that the problem has not.
pub(super) fn cost(kernel: &Kernel, problem: &Problem, device: &DeviceInfo) -> (u32, u64, u32) {
    let order = match kernel.family {
        Family::Short => 0,
        Family::Decode if few_queries(kernel, problem, device) => 1,
        Family::Prompt if as_it_is(kernel, problem, device) => 2,
        Family::Serve { modified: false } => 3,
        Family::Serve { modified: true } => 4,
        Family::Decode | Family::Prompt | Family::Dense => 5,
    };
    (kernel.launch.d + kernel.launch.dv, order, u32::MAX - kernel.launch.bm)
}

/// Whether there are tiles enough for the kernel, and splits, which it has none of, would not serve the problem better.
fn as_it_is(kernel: &Kernel, problem: &Problem, device: &DeviceInfo) -> bool {
    let cut = Cut::of(kernel, problem);
    cut.entries.saturating_mul(cut.heads) >= u64::from(device.sm_count) && splits_of(kernel, problem, &cut, device) == 1
}

/// Whether every sequence has one tile of the kernel, or tiles are so few that larger ones would leave multiprocessors without any.
fn few_queries(kernel: &Kernel, problem: &Problem, device: &DeviceInfo) -> bool {
    let cut = Cut::of(kernel, problem);
    cut.m_blocks == 1 || cut.entries.saturating_mul(cut.heads) <= u64::from(device.sm_count)
}
