//! A problem on one of the project's forward kernels in the simulator, and attention in f64.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use attn_kernel::attn::divide::Divisor;
use attn_kernel::attn::walk::Grid;
use attn_kernel::forward::plan::{DType, Kernel as Built, panel};
use attn_kernel::forward::{ForwardParams, KERNELS};
use attn_sim::ptx::Module;
use attn_sim::report::Finding;
use attn_sim::tensor_map::{DataType, EncodeTiled, Interleave, L2Promotion, OobFill, Swizzle};
use attn_sim::{Counters, Error, Gpu, Launch, Trace};
use half::{bf16, f16};
use ruzstd::decoding::StreamingDecoder;
use serde_json::Value;

/// A problem: batch, query heads, key heads, queries, keys.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub q: usize,
    pub k: usize,
    /// Multiprocessors: with fewer than tiles, blocks of a persistent kernel go round.
    pub sms: u32,
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

/// A kernel's PTX: of the folder that `ATTN_KERNEL_DIR` names, or as attn-host carries it.
fn ptx(kernel: &Built) -> String {
    let (arch, name) = (kernel.arch.name(), kernel.name);
    let mut text = String::new();
    let read = match std::env::var_os("ATTN_KERNEL_DIR") {
        Some(dir) => {
            std::fs::read_to_string(Path::new(&dir).join(arch).join(name).with_extension("ptx")).map(|ptx| text = ptx)
        }
        None => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../attn-host/prebuilt").join(arch);
            prebuilt(&folder, name).and_then(|packed| packed.as_slice().read_to_string(&mut text)).map(drop)
        }
    };
    read.unwrap_or_else(|e| panic!("{name} for {arch}: {e}"));
    text
}

/// A kernel's PTX in attn-host's folder, where several lie in one zstd frame.
fn prebuilt(folder: &Path, name: &str) -> io::Result<Vec<u8>> {
    let manifest: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json"))?)?;
    let kernels = manifest["kernels"].as_array().into_iter().flatten();
    let of = kernels.filter(|kernel| kernel["name"] == name).map(|kernel| &kernel["ptx"]).next();
    let of = of.ok_or_else(|| io::Error::other("not in the manifest"))?;
    let frame = fs::read(folder.join(of["file"].as_str().unwrap_or_default()))?;
    let mut content = Vec::new();
    StreamingDecoder::new(frame.as_slice()).map_err(io::Error::other)?.read_to_end(&mut content)?;
    let number = |key: &str| of[key].as_u64().unwrap_or_default() as usize;
    Ok(content[number("at")..][..number("bytes")].to_vec())
}

/// A map of a tensor whose rows of `d` elements lie one after the other in the order of `dims`, slowest last in `order`; `dims` and `tile`
/// without the head dimension.
fn map(kernel: &Built, addr: u64, d: usize, dims: &[usize], strides: &[usize], tile: &[u32]) -> Vec<u8> {
    let panel = panel(d as u32);
    let row = 2 * d as u64;
    let encoded = EncodeTiled {
        data_type: if kernel.dtype == DType::F16 { DataType::Float16 } else { DataType::Bfloat16 },
        global_address: addr,
        global_dim: &[&[d as u64], &dims.iter().map(|&n| n as u64).collect::<Vec<_>>()[..]].concat(),
        global_strides: &strides.iter().map(|&rows| row * rows as u64).collect::<Vec<_>>(),
        box_dim: &[&[panel], tile].concat(),
        element_strides: &vec![1; dims.len() + 1],
        interleave: Interleave::None,
        swizzle: if panel == 64 { Swizzle::B128 } else { Swizzle::B64 },
        l2_promotion: L2Promotion::None,
        oob_fill: OobFill::Zero,
    };
    encoded.encode().expect("the plan's boxes are allowed").to_bytes().to_vec()
}

/// K or V, (batch, seq, heads, d).
fn keys(kernel: &Built, addr: u64, d: usize, shape: Shape, rows: u32) -> Vec<u8> {
    let Shape { batch, kv_heads, k, .. } = shape;
    map(kernel, addr, d, &[k, kv_heads, batch], &[kv_heads, 1, kv_heads * k], &[rows, 1, 1])
}

/// Q or O, (batch, seq, heads, d), with `pack` heads of a row of a tile together where the kernel packs.
fn queries(kernel: &Built, addr: u64, d: usize, shape: Shape, rows: u32, pack: usize) -> Vec<u8> {
    let Shape { batch, heads, q, .. } = shape;
    if kernel.launch.max_pack == 1 {
        return map(kernel, addr, d, &[q, heads, batch], &[heads, 1, heads * q], &[rows, 1, 1]);
    }
    let (dims, strides) = ([pack, q, heads / pack, batch], [1, heads, pack, heads * q]);
    map(kernel, addr, d, &dims, &strides, &[pack as u32, rows / pack as u32, 1, 1])
}

/// What a run gave.
pub struct Output {
    pub o: Vec<f64>,
    pub lse: Vec<f64>,
    /// All of O and LSE was.
    pub written: bool,
    pub trace: Vec<String>,
    pub counters: Counters,
    pub findings: Vec<Finding>,
}

/// Bytes and values of Q, K and V.
pub struct Inputs {
    q: (Vec<u8>, Vec<f64>),
    k: (Vec<u8>, Vec<f64>),
    v: (Vec<u8>, Vec<f64>),
}

pub fn inputs(kernel: &Built, shape: Shape) -> Inputs {
    scaled_inputs(kernel, shape, 1.0)
}

/// [`inputs`] with Q that many times as large.
pub fn scaled_inputs(kernel: &Built, shape: Shape, factor: f32) -> Inputs {
    let (d, dv) = (kernel.launch.d as usize, kernel.launch.dv as usize);
    let of = |n, seed| {
        let factor = if seed == 1 { factor } else { 1.0 };
        rounded(kernel.dtype, &values(n, seed).iter().map(|x| x * factor).collect::<Vec<_>>())
    };
    Inputs {
        q: of(shape.batch * shape.q * shape.heads * d, 1),
        k: of(shape.batch * shape.k * shape.kv_heads * d, 2),
        v: of(shape.batch * shape.k * shape.kv_heads * dv, 3),
    }
}

pub fn module(kernel: &Built) -> Module {
    Module::parse(&ptx(kernel)).expect("shipped PTX parses")
}

/// Runs a module's kernel; an error where the run ended early.
pub fn simulate(kernel: &Built, module: &Module, shape: Shape, inputs: &Inputs, seed: u64) -> Result<Output, Error> {
    simulate_on(2, kernel, module, shape, inputs, seed)
}

/// [`simulate`] on a number of the host's cores, with the history of one warp.
pub fn simulate_on(
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
    let pack = plan.pack((shape.heads / shape.kv_heads) as u32) as usize;
    let m_blocks = (shape.q * pack).div_ceil(plan.bm as usize) as u32;
    let heads = shape.heads / pack;
    let tiles = m_blocks * (heads * shape.batch) as u32;
    let params = ForwardParams {
        lse: lse as *mut f32,
        lse_batch_stride: (shape.heads * shape.q) as u64,
        lse_head_stride: shape.q as u64,
        seqlen_q: shape.q as u32,
        seqlen_k: shape.k as u32,
        group: Divisor::new((heads / shape.kv_heads) as u32),
        grid: Grid::new(m_blocks, heads as u32, shape.batch as u32, 1),
        scale_log2: std::f32::consts::LOG2_E / (d as f32).sqrt(),
        pack: pack.ilog2(),
    };
    // SAFETY: a structure of numbers without gaps, as its size says: 3 of 8 bytes and 30 of 4.
    let params = unsafe {
        const { assert!(size_of::<ForwardParams>() == 3 * 8 + 30 * 4) };
        std::slice::from_raw_parts((&raw const params).cast::<u8>(), size_of::<ForwardParams>()).to_vec()
    };
    let loaded = gpu.load_module(module.clone()).kernel(kernel.name)?;
    let launch = Launch {
        // Blocks of any schedule go round; a launcher gives those of a longest-first one a tile each.
        grid: [tiles.min(shape.sms), 1, 1],
        block: [plan.threads, 1, 1],
        shared: plan.shared,
        params: vec![
            params,
            queries(kernel, q, d, shape, plan.q_box.1, pack),
            keys(kernel, k, d, shape, plan.k_box.1),
            keys(kernel, v, dv, shape, plan.v_box.1),
            queries(kernel, o, dv, shape, plan.o_box.1, pack),
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
pub fn reference(kernel: &Built, shape: Shape, inputs: &Inputs) -> (Vec<f64>, Vec<f64>) {
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

pub fn built(name: &str) -> &'static Built {
    KERNELS.iter().find(|k| k.name == name).unwrap_or_else(|| panic!("no kernel {name}"))
}

/// Runs a kernel with each seed and compares; the bound is that of rounding P and O to the element type.
pub fn check(name: &str, shape: Shape, seeds: std::ops::Range<u64>) {
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
