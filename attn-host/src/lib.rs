//! Launch side of the attention kernels.

#[cfg(feature = "cust")]
mod cust_symbols;
mod device;
mod driver;
mod error;
#[cfg(test)]
mod fake;
mod kernels;
mod launch;
mod layout;
mod module;
mod plan;
mod problem;
mod select;
mod sys;
mod tensor_map;
#[cfg(test)]
mod tests;

pub use attn_kernel::forward::{Arch, DType, Kernel};
pub use device::{Device, DeviceInfo};
pub use error::{DriverVersion, Error, Unsupported};
pub use kernels::KERNEL_DIR;
pub use launch::{DevicePtr, Stream, Tensors};
pub use plan::{Plan, Spans};
pub use problem::{Mask, Problem, Shape, Strides};

#[cfg(feature = "cust")]
pub use cust;
