//! Probe kernels: every instruction wrapper in a kernel small enough to understand, for `ptxas` to assemble on each
//! architecture and for a GPU or a simulator to run against known answers.
//!
//! They are part of a device build only under `--cfg attn_probes`. The host always has this module: the lists say what each
//! probe expects, and functions shared with the device ([`arith::arith`]) compute the answers.
//!
//! Unless a probe says otherwise it is launched as one block, and its dynamic shared memory is what its `SHARED` says.

pub mod arith;
pub mod cluster;
pub mod copy;
pub mod matrix;
pub mod narrow;
#[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_90a"))]
pub mod overlap;
pub mod ring;
pub mod softmax;
#[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_100a", attn_arch = "sm_103a"))]
pub mod tcgen05;
pub mod warp;
#[cfg(any(not(target_arch = "nvptx64"), attn_arch = "sm_90a"))]
pub mod wgmma;

/// A probe as a launcher needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Entry point.
    pub name: &'static str,
    /// Threads of the block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Blocks of the cluster, which is also the grid.
    pub cluster: u32,
    /// Whether it exists on Hopper alone; otherwise on Blackwell too.
    pub hopper_only: bool,
}

impl Probe {
    /// A probe of one block that runs on every architecture.
    const fn new(name: &'static str, threads: u32, shared: u32) -> Self {
        Probe { name, threads, shared, cluster: 1, hopper_only: false }
    }
}

/// The probes other than the multiplies of [`wgmma::MULTIPLIES`], those of [`narrow::CHANGES`] and Blackwell's of [`mod@tcgen05`].
#[cfg(not(target_arch = "nvptx64"))]
pub const PROBES: &[Probe] = &[
    arith::PROBE,
    cluster::PROBE,
    copy::RANKS,
    copy::BULK,
    matrix::PROBE,
    narrow::PACK,
    overlap::PROBE,
    ring::PROBE,
    softmax::PROBE,
    warp::PROBE,
];
