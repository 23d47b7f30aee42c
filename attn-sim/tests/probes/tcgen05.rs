//! Blackwell's multiplies and tensor memory.

use attn_kernel::probe::Probe;
use attn_kernel::probe::tcgen05::{K, M, N, N_TS, PAIR, REDUCE, REGISTERS, RESULTS, SS, TS, word};
use half::{bf16, f16};

use super::{SEEDS, Setup, bytes, compare, half_bytes, product, values};

/// Runs a probe on its inputs and returns `words` words of output.
fn run(arch: &'static str, probe: Probe, inputs: &[Vec<u8>], words: u32, seed: u64) -> Vec<u32> {
    let mut setup = Setup::new(arch, seed);
    for bytes in inputs {
        setup.input(bytes);
    }
    let out = setup.output(words as usize);
    setup.run(probe);
    setup.words(out, words as usize)
}

fn multiply(probe: Probe, m: u32) {
    let (a, b) = (values(m * K, 1), values(N * K, 2));
    let inputs = [&a, &b].map(|x| half_bytes(x.iter().map(|&v| bf16::from_f32(v).to_bits())));
    let want = product(&a, &b, K, 1.0);
    for seed in SEEDS {
        compare(probe.name, &run("sm_100a", probe, &inputs, m * N, seed), &want, N);
    }
}

#[test]
fn both_factors_from_shared_memory() {
    multiply(SS, M);
}

#[test]
fn a_pair_of_blocks() {
    multiply(PAIR, 2 * M);
}

#[test]
fn a_factor_from_tensor_memory() {
    let (p, v) = (values(M * K, 3), values(N_TS * K, 4));
    let inputs = [&p, &v].map(|x| half_bytes(x.iter().map(|&v| f16::from_f32(v).to_bits())));
    let want = product(&p, &v, K, 1.5);
    for seed in SEEDS {
        let got = run("sm_100a", TS, &inputs, M * N_TS, seed);
        compare(TS.name, &got, &want, N_TS);
    }
}

/// The words of one thread, as the probe's documentation gives them.
fn registers(thread: u32, rows: &[u32]) -> Vec<u32> {
    let (warp, lane) = (thread / 32, thread % 32);
    let mut want = Vec::new();
    for r in [1, 2, 4, 8, 16, 32, 64, 128] {
        want.extend((r..2 * r).map(|c| word(thread, c)));
    }
    for r in [4, 8, 16, 32, 64] {
        let fragment = |i: u32| {
            let row = 32 * warp + 16 + lane / 4 + 8 * ((i >> 1) & 1);
            word(row, 128 + 8 * (i >> 2) + 2 * (lane % 4) + (i & 1))
        };
        want.extend((0..r).map(fragment));
    }
    // Fragments stored to the upper 16 lanes: which thread and register wrote a column of this lane.
    want.extend((0..32).map(|c| {
        if lane < 16 {
            return word(thread, 128 + c);
        }
        let row = lane - 16;
        let (from, register) = (32 * warp + row % 8 * 4 + c % 8 / 2, c / 8 * 4 + row / 8 * 2 + c % 2);
        word(from, register)
    }));
    want.extend(&rows[8 * thread as usize..][..8]);
    want
}

#[test]
fn every_shape_of_load_and_store() {
    let rows: Vec<u32> = (0..M * 8).map(|i| i << 12 | 0x5c3).collect();
    let input = bytes(rows.iter().copied());
    let inputs = [input];
    for seed in SEEDS {
        let got = run("sm_100a", REGISTERS, &inputs, M * RESULTS as u32, seed);
        for (thread, got) in (0..M).zip(got.chunks_exact(RESULTS)) {
            assert_eq!(got, registers(thread, &rows), "thread {thread}");
        }
    }
}

#[test]
fn loads_that_reduce() {
    let a = values(M * 64, 5);
    let inputs = [bytes(a.iter().map(|x| x.to_bits()))];
    let extremes =
        |row: &[f32]| [row.iter().copied().fold(f32::MAX, f32::min), row.iter().copied().fold(f32::MIN, f32::max)];
    let want: Vec<f32> = a.chunks_exact(64).flat_map(extremes).collect();
    for seed in SEEDS {
        let got = run("sm_103a", REDUCE, &inputs, 2 * M, seed);
        compare(REDUCE.name, &got, &want, 2);
    }
}
