//! 8-bit floats against their host twin; tiles of them, widened and transposed, against where their elements belong.

use attn_kernel::forward::narrow::key_at;
use attn_kernel::mem::Format;
use attn_kernel::probe::narrow::{CHANGES, Change, PACK};
use attn_kernel::ptx::float8;
use half::{bf16, f16};

use super::{ARCHITECTURES, SEEDS, Setup, bytes};

/// The value of an e4m3.
fn value(e: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(e >> 3 & 15), f32::from(e & 7));
    let magnitude = match (exponent, e & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if e < 128 { magnitude } else { -magnitude }
}

/// The 16 bits at row `row`, column `column` of the other tile.
fn expected(change: &Change, from: &[u8], row: u32, column: u32) -> u16 {
    let d = change.tile.d;
    let at = |key: u32, c: u32| from[(key * d + c) as usize];
    match change.to {
        // All NaNs become one.
        Some(_) if value(at(row, column)).is_nan() => 0x7fff,
        Some(Format::F16) => f16::from_f32(value(at(row, column))).to_bits(),
        Some(_) => bf16::from_f32(value(at(row, column))).to_bits(),
        None => u16::from_le_bytes([2 * column, 2 * column + 1].map(|place| at(key_at(place), row))),
    }
}

fn check(change: &Change, arch: &'static str, seed: u64) {
    let (tile, layout) = (change.tile, change.layout());
    let from: Vec<u8> = (0..tile.rows * tile.d)
        .map(|i| (i.wrapping_add(seed as u32).wrapping_mul(2_654_435_761) >> 21) as u8)
        .collect();
    let mut setup = Setup::new(arch, seed);
    setup.input(&from);
    let words = layout.bytes() as usize / 4;
    let out = setup.output(words);
    setup.run(change.probe);
    let got = setup.words(out, words);
    for (row, column) in (0..layout.mn).flat_map(|row| (0..layout.k).map(move |column| (row, column))) {
        let byte = layout.offset(row, column);
        let (got, want) = ((got[byte as usize / 4] >> (8 * (byte % 4))) as u16, expected(change, &from, row, column));
        assert_eq!(got, want, "{} on {arch}, seed {seed}: row {row}, column {column}", change.probe.name);
    }
}

#[test]
fn every_element_comes_to_its_place() {
    assert!(CHANGES.len() >= 8);
    for arch in ARCHITECTURES {
        for (change, seed) in CHANGES.iter().zip(SEEDS.cycle()) {
            check(change, arch, seed);
        }
    }
}

#[test]
fn rounding_is_its_host_twin() {
    // Every sign and exponent that the format knows, and its neighbours, with mantissas around each boundary of rounding.
    let special = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 464.0];
    let magnitudes = (0..24u32).flat_map(|e| {
        (0..32u32).flat_map(move |m| [0, 1, 0x3ffff].map(|low| f32::from_bits((127 - 12 + e) << 23 | m << 18 | low)))
    });
    let x: Vec<f32> = special.into_iter().chain(magnitudes.flat_map(|x| [x, -x])).collect();
    let words: Vec<u32> = x.as_chunks().0.iter().map(|four| float8::pack_e4m3(*four)).collect();
    for arch in ARCHITECTURES {
        let mut setup = Setup::new(arch, 0);
        setup.input(&bytes(x.iter().map(|x| x.to_bits())));
        let out = setup.output(words.len());
        setup.param((words.len() as u32).to_le_bytes());
        setup.run(PACK);
        assert_eq!(setup.words(out, words.len()), words, "{arch}");
    }
}
