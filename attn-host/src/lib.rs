//! Attention on NVIDIA GPUs for Rust programs: checks a problem, chooses a prebuilt kernel and launches it.
//!
//! Nothing but the NVIDIA driver is needed, at run time: no CUDA toolkit, no C++, no compiler for kernels. The driver is opened
//! by the first call, so a program starts everywhere and gets [`Error::NoDriver`] where there is none.
//!
//! The calls work on raw device addresses, strides and a raw `CUstream` in the context that is current on the calling thread,
//! so memory and streams may come from any library. A [`Plan`] is made once for a problem and launched many times; a launch
//! allocates nothing, waits for nothing, takes no lock and may be captured into a graph.
//!
//! ```no_run
//! use attn_host::{DType, Device, DevicePtr, Error, Mask, Plan, Problem, Shape, Stream, Tensors};
//!
//! /// Causal attention with 8 key/value heads for 32 query heads; every tensor is (batch, seq, heads, 128) bf16.
//! fn attend(q: u64, k: u64, v: u64, o: u64, stream: *mut std::ffi::c_void) -> Result<(), Error> {
//!     let device = Device::current()?;
//!     let shape = Shape {
//!         batch: 4, seqlen_q: 4096, seqlen_k: 4096, heads: 32, kv_heads: 8, head_dim: 128, head_dim_v: 128,
//!     };
//!     let problem = Problem::new(DType::Bf16, shape).mask(Mask::Causal);
//!     let plan = Plan::new(&device, &problem)?; // keep it, and launch it as often as you like
//!     println!("{plan}");
//!     let [q, k, v, o] = [q, k, v, o].map(DevicePtr);
//!     let tensors = Tensors::new(q, k, v, o);
//!     // SAFETY: the addresses are tensors of this shape on this device, alive and left alone until the stream is done.
//!     unsafe { plan.launch(&tensors, Stream(stream)) }
//! }
//! ```
//!
//! Conventions: dense tensors are (batch, seq, heads, head_dim) with any strides, the last dimension contiguous; LSE is the natural
//! logarithm of the softmax denominator, f32, (batch, heads, seq); a causal mask is aligned to the bottom right; a query that
//! sees no key gets zeros and an LSE of minus infinity.
//!
//! # Serving
//!
//! A [`Problem`] may have packed sequences ([`packed_q`](Problem::packed_q), [`packed_k`](Problem::packed_k)), lengths in use
//! ([`seqused_k`](Problem::seqused_k)), K and V in pages ([`paged`](Problem::paged)), a window, a softcap, sinks, ALiBi, and splits of the keys.
//! K and V may be 8-bit floats (e4m3) under queries of 16 bits, or all three ([`float8`](Problem::float8)), with factors for each key/value head.
//! Lengths, pages, sinks, slopes and factors are device memory that each launch names in [`Tensors`]; the workspace is the caller's. A step of decoding,
//! one query of each sequence against a paged cache:
//!
//! ```no_run
//! # use attn_host::{DType, Device, DevicePtr, Error, PagedKv, Plan, Problem, Shape, Stream, Tensors};
//! # fn step(q: DevicePtr, k: DevicePtr, v: DevicePtr, o: DevicePtr, lengths: DevicePtr, table: DevicePtr,
//! #     allocate: impl Fn(u64) -> DevicePtr, stream: Stream) -> Result<(), Error> {
//! let shape = Shape {
//!     batch: 64, seqlen_q: 1, seqlen_k: 32_768, heads: 32, kv_heads: 4, head_dim: 128, head_dim_v: 128,
//! };
//! let pages = PagedKv { page_size: 64, pages: 20_000, table_width: 512 };
//! let problem = Problem::new(DType::Bf16, shape).paged(pages).seqused_k();
//! let plan = Plan::new(&Device::current()?, &problem)?;
//! let workspace = (plan.workspace_bytes() > 0).then(|| allocate(plan.workspace_bytes()));
//! let tensors = Tensors { seqused_k: Some(lengths), page_table: Some(table), workspace, ..Tensors::new(q, k, v, o) };
//! // SAFETY: tensors of this shape, lengths of at most 32,768 and room for the workspace, on this device until the stream is done.
//! unsafe { plan.launch(&tensors, stream) }
//! # }
//! ```
//!
//! Query heads of one key/value head share a tile where queries are few, keys are split where there are fewer tiles than multiprocessors, and
//! the query tiles of packed sequences are listed on the device, the longest sequences first: up to three kernels a launch. [`supports`] says
//! whether a problem has a kernel; [`Arrays::check`] checks lengths and pages that the host knows.
//!
//! A sequence's result does not depend on the others in its batch, bit by bit, as long as the plan is the same. With [`Splits::Exactly`] it is
//! the same in every batch, of any size: the sequence's own lengths and the count say where its keys are split, and tiles of any shape
//! compute a row alike. [`Splits::Auto`] chooses the count by the problem's sizes, and so does the choice among the kernels for dense problems.
//!
//! # Batches in host memory
//!
//! A [`Pipeline`] takes batches from any thread, copies them to the device, computes them and copies the results back, with all three going on at
//! the same time, a bounded queue before and bounded pools of memory behind: the [module](pipeline) has the details and an example. With the
//! feature `tokio` it can be awaited.
//!
//! # What a service sees
//!
//! With the feature `tracing` every launch is a span `attn.launch`, or `attn.append` where it appends to a cache, and every batch of a pipeline, from its submission to its result, a span
//! `attn.batch`. With the feature `metrics` launches and pipelines tell the recorder that the program installs for the crate `metrics`:
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `attn_launches_total`, `attn_launch_errors_total` | counters | |
//! | `attn_launch_seconds` | histogram: what a launch takes the CPU | |
//! | `attn_appends_total`, `attn_append_errors_total`, `attn_append_seconds` | the same of launches that append to a cache | |
//! | `attn_append_bytes_total` | counter: new keys and values, and queries that are rotated, as planned | |
//! | `attn_batches_total` | counter | `outcome`: done, failed, cancelled, shut down, device lost, stuck |
//! | `attn_batch_seconds` | histogram: from submission to result | `outcome` |
//! | `attn_rejected_total` | counter of batches that were not accepted | `reason`: queue full, invalid, shut down, device lost, stuck |
//! | `attn_bytes_in_total`, `attn_bytes_out_total` | counters: copied to and from the device | |
//! | `attn_queue_depth`, `attn_batches_in_flight` | gauges, of the pipeline that changed last | |
//!
//! # With cust (feature `cust`, on by default)
//!
//! `Plan::run` and `AppendPlan::run` take cust's slices and streams, with lengths and element types checked, and `attn_host::cust` is the very
//! cust that they take:
//!
#![cfg_attr(feature = "cust", doc = "```no_run")]
#![cfg_attr(not(feature = "cust"), doc = "```ignore")]
//! use attn_host::cust::{self, memory::DeviceBuffer, stream::{Stream, StreamFlags}};
//! use attn_host::{DType, Device, Plan, Problem, Shape, Tensors};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let _context = cust::quick_init()?;
//!     let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
//!     let shape = Shape { batch: 1, seqlen_q: 331, seqlen_k: 331, heads: 12, kv_heads: 12, head_dim: 32, head_dim_v: 32 };
//!     let plan = Plan::new(&Device::current()?, &Problem::new(DType::F16, shape))?;
//!     let upload = |bits: &[u16]| DeviceBuffer::from_slice(bits);
//!     let bits = vec![0u16; 331 * 12 * 32];
//!     let (q, k, v) = (upload(&bits)?, upload(&bits)?, upload(&bits)?);
//!     let mut o = DeviceBuffer::from_slice(&vec![0u16; plan.spans().o as usize])?;
//!     plan.run(Tensors::of(&q, &k, &v, &mut o), &stream)?;
//!     println!("{:?}", &o.as_host_vec()?[..32]);
//!     Ok(())
//! }
//! ```
//!
//! cust's build script looks for a CUDA installation and fails without one. A program outside this workspace, on a machine
//! without a toolkit, names any folder that has a subfolder `lib64` in its `.cargo/config.toml`:
//!
//! ```toml
//! [env]
//! CUDA_LIBRARY_PATH = { value = "cuda", relative = true } # cuda/lib64/ exists and may be empty
//! ```
//!
//! This crate defines the driver symbols that cust links and brings the empty `libcuda.a` that `-lcuda` then finds, so such a
//! program neither links nor needs the driver to start. It also means that a program can hold only one crate that does this.
//! With `default-features = false` there is no cust, no such definition and nothing to set.
//!
//! # With cudarc (feature `cudarc`)
//!
//! `Plan::launch_cudarc` and `AppendPlan::launch_cudarc` take cudarc's slices, views and streams; `half`'s types are elements as they are:
//! `plan.launch_cudarc(Tensors::of(&q, &k, &v, &mut o).page_table(&table).seqused_k(&lengths).workspace(&mut workspace), &stream)`. cudarc's
//! events order the launch with other work on the buffers. The program chooses the CUDA version of cudarc's bindings with a feature of
//! cudarc (`cuda-12080`, say); any of 12.0 and above will do.
//!
//! # Without a GPU (feature `simulator`)
//!
//! `simulator::install` puts a simulated GPU in the driver's place: the same plans, launches and cust buffers then run the
//! kernels' PTX on the CPU, where races, missing fences and deadlocks are found and explained.
//!
//! # Kernels
//!
//! Prebuilt kernels travel inside the crate: machine code, and PTX that a driver compiles where it does not take the machine
//! code. The environment variable [`KERNEL_DIR`] names a folder whose kernels are used instead.

mod allocation;
mod append;
mod arrays;
mod blueprint;
mod check;
#[cfg(feature = "cudarc")]
mod cudarc_launch;
#[cfg(feature = "cust")]
mod cust_launch;
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
mod observe;
mod outline;
mod packed;
pub mod pipeline;
mod plan;
mod pool;
mod problem;
mod select;
mod serve;
#[cfg(feature = "simulator")]
pub mod simulator;
mod sys;
mod tensor_map;
mod tensors;
#[cfg(test)]
mod tests;
#[cfg(any(feature = "cust", feature = "cudarc"))]
mod typed;

pub use allocation::Allocation;
pub use append::{Append, AppendPlan, AppendShape, AppendSpans, AppendTensors, Cache, Pairs, Rotary, Sines};
pub use arrays::Arrays;
pub use attn_kernel::forward::{Arch, DType, Float8, Kernel};
pub use blueprint::supports;
pub use check::{check_cu_seqlens, check_page_table, check_seqused};
#[cfg(feature = "cudarc")]
pub use cudarc;
#[cfg(feature = "cudarc")]
pub use cudarc_launch::{CudarcAppendTensors, CudarcTensors, CudarcView, CudarcViewMut};
#[cfg(feature = "cust")]
pub use cust_launch::{Bf16, CustAppendTensors, CustSlice, CustSliceMut, CustTensors, F16};
pub use device::{Device, DeviceInfo};
pub use error::{DriverVersion, Error, Unsupported};
pub use kernels::{KERNEL_DIR, machine_code, prebuilt, ptx};
pub use launch::{DevicePtr, Stream};
pub use outline::Outline;
pub use pipeline::Pipeline;
pub use plan::{Plan, Spans};
pub use pool::{DeviceBlock, DevicePool, PinnedBuffer, PinnedPool, PoolStatistics, Scalar};
pub use problem::{Alibi, Descales, Mask, PagedKv, Problem, Shape, Splits, Strides};
pub use tensors::Tensors;
#[cfg(any(feature = "cust", feature = "cudarc"))]
pub use typed::Element;
#[cfg(feature = "cust")]
pub use {bytemuck, cust};
