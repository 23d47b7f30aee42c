//! Plans against an element-by-element definition of the copy.

use super::*;
use crate::tensor_map::{EncodeTiled, L2Promotion};

const SHARED: u32 = 3 * 1024;

fn matrix() -> EncodeTiled<'static> {
    EncodeTiled {
        data_type: DataType::Float16,
        global_address: 0x10000,
        global_dim: &[80, 40],
        global_strides: &[256],
        box_dim: &[64, 8],
        element_strides: &[1, 1],
        interleave: Interleave::None,
        swizzle: Swizzle::B128,
        l2_promotion: L2Promotion::None,
        oob_fill: OobFill::Zero,
    }
}

/// One entry a byte of shared memory: where it comes from. Panics if a byte is written twice.
fn bytes_of(plan: &CopyPlan) -> std::collections::BTreeMap<u32, Source> {
    let mut bytes = std::collections::BTreeMap::new();
    for piece in &plan.pieces {
        assert!(piece.bytes > 0);
        for i in 0..piece.bytes {
            let source = match piece.source {
                Source::Global(address) => Source::Global(address + u64::from(i)),
                Source::Behind(address) => Source::Behind(address + u64::from(i)),
                Source::Outside => Source::Outside,
            };
            assert_eq!(bytes.insert(piece.shared + i, source), None, "byte {:#x} written twice", piece.shared + i);
        }
    }
    bytes
}

/// The definition: element (c0, .., c4) of the box, one at a time, for types of whole bytes. `behind` are the elements of a row
/// that a store writes past its end.
fn definition(map: &TensorMap, corner: &[i32], behind: i64) -> std::collections::BTreeMap<u32, Source> {
    let size = map.data_type.unit().shared;
    let counts: Vec<u32> = (0..5).map(|dim| if dim < map.rank { map.moved(dim) } else { 1 }).collect();
    let pitch = if map.swizzle == Swizzle::None { counts[0] * size } else { map.swizzle.span() };
    let mut bytes = std::collections::BTreeMap::new();
    for element in 0..counts.iter().product::<u32>() {
        let mut rest = element;
        let mut address = Some(map.global_address as i64);
        let mut past = false;
        for (dim, count) in counts.iter().enumerate() {
            let at = i64::from(corner.get(dim).copied().unwrap_or(0)) + i64::from(rest % count * map.step(dim));
            rest /= count;
            let stride = if dim == 0 { size.into() } else { map.global_strides[dim - 1] as i64 };
            let end = map.global_dim[dim] as i64;
            past |= dim == 0 && at >= end;
            let end = if dim == 0 { end + behind } else { end };
            address = address.filter(|_| at >= 0 && at < end).map(|a| a + at * stride);
        }
        for i in 0..size {
            let at = map.swizzle.apply(SHARED + element / counts[0] * pitch + element % counts[0] * size + i);
            let place = |a: i64| if past { Source::Behind(a as u64) } else { Source::Global(a as u64) };
            bytes.insert(at, address.map_or(Source::Outside, |a| place(a + i64::from(i))));
        }
    }
    bytes
}

#[track_caller]
fn agrees(map: &TensorMap, corner: &[i32]) {
    let plan = load(map, Coordinates::Tile(corner), SHARED).unwrap();
    let want = definition(map, corner, 0);
    assert_eq!(bytes_of(&plan), want, "{map:?} at {corner:?}");
    assert_eq!(plan.bytes, map.box_bytes());
    assert_eq!(plan.bytes as usize, want.len());
    let stored = store(map, Coordinates::Tile(corner), SHARED);
    if let Some(dim) = corner.iter().position(|at| *at < 0) {
        assert_eq!(stored, Err(CopyError::Negative { dim, got: corner[dim] }));
        return;
    }
    let size = u64::from(map.data_type.unit().global);
    let behind = (map.global_dim[0] * size).next_multiple_of(16) / size - map.global_dim[0];
    let inside = definition(map, corner, behind as i64).into_iter().filter(|(_, source)| *source != Source::Outside);
    assert_eq!(bytes_of(&stored.unwrap()), inside.collect(), "{map:?} at {corner:?}");
}

const SWIZZLES: [Swizzle; 7] = [
    Swizzle::None,
    Swizzle::B32,
    Swizzle::B64,
    Swizzle::B128,
    Swizzle::B128Atom32,
    Swizzle::B128Atom32Flip8,
    Swizzle::B128Atom64,
];

/// Pseudo-random numbers below `n`, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

#[test]
fn random_boxes_agree_with_the_definition() {
    let types = [DataType::Uint8, DataType::Bfloat16, DataType::Float32, DataType::Float64];
    let mut dice = Dice(7);
    for round in 0..400 {
        let rank = 1 + dice.below(5) as usize;
        let data_type = types[dice.below(4) as usize];
        let swizzle = SWIZZLES[dice.below(7) as usize];
        let size = data_type.unit().shared;
        let widest = if swizzle == Swizzle::None { 160 } else { swizzle.span() };
        let row = 16 * (1 + dice.below(u64::from(widest / 16))) as u32;
        let mut map_box = vec![row / size];
        map_box.extend((1..rank).map(|_| 1 + dice.below(4) as u32));
        let dims: Vec<u64> = (0..rank).map(|dim| 1 + dice.below(if dim == 0 { 200 } else { 6 })).collect();
        let steps: Vec<u32> = (0..rank).map(|_| 1 + dice.below(3) as u32).collect();
        let strides: Vec<u64> = (1..rank).map(|_| 16 * dice.below(500)).collect();
        let map = EncodeTiled {
            data_type,
            swizzle,
            global_dim: &dims,
            global_strides: &strides,
            box_dim: &map_box,
            element_strides: &steps,
            ..matrix()
        };
        let map = map.encode().unwrap_or_else(|error| panic!("round {round}: {error}"));
        let corner: Vec<i32> = dims
            .iter()
            .zip(&map_box)
            .map(|(&dim, &size)| dice.below(dim + 2 * u64::from(size)) as i32 - size as i32)
            .collect();
        let step = (16 / size) as i32;
        let aligned = [&[corner[0].div_euclid(step) * step], &corner[1..]].concat();
        agrees(&map, &aligned);
        agrees(&map, &aligned.iter().map(|at| *at.max(&0)).collect::<Vec<_>>());
    }
}

#[test]
fn edges_of_a_tensor() {
    let map = matrix().encode().unwrap();
    for column in [-64, -56, -8, 0, 8, 16, 72, 80, 88, i32::MAX - 7, i32::MIN] {
        for row in [-8, -7, 0, 33, 39, 40, i32::MAX - 7, i32::MIN] {
            agrees(&map, &[column, row]);
        }
    }
    let outside = load(&map, Coordinates::Tile(&[80, 0]), SHARED).unwrap();
    assert!(outside.pieces.iter().all(|piece| piece.source == Source::Outside));
    assert_eq!(outside.bytes, 1024, "elements outside count");
    assert_eq!(store(&map, Coordinates::Tile(&[80, 0]), SHARED).unwrap().pieces, []);
}

#[test]
fn a_panel_of_128_bytes_lies_as_matrix_descriptors_expect() {
    let map = matrix().encode().unwrap();
    let plan = load(&map, Coordinates::Tile(&[0, 0]), SHARED).unwrap();
    let bytes = bytes_of(&plan);
    for row in 0..8 {
        for b in 0..128 {
            let at = SHARED + row * 128 + (b ^ (row << 4));
            assert_eq!(bytes[&at], Source::Global(0x10000 + u64::from(row * 256 + b)));
        }
    }
    assert!(plan.pieces.len() <= 64, "16-byte atoms, not bytes: {}", plan.pieces.len());
}

#[test]
fn contiguous_rows_are_one_piece() {
    let map = EncodeTiled { swizzle: Swizzle::None, global_dim: &[64, 40], global_strides: &[128], ..matrix() };
    let plan = load(&map.encode().unwrap(), Coordinates::Tile(&[0, 2]), SHARED).unwrap();
    let piece = Piece { shared: SHARED, bytes: 1024, source: Source::Global(0x10000 + 256) };
    assert_eq!(plan.pieces, [piece]);
}

#[test]
fn nan_is_filled_by_16_bits() {
    for data_type in [DataType::Float16, DataType::Bfloat16, DataType::Float32] {
        let box_dim: &[u32] = if data_type == DataType::Float32 { &[32, 8] } else { &[64, 8] };
        let map = EncodeTiled { data_type, box_dim, oob_fill: OobFill::Nan, ..matrix() }.encode().unwrap();
        let fill = load(&map, Coordinates::Tile(&[80, 0]), SHARED).unwrap().fill;
        assert_eq!([0, 1, 2, 3].map(|i| fill.byte(i)), [0xf7, 0x7f, 0xf7, 0x7f]);
    }
    let zero = load(&matrix().encode().unwrap(), Coordinates::Tile(&[80, 0]), SHARED).unwrap().fill;
    assert_eq!([0, 1, 2, 3].map(|i| zero.byte(i)), [0; 4]);
}

#[test]
fn gathered_rows_come_in_order() {
    let map = EncodeTiled { box_dim: &[64, 1], ..matrix() }.encode().unwrap();
    let rows = [7, -1, 39, 40];
    let plan = load(&map, Coordinates::Rows { column: 32, rows }, SHARED).unwrap();
    assert_eq!(plan.bytes, 4 * 128);
    let bytes = bytes_of(&plan);
    for (i, row) in rows.into_iter().enumerate() {
        for b in 0..128 {
            let at = map.swizzle.apply(SHARED + i as u32 * 128 + b);
            let inside = (0..40).contains(&row) && b < 2 * (80 - 32);
            let want = match inside {
                true => Source::Global((0x10000 + row * 256 + 64 + b as i32) as u64),
                false => Source::Outside,
            };
            assert_eq!(bytes[&at], want, "row {row}, byte {b}");
        }
    }
    let tall = matrix().encode().unwrap();
    let refused = load(&tall, Coordinates::Rows { column: 0, rows }, SHARED);
    assert_eq!(refused, Err(CopyError::Rows { rank: 2, box_rows: 8 }));
}

#[test]
fn packed_units_are_padded_in_shared_memory() {
    let args = EncodeTiled {
        data_type: DataType::Packed16U6Align16B,
        global_dim: &[256, 40],
        global_strides: &[192],
        box_dim: &[128, 2],
        ..matrix()
    };
    let map = args.encode().unwrap();
    let plan = load(&map, Coordinates::Tile(&[128, 1]), SHARED).unwrap();
    assert_eq!(plan.bytes, 256);
    let bytes = bytes_of(&plan);
    assert_eq!(bytes.len(), 2 * 8 * 12, "padding is not written");
    for row in 0..2 {
        for unit in 0..8 {
            let at = map.swizzle.apply(SHARED + row * 128 + unit * 16);
            let from = 0x10000 + (1 + u64::from(row)) * 192 + 96 + u64::from(unit) * 12;
            assert_eq!((bytes[&at], bytes[&(at + 11)]), (Source::Global(from), Source::Global(from + 11)));
        }
    }
    let data_type = DataType::Packed16U6Align16B;
    for got in [8, 16, 64] {
        let odd = load(&map, Coordinates::Tile(&[got, 0]), SHARED);
        assert_eq!(odd, Err(CopyError::Unaligned { got, data_type, multiple: 128 }));
    }
}

#[test]
fn packed_nibbles_are_bytes() {
    let args = EncodeTiled { data_type: DataType::Packed16U4Align8B, box_dim: &[64, 8], ..matrix() };
    let map = EncodeTiled { swizzle: Swizzle::None, ..args }.encode().unwrap();
    let plan = load(&map, Coordinates::Tile(&[-32, 3]), SHARED).unwrap();
    assert_eq!(plan.bytes, 32 * 8);
    let bytes = bytes_of(&plan);
    assert_eq!(bytes[&(SHARED + 15)], Source::Outside);
    assert_eq!(bytes[&(SHARED + 16)], Source::Global(0x10000 + 3 * 256));
    let odd = load(&map, Coordinates::Tile(&[2, 3]), SHARED);
    assert_eq!(odd, Err(CopyError::Unaligned { got: 2, data_type: DataType::Packed16U4Align8B, multiple: 32 }));
}

#[test]
fn boxes_begin_at_16_bytes_of_a_row() {
    for (data_type, multiple) in [
        (DataType::Uint8, 16),
        (DataType::Float16, 8),
        (DataType::Bfloat16, 8),
        (DataType::Float32, 4),
        (DataType::Tfloat32, 4),
        (DataType::Int64, 2),
    ] {
        let map = EncodeTiled { data_type, box_dim: &[16, 8], ..matrix() }.encode().unwrap();
        for got in [multiple as i32 - 1, 1, -1, i32::MAX] {
            let refused = CopyError::Unaligned { got, data_type, multiple };
            assert!(refused.is_illegal_instruction());
            assert_eq!(load(&map, Coordinates::Tile(&[got, 0]), SHARED), Err(refused));
            let stored = if got < 0 { CopyError::Negative { dim: 0, got } } else { refused };
            assert_eq!(store(&map, Coordinates::Tile(&[got, 0]), SHARED), Err(stored));
        }
    }
    let map = EncodeTiled { box_dim: &[64, 1], ..matrix() }.encode().unwrap();
    let rows = load(&map, Coordinates::Rows { column: 4, rows: [0; 4] }, SHARED).unwrap_err();
    let text = "coordinate 0 is 4, tensors of Float16 need a multiple of 8: the device calls others illegal";
    assert_eq!(rows.to_string(), text);
}

#[test]
fn stores_begin_inside_the_tensor_or_behind_it() {
    let map = matrix().encode().unwrap();
    for (corner, dim, got) in [([-8, 0], 0, -8), ([0, -1], 1, -1), ([8, i32::MIN], 1, i32::MIN)] {
        let refused = CopyError::Negative { dim, got };
        assert!(refused.is_illegal_instruction());
        assert_eq!(store(&map, Coordinates::Tile(&corner), SHARED), Err(refused));
        assert!(load(&map, Coordinates::Tile(&corner), SHARED).is_ok());
    }
    let map = EncodeTiled { box_dim: &[64, 1], ..matrix() }.encode().unwrap();
    let scattered = |rows| store(&map, Coordinates::Rows { column: 0, rows }, SHARED);
    assert_eq!(scattered([0, 1, -1, 2]), Err(CopyError::Negative { dim: 3, got: -1 }));
    assert_eq!(bytes_of(&scattered([0, 1, i32::MAX, 2]).unwrap()).len(), 3 * 128);
}

#[test]
fn short_rows_of_a_swizzled_box_are_a_span_apart() {
    let map = EncodeTiled { box_dim: &[16, 8], ..matrix() }.encode().unwrap();
    let plan = load(&map, Coordinates::Tile(&[32, 1]), SHARED).unwrap();
    assert_eq!(plan.bytes, 8 * 32, "what is left free does not count");
    let bytes = bytes_of(&plan);
    assert_eq!(bytes.len(), 8 * 32);
    for row in 0..8 {
        let at = SHARED + row * 128 + (row << 4);
        assert_eq!(bytes[&at], Source::Global(0x10000 + u64::from(row + 1) * 256 + 64));
    }
    let gather = EncodeTiled { box_dim: &[16, 1], ..matrix() }.encode().unwrap();
    let plan = load(&gather, Coordinates::Rows { column: 0, rows: [5, 6, 7, 8] }, SHARED).unwrap();
    assert_eq!(bytes_of(&plan)[&(SHARED + 3 * 128 + 0x30)], Source::Global(0x10000 + 8 * 256));
}

#[test]
fn a_store_replaces_whole_16_bytes_of_a_row() {
    let map = EncodeTiled { global_dim: &[75, 40], ..matrix() }.encode().unwrap();
    let bytes = bytes_of(&store(&map, Coordinates::Tile(&[64, 39]), SHARED).unwrap());
    // 11 elements are in the row, 5 more in its last 16 bytes.
    assert_eq!(bytes.len(), 32);
    assert_eq!(bytes[&(SHARED + 21)], Source::Global(0x10000 + 39 * 256 + 149));
    assert_eq!(bytes[&(SHARED + 22)], Source::Behind(0x10000 + 39 * 256 + 150));
    assert_eq!(bytes[&(SHARED + 31)], Source::Behind(0x10000 + 39 * 256 + 159));
    let loaded = bytes_of(&load(&map, Coordinates::Tile(&[64, 39]), SHARED).unwrap());
    assert_eq!(loaded[&(SHARED + 22)], Source::Outside, "a load fills them");
}

#[test]
fn misuse_is_named() {
    let map = matrix().encode().unwrap();
    assert_eq!(load(&map, Coordinates::Tile(&[0]), SHARED), Err(CopyError::Rank { got: 1, rank: 2 }));
    assert_eq!(load(&map, Coordinates::Tile(&[0, 0]), 64), Err(CopyError::Shared { got: 64 }));
    let four = EncodeTiled {
        data_type: DataType::Packed16U4Align16B,
        global_dim: &[128, 8],
        global_strides: &[64],
        box_dim: &[128, 8],
        ..matrix()
    };
    let map = four.encode().unwrap();
    let error = store(&map, Coordinates::Tile(&[0, 0]), SHARED).unwrap_err();
    assert!(error.to_string().contains("cannot be stored"), "{error}");
    let six = EncodeTiled {
        data_type: DataType::Packed16U6Align16B,
        swizzle: Swizzle::B128Atom64,
        global_strides: &[96],
        ..four
    };
    let error = load(&six.encode().unwrap(), Coordinates::Tile(&[0, 0]), SHARED).unwrap_err();
    assert!(error.to_string().contains("cannot be loaded"), "{error}");
    let interleaved = EncodeTiled {
        interleave: Interleave::Bytes16,
        global_dim: &[80, 40, 1],
        global_strides: &[256, 256],
        box_dim: &[64, 8, 1],
        element_strides: &[1, 1, 1],
        ..matrix()
    };
    let error = load(&interleaved.encode().unwrap(), Coordinates::Tile(&[0, 0, 0]), SHARED);
    assert_eq!(error, Err(CopyError::Interleave { got: Interleave::Bytes16 }));
}
