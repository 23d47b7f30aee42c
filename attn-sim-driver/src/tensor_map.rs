//! `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col`.

use attn_sim::tensor_map::{
    DataType, EncodeError, EncodeIm2col, EncodeTiled, Interleave, L2Promotion, MAX_RANK, OobFill, Swizzle, TensorMap,
};

use crate::abi::{Array, Out, Outcome, exports};
use crate::code::Code;

/// A `CUtensorMap`.
pub(crate) type Object = [u8; 128];

/// `CUtensorMapInterleave`, by number.
const INTERLEAVES: [Interleave; 3] = [Interleave::None, Interleave::Bytes16, Interleave::Bytes32];

/// `CUtensorMapL2promotion`, by number.
const PROMOTIONS: [L2Promotion; 4] =
    [L2Promotion::None, L2Promotion::Bytes64, L2Promotion::Bytes128, L2Promotion::Bytes256];

/// `CUtensorMapSwizzle`, by number.
const SWIZZLES: [Swizzle; 7] = [
    Swizzle::None,
    Swizzle::B32,
    Swizzle::B64,
    Swizzle::B128,
    Swizzle::B128Atom32,
    Swizzle::B128Atom32Flip8,
    Swizzle::B128Atom64,
];

exports! {
    fn cuTensorMapEncodeTiled(
        map: Out<Object>, data_type: u32, rank: u32, address: u64, dims: Array<u64>, strides: Array<u64>,
        boxes: Array<u32>, steps: Array<u32>, interleave: u32, swizzle: u32, promotion: u32, fill: u32,
    ) {
        let rank = ranked(rank, 1)?;
        let arguments = EncodeTiled {
            data_type: chosen(&DataType::ALL, data_type)?,
            global_address: address,
            global_dim: &dims.read(rank)?,
            global_strides: &strides.read(rank - 1)?,
            box_dim: &boxes.read(rank)?,
            element_strides: &steps.read(rank)?,
            interleave: chosen(&INTERLEAVES, interleave)?,
            swizzle: chosen(&SWIZZLES, swizzle)?,
            l2_promotion: chosen(&PROMOTIONS, promotion)?,
            oob_fill: chosen(&[OobFill::Zero, OobFill::Nan], fill)?,
        };
        map.put(encoded("cuTensorMapEncodeTiled", arguments.encode())?)
    }

    fn cuTensorMapEncodeIm2col(
        map: Out<Object>, data_type: u32, rank: u32, address: u64, dims: Array<u64>, strides: Array<u64>,
        lower: Array<i32>, upper: Array<i32>, channels: u32, pixels: u32,
        steps: Array<u32>, interleave: u32, swizzle: u32, promotion: u32, fill: u32,
    ) {
        let rank = ranked(rank, 3)?;
        let arguments = EncodeIm2col {
            data_type: chosen(&DataType::ALL, data_type)?,
            global_address: address,
            global_dim: &dims.read(rank)?,
            global_strides: &strides.read(rank - 1)?,
            pixel_box_lower_corner: &lower.read(rank - 2)?,
            pixel_box_upper_corner: &upper.read(rank - 2)?,
            channels_per_pixel: channels,
            pixels_per_column: pixels,
            element_strides: &steps.read(rank)?,
            interleave: chosen(&INTERLEAVES, interleave)?,
            swizzle: chosen(&SWIZZLES, swizzle)?,
            l2_promotion: chosen(&PROMOTIONS, promotion)?,
            oob_fill: chosen(&[OobFill::Zero, OobFill::Nan], fill)?,
        };
        map.put(encoded("cuTensorMapEncodeIm2col", arguments.encode())?)
    }
}

fn ranked(rank: u32, least: usize) -> Outcome<usize> {
    Some(rank as usize).filter(|rank| (least..=MAX_RANK).contains(rank)).ok_or(Code::INVALID_VALUE)
}

/// The object of a map, or the rule that its arguments break on standard error.
fn encoded(function: &str, map: Result<TensorMap, EncodeError>) -> Outcome<Object> {
    map.map(|map| map.to_bytes()).map_err(|error| {
        eprintln!("attn-sim: {function}: {error}");
        Code::INVALID_VALUE
    })
}

/// The value of an enumeration by its number.
fn chosen<T: Copy>(all: &[T], number: u32) -> Outcome<T> {
    all.get(number as usize).copied().ok_or(Code::INVALID_VALUE)
}
