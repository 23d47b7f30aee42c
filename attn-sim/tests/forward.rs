//! The project's own Hopper forward kernels, as they are shipped, run in the simulator against attention in f64.

use attn_kernel::forward::plan::{DType, Kernel as Built, panel};
use attn_kernel::forward::sm90::KERNELS;
use attn_sim::mutate::{self, Outcome};
use attn_sim::ptx::Module;
use attn_sim::report::Finding;
use attn_sim::tensor_map::{DataType, EncodeTiled, Interleave, L2Promotion, OobFill, Swizzle};
use attn_sim::{Counters, Error, Gpu, Launch, Trace};
use half::{bf16, f16};
use std::io::Read;

/// A problem: batch, query heads, key heads, queries, keys.
#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    q: usize,
    k: usize,
    /// Multiprocessors: with fewer than tiles, blocks of a persistent kernel go round.
    sms: u32,
}

/// Values that look random, of about unit variance, and repeat for a seed.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| (0..4).map(|_| uniform() - 0.5).sum::<f32>() * 1.732).collect()
}

fn rounded(dtype: DType, values: &[f32]) -> (Vec<u8>, Vec<f64>) {
    let bits = values.iter().map(|&v| match dtype {
        DType::F16 => (f16::from_f32(v).to_bits(), f16::from_f32(v).to_f64()),
        _ => (bf16::from_f32(v).to_bits(), bf16::from_f32(v).to_f64()),
    });
    let (bits, exact): (Vec<u16>, Vec<f64>) = bits.unzip();
    (bits.iter().flat_map(|b| b.to_le_bytes()).collect(), exact)
}

fn ptx(name: &str) -> String {
    let path = format!("{}/../attn-host/prebuilt/sm_90a/{name}.ptx.gz", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap_or_else(|e| panic!("{path}: {e}"));
    text
}

/// A tensor (batch, seq, heads, d), its map with boxes of `rows` rows, and its address.
fn map(dtype: DType, addr: u64, d: usize, seq: usize, heads: usize, batch: usize, rows: u32) -> Vec<u8> {
    let panel = panel(d as u32);
    let bytes = 2 * d as u64;
    let encoded = EncodeTiled {
        data_type: if dtype == DType::F16 { DataType::Float16 } else { DataType::Bfloat16 },
        global_address: addr,
        global_dim: &[d as u64, seq as u64, heads as u64, batch as u64],
        global_strides: &[bytes * heads as u64, bytes, bytes * (heads * seq) as u64],
        box_dim: &[panel, rows, 1, 1],
        element_strides: &[1; 4],
        interleave: Interleave::None,
        swizzle: if panel == 64 { Swizzle::B128 } else { Swizzle::B64 },
        l2_promotion: L2Promotion::None,
        oob_fill: OobFill::Zero,
    };
    encoded.encode().expect("the plan's boxes are allowed").to_bytes().to_vec()
}

struct Output {
    o: Vec<f64>,
    lse: Vec<f64>,
    /// All of O and LSE was.
    written: bool,
    trace: Vec<String>,
    counters: Counters,
    findings: Vec<Finding>,
}

struct Inputs {
    q: (Vec<u8>, Vec<f64>),
    k: (Vec<u8>, Vec<f64>),
    v: (Vec<u8>, Vec<f64>),
}

fn inputs(kernel: &Built, shape: Shape) -> Inputs {
    let (d, dv) = (kernel.launch.d as usize, kernel.launch.dv as usize);
    let of = |n, seed| rounded(kernel.dtype, &values(n, seed));
    Inputs {
        q: of(shape.batch * shape.q * shape.heads * d, 1),
        k: of(shape.batch * shape.k * shape.kv_heads * d, 2),
        v: of(shape.batch * shape.k * shape.kv_heads * dv, 3),
    }
}

fn module(kernel: &Built) -> Module {
    Module::parse(&ptx(kernel.name)).expect("shipped PTX parses")
}

/// Runs a module's kernel; an error where the run ended early.
fn simulate(kernel: &Built, module: &Module, shape: Shape, inputs: &Inputs, seed: u64) -> Result<Output, Error> {
    simulate_on(2, kernel, module, shape, inputs, seed)
}

/// [`simulate`] on a number of the host's cores, with the history of one warp.
fn simulate_on(
    threads: usize,
    kernel: &Built,
    module: &Module,
    shape: Shape,
    inputs: &Inputs,
    seed: u64,
) -> Result<Output, Error> {
    let plan = kernel.launch;
    let (d, dv) = (plan.d as usize, plan.dv as usize);
    let mut gpu = Gpu::new();
    let (q, k, v) = (gpu.upload(&inputs.q.0), gpu.upload(&inputs.k.0), gpu.upload(&inputs.v.0));
    let rows = shape.batch * shape.q * shape.heads;
    let (o, lse) = (gpu.alloc((rows * dv * 2) as u64), gpu.alloc((rows * 4) as u64));
    let m_blocks = shape.q.div_ceil(plan.bm as usize) as u32;
    let tiles = m_blocks * (shape.heads * shape.batch) as u32;
    let numbers = [
        shape.q as u32,
        shape.k as u32,
        shape.heads as u32,
        (shape.heads / shape.kv_heads) as u32,
        m_blocks,
        tiles,
        1,
        (std::f32::consts::LOG2_E / (d as f32).sqrt()).to_bits(),
        // No heads are packed, and the struct ends on 8 bytes.
        0,
        0,
    ];
    let mut params: Vec<u8> = [lse, (shape.heads * shape.q) as u64, shape.q as u64].map(u64::to_le_bytes).concat();
    params.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    let of = |addr, d, seq, heads, rows| map(kernel.dtype, addr, d, seq, heads, shape.batch, rows);
    let loaded = gpu.load_module(module.clone()).kernel(kernel.name)?;
    let launch = Launch {
        grid: [plan.blocks(tiles, shape.sms), 1, 1],
        block: [plan.threads, 1, 1],
        shared: plan.shared,
        params: vec![
            params,
            of(q, d, shape.q, shape.heads, 64),
            of(k, d, shape.k, shape.kv_heads, plan.bn),
            of(v, dv, shape.k, shape.kv_heads, plan.bn),
            of(o, dv, shape.q, shape.heads, 64),
        ],
        seed,
        step_limit: 4_000_000,
        threads,
        trace: vec![Trace::Warp { block: [1, 0, 0], warp: 4 }],
        ..Launch::default()
    };
    let run = launch.run(&mut gpu, &loaded)?;
    let written = gpu.first_unwritten(o, rows * dv * 2)?.or(gpu.first_unwritten(lse, rows * 4)?).is_none();
    let o = gpu.read(o, rows * dv * 2).expect("o is allocated").chunks_exact(2).map(|b| {
        let bits = u16::from_le_bytes([b[0], b[1]]);
        if kernel.dtype == DType::F16 { f16::from_bits(bits).to_f64() } else { bf16::from_bits(bits).to_f64() }
    });
    let o = o.collect();
    let lse = gpu.read(lse, rows * 4).expect("lse is allocated").chunks_exact(4);
    let lse = lse.map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect();
    Ok(Output { o, lse, written, trace: run.trace, counters: run.counters, findings: run.findings })
}

/// Attention in f64: O as (batch, seq, heads, dv), LSE as (batch, heads, seq).
fn reference(kernel: &Built, shape: Shape, inputs: &Inputs) -> (Vec<f64>, Vec<f64>) {
    let (d, dv) = (kernel.launch.d as usize, kernel.launch.dv as usize);
    let mut o = vec![0.0; shape.batch * shape.q * shape.heads * dv];
    let mut lse = vec![f64::NEG_INFINITY; shape.batch * shape.heads * shape.q];
    for b in 0..shape.batch {
        for h in 0..shape.heads {
            let kv = h / (shape.heads / shape.kv_heads);
            for i in 0..shape.q {
                let last =
                    if kernel.causal { (i + shape.k).checked_sub(shape.q).map_or(0, |l| l + 1) } else { shape.k };
                let row =
                    |at: usize, heads: usize, seq: usize, head: usize, d: usize| ((b * seq + at) * heads + head) * d;
                let q = &inputs.q.1[row(i, shape.heads, shape.q, h, d)..][..d];
                let score = |j: usize| {
                    let k = &inputs.k.1[row(j, shape.kv_heads, shape.k, kv, d)..][..d];
                    q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt()
                };
                let scores: Vec<f64> = (0..last).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let out = &mut o[row(i, shape.heads, shape.q, h, dv)..][..dv];
                for (j, s) in scores.iter().enumerate() {
                    let v = &inputs.v.1[row(j, shape.kv_heads, shape.k, kv, dv)..][..dv];
                    out.iter_mut().zip(v).for_each(|(o, v)| *o += (s - max).exp() / sum * v);
                }
                if last > 0 {
                    lse[(b * shape.heads + h) * shape.q + i] = max + sum.ln();
                }
            }
        }
    }
    (o, lse)
}

fn built(name: &str) -> &'static Built {
    KERNELS.iter().find(|k| k.name == name).unwrap_or_else(|| panic!("no kernel {name}"))
}

/// Runs a kernel with each seed and compares; the bound is that of rounding P and O to the element type.
fn check(name: &str, shape: Shape, seeds: std::ops::Range<u64>) {
    let kernel = built(name);
    let module = module(kernel);
    let inputs = inputs(kernel, shape);
    let (o, lse) = reference(kernel, shape, &inputs);
    let step = if kernel.dtype == DType::F16 { 1.0 / 1024.0 } else { 1.0 / 128.0 };
    let mut first: Option<Output> = None;
    for seed in seeds {
        let start = std::time::Instant::now();
        let got = simulate(kernel, &module, shape, &inputs, seed)
            .unwrap_or_else(|e| panic!("{name} {shape:?} seed {seed}: {e}"));
        println!("{name} {shape:?} seed {seed}: {:.2?}\n{}", start.elapsed(), got.counters);
        for finding in &got.findings {
            println!("{finding}");
        }
        assert!(got.findings.is_empty(), "{} findings", got.findings.len());
        assert!(got.written, "all of O and LSE is written");
        for (i, (a, b)) in got.o.iter().zip(&o).enumerate() {
            assert!((a - b).abs() <= step * (1.0 + b.abs()), "{name} seed {seed}: o[{i}] is {a}, not {b}");
        }
        for (i, (a, b)) in got.lse.iter().zip(&lse).enumerate() {
            assert!(a == b || (a - b).abs() <= 1e-3, "{name} seed {seed}: lse[{i}] is {a}, not {b}");
        }
        // What the schedule may change is the order of work, not the result.
        if let Some(first) = &first {
            assert!(first.o == got.o && first.lse == got.lse, "{name}: seed {seed} gives other bits");
        }
        first.get_or_insert(got);
    }
}

#[test]
fn d128_one_head() {
    check("fwd_sm90_bf16_d128", Shape { batch: 1, heads: 1, kv_heads: 1, q: 200, k: 300, sms: 132 }, 0..2);
}

#[test]
fn d128_causal() {
    check("fwd_sm90_bf16_d128_causal", Shape { batch: 1, heads: 1, kv_heads: 1, q: 130, k: 260, sms: 132 }, 0..2);
}

#[test]
fn d32_heads_share_keys() {
    check("fwd_sm90_bf16_d32", Shape { batch: 2, heads: 2, kv_heads: 1, q: 70, k: 130, sms: 2 }, 0..2);
}

#[test]
fn a_seed_means_the_same_run_on_any_number_of_cores() {
    let kernel = built("fwd_sm90_bf16_d32");
    let shape = Shape { batch: 1, heads: 3, kv_heads: 1, q: 70, k: 130, sms: 3 };
    let (module, inputs) = (module(kernel), inputs(kernel, shape));
    let run = |threads, seed| {
        let run = simulate_on(threads, kernel, &module, shape, &inputs, seed).expect("it runs to its end");
        (run.trace, run.counters)
    };
    let (one, two, other) = (run(1, 5), run(2, 5), run(2, 6));
    assert!(one.0.len() > 1000, "the history of block 1's warp 4 is kept");
    assert!(one == two, "threads change what happens");
    assert!(one.0 != other.0, "another seed is another schedule");
}

/// The speed that the simulator promises, in release on two cores: `cargo test --release -p attn-sim --test forward --
/// --ignored --nocapture`.
#[test]
#[ignore = "a measurement, meaningful in release only"]
fn d128_512_by_512_in_two_seconds() {
    let start = std::time::Instant::now();
    let kernel = built("fwd_sm90_bf16_d128");
    let shape = Shape { batch: 1, heads: 1, kv_heads: 1, q: 512, k: 512, sms: 132 };
    let inputs = inputs(kernel, shape);
    let got = simulate(kernel, &module(kernel), shape, &inputs, 0).expect("it runs to its end");
    let took = start.elapsed();
    println!("{took:.2?}\n{}", got.counters);
    assert!(got.findings.is_empty());
    assert!(took.as_secs_f64() <= 2.0, "{took:.2?}");
}

/// An instruction whose mutants go unnoticed because it orders nothing that other instructions do not order, how many
/// mutants that is, and what those others are.
type Redundant = (&'static str, usize, &'static str);

/// What no kernel needs for its results.
const REDUNDANT: &[Redundant] = &[
    (
        "wgmma.fence.sync.aligned",
        1,
        "its multiply's registers are untouched since the fence before it; without it ptxas serialises the multiplies",
    ),
    ("bar.warp.sync", 1, "keeps ptxas from moving a wait; orders nothing between warps"),
    (
        "mbarrier.try_wait.parity.shared::cta.b64",
        1,
        "the producer's for a tile's first K: with two stages, it was given back before the V whose stage the last tile's \
         last V waited for; the ring does not know of the other ring",
    ),
];

/// Deletes or weakens each synchronising instruction of a kernel, under several seeds, with blocks that go round several
/// tiles: all mutants are noticed but those of instructions known to be redundant.
fn mutants(name: &str, shape: Shape) {
    let kernel = built(name);
    let module = module(kernel);
    let inputs = inputs(kernel, shape);
    let right = simulate(kernel, &module, shape, &inputs, 0).expect("the kernel itself runs to its end");
    assert!(right.findings.is_empty());
    let score =
        mutate::score(&module, name, 0..6, |mutant, seed| match simulate(kernel, mutant, shape, &inputs, seed) {
            Err(_) => Outcome::Reported,
            Ok(run) if !run.findings.is_empty() => Outcome::Reported,
            Ok(run) if !run.written || run.o != right.o || run.lse != right.lse => Outcome::WrongResult,
            Ok(_) => Outcome::Unnoticed,
        });
    println!("{name}: {score}");
    for survivor in &score.survivors {
        let same = score.survivors.iter().filter(|s| s.instruction == survivor.instruction).count();
        let known = REDUNDANT.iter().find(|(instruction, ..)| *instruction == survivor.instruction);
        let (_, count, why) = known.unwrap_or_else(|| panic!("{name}: unnoticed: {survivor}"));
        assert!(same <= *count, "{name}: {same} mutants of {}, {count} are redundant: {why}", survivor.instruction);
    }
}

const ROUNDS: Shape = Shape { batch: 1, heads: 2, kv_heads: 1, q: 130, k: 600, sms: 1 };

#[test]
#[ignore = "a minute, in release"]
fn mutants_of_d128_are_noticed() {
    mutants("fwd_sm90_bf16_d128", ROUNDS);
}

#[test]
#[ignore = "a minute, in release"]
fn mutants_of_d32_are_noticed() {
    mutants("fwd_sm90_bf16_d32", Shape { q: 200, ..ROUNDS });
}

#[test]
#[ignore = "two minutes, in release"]
fn mutants_of_d192_128_are_noticed() {
    mutants("fwd_sm90_bf16_d192_128", Shape { k: 500, ..ROUNDS });
}
