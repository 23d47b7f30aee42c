//! Kernels by another compiler, run and compared with f64: matrix products and attention by Triton, for Hopper and
//! Blackwell. `tests/ptx/README.md` says where they come from.

use attn_sim::report::Kind;
use attn_sim::{Gpu, Launch, Run};
use half::f16;

/// Numbers between -1 and 1 that f16 holds exactly, the same for a seed.
fn numbers(seed: u64, n: usize) -> Vec<f16> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f16::from_f32(((state >> 33) % 257) as f32 / 128.0 - 1.0)
    };
    (0..n).map(|_| next()).collect()
}

fn bytes(values: &[f16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// What Triton's Blackwell kernels leave out and PTX asks for: fences of tensor memory around `bar.sync`, and
/// `tcgen05.wait::ld` before the registers' first use, for which it relies on the assembler.
const OMITTED: &[Kind] = &[Kind::TensorOrder];

/// A kernel, and how it is launched.
struct Kernel {
    text: &'static str,
    name: &'static str,
    warps: u32,
    shared: u32,
    /// Bytes of global scratch memory for each block.
    scratch: u64,
}

impl Kernel {
    /// Runs it; `inputs` come first, the output of `out` numbers follows, then `scalars`. No rule may be broken but those of
    /// [`OMITTED`].
    fn run(&self, grid: u32, inputs: &[&[f16]], out: usize, scalars: &[u32], seed: u64) -> (Vec<f64>, Run) {
        let mut gpu = Gpu::new();
        let kernel =
            gpu.load(self.text).and_then(|m| m.kernel(self.name)).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let mut pointers: Vec<u64> = inputs.iter().map(|x| gpu.upload(&bytes(x))).collect();
        let result = gpu.alloc(2 * out as u64);
        pointers.push(result);
        let mut params: Vec<Vec<u8>> = pointers.iter().map(|p| p.to_le_bytes().to_vec()).collect();
        params.extend(scalars.iter().map(|s| s.to_le_bytes().to_vec()));
        // Triton's last two: scratch memory, and that of its profiler.
        let scratch = if self.scratch == 0 { 0 } else { gpu.alloc(self.scratch * u64::from(grid)) };
        params.push(scratch.to_le_bytes().to_vec());
        params.push(0u64.to_le_bytes().to_vec());
        let launch = Launch {
            grid: [grid, 1, 1],
            block: [32 * self.warps, 1, 1],
            shared: self.shared,
            params,
            seed,
            ..Launch::default()
        };
        let run = launch.run(&mut gpu, &kernel).unwrap_or_else(|e| panic!("{}, seed {seed}: {e}", self.name));
        let expected = |kind| self.text.contains("tcgen05") && OMITTED.contains(&kind);
        let findings: Vec<String> =
            run.findings.iter().filter(|f| !expected(f.kind)).map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{}, seed {seed}:\n{}", self.name, findings.join("\n"));
        let read = gpu.read(result, 2 * out).expect("the output");
        (read.chunks_exact(2).map(|c| f16::from_le_bytes([c[0], c[1]]).to_f64()).collect(), run)
    }
}

/// `a` (m x k) times `b` (k x n), or, with `transposed`, `b` (n x k).
fn product(a: &[f16], b: &[f16], m: usize, n: usize, k: usize, transposed: bool) -> Vec<f64> {
    let at = |row: usize, col: usize| if transposed { b[col * k + row] } else { b[row * n + col] };
    let one = |i: usize| (0..k).map(|x| a[i / n * k + x].to_f64() * at(x, i % n).to_f64()).sum();
    (0..m * n).map(one).collect()
}

/// Asserts that results are right up to the rounding of f16, and an error of `slack`.
fn close(got: &[f64], expected: &[f64], slack: f64, what: &str) {
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let bound = e.abs() * 2f64.powi(-10) + slack;
        assert!((g - e).abs() <= bound, "{what}: element {i} is {g}, expected {e}");
    }
}

fn check_product(kernel: &Kernel, m: usize, n: usize, k: usize, tile: usize, transposed: bool, strides: bool) {
    let (a, b) = (numbers(1, m * k), numbers(2, k * n));
    let mut scalars = vec![m as u32, n as u32, k as u32];
    if strides {
        scalars.extend([k as u32, n as u32, n as u32]);
    }
    let expected = product(&a, &b, m, n, k, transposed);
    for seed in 0..2 {
        let (got, run) = kernel.run((m * n / tile) as u32, &[&a, &b], m * n, &scalars, seed);
        close(&got, &expected, 1e-3, kernel.name);
        assert!(run.counters.total() > 0);
    }
}

macro_rules! ptx {
    ($file:literal) => {
        include_str!(concat!("ptx/triton_", $file, ".ptx"))
    };
}

#[test]
fn a_product_by_mma_sync() {
    for text in [ptx!("matmul_small_sm90"), ptx!("matmul_small_sm100")] {
        let kernel = Kernel { text, name: "matmul", warps: 1, shared: 3072, scratch: 0 };
        check_product(&kernel, 32, 64, 96, 16 * 32, false, true);
    }
}

#[test]
fn a_product_by_wgmma() {
    let kernel = Kernel { text: ptx!("matmul_sm90"), name: "matmul", warps: 4, shared: 98304, scratch: 0 };
    check_product(&kernel, 128, 256, 192, 128 * 128, false, true);
}

#[test]
fn a_product_by_tcgen05() {
    let kernel = Kernel { text: ptx!("matmul_sm100"), name: "matmul", warps: 4, shared: 98320, scratch: 0 };
    check_product(&kernel, 128, 256, 192, 128 * 128, false, true);
}

#[test]
fn tensor_maps_made_on_the_device() {
    for (text, shared) in [(ptx!("matmul_tma_sm90"), 98328), (ptx!("matmul_tma_sm100"), 98352)] {
        let kernel = Kernel { text, name: "matmul_tma", warps: 4, shared, scratch: 384 };
        check_product(&kernel, 256, 128, 320, 128 * 128, true, false);
    }
}

#[test]
fn attention() {
    let (d, rows, s, scale) = (64, 128, 256, 0.18f32);
    for (text, shared) in [(ptx!("attn_sm90"), 49152), (ptx!("attn_sm100"), 49184)] {
        let kernel = Kernel { text, name: "attn", warps: 4, shared, scratch: 0 };
        let (q, k, v) = (numbers(3, rows * d), numbers(4, s * d), numbers(5, s * d));
        let scores = product(&q, &k, rows, s, d, true);
        let mut expected = Vec::with_capacity(rows * d);
        for row in scores.chunks_exact(s) {
            let weights: Vec<f64> = row.iter().map(|x| (x * f64::from(scale)).exp2()).collect();
            let total: f64 = weights.iter().sum();
            let column = |j: usize| weights.iter().enumerate().map(|(i, w)| w * v[i * d + j].to_f64()).sum::<f64>();
            expected.extend((0..d).map(|j| column(j) / total));
        }
        for seed in 0..2 {
            let (got, _) = kernel.run(1, &[&q, &k, &v], rows * d, &[s as u32, scale.to_bits()], seed);
            // P is rounded to f16: half a unit in its last place, of values that v weighs.
            close(&got, &expected, 1e-3, kernel.name);
        }
    }
}
