//! All kernels of `attn-kernel`, as the one module that Rust-CUDA's code generator writes.
#![no_std]

pub use attn_kernel::*;
