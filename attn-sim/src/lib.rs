//! A PTX machine on the CPU: runs the PTX that a GPU runs, Hopper's and Blackwell's asynchronous instructions included, and
//! makes the checks that hardware does not make.
//!
//! ```
//! use attn_sim::{Gpu, Launch};
//!
//! let ptx = "
//! .version 8.0
//! .target sm_90a
//! .address_size 64
//! .visible .entry nothing(.param .u32 n) { .reg .b32 %r1; mov.u32 %r1, %tid.x; ret; }";
//! let mut gpu = Gpu::new();
//! let kernel = gpu.load(ptx)?.kernel("nothing")?;
//! let launch = Launch { block: [64, 1, 1], params: vec![7u32.to_le_bytes().to_vec()], ..Launch::default() };
//! let run = launch.run(&mut gpu, &kernel)?;
//! assert!(run.findings.is_empty());
//! # Ok::<(), attn_sim::Error>(())
//! ```

pub mod barrier_state;
pub mod counters;
mod gpu;
pub mod isa;
pub mod layout;
pub mod machine;
pub mod mbarrier_state;
pub mod mutate;
pub mod num;
pub mod ptx;
pub mod reduction;
pub mod register_pool;
pub mod report;
pub mod tensor_map;
pub mod tma_copy;

pub use counters::Counters;
pub use gpu::{Error, Gpu, Kernel, Launch, Loaded, MAX_SHARED};
pub use machine::launch::{Failure, Run};
pub use machine::trace::Trace;
