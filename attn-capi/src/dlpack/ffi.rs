//! The structures of DLPack's header, dlpack.h, as its versions 1.x lay them out.
//!
//! Own definitions: codes are numbers here, since a producer may send any, where the crates that have these structures make enumerations
//! of them.

use std::ffi::c_void;

/// `kDLCUDA`.
pub(super) const CUDA: i32 = 2;

/// Where a tensor lies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDevice {
    /// `DLDeviceType`.
    pub device_type: i32,
    /// The number of a device of that type.
    pub device_id: i32,
}

/// An element type.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDataType {
    /// `DLDataTypeCode`.
    pub code: u8,
    /// Bits of a lane.
    pub bits: u8,
    /// Lanes of a vector type, else 1.
    pub lanes: u16,
}

/// A view of a tensor that somebody else owns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DLTensor {
    /// For CUDA a device address.
    pub data: *mut c_void,
    /// Where it lies.
    pub device: DLDevice,
    /// Dimensions.
    pub ndim: i32,
    /// The element type.
    pub dtype: DLDataType,
    /// As many sizes.
    pub shape: *mut i64,
    /// As many strides, in elements; before version 1.2 perhaps null for a compact tensor.
    pub strides: *mut i64,
    /// From `data` to the first element.
    pub byte_offset: u64,
}

/// A tensor that its holder must delete, as it was before version 1.0 and is still asked for.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensor {
    /// The tensor.
    pub dl_tensor: DLTensor,
    /// The producer's own.
    pub manager_ctx: *mut c_void,
    /// Deletes the structure and its hold on the memory.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

/// The version that a producer was written for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLPackVersion {
    /// Changes with the layout.
    pub major: u32,
    /// Changes with the codes that there are.
    pub minor: u32,
}

/// A tensor that its holder must delete.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensorVersioned {
    /// The version.
    pub version: DLPackVersion,
    /// The producer's own.
    pub manager_ctx: *mut c_void,
    /// Deletes the structure and its hold on the memory.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    /// Bit 0: read only; bit 1: a copy.
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

/// Element types that tensors of attention have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// 8-bit floats.
    E4m3,
    /// IEEE single precision.
    F32,
    /// Signed numbers of 32 bits.
    I32,
    /// Bytes.
    U8,
}

impl Element {
    /// How DLPack says it.
    pub const fn dtype(self) -> DLDataType {
        let (code, bits) = match self {
            Element::Bf16 => (4, 16),
            Element::F16 => (2, 16),
            Element::E4m3 => (10, 8),
            Element::F32 => (2, 32),
            Element::I32 => (0, 32),
            Element::U8 => (1, 8),
        };
        DLDataType { code, bits, lanes: 1 }
    }

    /// Its name in errors.
    pub const fn name(self) -> &'static str {
        match self {
            Element::Bf16 => "bfloat16",
            Element::F16 => "float16",
            Element::E4m3 => "float8_e4m3fn",
            Element::F32 => "float32",
            Element::I32 => "int32",
            Element::U8 => "uint8",
        }
    }

    /// Bytes of one.
    pub const fn bytes(self) -> u64 {
        self.dtype().bits as u64 / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn the_layout_is_dlpacks() {
        let tensor = [
            offset_of!(DLTensor, data),
            offset_of!(DLTensor, device.device_type),
            offset_of!(DLTensor, device.device_id),
            offset_of!(DLTensor, ndim),
            offset_of!(DLTensor, dtype.code),
            offset_of!(DLTensor, dtype.bits),
            offset_of!(DLTensor, dtype.lanes),
            offset_of!(DLTensor, shape),
            offset_of!(DLTensor, strides),
            offset_of!(DLTensor, byte_offset),
            size_of::<DLTensor>(),
        ];
        assert_eq!(tensor, [0, 8, 12, 16, 20, 21, 22, 24, 32, 40, 48]);
        let managed = [
            offset_of!(DLManagedTensor, dl_tensor),
            offset_of!(DLManagedTensor, manager_ctx),
            offset_of!(DLManagedTensor, deleter),
            size_of::<DLManagedTensor>(),
        ];
        assert_eq!(managed, [0, 48, 56, 64]);
        let versioned = [
            offset_of!(DLManagedTensorVersioned, version.major),
            offset_of!(DLManagedTensorVersioned, version.minor),
            offset_of!(DLManagedTensorVersioned, manager_ctx),
            offset_of!(DLManagedTensorVersioned, deleter),
            offset_of!(DLManagedTensorVersioned, flags),
            offset_of!(DLManagedTensorVersioned, dl_tensor),
            size_of::<DLManagedTensorVersioned>(),
        ];
        assert_eq!(versioned, [0, 4, 8, 16, 24, 32, 80]);
    }
}
