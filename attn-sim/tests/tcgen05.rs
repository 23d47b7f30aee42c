//! The project's own tcgen05 wrappers: their probe kernels, compiled from Rust, against plain arithmetic.

use attn_kernel::probe::Probe;
use attn_kernel::probe::tcgen05::{K, M, N, N_TS, PAIR, REDUCE, REGISTERS, RESULTS, SS, TS, word};
use attn_sim::{Gpu, Launch};
use half::{bf16, f16};

const SEEDS: std::ops::Range<u64> = 0..4;

/// Small integers and halves that look random: their sums of products are exact in f32.
fn values(n: u32, seed: u32) -> Vec<f32> {
    (0..n).map(|i| ((i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 20) % 17) as f32 * 0.5 - 4.0).collect()
}

/// Runs a probe on two inputs at most and returns `words` words of output; any finding fails.
fn run(probe: Probe, text: &str, inputs: &[Vec<u8>], words: u32, seed: u64) -> Vec<u32> {
    let mut gpu = Gpu::new();
    let kernel = gpu.load(text).and_then(|m| m.kernel(probe.name)).unwrap_or_else(|e| panic!("{}: {e}", probe.name));
    let mut params: Vec<u64> = inputs.iter().map(|bytes| gpu.upload(bytes)).collect();
    let out = gpu.alloc(4 * u64::from(words));
    params.push(out);
    let launch = Launch {
        grid: [probe.cluster, 1, 1],
        block: [probe.threads, 1, 1],
        shared: probe.shared,
        params: params.iter().map(|p| p.to_le_bytes().to_vec()).collect(),
        seed,
        ..Launch::default()
    };
    let run = launch.run(&mut gpu, &kernel).unwrap_or_else(|e| panic!("{} seed {seed}: {e}", probe.name));
    let findings: Vec<String> = run.findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{} seed {seed}:\n{}", probe.name, findings.join("\n"));
    assert_eq!(gpu.first_unwritten(out, 4 * words as usize).expect("the output is an allocation"), None);
    let bytes = gpu.read(out, 4 * words as usize).expect("the output is an allocation");
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("4 bytes"))).collect()
}

fn bytes(bits: impl IntoIterator<Item = u16>) -> Vec<u8> {
    bits.into_iter().flat_map(u16::to_le_bytes).collect()
}

/// `scale a b^T`, `a` of `m` rows and `b` of `n`, both of `K` columns.
fn product(a: &[f32], b: &[f32], scale: f32) -> Vec<f32> {
    let rows = a.chunks_exact(K as usize);
    rows.flat_map(|a| b.chunks_exact(K as usize).map(move |b| scale * a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>()))
        .collect()
}

fn compare(probe: Probe, got: &[u32], want: &[f32], columns: u32) {
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let (row, column) = (i / columns as usize, i % columns as usize);
        assert_eq!(f32::from_bits(got), want, "{}: row {row}, column {column}", probe.name);
    }
}

fn multiply(probe: Probe, text: &str, m: u32) {
    let (a, b) = (values(m * K, 1), values(N * K, 2));
    let inputs = [&a, &b].map(|x| bytes(x.iter().map(|&v| bf16::from_f32(v).to_bits())));
    let want = product(&a, &b, 1.0);
    for seed in SEEDS {
        compare(probe, &run(probe, text, &inputs, m * N, seed), &want, N);
    }
}

#[test]
fn both_factors_from_shared_memory() {
    multiply(SS, include_str!("ptx/probe_tcgen05_ss.ptx"), M);
}

#[test]
fn a_pair_of_blocks() {
    multiply(PAIR, include_str!("ptx/probe_tcgen05_pair.ptx"), 2 * M);
}

#[test]
fn a_factor_from_tensor_memory() {
    let (p, v) = (values(M * K, 3), values(N_TS * K, 4));
    let inputs = [&p, &v].map(|x| bytes(x.iter().map(|&v| f16::from_f32(v).to_bits())));
    let want = product(&p, &v, 1.5);
    for seed in SEEDS {
        let got = run(TS, include_str!("ptx/probe_tcgen05_ts.ptx"), &inputs, M * N_TS, seed);
        compare(TS, &got, &want, N_TS);
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
    let input = rows.iter().flat_map(|w| w.to_le_bytes()).collect();
    let inputs = [input];
    for seed in SEEDS {
        let text = include_str!("ptx/probe_tcgen05_registers.ptx");
        let got = run(REGISTERS, text, &inputs, M * RESULTS as u32, seed);
        for (thread, got) in (0..M).zip(got.chunks_exact(RESULTS)) {
            assert_eq!(got, registers(thread, &rows), "thread {thread}");
        }
    }
}

#[test]
fn loads_that_reduce() {
    let a = values(M * 64, 5);
    let inputs = [a.iter().flat_map(|x| x.to_le_bytes()).collect()];
    let extremes =
        |row: &[f32]| [row.iter().copied().fold(f32::MAX, f32::min), row.iter().copied().fold(f32::MIN, f32::max)];
    let want: Vec<f32> = a.chunks_exact(64).flat_map(extremes).collect();
    for seed in SEEDS {
        let got = run(REDUCE, include_str!("ptx/probe_tcgen05_reduce.ptx"), &inputs, 2 * M, seed);
        compare(REDUCE, &got, &want, 2);
    }
}
