//! Attention kernels in Rust for NVIDIA GPUs.
//!
//! The crate has two readers. `cargo xtask build-ptx` compiles it for `nvptx64-nvidia-cuda` into the kernels themselves;
//! the launch side links it as an ordinary library for the same plans, parameter structs and tile arithmetic, so a size
//! is written once and the CPU tests run the very code that the GPU runs.
//!
//! | module | idea |
//! |---|---|
//! | [`ptx`] | one file per hardware unit, an instruction a function |
//! | [`mem`] | shared-memory addresses, swizzles, descriptors |
//! | [`pipe`] | producer/consumer rings that own their phases, named barriers |
//! | [`attn`] | the mathematics: online softmax, exp2 polynomials, masks, tile walk |
//! | [`entry`] | what differs between compilers: kernel ABI, indices, shared memory |
//! | [`forward`] | the forward kernels, their plans and parameters |
//! | [`append`] | new keys and values into a cache, rotated |
//! | [`companion`] | the kernels beside them, in a list for launchers |
//!
//! On the host it says what kernels there are, and computes what they compute:
//!
//! ```
//! use attn_kernel::attn::exp2::exp2;
//! use attn_kernel::forward::KERNELS;
//!
//! let kernel = KERNELS.iter().find(|kernel| kernel.name == "fwd_sm90_bf16_d128").expect("there is one");
//! assert!(kernel.launch.threads == 384 && kernel.launch.shared <= 227 * 1024);
//! assert!((exp2::<3>(0.5) - 2f32.sqrt()).abs() < 1e-3); // the polynomial that relieves the special-function units
//! ```
#![no_std]
#![cfg_attr(target_arch = "nvptx64", feature(abi_ptx, asm_experimental_arch))]

#[cfg(test)]
extern crate std;

pub mod append;
pub mod attn;
pub mod companion;
pub mod entry;
pub mod forward;
pub mod mem;
pub mod pipe;
#[cfg(any(attn_probes, not(target_arch = "nvptx64")))]
pub mod probe;
pub mod ptx;
