//! `tensormap.replace`: changing one field of a map's object.

use super::object::{BYTES, IM2COL, put};
use super::{DataType, TensorMap};

/// Field that `tensormap.replace.tile` names; those of several dimensions with their ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // PTX's names
pub enum Field {
    GlobalAddress,
    Rank,
    BoxDim(u32),
    GlobalDim(u32),
    GlobalStride(u32),
    ElementStride(u32),
    ElemType,
    InterleaveLayout,
    SwizzleMode,
    SwizzleAtomicity,
    FillMode,
}

/// Why a field cannot be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named in the messages
pub enum ReplaceError {
    #[error("tensormap.replace of 128 bytes that are neither zero nor a tensor map")]
    NotAMap,
    #[error("tensormap.replace.tile of an im2col map")]
    Im2col,
    #[error("tensormap.replace {field:?}: the ordinal is past {last}")]
    Ordinal { field: Field, last: u32 },
    #[error("tensormap.replace {field:?}: the value {got} means nothing, allowed are {allowed}")]
    Value { field: Field, got: u64, allowed: &'static str },
}

/// Types in the order of PTX's codes, which are not the driver's.
const ELEMTYPES: [DataType; 16] = {
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
        Float32Ftz,
        Float64,
        Bfloat16,
        Tfloat32,
        Tfloat32Ftz,
        Packed16U4Align8B,
        Packed16U4Align16B,
        Packed16U6Align16B,
    ]
};

impl TensorMap {
    /// Replaces `field` of the map in `bytes` by `value`. Rules between fields are checked when a copy uses the map, since
    /// they may be broken between two replacements.
    ///
    /// # Errors
    /// If the bytes are no map, or the field cannot hold the value.
    pub fn replace(bytes: &mut [u8; BYTES], field: Field, value: u64) -> Result<(), ReplaceError> {
        let place = place(field, value)?;
        if !TensorMap::claim(bytes) {
            return Err(ReplaceError::NotAMap);
        }
        if bytes[IM2COL] != 0 {
            return Err(ReplaceError::Im2col);
        }
        put(bytes, place.at, &place.value.to_le_bytes()[..place.bytes]);
        Ok(())
    }
}

struct Place {
    at: usize,
    bytes: usize,
    value: u64,
}

fn place(field: Field, got: u64) -> Result<Place, ReplaceError> {
    let within = |least: u64, most: u64, allowed| {
        if (least..=most).contains(&got) { Ok(got) } else { Err(ReplaceError::Value { field, got, allowed }) }
    };
    let ordinal = |i: u32, last: u32| {
        if i > last { Err(ReplaceError::Ordinal { field, last }) } else { Ok(i as usize) }
    };
    let (at, bytes, value) = match field {
        Field::GlobalAddress => (8, 8, got),
        Field::GlobalStride(i) => (16 + 8 * ordinal(i, 3)?, 8, got),
        // The operand is 32 bits wide, where the driver's 2^32 elements are 0.
        Field::GlobalDim(i) => (48 + 4 * ordinal(i, 4)?, 4, (got as u32).wrapping_sub(1).into()),
        Field::BoxDim(i) => (68 + 2 * ordinal(i, 4)?, 2, within(1, 256, "1 to 256")? - 1),
        Field::ElementStride(i) => (78 + ordinal(i, 4)?, 1, within(1, 8, "1 to 8")? - 1),
        Field::Rank => (83, 1, within(0, 4, "0 to 4, one less than the rank")?),
        Field::ElemType => (84, 1, ELEMTYPES[within(0, 15, "0 to 15")? as usize] as u64),
        Field::InterleaveLayout => (85, 1, within(0, 2, "0 to 2")?),
        Field::SwizzleMode => (86, 1, within(0, 3, "0 to 3")?),
        Field::SwizzleAtomicity => (87, 1, within(0, 3, "0 to 3")?),
        Field::FillMode => (89, 1, within(0, 1, "0 and 1")?),
    };
    Ok(Place { at, bytes, value })
}

#[cfg(test)]
mod tests {
    use super::super::tests::plain;
    use super::super::{EncodeTiled, OobFill, Swizzle};
    use super::*;

    #[test]
    fn a_map_is_made_from_zeros() {
        let want = EncodeTiled {
            data_type: DataType::Bfloat16,
            global_dim: &[96, 40, 7],
            global_strides: &[256, 16384],
            box_dim: &[32, 8, 2],
            element_strides: &[1, 2, 1],
            swizzle: Swizzle::B128Atom32,
            oob_fill: OobFill::Nan,
            ..plain()
        };
        let mut bytes = [0; 128];
        for (field, value) in [
            (Field::GlobalAddress, 0x1000),
            (Field::Rank, 2),
            (Field::ElemType, 10),
            (Field::GlobalDim(0), 96),
            (Field::GlobalDim(1), 40),
            (Field::GlobalDim(2), 7),
            (Field::GlobalStride(0), 256),
            (Field::GlobalStride(1), 16384),
            (Field::BoxDim(0), 32),
            (Field::BoxDim(1), 8),
            (Field::BoxDim(2), 2),
            (Field::ElementStride(0), 1),
            (Field::ElementStride(1), 2),
            (Field::ElementStride(2), 1),
            (Field::InterleaveLayout, 0),
            (Field::SwizzleMode, 3),
            (Field::SwizzleAtomicity, 1),
            (Field::FillMode, 1),
        ] {
            TensorMap::replace(&mut bytes, field, value).unwrap();
        }
        assert_eq!(TensorMap::from_bytes(&bytes).unwrap(), want.encode().unwrap());
    }

    #[test]
    fn codes_of_types_are_ptx_codes() {
        for (code, name) in [(8, DataType::Float32Ftz), (9, DataType::Float64), (11, DataType::Tfloat32)] {
            let mut bytes = EncodeTiled { data_type: DataType::Float32, swizzle: Swizzle::None, ..plain() }
                .encode()
                .unwrap()
                .to_bytes();
            TensorMap::replace(&mut bytes, Field::ElemType, code).unwrap();
            assert_eq!(TensorMap::from_bytes(&bytes).unwrap().data_type, name);
        }
    }

    #[test]
    fn misuse_is_named() {
        let mut bytes = [1; 128];
        assert_eq!(TensorMap::replace(&mut bytes, Field::Rank, 1), Err(ReplaceError::NotAMap));
        assert_eq!(bytes, [1; 128]);
        let mut bytes = super::super::im2col::tests::convolution().encode().unwrap().to_bytes();
        assert_eq!(TensorMap::replace(&mut bytes, Field::Rank, 1), Err(ReplaceError::Im2col));
        let mut bytes = [0; 128];
        let field = Field::GlobalStride(4);
        assert_eq!(TensorMap::replace(&mut bytes, field, 16), Err(ReplaceError::Ordinal { field, last: 3 }));
        let field = Field::BoxDim(0);
        let refused = ReplaceError::Value { field, got: 0, allowed: "1 to 256" };
        assert_eq!(TensorMap::replace(&mut bytes, field, 0), Err(refused));
        assert_eq!(bytes, [0; 128]);
    }
}
