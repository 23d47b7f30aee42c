//! The words that probes compute with.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What the words of a probe stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// f32.
    Float,
    /// Two f16.
    Half,
    /// Two bf16.
    Brain,
    /// Integers.
    Int,
    /// f32 of every exponent, evenly spread, for approximations.
    Sweep,
    /// Two f16 or bf16 (the same bits), evenly spread over their patterns.
    HalfSweep,
}

/// f32 at the edges of formats and of rounding: zeros, subnormals, extremes, infinities, NaNs with payloads, the largest numbers of
/// f16, e4m3 and e5m2 and their neighbours, ties, the limits of integers.
const FLOATS: [u32; 60] = [
    0x0000_0000,
    0x8000_0000,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x807f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x0080_0001,
    0x0040_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3f7f_ffff,
    0x4000_0000,
    0x3f00_0000,
    0xbf00_0000,
    0x3fc0_0000,
    0x4020_0000,
    0xc020_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_0000,
    0x7f80_0001,
    0xff80_0001,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fa5_a5a5,
    0x477f_e000,
    0x477f_efff,
    0x477f_f000,
    0xc77f_f000,
    0x4780_0000,
    0x3880_0000,
    0x387f_c000,
    0x387f_e000,
    0x3300_0000,
    0x3300_0001,
    0x3380_0000,
    0x43e0_0000,
    0x43e8_0000,
    0x43e8_0001,
    0x43f0_0000,
    0x4760_0000,
    0x4770_0000,
    0x3f80_8000,
    0x3f81_8000,
    0x3f80_1000,
    0x3f80_3000,
    0x7f7f_8000,
    0x7f7f_7fff,
    0x4f00_0000,
    0xcf00_0000,
    0x4eff_ffff,
    0x4f80_0000,
    0x5f00_0000,
    0x4b00_0001,
];

const HALVES: [u16; 24] = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x8400, 0x3c00, 0xbc00, 0x3c01, 0x3bff, 0x4000, 0x7bff, 0xfbff,
    0x7c00, 0xfc00, 0x7c01, 0x7e00, 0xfe00, 0x7fff, 0xffff, 0x7d55, 0x1400, 0x0200,
];

const BRAINS: [u16; 24] = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x8080, 0x3f80, 0xbf80, 0x3f81, 0x3f7f, 0x4000, 0x7f7f, 0xff7f,
    0x7f80, 0xff80, 0x7f81, 0x7fc0, 0xffc0, 0x7fff, 0xffff, 0x7fd5, 0x1f80, 0x0040,
];

const INTS: [u32; 24] = [
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    255,
    256,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
    0xffff_fffe,
    0x5555_5555,
    0xdead_beef,
];

/// A generator of a probe's own, so that one probe's inputs do not depend on another's.
pub fn rng(name: &str) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(super::record::fnv(name.bytes()))
}

/// Triples of words, `n` of each.
pub fn triples(name: &str, kind: Kind, n: usize) -> [Vec<u32>; 3] {
    let mut rng = rng(name);
    let mut out = [const { Vec::new() }; 3];
    for i in 0..n {
        let (a, b) = (word(&mut rng, kind, i, n), word(&mut rng, kind, i, n));
        let c = match kind {
            // Sums that cancel but for the rounding of the product.
            Kind::Float if rng.random_ratio(1, 4) => (-f32::from_bits(a) * f32::from_bits(b)).to_bits(),
            _ => word(&mut rng, kind, i, n),
        };
        for (column, x) in out.iter_mut().zip([a, b, c]) {
            column.push(x);
        }
    }
    out
}

fn word(rng: &mut ChaCha8Rng, kind: Kind, i: usize, n: usize) -> u32 {
    match kind {
        Kind::Float => float(rng),
        Kind::Half => pair(rng, &HALVES, 10),
        Kind::Brain => pair(rng, &BRAINS, 7),
        Kind::Int if rng.random_ratio(1, 2) => *INTS.choose(rng).expect("not empty"),
        Kind::Int if rng.random_ratio(1, 2) => rng.random_range(0..80),
        Kind::Int => rng.random(),
        Kind::Sweep if i < FLOATS.len() => FLOATS[i],
        Kind::Sweep => ((i as u64 * (1 << 32) / n as u64) as u32) ^ rng.random_range(0..1 << 20),
        Kind::HalfSweep => (i as u32 * (65536 / n as u32)) << 16 | rng.random_range(0..65536),
    }
}

fn float(rng: &mut ChaCha8Rng) -> u32 {
    match rng.random_range(0..6) {
        0 | 1 => *FLOATS.choose(rng).expect("not empty"),
        2 => rng.random(),
        // Near one another, with the ties of 16-bit and 8-bit formats.
        3 => {
            let tie = *[0x8000u32, 0x1000, 0x8_0000, 0x10_0000, 1].choose(rng).expect("not empty");
            (rng.random_range(120u32..134) << 23)
                | (rng.random::<u32>() & 0x8070_0000)
                | tie
                | (rng.random::<u32>() & 0x1_0000)
        }
        // Where integers are.
        4 => (rng.random_range(-200i32..200) as f32 * 0.5).to_bits(),
        _ => (rng.random_range(-4.0f32..4.0)).to_bits(),
    }
}

fn pair(rng: &mut ChaCha8Rng, special: &[u16], mantissa: u32) -> u32 {
    let mut half = || -> u32 {
        match rng.random_range(0..3) {
            0 => u32::from(*special.choose(rng).expect("not empty")),
            1 => rng.random_range(0..65536),
            _ => {
                let one = if mantissa == 10 { 15 } else { 127 };
                rng.random_range(one - 4..one + 4) << mantissa
                    | rng.random_range(0..1 << mantissa)
                    | rng.random_range(0..2) << 15
            }
        }
    };
    half() | half() << 16
}
