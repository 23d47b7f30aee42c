//! Where elements lie: swizzled shared memory, matrix descriptors, register fragments, tensor memory. Pure functions.

pub mod descriptor;
pub mod fragment;
pub mod instruction;
pub mod swizzle;
pub mod tmem;
