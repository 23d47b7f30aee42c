//! Tensor and bulk copies, within a block and between the two of a cluster.

use attn_kernel::probe::{cluster, copy};
use attn_sim::tensor_map::{DataType, EncodeTiled, Interleave, L2Promotion, OobFill, Swizzle};

use super::{ARCHITECTURES, SEEDS, Setup, bytes};

const DIMS: [u64; 5] = [40, 7, 6, 6, 5];
const BOX: [u32; 5] = [32, 4, 3, 2, 2];

/// A dense tensor of 32-bit integers.
fn map(address: u64, dims: &[u64], tile: &[u32]) -> [u8; 128] {
    let strides: Vec<u64> = (1..dims.len()).map(|i| 4 * dims[..i].iter().product::<u64>()).collect();
    let encode = EncodeTiled {
        data_type: DataType::Int32,
        global_address: address,
        global_dim: dims,
        global_strides: &strides,
        box_dim: tile,
        element_strides: &vec![1; dims.len()],
        interleave: Interleave::None,
        swizzle: Swizzle::None,
        l2_promotion: L2Promotion::None,
        oob_fill: OobFill::Zero,
    };
    encode.encode().expect("a tensor map").to_bytes()
}

/// Where each word of a box at `(at, at, ..)` lies in its tensor; `None` outside.
fn places(rank: usize, at: u64) -> Vec<Option<usize>> {
    let count = BOX[..rank].iter().product::<u32>();
    let place = |word: u32| {
        let (mut rest, mut index, mut stride) = (u64::from(word), 0, 1);
        for (dim, tile) in DIMS[..rank].iter().zip(BOX) {
            let coordinate = at + rest % u64::from(tile);
            rest /= u64::from(tile);
            if coordinate >= *dim {
                return None;
            }
            index += coordinate * stride;
            stride *= dim;
        }
        Some(index as usize)
    };
    (0..count).map(place).collect()
}

/// Loads, stores and combines a box, and compares memory with what the description says.
fn tensor(arch: &'static str, seed: u64, rank: usize, at: u64, mode: u32) {
    let size = DIMS[..rank].iter().product::<u64>() as usize;
    let numbers = |step: u32| (0..size as u32).map(move |i| i.wrapping_mul(step) >> 8 & 0xffff).collect::<Vec<_>>();
    let (src, old, sum) = (numbers(2_654_435_761), numbers(77_777), numbers(1_013_904_223));
    let places = places(rank, at);
    let mut setup = Setup::new(arch, seed);
    let addresses = [&src, &old, &sum].map(|tensor| setup.gpu.upload(&bytes(tensor.iter().copied())));
    for address in addresses {
        setup.param(map(address, &DIMS[..rank], &BOX[..rank]));
    }
    let image = setup.output(places.len());
    let numbers = [rank as u32, at as u32, 4 * places.len() as u32, mode, seed as u32 % 2];
    for number in numbers {
        setup.param(number.to_le_bytes());
    }
    setup.run(copy::RANKS);

    let (mut stored, mut combined) = (old, sum);
    let mut loaded = Vec::new();
    for place in places {
        loaded.push(place.map_or(0, |i| src[i]));
        if let Some(i) = place {
            stored[i] = src[i];
            combined[i] = match mode {
                0 => combined[i] + src[i],
                1 => combined[i].min(src[i]),
                _ => combined[i].max(src[i]),
            };
        }
    }
    let what = format!("{arch} seed {seed}: rank {rank} at {at}, mode {mode}");
    assert_eq!(setup.words(image, loaded.len()), loaded, "{what}: loaded");
    assert_eq!(setup.words(addresses[1], size), stored, "{what}: stored");
    assert_eq!(setup.words(addresses[2], size), combined, "{what}: combined");
}

#[test]
fn boxes_of_every_rank_inside_and_at_the_edge() {
    for arch in ARCHITECTURES {
        for rank in 1..=5 {
            for (seed, (at, mode)) in (0..).zip([(0, 0), (4, 0), (4, 1), (4, 2)]) {
                tensor(arch, seed, rank, at, mode);
            }
        }
        tensor(arch, 9, 1, 12, 0);
    }
}

#[test]
fn bulk_copies_move_and_add() {
    for arch in ARCHITECTURES {
        for (seed, words) in SEEDS.zip([4usize, 100, 1024, 8192]) {
            let numbers = |from: usize| (0..words).map(move |i| (from + i) as f32 * 0.25).collect::<Vec<_>>();
            let (src, sum) = (numbers(3), numbers(1000));
            let mut setup = Setup::new(arch, seed);
            setup.input(&bytes(src.iter().map(|x| x.to_bits())));
            let dst = setup.output(words);
            let total = setup.input(&bytes(sum.iter().map(|x| x.to_bits())));
            setup.param((4 * words as u32).to_le_bytes());
            setup.run(copy::BULK);
            let floats = |address| setup.words(address, words).into_iter().map(f32::from_bits).collect::<Vec<_>>();
            assert_eq!(floats(dst), src, "{arch}: {words} words");
            let want: Vec<f32> = src.iter().zip(&sum).map(|(a, b)| a + b).collect();
            assert_eq!(floats(total), want, "{arch}: {words} words");
        }
    }
}

#[test]
fn blocks_of_a_cluster_share_what_they_load() {
    const WORDS: usize = cluster::BYTES as usize / 4;
    for arch in ARCHITECTURES {
        for seed in SEEDS {
            let src: Vec<u32> = (0..2 * WORDS as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let tensor: Vec<u32> = (0..WORDS as u32).map(|i| !i).collect();
            let mut setup = Setup::new(arch, seed);
            let address = setup.gpu.upload(&bytes(tensor.iter().copied()));
            setup.param(map(address, &[WORDS as u64], &[WORDS as u32]));
            setup.input(&bytes(src.iter().copied()));
            let words = (cluster::PROBE.cluster * cluster::PIECES) as usize * WORDS;
            let out = setup.output(words);
            setup.run(cluster::PROBE);
            let (first, second) = src.split_at(WORDS);
            let want = [first, second, &tensor, &tensor, first].concat();
            let got = setup.words(out, words);
            assert!(got == [&want[..], &want[..]].concat(), "{arch} seed {seed}");
        }
    }
}
