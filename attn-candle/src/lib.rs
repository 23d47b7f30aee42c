//! FlashAttention for candle: attn's kernels as a custom op.
//!
//! The functions of this module are those of `candle-flash-attn`, so that a program changes the crate's name and nothing else. What they
//! lack, sinks, split keys, caches in pages or of 8-bit floats, the LSE, [`Attention`] has, and [`Append`] writes new keys and values into a
//! cache, rotated by their positions:
//!
//! ```
//! use attn_candle::Attention;
//! use candle_core::{DType, Device, Tensor};
//!
//! # fn main() -> candle_core::Result<()> {
//! // A step of decoding: one query of each of two sequences, 4 query heads on 2 of K and V, against pages of 16 keys.
//! let device = Device::cuda_if_available(0)?;
//! let normal = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &device)?.to_dtype(DType::BF16);
//! let (q, k, v) = (normal(&[2, 1, 4, 64])?, normal(&[5, 16, 2, 64])?, normal(&[5, 16, 2, 64])?);
//! let pages = Tensor::new(&[[3u32, 0], [1, 4]], &device)?;
//! let lengths = Tensor::new(&[20u32, 7], &device)?;
//! let o = Attention::new().causal().paged(&pages).seqused_k(&lengths).forward(&q, &k, &v)?;
//! assert_eq!(o.dims(), [2, 1, 4, 64]);
//! # Ok(())
//! # }
//! ```
//!
//! On a GPU (feature `cuda`) the tensors are bf16 or f16, head dimensions multiples of 8 up to 256, and the kernels are those of
//! [`attn_host`], whose errors arrive in [`candle_core::Error`]. On the CPU the same is computed in f32, for f32 too. Strided tensors are
//! taken as they are where the kernels can address them, and copied otherwise. There is no backward pass.

mod append;
mod attention;
mod compatible;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod exclusive;
mod geometry;
mod lengths;
mod op;

pub use append::Append;
pub use attention::Attention;
pub use attn_host::Pairs;
pub use compatible::*;
pub use lengths::Lengths;
