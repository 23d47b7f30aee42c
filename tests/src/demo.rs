//! The main job on real input: a file's Q, K and V through the kernel, checked and timed.

use std::io::{self, Write};
use std::path::PathBuf;

use attn_host::simulator::{self, Arch};
use clap::Parser;

use crate::case::Case;
use crate::compare::{self, LSE_BOUND, Mismatch};
use crate::dense::Dense;
use crate::gpu::{Gpu, GpuError};
use crate::input::Inputs;
use crate::layout::Layout;
use crate::oracle::Answer;
use crate::precision::Precision;
use crate::sample::{self, Sample, SampleError};

/// Largest difference between two f64 computations of the same answer once both are stored as f32.
const F32_BOUND: f64 = 1e-5;
/// Launches between two events when the kernel is timed.
const TIMED: u32 = 50;

/// Attention on the Q, K and V of a file: run on the GPU, checked, timed.
///
/// Without a GPU the kernel runs on the simulator, which says so and checks it for races and missing waits besides.
#[derive(Parser, Debug, Default)]
#[command(name = "attn-demo")]
pub struct Options {
    /// A safetensors file with q, k, v (batch, seq, heads, head_dim; bf16 or f16) and optionally the expected o and lse.
    /// [default: layer 3 of all-MiniLM-L6-v2 on the Gettysburg Address]
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Mask the keys after each query, aligned to the last query and the last key.
    #[arg(long)]
    pub causal: bool,
    /// Write o and lse to this safetensors file.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Run on the simulator even where there is a GPU.
    #[arg(long)]
    pub simulator: bool,
    /// The architecture that the simulator simulates: sm_90a, sm_100a or sm_103a.
    #[arg(long, value_name = "ARCH", default_value_t)]
    pub arch: Arch,
    /// Seed of the simulator's schedule.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Why the demo could not finish.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The input or output file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SampleError,
    },
    /// The GPU or the launch side.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The answer is wrong.
    #[error("the answer is wrong: {0}")]
    Wrong(#[from] Mismatch),
    /// The report cannot be written.
    #[error("cannot write the report: {0}")]
    Report(#[from] io::Error),
}

/// Runs the demo and reports to `out`. An `Err` is also a wrong answer.
pub fn run(options: &Options, out: &mut impl Write) -> Result<(), DemoError> {
    let sample = match &options.input {
        Some(path) => Sample::read(path).map_err(|source| DemoError::File { path: path.clone(), source })?,
        None => Sample::minilm(),
    };
    let causal = options.causal || sample.causal;
    let (case, inputs) = problem(&sample, causal);
    let name = options
        .input
        .as_ref()
        .map_or("layer 3 of all-MiniLM-L6-v2 on the Gettysburg Address".into(), |p| p.display().to_string());
    writeln!(out, "input    {name}")?;
    writeln!(out, "problem  {}", describe(&case))?;
    let expected = if causal == sample.causal { (sample.o, sample.lse) } else { (None, None) };
    let simulated = simulator::Options { arch: options.arch, seed: options.seed, ..Default::default() };
    let gpu = match if options.simulator { None } else { Some(Gpu::open()) } {
        Some(Ok(gpu)) => gpu,
        Some(Err(error)) => {
            writeln!(out, "no GPU   {error}")?;
            Gpu::simulated(simulated)?
        }
        None => Gpu::simulated(simulated)?,
    };
    let (o, lse) = compute(&gpu, &case, &inputs, expected, out)?;
    if let Some(path) = &options.output {
        sample::write_answer(path, &o, &lse, case.precision)
            .map_err(|source| DemoError::File { path: path.clone(), source })?;
        writeln!(out, "output   o ({}) and lse (f32) in {}", case.precision, path.display())?;
    }
    Ok(())
}

/// The sample as a case with its inputs.
fn problem(sample: &Sample, causal: bool) -> (Case, Inputs) {
    let (q, k) = (sample.q.dims, sample.k.dims);
    let case = Case {
        batch: q.batch,
        heads: q.heads,
        kv_heads: k.heads,
        seqlen_k: k.seq,
        head_dim_v: sample.v.dims.width,
        causal,
        lse: true,
        scale: Some(sample.scale),
        layout: Layout::Bshd,
        ..Case::new(sample.precision, q.seq, q.width)
    };
    (case, Inputs { q: sample.q.clone(), k: sample.k.clone(), v: sample.v.clone() })
}

fn describe(case: &Case) -> String {
    let Case { precision, batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v, .. } = case;
    let (mask, scale) = (if case.causal { "causal" } else { "no mask" }, case.scale());
    format!(
        "{precision}, q ({batch}, {seqlen_q}, {heads}, {head_dim}), k ({batch}, {seqlen_k}, {kv_heads}, {head_dim}), \
         v ({batch}, {seqlen_k}, {kv_heads}, {head_dim_v}), {mask}, scale {scale:.4}"
    )
}

type Expected = (Option<Dense<f32>>, Option<Dense<f32>>);
type Computed = (Dense<f32>, Dense<f32>);

fn compute(
    gpu: &Gpu,
    case: &Case,
    inputs: &Inputs,
    expected: Expected,
    out: &mut impl Write,
) -> Result<Computed, DemoError> {
    let simulated = if gpu.is_simulated() { ": the kernel's PTX on the CPU" } else { "" };
    writeln!(out, "device   {}{simulated}", gpu.describe())?;
    let loaded = gpu.load(case, inputs)?;
    let plan = &loaded.plan;
    let (kernel, grid) = (plan.kernel(), plan.grid().0);
    let (bm, bn) = (kernel.launch.bm, kernel.launch.bn);
    writeln!(
        out,
        "kernel   {}: tiles of {bm} x {bn}, {grid} blocks of {} threads, {} bytes of shared memory",
        kernel.name,
        plan.block().0,
        plan.smem_bytes()
    )?;
    let output = loaded.run()?;
    let (o, lse) = loaded.tensors(&output, case.precision);
    let lse = lse.unwrap_or_else(|| unreachable!("the demo's case asks for LSE"));

    let attention = inputs.attention(case);
    let what = against(&expected);
    let computed = attention.reference();
    agree(&expected, &computed, case.precision)?;
    let reference = Answer {
        o: expected.0.map_or(computed.o, |o| widen(&o)),
        lse: expected.1.map_or(computed.lse, |lse| widen(&lse)),
    };
    writeln!(out, "against  {what}")?;
    let report = compare::check(&o, Some(&lse), &reference, &attention.lowp(case.precision), case.precision)?;
    writeln!(out, "error    {report}: right")?;

    if let Some(launch) = simulator::last_launch().filter(|_| gpu.is_simulated()) {
        let instructions = launch.counters.map_or(0, |counters| counters.total());
        let seconds = launch.wall.as_secs_f64();
        writeln!(out, "checks   no race, no missing wait, no stray access in {instructions} instructions of warps")?;
        writeln!(out, "time     {seconds:.1} s of simulation")?;
        return Ok((o, lse));
    }
    gpu.time(TIMED, || loaded.launch())?;
    let micros = gpu.time(TIMED, || loaded.launch())?;
    let tflops = plan.problem().flops() / micros * 1e-6;
    writeln!(out, "time     {micros:.1} us a launch ({TIMED} launches back to back), {tflops:.1} TFLOP/s")?;
    Ok((o, lse))
}

fn against(expected: &Expected) -> &'static str {
    match expected {
        (Some(_), Some(_)) => "the file's own o and lse",
        (Some(_), None) => "the file's own o, and lse in f64 on the CPU",
        (None, Some(_)) => "the file's own lse, and o in f64 on the CPU",
        (None, None) => "softmax attention in f64 on the CPU",
    }
}

/// Whether a file's answer is the oracle's: the bound of an output is taken from it, and would admit whatever a wrong one
/// says.
fn agree(expected: &Expected, computed: &Answer<f64>, precision: Precision) -> Result<(), Mismatch> {
    if let Some(o) = &expected.0 {
        compare::worst("o", o, &computed.o, file_bound(o, precision))?;
    }
    if let Some(lse) = &expected.1 {
        compare::worst("lse", lse, &computed.lse, LSE_BOUND)?;
    }
    Ok(())
}

/// How far an expected output may be from f64 by the format that the file stores it in.
fn file_bound(o: &Dense<f32>, precision: Precision) -> f64 {
    let largest = o.data.iter().fold(0f32, |m, x| m.max(x.abs()));
    let stored_in_16_bits = o.data.iter().all(|x| precision.round(*x) == *x);
    // One unit in the last place: 2^-8 in bf16, 2^-11 in f16.
    let unit = precision.round(1.0 + 1.0 / 128.0) - 1.0;
    if stored_in_16_bits { f64::from(largest.max(1.0) * unit) } else { f64::from(largest.max(1.0)) * F32_BOUND }
}

fn widen(t: &Dense<f32>) -> Dense<f64> {
    Dense { dims: t.dims, data: t.data.iter().map(|x| f64::from(*x)).collect() }
}
