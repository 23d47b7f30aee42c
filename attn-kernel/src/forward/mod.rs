//! Forward attention: `O = softmax(scale * Q K^T + mask) V`, and the row statistic `LSE`.

pub mod anatomy;
pub mod combine;
pub mod cost;
mod descale;
pub mod draw;
pub mod knobs;
mod launch;
pub mod narrow;
pub mod params;
pub mod plan;
pub mod schedule;
pub mod serve;
pub mod sm100;
pub mod sm90;
pub mod source;
pub mod tune;

pub use combine::CombineParams;
pub(crate) use launch::fnv;
pub use launch::{AnyPlan, Family, Kernel, Launch};
pub use params::{ForwardParams, TensorMap};
pub use plan::{Arch, Cost, DType, Exp2, Float8, Plan, Registers, Schedule};
pub use schedule::ScheduleParams;
pub use serve::ServeParams;

/// Every forward kernel that `build-ptx` compiles and a launcher may choose.
pub const KERNELS: &[Kernel] = &{
    const LISTS: [&[Kernel]; 6] = [
        sm90::KERNELS,
        sm90::SERVING_KERNELS,
        sm100::KERNELS,
        sm100::SERVING_KERNELS,
        sm100::KERNELS_SM103,
        sm100::SERVING_KERNELS_SM103,
    ];
    const COUNT: usize = {
        let (mut count, mut list) = (0, 0);
        while list < LISTS.len() {
            count += LISTS[list].len();
            list += 1;
        }
        count
    };
    let mut all = [LISTS[0][0]; COUNT];
    let (mut list, mut to) = (0, 0);
    while list < LISTS.len() {
        let mut from = 0;
        while from < LISTS[list].len() {
            all[to] = LISTS[list][from];
            (from, to) = (from + 1, to + 1);
        }
        list += 1;
    }
    all
};
