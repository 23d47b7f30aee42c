//! What can go wrong, and what would have been right.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Every failure of this crate. A variant about an argument names it, its value and what is allowed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The CUDA driver's library could not be opened.
    #[error("no CUDA driver: {reason}; install an NVIDIA driver, or run where one is")]
    NoDriver {
        /// What the dynamic linker said.
        reason: String,
    },
    /// The installed driver lacks something that the launch needs.
    #[error("the CUDA driver is too old: it supports CUDA {found}, {missing}")]
    DriverTooOld {
        /// The CUDA version that the installed driver supports.
        found: DriverVersion,
        /// What it lacks.
        missing: String,
    },
    /// A driver call failed.
    #[error("{call} failed: {name} ({code}): {message}")]
    Cuda {
        /// The driver function.
        call: &'static str,
        /// `CUresult`.
        code: i32,
        /// The code's name, `CUDA_ERROR_...`.
        name: String,
        /// The driver's own words.
        message: String,
    },
    /// The driver could not allocate memory.
    #[error("{call} ran out of memory (CUDA_ERROR_OUT_OF_MEMORY)")]
    OutOfMemory {
        /// The driver function.
        call: &'static str,
    },
    /// A memory pool cannot hold this beside what is in use.
    #[error("the {pool} pool cannot give {bytes} bytes: {in_use} are in use; allowed: {limit} in all")]
    PoolLimit {
        /// Which memory it is.
        pool: &'static str,
        /// Bytes that were asked for.
        bytes: u64,
        /// Bytes in use.
        in_use: u64,
        /// The most that the pool holds.
        limit: u64,
    },
    /// A thread could not be started.
    #[error("a thread of the pipeline could not be started: {reason}")]
    Thread {
        /// What the operating system said.
        reason: String,
    },
    /// A batch of a pipeline did not come to its end in time.
    #[error("batch {batch} was not done after {after:?}; its memory is kept, since the device may still use it")]
    Stuck {
        /// The batch's number.
        batch: u64,
        /// For how long nothing had come to its end.
        after: Duration,
    },
    /// The calling thread has no current CUDA context.
    #[error("no CUDA context is current on this thread; make one current first (cuCtxSetCurrent or a wrapper's means)")]
    NoContext,
    /// The plan was made in another context than the calling thread's.
    #[error("the plan belongs to CUDA context {planned:#x}, but {current:#x} is current on this thread")]
    WrongContext {
        /// The plan's context.
        planned: usize,
        /// The calling thread's context.
        current: usize,
    },
    /// The context in which the plan was made has been destroyed, and its kernels with it.
    #[error("the plan's CUDA context has been destroyed; make a plan in the present one")]
    ContextGone,
    /// No kernel is compiled for this device's architecture.
    #[error("{device} has compute capability {}.{}; kernels exist for {allowed}", compute_capability.0, compute_capability.1)]
    WrongDevice {
        /// The device's name.
        device: String,
        /// Its compute capability.
        compute_capability: (u32, u32),
        /// The compute capabilities that have kernels.
        allowed: String,
    },
    /// A kernel cannot compute this problem on this device.
    #[error("kernel {kernel} cannot run this: {reason}")]
    Unsupported {
        /// The kernel that was asked for, or the one that came nearest.
        kernel: &'static str,
        /// Why not.
        reason: Unsupported,
    },
    /// No kernel has this name.
    #[error("no kernel is named {name:?}; there are {allowed}")]
    UnknownKernel {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        allowed: String,
    },
    /// The kernel is part of the source but its code was not found.
    #[error("no code for kernel {kernel}: {reason}")]
    NoKernel {
        /// The kernel.
        kernel: &'static str,
        /// Where it was looked for.
        reason: String,
    },
    /// A kernel file exists and cannot be read.
    #[error("{}: {reason}", path.display())]
    KernelFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A kernel's code is not what its plan says.
    #[error(
        "the code of kernel {kernel} allows {found} threads in a block, its plan needs {needed}; rebuild the kernels"
    )]
    StaleKernel {
        /// The kernel.
        kernel: &'static str,
        /// Threads per block that the loaded code allows.
        found: u32,
        /// Threads per block of the plan.
        needed: u32,
    },
    /// A kernel's code was compiled from another plan than this program's, so that a launch of it could wait for ever.
    #[error(
        "the code of kernel {kernel} in {place} was compiled from plan {found}, this program's is {needed}; \
         build both from one source: cargo xtask build-ptx"
    )]
    ForeignPlan {
        /// The kernel.
        kernel: &'static str,
        /// Where the code was found.
        place: String,
        /// Fingerprint of the plan that it was compiled from.
        found: String,
        /// Fingerprint of this program's plan.
        needed: String,
    },
    /// A required device pointer is null.
    #[error("{argument} is a null device pointer")]
    NullPointer {
        /// The tensor.
        argument: &'static str,
    },
    /// A device pointer is not aligned.
    #[error("{argument} is at {address:#x}, which is not a multiple of {alignment} bytes")]
    Misaligned {
        /// The tensor.
        argument: &'static str,
        /// Its address.
        address: u64,
        /// The alignment that is needed.
        alignment: u64,
    },
    /// A device pointer belongs to another device than the plan.
    #[error("{argument} at {address:#x} lies on device {found}, the plan's is device {allowed}")]
    ForeignPointer {
        /// The tensor.
        argument: &'static str,
        /// Its address.
        address: u64,
        /// The device that owns the address.
        found: i32,
        /// The plan's device.
        allowed: i32,
    },
    /// A size is outside what is allowed.
    #[error("{argument} is {value}; allowed: {allowed}")]
    Size {
        /// The size.
        argument: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Sizes that are fine one by one have a product or a span that cannot be represented.
    #[error("{what} of {argument} overflows; allowed: {allowed}")]
    Overflow {
        /// The tensor, or the launch.
        argument: &'static str,
        /// What was being computed.
        what: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A stride is not allowed.
    #[error("the {dimension} stride of {argument} is {value} elements; allowed: {allowed}")]
    Stride {
        /// The tensor.
        argument: &'static str,
        /// Which of its strides.
        dimension: &'static str,
        /// Its value, in elements.
        value: i64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Strides of an output make two of its elements share memory.
    #[error(
        "the {dimension} stride of {argument} is {value} elements: its elements would overlap; allowed: at least {allowed}"
    )]
    Overlap {
        /// The tensor.
        argument: &'static str,
        /// The stride that is too small.
        dimension: &'static str,
        /// Its value, in elements.
        value: i64,
        /// The least value at which nothing overlaps, given the smaller strides.
        allowed: u64,
    },
    /// The query heads cannot be shared out evenly.
    #[error("heads is {heads}, which is not a multiple of kv_heads = {kv_heads}")]
    HeadGroups {
        /// Query heads.
        heads: u64,
        /// Key/value heads.
        kv_heads: u64,
    },
    /// The softmax scale is not allowed.
    #[error("scale is {value}; allowed: {allowed}")]
    Scale {
        /// Its value.
        value: f32,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The softcap is not allowed.
    #[error("softcap is {value}; allowed: {allowed}")]
    Softcap {
        /// Its value.
        value: f32,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Two things that a problem was told make no sense together.
    #[error("{first} together with {second}; allowed: {allowed}")]
    Combination {
        /// The one.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A launch lacks what its problem needs.
    #[error("{argument} is absent; the problem has {feature}, so it is needed")]
    Missing {
        /// What is absent.
        argument: &'static str,
        /// What needs it.
        feature: &'static str,
    },
    /// A launch has what its problem was not told of, and which would be ignored.
    #[error("{argument} is given, but the problem has no {feature}; allowed: absent")]
    NotPlanned {
        /// What is given.
        argument: &'static str,
        /// What the problem would have to have.
        feature: &'static str,
    },
    /// An entry of an array of lengths or pages is not allowed.
    #[error("{argument}[{index}] is {value}; allowed: {allowed}")]
    Entry {
        /// The array.
        argument: &'static str,
        /// Index of the entry, counted over all dimensions.
        index: usize,
        /// Its value.
        value: i64,
        /// What is allowed.
        allowed: String,
    },
    /// An array of lengths or pages has another length than the problem says.
    #[error("{argument} has {entries} entries; allowed: {allowed}")]
    Entries {
        /// The array.
        argument: &'static str,
        /// Its entries.
        entries: usize,
        /// What is allowed.
        allowed: String,
    },
    /// A buffer is smaller than the shape and strides reach.
    #[error("{argument} has {elements} elements; its shape and strides reach {needed}")]
    BufferTooSmall {
        /// The tensor.
        argument: &'static str,
        /// Elements of the buffer.
        elements: u64,
        /// Elements that are needed.
        needed: u64,
    },
    /// The buffers' element type is not the plan's.
    #[error("{argument} holds {found}, the plan is for {allowed}")]
    ElementType {
        /// The tensor.
        argument: &'static str,
        /// The buffer's element type.
        found: &'static str,
        /// The plan's.
        allowed: &'static str,
    },
    /// A tensor map cannot describe this tensor.
    #[error("tensor map of {argument}: {field} is {value}; allowed: {allowed}")]
    TensorMap {
        /// The tensor.
        argument: &'static str,
        /// The field of the map.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// Why a kernel cannot compute a problem on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// The element type differs.
    #[error("dtype is {got}, it computes in {have}")]
    DType {
        /// The problem's.
        got: &'static str,
        /// The kernel's.
        have: &'static str,
    },
    /// The problem is more than the kernel computes.
    #[error("the problem has {got}, it computes {have}")]
    Feature {
        /// The problem's.
        got: &'static str,
        /// The kernel's.
        have: &'static str,
    },
    /// The mask differs.
    #[error("mask is {got}, it computes with {have}")]
    Mask {
        /// The problem's.
        got: &'static str,
        /// The kernel's.
        have: &'static str,
    },
    /// A head dimension is larger than the kernel's.
    #[error("{argument} is {got}, it holds at most {have}")]
    HeadDim {
        /// `head_dim` or `head_dim_v`.
        argument: &'static str,
        /// The problem's.
        got: u64,
        /// The kernel's.
        have: u32,
    },
    /// The kernel is for another architecture.
    #[error("the device has compute capability {}.{}, it is compiled for {have}", got.0, got.1)]
    Architecture {
        /// The device's compute capability.
        got: (u32, u32),
        /// The kernel's architecture.
        have: &'static str,
    },
    /// The kernel needs more shared memory than a block may have.
    #[error("it needs {need} bytes of shared memory, a block may have {limit}")]
    SharedMemory {
        /// Bytes that the kernel needs.
        need: u32,
        /// Bytes that the device allows.
        limit: u32,
    },
}

/// A CUDA version, as `cuDriverGetVersion` gives it: 12080 is 12.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriverVersion(pub u32);

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}
