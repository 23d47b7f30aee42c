//! Tensor maps: what a TMA copy knows of a tensor in global memory and of the box it moves.
//!
//! [`EncodeTiled`] and [`EncodeIm2col`] have the arguments of `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col` and make the
//! same demands on them, each a typed error. The 128-byte object ([`TensorMap::to_bytes`]) holds every field in a layout of the
//! simulator's own, so that a kernel can copy a map, keep it in any memory and modify it with `tensormap.replace`. NVIDIA's
//! layout is not documented, yet some host code writes it without asking the driver: as much of it as was seen is read too.

mod im2col;
mod native;
mod object;
mod replace;
mod rules;

pub use crate::layout::swizzle::Swizzle;
#[cfg(test)]
pub(crate) use im2col::tests as im2col_tests;
pub use im2col::{EncodeIm2col, Pixels};
pub use object::ObjectError;
pub use replace::{Field, ReplaceError};
pub use rules::EncodeError;

/// Most dimensions a map can have.
pub const MAX_RANK: usize = 5;

/// Type of a tensor's elements, by the driver's names and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // the driver's names
pub enum DataType {
    Uint8 = 0,
    Uint16 = 1,
    Uint32 = 2,
    Int32 = 3,
    Uint64 = 4,
    Int64 = 5,
    Float16 = 6,
    Float32 = 7,
    Float64 = 8,
    Bfloat16 = 9,
    Float32Ftz = 10,
    Tfloat32 = 11,
    Tfloat32Ftz = 12,
    /// Sixteen 4-bit values in 8 bytes, in both memories.
    Packed16U4Align8B = 13,
    /// Sixteen 4-bit values in 8 bytes of global and, with 8 bytes of padding, 16 bytes of shared memory.
    Packed16U4Align16B = 14,
    /// Sixteen 6-bit values in 12 bytes of global and, with 4 bytes of padding, 16 bytes of shared memory.
    Packed16U6Align16B = 15,
}

/// A run of elements that is whole bytes in both memories; one element for all types but the packed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Elements in a unit.
    pub elements: u32,
    /// Bytes of a unit in global memory.
    pub global: u32,
    /// Bytes of a unit in shared memory, padding included.
    pub shared: u32,
}

impl DataType {
    /// All types, in the order of the driver's values.
    pub const ALL: [DataType; 16] = {
        use DataType::*;
        [
            Uint8,
            Uint16,
            Uint32,
            Int32,
            Uint64,
            Int64,
            Float16,
            Float32,
            Float64,
            Bfloat16,
            Float32Ftz,
            Tfloat32,
            Tfloat32Ftz,
            Packed16U4Align8B,
            Packed16U4Align16B,
            Packed16U6Align16B,
        ]
    };

    /// The smallest run of elements that is whole bytes.
    pub const fn unit(self) -> Unit {
        use DataType::*;
        let bytes = match self {
            Uint8 => 1,
            Uint16 | Float16 | Bfloat16 => 2,
            Uint32 | Int32 | Float32 | Float32Ftz | Tfloat32 | Tfloat32Ftz => 4,
            Uint64 | Int64 | Float64 => 8,
            Packed16U4Align8B => return Unit { elements: 2, global: 1, shared: 1 },
            Packed16U4Align16B => return Unit { elements: 16, global: 8, shared: 16 },
            Packed16U6Align16B => return Unit { elements: 16, global: 12, shared: 16 },
        };
        Unit { elements: 1, global: bytes, shared: bytes }
    }

    /// Whether elements are floats of a whole number of bytes, which can be filled with NaN.
    pub const fn is_float(self) -> bool {
        use DataType::*;
        matches!(self, Float16 | Float32 | Float64 | Bfloat16 | Float32Ftz | Tfloat32 | Tfloat32Ftz)
    }

    /// Whether shared memory holds padding between units of global memory.
    pub const fn is_padded(self) -> bool {
        self.unit().global != self.unit().shared
    }
}

/// Layout of channels in global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // the driver's names
pub enum Interleave {
    None = 0,
    Bytes16 = 1,
    Bytes32 = 2,
}

/// Size of the requests that L2 makes; without effect here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // the driver's names
pub enum L2Promotion {
    None = 0,
    Bytes64 = 1,
    Bytes128 = 2,
    Bytes256 = 3,
}

/// What a load writes for elements outside the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OobFill {
    /// Zero.
    Zero = 0,
    /// A NaN, which matrix units were meant to take for zero.
    Nan = 1,
}

/// The arguments of `cuTensorMapEncodeTiled`; `tensorRank` is the length of `global_dim`.
#[derive(Clone, Copy, Debug)]
pub struct EncodeTiled<'a> {
    /// Type of the elements.
    pub data_type: DataType,
    /// Address of element (0, 0, ..).
    pub global_address: u64,
    /// Elements in each dimension, innermost first.
    pub global_dim: &'a [u64],
    /// Bytes from one index to the next in dimensions 1.., one entry fewer than dimensions.
    pub global_strides: &'a [u64],
    /// Elements that the box spans in each dimension.
    pub box_dim: &'a [u32],
    /// Every how many elements of the box one is moved, in each dimension.
    pub element_strides: &'a [u32],
    /// Layout of channels in global memory.
    pub interleave: Interleave,
    /// Layout in shared memory.
    pub swizzle: Swizzle,
    /// Size of L2 requests.
    pub l2_promotion: L2Promotion,
    /// What is read outside the tensor.
    pub oob_fill: OobFill,
}

impl EncodeTiled<'_> {
    /// The tensor map.
    ///
    /// # Errors
    /// The first rule that the arguments break, with the value that breaks it.
    pub fn encode(&self) -> Result<TensorMap, EncodeError> {
        let rank = self.global_dim.len();
        if rank == 0 || rank > MAX_RANK {
            return Err(EncodeError::Rank { got: rank, least: 1 });
        }
        rules::lengths(
            rank,
            &[
                ("globalStrides", self.global_strides.len(), rank - 1),
                ("boxDim", self.box_dim.len(), rank),
                ("elementStrides", self.element_strides.len(), rank),
            ],
        )?;
        let map = TensorMap {
            data_type: self.data_type,
            rank: self.global_dim.len(),
            global_address: self.global_address,
            global_dim: filled(self.global_dim, 1),
            global_strides: filled(self.global_strides, 0),
            box_dim: filled(self.box_dim, 1),
            pixels: None,
            element_strides: filled(self.element_strides, 1),
            interleave: self.interleave,
            swizzle: self.swizzle,
            l2_promotion: self.l2_promotion,
            oob_fill: self.oob_fill,
        };
        map.check()?;
        Ok(map)
    }
}

fn filled<T: Copy, const N: usize>(given: &[T], rest: T) -> [T; N] {
    let mut all = [rest; N];
    all[..given.len()].copy_from_slice(given);
    all
}

/// A tensor in global memory and a box to move, as a TMA unit sees them. Dimensions past `rank` are 1, strides 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Type of the elements.
    pub data_type: DataType,
    /// Number of dimensions, 1 to 5.
    pub rank: usize,
    /// Address of element (0, 0, ..).
    pub global_address: u64,
    /// Elements in each dimension, innermost first.
    pub global_dim: [u64; MAX_RANK],
    /// Bytes from one index to the next in dimensions 1 to 4.
    pub global_strides: [u64; MAX_RANK - 1],
    /// Elements that the box spans in each dimension; channels and ones, where there are `pixels`.
    pub box_dim: [u32; MAX_RANK],
    /// In an im2col map, which pixels are moved.
    pub pixels: Option<Pixels>,
    /// Every how many elements of the box one is moved.
    pub element_strides: [u32; MAX_RANK],
    /// Layout of channels in global memory.
    pub interleave: Interleave,
    /// Layout in shared memory.
    pub swizzle: Swizzle,
    /// Size of L2 requests.
    pub l2_promotion: L2Promotion,
    /// What is read outside the tensor.
    pub oob_fill: OobFill,
}

impl TensorMap {
    /// Elements moved along dimension `dim`: the box's extent divided by the element stride, rounded up. The stride of
    /// dimension 0 counts only in an interleaved layout.
    pub fn moved(&self, dim: usize) -> u32 {
        self.box_dim[dim].div_ceil(self.step(dim))
    }

    /// Distance in elements between two that are moved along `dim`.
    pub fn step(&self, dim: usize) -> u32 {
        if dim == 0 && self.interleave == Interleave::None { 1 } else { self.element_strides[dim] }
    }

    /// Bytes of shared memory of one row of the box (dimension 0), without what [`TensorMap::row_pitch`] leaves free behind it.
    pub fn row_bytes(&self) -> u32 {
        let unit = self.data_type.unit();
        self.moved(0) / unit.elements * unit.shared
    }

    /// Bytes from one row of the box to the next in shared memory: the swizzle's span, however short the row.
    pub fn row_pitch(&self) -> u32 {
        if self.swizzle == Swizzle::None { self.row_bytes() } else { self.swizzle.span() }
    }

    /// Bytes of shared memory that one tile copy fills and counts at its mbarrier, elements out of bounds included.
    pub fn box_bytes(&self) -> u32 {
        let rows = match &self.pixels {
            Some(pixels) => pixels.per_column,
            None => (1..self.rank).map(|dim| self.moved(dim)).product(),
        };
        rows * self.row_bytes()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plain map of `f16`, rows of 64 elements, which tests change one argument of.
    pub(crate) fn plain() -> EncodeTiled<'static> {
        EncodeTiled {
            data_type: DataType::Float16,
            global_address: 0x1000,
            global_dim: &[128, 40],
            global_strides: &[256],
            box_dim: &[64, 8],
            element_strides: &[1, 1],
            interleave: Interleave::None,
            swizzle: Swizzle::B128,
            l2_promotion: L2Promotion::None,
            oob_fill: OobFill::Zero,
        }
    }

    #[test]
    fn sizes_of_boxes() {
        let map = plain().encode().unwrap();
        assert_eq!((map.row_bytes(), map.box_bytes()), (128, 1024));
        let strided = EncodeTiled { element_strides: &[7, 3], ..plain() }.encode().unwrap();
        // 8 rows, every third: rows 0, 3, 6. The stride of dimension 0 does not count.
        assert_eq!((strided.moved(0), strided.moved(1), strided.box_bytes()), (64, 3, 384));
        let padded = EncodeTiled {
            data_type: DataType::Packed16U6Align16B,
            box_dim: &[128, 8],
            global_strides: &[96],
            ..plain()
        };
        assert_eq!(padded.encode().unwrap().box_bytes(), 1024);
    }
}
