//! What `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col` demand of their arguments.

use super::{DataType, Interleave, MAX_RANK, OobFill, Swizzle, TensorMap};

/// An argument of `cuTensorMapEncodeTiled` or `cuTensorMapEncodeIm2col` that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named in the messages
pub enum EncodeError {
    #[error("tensorRank is {got}, allowed are {least} to 5{}", if *.least == 3 { " with an interleaved layout or pixels" } else { "" })]
    Rank { got: usize, least: usize },
    #[error("{argument} has {got} entries, a tensor of rank {rank} needs {need}")]
    Length { argument: &'static str, got: usize, need: usize, rank: usize },
    #[error("globalAddress {got:#x} is not a multiple of {align}")]
    Address { got: u64, align: u64 },
    #[error("globalDim[{dim}] is {got}, allowed are 1 to 2^32")]
    GlobalDim { dim: usize, got: u64 },
    #[error("globalDim[0] is {got}, {data_type:?} needs a multiple of {multiple}")]
    PackedDim { got: u64, data_type: DataType, multiple: u64 },
    #[error("globalStrides[{index}] is {got} bytes, needed is a multiple of {multiple} below 2^40")]
    GlobalStride { index: usize, got: u64, multiple: u64 },
    #[error("boxDim[{dim}] is {got}, allowed are 1 to 256")]
    BoxDim { dim: usize, got: u32 },
    #[error("boxDim[0] is {got} elements of {data_type:?}, whose bytes are not a multiple of 16")]
    BoxRow { got: u32, data_type: DataType },
    #[error("boxDim[0] is {got}, {data_type:?} needs 128")]
    PackedBox { got: u32, data_type: DataType },
    #[error("elementStrides[{dim}] is {got}, allowed are 1 to 8")]
    ElementStride { dim: usize, got: u32 },
    #[error("boxDim[0] takes {bytes} bytes, more than the {span} that swizzle {swizzle:?} spans")]
    SwizzleSpan { bytes: u32, span: u32, swizzle: Swizzle },
    #[error("interleave of 32 bytes needs swizzle B32, not {got:?}")]
    InterleaveSwizzle { got: Swizzle },
    #[error("{data_type:?} needs interleave None, not {got:?}")]
    PackedInterleave { data_type: DataType, got: Interleave },
    #[error("{data_type:?} does not work with swizzle {got:?}")]
    PackedSwizzle { data_type: DataType, got: Swizzle },
    #[error("oobFill of NaN needs a float type, not {got:?}")]
    NanFill { got: DataType },
    #[error("{argument}[{index}] is {got}, allowed are {least} to {most}")]
    Corner { argument: &'static str, index: usize, got: i32, least: i32, most: i32 },
    #[error("the box of pixels begins at {first} and ends at {last} in spatial dimension {index}: it is empty")]
    EmptyBox { index: usize, first: i64, last: i64 },
    #[error("channelsPerPixel is {got}, allowed are 1 to 256")]
    ChannelsPerPixel { got: u32 },
    #[error("pixelsPerColumn is {got}, allowed are 1 to 1024")]
    PixelsPerColumn { got: u32 },
}

/// The arrays' lengths, which the driver cannot see: name, entries, and how many a tensor of this rank needs.
pub(super) fn lengths(rank: usize, arrays: &[(&'static str, usize, usize)]) -> Result<(), EncodeError> {
    for &(argument, got, need) in arrays {
        if got != need {
            return Err(EncodeError::Length { argument, got, need, rank });
        }
    }
    Ok(())
}

impl TensorMap {
    /// Checks every rule that fields must keep, also after `tensormap.replace`.
    ///
    /// # Errors
    /// The first rule that is broken, with the value that breaks it.
    pub fn check(&self) -> Result<(), EncodeError> {
        self.check_rank()?;
        self.check_global()?;
        self.check_box()?;
        self.check_pixels()?;
        self.check_modes()
    }

    fn check_rank(&self) -> Result<(), EncodeError> {
        let least = if self.interleave == Interleave::None { 1 } else { 3 };
        match self.rank {
            got if got < least || got > MAX_RANK => Err(EncodeError::Rank { got, least }),
            _ => Ok(()),
        }
    }

    fn check_global(&self) -> Result<(), EncodeError> {
        let multiple = if self.interleave == Interleave::Bytes32 || self.data_type.is_padded() { 32 } else { 16 };
        if !self.global_address.is_multiple_of(multiple) {
            return Err(EncodeError::Address { got: self.global_address, align: multiple });
        }
        for (dim, &got) in self.global_dim[..self.rank].iter().enumerate() {
            if got == 0 || got > 1 << 32 {
                return Err(EncodeError::GlobalDim { dim, got });
            }
        }
        let packed = match self.data_type {
            DataType::Packed16U4Align8B => 2,
            DataType::Packed16U4Align16B | DataType::Packed16U6Align16B => 128,
            _ => 1,
        };
        if !self.global_dim[0].is_multiple_of(packed) {
            return Err(EncodeError::PackedDim {
                got: self.global_dim[0],
                data_type: self.data_type,
                multiple: packed,
            });
        }
        for (index, &got) in self.global_strides[..self.rank - 1].iter().enumerate() {
            if !got.is_multiple_of(multiple) || got >= 1 << 40 {
                return Err(EncodeError::GlobalStride { index, got, multiple });
            }
        }
        Ok(())
    }

    fn check_box(&self) -> Result<(), EncodeError> {
        for dim in 0..self.rank {
            let (got, stride) = (self.box_dim[dim], self.element_strides[dim]);
            if got == 0 || got > 256 {
                let channels = self.pixels.is_some();
                return Err(if channels {
                    EncodeError::ChannelsPerPixel { got }
                } else {
                    EncodeError::BoxDim { dim, got }
                });
            }
            if stride == 0 || stride > 8 {
                return Err(EncodeError::ElementStride { dim, got: stride });
            }
        }
        let (got, data_type, unit) = (self.box_dim[0], self.data_type, self.data_type.unit());
        if data_type.is_padded() && got != 128 {
            return Err(EncodeError::PackedBox { got, data_type });
        }
        let row = got * unit.global;
        if self.interleave == Interleave::None && !data_type.is_padded() && !row.is_multiple_of(16 * unit.elements) {
            return Err(EncodeError::BoxRow { got, data_type });
        }
        Ok(())
    }

    fn check_modes(&self) -> Result<(), EncodeError> {
        let (data_type, swizzle) = (self.data_type, self.swizzle);
        if self.interleave == Interleave::Bytes32 && swizzle != Swizzle::B32 {
            return Err(EncodeError::InterleaveSwizzle { got: swizzle });
        }
        if self.interleave == Interleave::None && swizzle != Swizzle::None {
            let (bytes, span) = (self.row_bytes(), swizzle.span());
            if bytes > span {
                return Err(EncodeError::SwizzleSpan { bytes, span, swizzle });
            }
        }
        if data_type == DataType::Packed16U6Align16B && self.interleave != Interleave::None {
            return Err(EncodeError::PackedInterleave { data_type, got: self.interleave });
        }
        let fits = match data_type {
            DataType::Packed16U4Align16B => matches!(swizzle, Swizzle::None | Swizzle::B128 | Swizzle::B128Atom32),
            DataType::Packed16U6Align16B => {
                matches!(swizzle, Swizzle::None | Swizzle::B128 | Swizzle::B128Atom32 | Swizzle::B128Atom64)
            }
            _ => true,
        };
        if !fits {
            return Err(EncodeError::PackedSwizzle { data_type, got: swizzle });
        }
        if self.oob_fill == OobFill::Nan && !data_type.is_float() {
            return Err(EncodeError::NanFill { got: data_type });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::EncodeTiled;
    use super::super::tests::plain;
    use super::*;

    fn refused(args: EncodeTiled) -> EncodeError {
        args.encode().expect_err("the arguments break a rule")
    }

    #[test]
    fn rank_and_lengths() {
        let none: &[u64] = &[];
        assert_eq!(refused(EncodeTiled { global_dim: none, ..plain() }), EncodeError::Rank { got: 0, least: 1 });
        assert_eq!(refused(EncodeTiled { global_dim: &[1; 6], ..plain() }), EncodeError::Rank { got: 6, least: 1 });
        let interleaved = EncodeTiled { interleave: Interleave::Bytes16, ..plain() };
        assert_eq!(refused(interleaved), EncodeError::Rank { got: 2, least: 3 });
        let short = EncodeTiled { box_dim: &[64], ..plain() };
        assert_eq!(refused(short), EncodeError::Length { argument: "boxDim", got: 1, need: 2, rank: 2 });
        let long = EncodeTiled { global_strides: &[256, 512], ..plain() };
        assert_eq!(refused(long), EncodeError::Length { argument: "globalStrides", got: 2, need: 1, rank: 2 });
        let short = EncodeTiled { element_strides: &[1], ..plain() };
        assert_eq!(refused(short), EncodeError::Length { argument: "elementStrides", got: 1, need: 2, rank: 2 });
    }

    #[test]
    fn addresses_sizes_and_strides() {
        let args = EncodeTiled { global_address: 0x1008, ..plain() };
        assert_eq!(refused(args), EncodeError::Address { got: 0x1008, align: 16 });
        assert_eq!(
            refused(EncodeTiled { global_dim: &[128, 0], ..plain() }),
            EncodeError::GlobalDim { dim: 1, got: 0 }
        );
        let huge = (1 << 32) + 1;
        let args = EncodeTiled { global_dim: &[huge, 1], ..plain() };
        assert_eq!(refused(args), EncodeError::GlobalDim { dim: 0, got: huge });
        assert!(EncodeTiled { global_dim: &[1 << 32, 1], ..plain() }.encode().is_ok());
        for got in [24, 1 << 40] {
            let args = EncodeTiled { global_strides: &[got], ..plain() };
            assert_eq!(refused(args), EncodeError::GlobalStride { index: 0, got, multiple: 16 });
        }
        assert!(EncodeTiled { global_strides: &[0], ..plain() }.encode().is_ok(), "a stride of 0 repeats a row");
    }

    #[test]
    fn boxes_and_element_strides() {
        for got in [0, 257] {
            let args = EncodeTiled { box_dim: &[64, got], ..plain() };
            assert_eq!(refused(args), EncodeError::BoxDim { dim: 1, got });
        }
        let args = EncodeTiled { box_dim: &[4, 8], ..plain() };
        assert_eq!(refused(args), EncodeError::BoxRow { got: 4, data_type: DataType::Float16 });
        for got in [0, 9] {
            let args = EncodeTiled { element_strides: &[1, got], ..plain() };
            assert_eq!(refused(args), EncodeError::ElementStride { dim: 1, got });
        }
    }

    #[test]
    fn swizzle_limits_the_row() {
        for (swizzle, widest) in
            [(Swizzle::B32, 16), (Swizzle::B64, 32), (Swizzle::B128, 64), (Swizzle::B128Atom64, 64)]
        {
            assert!(EncodeTiled { swizzle, box_dim: &[widest, 8], ..plain() }.encode().is_ok());
            let bytes = 2 * (widest + 8);
            let args = EncodeTiled { swizzle, box_dim: &[widest + 8, 8], ..plain() };
            assert_eq!(refused(args), EncodeError::SwizzleSpan { bytes, span: 2 * widest, swizzle });
        }
        let open = EncodeTiled { swizzle: Swizzle::None, box_dim: &[256, 8], ..plain() };
        assert!(open.encode().is_ok());
    }

    #[test]
    fn interleaved_layouts() {
        let args = EncodeTiled {
            interleave: Interleave::Bytes32,
            global_dim: &[128, 40, 2],
            global_strides: &[256, 512],
            box_dim: &[16, 8, 1],
            element_strides: &[1, 1, 1],
            ..plain()
        };
        assert_eq!(refused(args), EncodeError::InterleaveSwizzle { got: Swizzle::B128 });
        let args = EncodeTiled { swizzle: Swizzle::B32, ..args };
        assert!(args.encode().is_ok());
        let args = EncodeTiled { global_address: 0x1010, ..args };
        assert_eq!(refused(args), EncodeError::Address { got: 0x1010, align: 32 });
        let args = EncodeTiled { global_address: 0x1000, global_strides: &[256, 528], ..args };
        assert_eq!(refused(args), EncodeError::GlobalStride { index: 1, got: 528, multiple: 32 });
    }

    #[test]
    fn packed_types() {
        let data_type = DataType::Packed16U4Align16B;
        let args = EncodeTiled { data_type, box_dim: &[128, 8], global_strides: &[64], ..plain() };
        assert!(args.encode().is_ok());
        assert_eq!(refused(EncodeTiled { box_dim: &[64, 8], ..args }), EncodeError::PackedBox { got: 64, data_type });
        let narrow = EncodeTiled { global_dim: &[64, 40], ..args };
        assert_eq!(refused(narrow), EncodeError::PackedDim { got: 64, data_type, multiple: 128 });
        let swizzle = EncodeTiled { swizzle: Swizzle::B128Atom64, ..args };
        assert_eq!(refused(swizzle), EncodeError::PackedSwizzle { data_type, got: Swizzle::B128Atom64 });
        assert_eq!(
            refused(EncodeTiled { global_address: 0x1010, ..args }),
            EncodeError::Address { got: 0x1010, align: 32 }
        );
        let data_type = DataType::Packed16U4Align8B;
        let args = EncodeTiled { data_type, box_dim: &[32, 8], ..plain() };
        assert!(args.encode().is_ok());
        assert_eq!(refused(EncodeTiled { box_dim: &[16, 8], ..args }), EncodeError::BoxRow { got: 16, data_type });
        let odd = EncodeTiled { global_dim: &[127, 40], ..args };
        assert_eq!(refused(odd), EncodeError::PackedDim { got: 127, data_type, multiple: 2 });
    }

    #[test]
    fn nan_fill_needs_floats() {
        for data_type in DataType::ALL.into_iter().filter(|ty| !ty.is_padded()) {
            let args = EncodeTiled {
                data_type,
                oob_fill: OobFill::Nan,
                swizzle: Swizzle::None,
                global_strides: &[1024],
                ..plain()
            };
            match args.encode() {
                Ok(_) => assert!(data_type.is_float()),
                Err(error) => assert_eq!(error, EncodeError::NanFill { got: data_type }),
            }
        }
    }

    #[test]
    fn messages_name_argument_value_and_what_is_allowed() {
        let error = refused(EncodeTiled { box_dim: &[64, 300], ..plain() });
        assert_eq!(error.to_string(), "boxDim[1] is 300, allowed are 1 to 256");
    }
}
