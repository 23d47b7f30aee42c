//! The 128 bytes of a tensor map as the hardware takes them.
//!
//! Most programs get a map from the driver. Some compilers' host code (that of CUTLASS's Python DSL, for one) writes it itself,
//! field by field; a kernel launched by it brings such bytes along. NVIDIA does not document them: what follows is what that
//! code writes for known arguments. A bit that was never seen set is refused, so that no map is taken for another. The second half is left as it was, even uninitialised.
//!
//! | bits of word (64 bits each) | field                                                                            |
//! |-----------------------------|----------------------------------------------------------------------------------|
//! | 0                           | global address                                                                   |
//! | 1: 0..4                     | 2                                                                                |
//! | 1: 4..7, 7..11              | rank - 1, data type (`tensormap.replace`'s codes up to `bf16`, then 4-bit)       |
//! | 1: 13..15, 19..21           | swizzle mode, atomicity                                                          |
//! | 1: 16, 17..19, 21           | `tf32` of an `f32`, L2 promotion, whether the tensor has 128 KiB or more         |
//! | 1: 32.., 2, 3: 0..32        | strides of dimensions 1 to 4 over 16, 32 bits each                               |
//! | 3: 32..48                   | bits 36..40 of these strides                                                     |
//! | 4, 5, 6: 0..32              | sizes - 1, 32 bits each                                                          |
//! | 6: 56..64, 7: 0..32         | box sizes - 1, 8 bits each                                                       |

use super::object::{BYTES, SWIZZLES};
use super::{DataType, Interleave, L2Promotion, MAX_RANK, OobFill, TensorMap};

/// Types by code.
const TYPES: [DataType; 12] = {
    use DataType::*;
    [Uint8, Uint16, Uint32, Int32, Uint64, Int64, Float16, Float32, Float32Ftz, Float64, Bfloat16, Packed16U4Align8B]
};

/// Bits of words 1, 3, 6 and 7 that are known.
const KNOWN: [(usize, u64); 4] =
    [(1, !0 << 32 | 0x003f_67ff), (3, 0x0000_ffff_ffff_ffff), (6, 0xff00_0000_ffff_ffff), (7, 0xffff_ffff)];

/// The map that the bytes are, if they are one of this layout with no field but the known ones.
pub(super) fn decode(bytes: &[u8; BYTES]) -> Option<TensorMap> {
    let mut words = [0_u64; 8];
    for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(eight.try_into().ok()?);
    }
    let known = KNOWN.iter().all(|&(i, mask)| words[i] & !mask == 0);
    let bits = |word: usize, at: u32, len: u32| words[word] >> at & ((1 << len) - 1);
    if !known || bits(1, 0, 4) != 2 {
        return None;
    }
    let tf32 = bits(1, 16, 1) == 1;
    let data_type = match *TYPES.get(bits(1, 7, 4) as usize)? {
        DataType::Float32 if tf32 => DataType::Tfloat32,
        DataType::Float32Ftz if tf32 => DataType::Tfloat32Ftz,
        _ if tf32 => return None,
        other => other,
    };
    let swizzle = (bits(1, 13, 2) as u8, bits(1, 19, 2) as u8);
    let half = |i: usize| words[i / 2] >> (32 * (i % 2)) & 0xffff_ffff;
    let byte = |i: usize| if i == 0 { words[6] >> 56 } else { words[7] >> (8 * (i - 1)) & 0xff };
    Some(TensorMap {
        data_type,
        rank: bits(1, 4, 3) as usize + 1,
        global_address: words[0],
        global_dim: std::array::from_fn(|dim| half(8 + dim) + 1),
        global_strides: std::array::from_fn(|i| half(3 + i) << 4 | bits(3, 32 + 4 * i as u32, 4) << 36),
        box_dim: std::array::from_fn(|dim| byte(dim) as u32 + 1),
        pixels: None,
        element_strides: [1; MAX_RANK],
        interleave: Interleave::None,
        swizzle: SWIZZLES.iter().find(|(_, mode, atom)| (*mode, *atom) == swizzle)?.0,
        l2_promotion: [L2Promotion::None, L2Promotion::Bytes64, L2Promotion::Bytes128, L2Promotion::Bytes256]
            [bits(1, 17, 2) as usize],
        oob_fill: OobFill::Zero,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{EncodeTiled, Field, ObjectError, Swizzle};
    use super::*;

    fn bytes(words: [u64; 8]) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        for (i, word) in words.iter().enumerate() {
            bytes[8 * i..8 * i + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Bytes that such host code wrote, with what it was asked for.
    const SEEN: [u64; 8] = [
        0x7000,
        0x0000_0080_0024_6542,
        0x0008_0000_0001_0000,
        0x0000_0000_0080_0000,
        0x0000_01ff_0000_03ff,
        0x0000_000f_0000_0007,
        0x3f00_0000_0000_0017,
        7,
    ];

    fn asked() -> EncodeTiled<'static> {
        EncodeTiled {
            data_type: DataType::Bfloat16,
            global_address: 0x7000,
            global_dim: &[1024, 512, 8, 16, 24],
            global_strides: &[2048, 1 << 20, 1 << 23, 1 << 27],
            box_dim: &[64, 8, 1, 1, 1],
            element_strides: &[1; 5],
            interleave: Interleave::None,
            swizzle: Swizzle::B128,
            l2_promotion: L2Promotion::Bytes128,
            oob_fill: OobFill::Zero,
        }
    }

    #[test]
    fn what_host_code_writes_is_read() {
        let mut map = bytes(SEEN);
        map[64..].fill(0xa5);
        assert_eq!(TensorMap::from_bytes(&map), Ok(asked().encode().unwrap()));
        let plane = |word1, word6| [0, word1, 0, 0, SEEN[4], 0, word6, 7];
        for (word1, word6, data_type, swizzle) in [
            (0x0000_0080_0024_4512, 0x1f00_0000_0000_0000, DataType::Bfloat16, Swizzle::B64),
            (0x0000_0080_002c_6512, 0x3f00_0000_0000_0000, DataType::Bfloat16, Swizzle::B128Atom32),
            (0x0000_0080_0024_0312, 0x0700_0000_0000_0000, DataType::Float16, Swizzle::None),
            (0x0000_0100_0025_6392, 0x1f00_0000_0000_0000, DataType::Tfloat32, Swizzle::B128),
            (0x0000_0040_0024_6012, 0x7f00_0000_0000_0000, DataType::Uint8, Swizzle::B128),
            (0x0000_0200_0024_6492, 0x0f00_0000_0000_0000, DataType::Float64, Swizzle::B128),
        ] {
            let map = TensorMap::from_bytes(&bytes(plane(word1, word6))).unwrap();
            assert_eq!((map.data_type, map.swizzle, map.rank), (data_type, swizzle, 2));
            assert_eq!((map.global_strides[0], map.box_dim[0]), ((word1 >> 32) << 4, (word6 >> 56) as u32 + 1));
        }
    }

    #[test]
    fn unknown_bits_are_no_map() {
        for (word, bit) in [(1, 0), (1, 11), (1, 15), (1, 22), (3, 48), (6, 32), (7, 40)] {
            let mut words = SEEN;
            words[word] |= 1 << bit;
            assert_eq!(TensorMap::from_bytes(&bytes(words)), Err(ObjectError::NotAMap), "bit {bit} of word {word}");
        }
    }

    #[test]
    fn a_field_can_be_replaced() {
        let mut map = bytes(SEEN);
        TensorMap::replace(&mut map, Field::GlobalAddress, 0x9000).unwrap();
        let want = EncodeTiled { global_address: 0x9000, ..asked() }.encode().unwrap();
        assert_eq!(TensorMap::from_bytes(&map), Ok(want));
    }
}
