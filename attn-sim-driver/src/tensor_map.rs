//! `cuTensorMapEncodeTiled`.

use attn_sim::tensor_map::{DataType, EncodeTiled, Interleave, L2Promotion, MAX_RANK, OobFill, Swizzle};

use crate::abi::{Array, Out, Outcome, exports};
use crate::code::Code;

/// A `CUtensorMap`.
pub(crate) type Object = [u8; 128];

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
        let rank = Some(rank as usize).filter(|rank| (1..=MAX_RANK).contains(rank)).ok_or(Code::INVALID_VALUE)?;
        let arguments = EncodeTiled {
            data_type: chosen(&DataType::ALL, data_type)?,
            global_address: address,
            global_dim: &dims.read(rank)?,
            global_strides: &strides.read(rank - 1)?,
            box_dim: &boxes.read(rank)?,
            element_strides: &steps.read(rank)?,
            interleave: chosen(&[Interleave::None, Interleave::Bytes16, Interleave::Bytes32], interleave)?,
            swizzle: chosen(&SWIZZLES, swizzle)?,
            l2_promotion: chosen(
                &[L2Promotion::None, L2Promotion::Bytes64, L2Promotion::Bytes128, L2Promotion::Bytes256],
                promotion,
            )?,
            oob_fill: chosen(&[OobFill::Zero, OobFill::Nan], fill)?,
        };
        let encoded = arguments.encode().map_err(|error| {
            eprintln!("attn-sim: cuTensorMapEncodeTiled: {error}");
            Code::INVALID_VALUE
        })?;
        map.put(encoded.to_bytes())
    }
}

/// The value of an enumeration by its number.
fn chosen<T: Copy>(all: &[T], number: u32) -> Outcome<T> {
    all.get(number as usize).copied().ok_or(Code::INVALID_VALUE)
}
