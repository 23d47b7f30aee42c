//! Shared and tensor memory: typed addresses, element types, swizzles, and the descriptors by which the tensor cores read tiles.

pub mod addr;
pub mod descriptor;
pub mod element;
pub mod swizzle;
pub mod tile;
pub mod tmem;
pub mod umma;

pub use addr::Smem;
pub use descriptor::Descriptor;
pub use element::{Bf16, E4m3, Element, F16, Format, Operand};
pub use swizzle::Swizzle;
pub use tile::Layout;
pub use tmem::Tmem;
pub use umma::{Instruction, UmmaDescriptor};
