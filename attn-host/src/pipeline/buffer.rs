//! Host memory that a batch owns.

use std::{fmt, slice};

use crate::pool::{PinnedBuffer, Scalar};
use crate::problem::DType;

/// Host memory that goes with a batch and comes back with its result.
///
/// What is [`Pinned`](HostBuffer::Pinned) the device copies by itself; anything else goes through the pipeline's own pinned memory, which costs
/// one copy by the CPU.
#[non_exhaustive]
pub enum HostBuffer {
    /// Bytes, of any element type.
    Bytes(Vec<u8>),
    /// The bits of elements of 16 bits.
    Bits(Vec<u16>),
    /// Elements of bf16.
    #[cfg(any(feature = "cust", feature = "cudarc"))]
    Bf16(Vec<half::bf16>),
    /// Elements of f16.
    #[cfg(any(feature = "cust", feature = "cudarc"))]
    F16(Vec<half::f16>),
    /// Pinned memory, of any element type.
    Pinned(PinnedBuffer),
}

impl HostBuffer {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            HostBuffer::Bytes(bytes) => bytes,
            HostBuffer::Bits(bits) => bytes_of(bits),
            #[cfg(any(feature = "cust", feature = "cudarc"))]
            HostBuffer::Bf16(values) => bytes_of(values),
            #[cfg(any(feature = "cust", feature = "cudarc"))]
            HostBuffer::F16(values) => bytes_of(values),
            HostBuffer::Pinned(buffer) => buffer,
        }
    }

    /// Its bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            HostBuffer::Bytes(bytes) => bytes,
            HostBuffer::Bits(bits) => bytes_of_mut(bits),
            #[cfg(any(feature = "cust", feature = "cudarc"))]
            HostBuffer::Bf16(values) => bytes_of_mut(values),
            #[cfg(any(feature = "cust", feature = "cudarc"))]
            HostBuffer::F16(values) => bytes_of_mut(values),
            HostBuffer::Pinned(buffer) => buffer,
        }
    }

    /// Its memory as elements: `None` where it does not start on a multiple of their size or does not end with a whole one.
    pub fn elements<T: Scalar>(&self) -> Option<&[T]> {
        // SAFETY: every bit pattern is a scalar.
        match unsafe { self.bytes().align_to() } {
            ([], elements, []) => Some(elements),
            _ => None,
        }
    }

    /// The same to be written.
    pub fn elements_mut<T: Scalar>(&mut self) -> Option<&mut [T]> {
        // SAFETY: every bit pattern is a scalar, and a byte holds every one.
        match unsafe { self.bytes_mut().align_to_mut() } {
            ([], elements, []) => Some(elements),
            _ => None,
        }
    }

    /// The one element type that it holds, `None` when it may be any.
    pub(super) fn dtype(&self) -> Option<DType> {
        match self {
            #[cfg(any(feature = "cust", feature = "cudarc"))]
            HostBuffer::Bf16(_) => Some(DType::Bf16),
            #[cfg(any(feature = "cust", feature = "cudarc"))]
            HostBuffer::F16(_) => Some(DType::F16),
            _ => None,
        }
    }

    /// Bytes of an element, where that is known.
    pub(super) fn width(&self) -> Option<u32> {
        match self {
            HostBuffer::Bytes(_) | HostBuffer::Pinned(_) => None,
            _ => Some(2),
        }
    }

    /// Where the device copies from or to by itself.
    pub(super) fn pinned(&self) -> Option<*mut u8> {
        match self {
            HostBuffer::Pinned(buffer) => Some(buffer.place()),
            _ => None,
        }
    }
}

impl fmt::Debug for HostBuffer {
    /// Its kind and size: what it holds may be long, and nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            HostBuffer::Bytes(_) => "Bytes",
            HostBuffer::Bits(_) => "Bits",
            #[cfg(any(feature = "cust", feature = "cudarc"))]
            HostBuffer::Bf16(_) => "Bf16",
            #[cfg(any(feature = "cust", feature = "cudarc"))]
            HostBuffer::F16(_) => "F16",
            HostBuffer::Pinned(_) => "Pinned",
        };
        write!(f, "{kind}({} bytes)", self.bytes().len())
    }
}

/// The bytes of numbers.
pub(super) fn bytes_of<T: Scalar>(values: &[T]) -> &[u8] {
    // SAFETY: a scalar is initialised bytes without padding.
    unsafe { slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of numbers, to be written.
fn bytes_of_mut<T: Scalar>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every bit pattern is a scalar.
    unsafe { slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

impl From<Vec<u8>> for HostBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        HostBuffer::Bytes(bytes)
    }
}

impl From<Vec<u16>> for HostBuffer {
    fn from(bits: Vec<u16>) -> Self {
        HostBuffer::Bits(bits)
    }
}

#[cfg(any(feature = "cust", feature = "cudarc"))]
impl From<Vec<half::bf16>> for HostBuffer {
    fn from(values: Vec<half::bf16>) -> Self {
        HostBuffer::Bf16(values)
    }
}

#[cfg(any(feature = "cust", feature = "cudarc"))]
impl From<Vec<half::f16>> for HostBuffer {
    fn from(values: Vec<half::f16>) -> Self {
        HostBuffer::F16(values)
    }
}

impl From<PinnedBuffer> for HostBuffer {
    fn from(buffer: PinnedBuffer) -> Self {
        HostBuffer::Pinned(buffer)
    }
}
