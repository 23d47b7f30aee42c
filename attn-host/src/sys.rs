//! The CUDA driver's own types and numbers, no more of them than the launch side uses.

use std::ffi::c_void;

/// `CUresult`: zero is success.
pub(crate) type Code = i32;
/// `CUdevice`: the ordinal's handle.
pub(crate) type DeviceHandle = i32;

/// An opaque driver object (`CUcontext`, `CUmodule`, `CUfunction`, `CUstream`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(crate) struct Handle(pub(crate) *mut c_void);

// SAFETY: a handle is a name that only the driver looks up; the driver API may be called from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above, nothing on this side is behind the pointer.
unsafe impl Sync for Handle {}

impl Handle {
    pub(crate) const NULL: Handle = Handle(std::ptr::null_mut());

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// `CUlaunchConfig`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) smem: u32,
    pub(crate) stream: Handle,
    pub(crate) attributes: *const LaunchAttribute,
    pub(crate) count: u32,
}

/// `CUlaunchAttribute`: a number, and 64 bytes of value that begin on 8.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct LaunchAttribute {
    pub(crate) id: i32,
    padding: u32,
    pub(crate) value: [i32; 16],
}

impl LaunchAttribute {
    /// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`: the kernel may start before the one before it in its stream has ended.
    pub(crate) const OVERLAP: i32 = 6;

    /// An attribute whose value is a number.
    pub(crate) const fn new(id: i32, value: i32) -> Self {
        let mut attribute = LaunchAttribute { id, padding: 0, value: [0; 16] };
        attribute.value[0] = value;
        attribute
    }
}

pub(crate) const SUCCESS: Code = 0;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const INVALID_IMAGE: Code = 200;
pub(crate) const INVALID_CONTEXT: Code = 201;
pub(crate) const NO_BINARY_FOR_GPU: Code = 209;
pub(crate) const JIT_COMPILER_NOT_FOUND: Code = 221;
pub(crate) const UNSUPPORTED_PTX_VERSION: Code = 222;
pub(crate) const INVALID_SOURCE: Code = 300;

/// Codes after which a context does nothing more: errors of kernels and of the hardware, which the driver returns from then on, and a driver or
/// context that is gone. The unknown error is among them, since it comes from kernels, too.
pub(crate) const LOST: &[Code] = &[
    3,   // NOT_INITIALIZED
    4,   // DEINITIALIZED
    46,  // DEVICE_UNAVAILABLE
    214, // ECC_UNCORRECTABLE
    220, // NVLINK_UNCORRECTABLE
    226, // CONTAINED
    700, // ILLEGAL_ADDRESS
    702, // LAUNCH_TIMEOUT
    709, // CONTEXT_IS_DESTROYED
    710, // ASSERT
    714, // HARDWARE_STACK_ERROR
    715, // ILLEGAL_INSTRUCTION
    716, // MISALIGNED_ADDRESS
    717, // INVALID_ADDRESS_SPACE
    718, // INVALID_PC
    719, // LAUNCH_FAILED
    721, // TENSOR_MEMORY_LEAK
    999, // UNKNOWN
];

/// `CUdevice_attribute`.
pub(crate) mod device_attribute {
    pub(crate) const MULTIPROCESSOR_COUNT: i32 = 16;
    pub(crate) const L2_CACHE_SIZE: i32 = 38;
    pub(crate) const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
    pub(crate) const COMPUTE_CAPABILITY_MINOR: i32 = 76;
    pub(crate) const MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: i32 = 97;
}

/// `CUfunction_attribute`.
pub(crate) mod function_attribute {
    pub(crate) const MAX_THREADS_PER_BLOCK: i32 = 0;
    pub(crate) const MAX_DYNAMIC_SHARED_SIZE_BYTES: i32 = 8;
}

/// `CUpointer_attribute`.
pub(crate) mod pointer_attribute {
    pub(crate) const DEVICE_ORDINAL: i32 = 9;
}

/// `CUjit_option`.
pub(crate) mod jit_option {
    pub(crate) const ERROR_LOG_BUFFER: i32 = 5;
    pub(crate) const ERROR_LOG_BUFFER_SIZE_BYTES: i32 = 6;
}
