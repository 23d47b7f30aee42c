//! Forward attention: `O = softmax(scale * Q K^T + mask) V`, and the row statistic `LSE`.

pub mod params;
pub mod plan;
pub mod sm90;
pub mod tune;

pub use params::{ForwardParams, TensorMap};
pub use plan::{Arch, DType, Exp2, Kernel, Plan, Registers, Schedule};

/// Every forward kernel that `build-ptx` compiles and a launcher may choose.
pub const KERNELS: &[Kernel] = sm90::KERNELS;
