//! The 128 bytes of a tensor map, in a layout of the simulator's own.
//!
//! | bytes   | field                              | bytes | field                        |
//! |---------|------------------------------------|-------|------------------------------|
//! | 0..8    | magic                              | 83    | rank - 1                     |
//! | 8..16   | global address                     | 84    | data type                    |
//! | 16..48  | global strides of dimensions 1..=4 | 85    | interleave                   |
//! | 48..68  | global sizes - 1                   | 86    | swizzle mode (none, 32, 64, 128) |
//! | 68..78  | box sizes - 1                      | 87    | swizzle atomicity            |
//! | 78..83  | element strides - 1                | 88/89 | L2 promotion / fill          |
//! | 92..98  | lower corner of an im2col map      | 90    | whether it is an im2col map  |
//! | 98..104 | upper corner                       | 104/5 | pixels of a column           |
//!
//! Sizes are kept less one so that 128 zero bytes can be filled in by `tensormap.replace` field by field, as compilers do that
//! make a map on the device.

use super::{DataType, EncodeError, Interleave, L2Promotion, MAX_RANK, OobFill, Pixels, Swizzle, TensorMap, native};

/// First bytes of every map.
const MAGIC: [u8; 8] = *b"attn-map";

/// Bytes of a map's object.
pub(super) const BYTES: usize = 128;

/// Place of the byte that says whether it is an im2col map.
pub(super) const IM2COL: usize = 90;

/// What stands where a tensor map was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// Other bytes than those of a map.
    #[error("the 128 bytes are no tensor map")]
    NotAMap,
    /// A field holds a code that means nothing.
    #[error("tensor map field `{field}` holds the unknown code {code}")]
    Code {
        /// Name as in `tensormap.replace`.
        field: &'static str,
        /// What the field holds.
        code: u8,
    },
    /// Fields that a driver would not have accepted.
    #[error("tensor map breaks a rule: {0}")]
    Rule(#[from] EncodeError),
}

/// Swizzle by mode and atomicity, as `tensormap.replace` sees it.
pub(super) const SWIZZLES: [(Swizzle, u8, u8); 7] = [
    (Swizzle::None, 0, 0),
    (Swizzle::B32, 1, 0),
    (Swizzle::B64, 2, 0),
    (Swizzle::B128, 3, 0),
    (Swizzle::B128Atom32, 3, 1),
    (Swizzle::B128Atom32Flip8, 3, 2),
    (Swizzle::B128Atom64, 3, 3),
];

impl TensorMap {
    /// The object that a kernel is given.
    pub fn to_bytes(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        put(&mut bytes, 8, &self.global_address.to_le_bytes());
        for (i, stride) in self.global_strides.iter().enumerate() {
            put(&mut bytes, 16 + 8 * i, &stride.to_le_bytes());
        }
        for dim in 0..MAX_RANK {
            put(&mut bytes, 48 + 4 * dim, &((self.global_dim[dim].wrapping_sub(1)) as u32).to_le_bytes());
            put(&mut bytes, 68 + 2 * dim, &((self.box_dim[dim].wrapping_sub(1)) as u16).to_le_bytes());
            bytes[78 + dim] = self.element_strides[dim].wrapping_sub(1) as u8;
        }
        let (_, mode, atomicity) = SWIZZLES[self.swizzle as usize];
        bytes[83..90].copy_from_slice(&[
            self.rank as u8 - 1,
            self.data_type as u8,
            self.interleave as u8,
            mode,
            atomicity,
            self.l2_promotion as u8,
            self.oob_fill as u8,
        ]);
        if let Some(pixels) = &self.pixels {
            bytes[IM2COL] = 1;
            for (i, corner) in pixels.lower.iter().chain(&pixels.upper).enumerate() {
                put(&mut bytes, 92 + 2 * i, &(*corner as i16).to_le_bytes());
            }
            put(&mut bytes, 104, &(pixels.per_column as u16).to_le_bytes());
        }
        bytes
    }

    /// The map that an object holds.
    ///
    /// # Errors
    /// If the bytes are no map, or if its fields break a rule of encoding.
    pub fn from_bytes(bytes: &[u8; BYTES]) -> Result<TensorMap, ObjectError> {
        let map = if bytes[..8] == MAGIC {
            Self::fields(bytes)?
        } else {
            native::decode(bytes).ok_or(ObjectError::NotAMap)?
        };
        map.check()?;
        Ok(map)
    }

    fn fields(bytes: &[u8; BYTES]) -> Result<TensorMap, ObjectError> {
        let code = |field, at: usize| ObjectError::Code { field, code: bytes[at] };
        let map = TensorMap {
            data_type: *DataType::ALL.get(usize::from(bytes[84])).ok_or(code("elemtype", 84))?,
            rank: usize::from(bytes[83]) + 1,
            global_address: u64_at(bytes, 8),
            global_dim: std::array::from_fn(|dim| u64::from(u32_at(bytes, 48 + 4 * dim)) + 1),
            global_strides: std::array::from_fn(|i| u64_at(bytes, 16 + 8 * i)),
            box_dim: std::array::from_fn(|dim| {
                u32::from(u16::from_le_bytes([bytes[68 + 2 * dim], bytes[69 + 2 * dim]])) + 1
            }),
            pixels: match bytes[IM2COL] {
                0 => None,
                1 => Some(Pixels {
                    lower: std::array::from_fn(|i| i16_at(bytes, 92 + 2 * i).into()),
                    upper: std::array::from_fn(|i| i16_at(bytes, 98 + 2 * i).into()),
                    per_column: u32::from(i16_at(bytes, 104) as u16),
                }),
                _ => return Err(code("im2col", IM2COL)),
            },
            element_strides: std::array::from_fn(|dim| u32::from(bytes[78 + dim]) + 1),
            interleave: match bytes[85] {
                0 => Interleave::None,
                1 => Interleave::Bytes16,
                2 => Interleave::Bytes32,
                _ => return Err(code("interleave_layout", 85)),
            },
            swizzle: SWIZZLES
                .iter()
                .find(|(_, mode, atomicity)| (bytes[86], bytes[87]) == (*mode, *atomicity))
                .map(|(swizzle, ..)| *swizzle)
                .ok_or(if bytes[86] > 3 { code("swizzle_mode", 86) } else { code("swizzle_atomicity", 87) })?,
            l2_promotion: match bytes[88] {
                0 => L2Promotion::None,
                1 => L2Promotion::Bytes64,
                2 => L2Promotion::Bytes128,
                3 => L2Promotion::Bytes256,
                _ => return Err(code("l2_promotion", 88)),
            },
            oob_fill: match bytes[89] {
                0 => OobFill::Zero,
                1 => OobFill::Nan,
                _ => return Err(code("fill_mode", 89)),
            },
        };
        Ok(map)
    }

    /// Turns 128 zero bytes, or a map in the hardware's layout, into a map that `tensormap.replace` can fill in, and says
    /// whether the bytes are one then.
    pub(super) fn claim(bytes: &mut [u8; BYTES]) -> bool {
        if bytes.iter().all(|byte| *byte == 0) {
            bytes[..8].copy_from_slice(&MAGIC);
        } else if bytes[..8] != MAGIC
            && let Some(map) = native::decode(bytes)
        {
            *bytes = map.to_bytes();
        }
        bytes[..8] == MAGIC
    }
}

pub(super) fn put(bytes: &mut [u8; BYTES], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn i16_at(bytes: &[u8; BYTES], at: usize) -> i16 {
    i16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8; BYTES], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8; BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::super::EncodeTiled;
    use super::super::tests::plain;
    use super::*;

    #[test]
    fn bytes_hold_every_field() {
        let args = EncodeTiled {
            global_dim: &[1 << 32, 2, 3, 4, 5],
            global_strides: &[16, 1 << 39, 48, 64],
            box_dim: &[64, 256, 3, 2, 1],
            element_strides: &[1, 8, 3, 2, 1],
            ..plain()
        };
        let promotions = [L2Promotion::None, L2Promotion::Bytes64, L2Promotion::Bytes128, L2Promotion::Bytes256];
        for (i, (swizzle, ..)) in SWIZZLES.into_iter().enumerate() {
            let oob_fill = if i % 2 == 0 { OobFill::Zero } else { OobFill::Nan };
            let box_dim: &[u32] = if swizzle == Swizzle::B32 { &[16, 8, 1, 1, 1] } else { &[32, 8, 1, 1, 1] };
            let args = EncodeTiled { swizzle, oob_fill, l2_promotion: promotions[i % 4], box_dim, ..args };
            let map = args.encode().unwrap();
            assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Ok(map));
        }
        for data_type in DataType::ALL {
            let args = EncodeTiled {
                data_type,
                global_dim: &[256],
                global_strides: &[],
                box_dim: &[128],
                element_strides: &[1],
                swizzle: Swizzle::None,
                ..plain()
            };
            let map = args.encode().unwrap();
            assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Ok(map));
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(TensorMap::from_bytes(&[0; 128]), Err(ObjectError::NotAMap));
        let map = plain().encode().unwrap();
        for (at, field) in [
            (84, "elemtype"),
            (85, "interleave_layout"),
            (86, "swizzle_mode"),
            (87, "swizzle_atomicity"),
            (88, "l2_promotion"),
            (89, "fill_mode"),
            (90, "im2col"),
        ] {
            let mut bytes = map.to_bytes();
            bytes[at] = 77;
            assert_eq!(TensorMap::from_bytes(&bytes), Err(ObjectError::Code { field, code: 77 }));
        }
        let mut bytes = map.to_bytes();
        bytes[83] = 5;
        let rank = EncodeError::Rank { got: 6, least: 1 };
        assert_eq!(TensorMap::from_bytes(&bytes), Err(ObjectError::Rule(rank)));
    }
}
