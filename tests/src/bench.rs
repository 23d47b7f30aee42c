//! How fast the kernels are. Each line is checked against the oracle in sampled rows before it is timed.

pub mod shapes;

use std::path::PathBuf;

use attn_host::Plan;
use attn_kernel::forward::AnyPlan;
use clap::Parser;
use serde_json::json;

use crate::case::Case;
use crate::gpu::{self, Gpu, GpuError};
use crate::launch_path;
use crate::layout::Placement;
use crate::pool::Pool;
use crate::precision::Precision;
use crate::sampled::{self, Buffers};
use shapes::{LINES, Line};

/// Dense 16-bit matrix products of a device by its data sheet, TFLOP/s: an H100 SXM's, a B200's.
fn peak(gpu: &Gpu) -> f64 {
    if is_hopper(gpu) { 989.4 } else { 2250.0 }
}

/// Whether the device is one that the peers were measured on.
fn is_hopper(gpu: &Gpu) -> bool {
    gpu.device().info().compute_capability == (9, 0)
}

/// Blocks of rows of each line that are compared with the oracle.
const SAMPLED_BLOCKS: usize = 16;
/// Device time of a measurement, and of the warm-up before the first, microseconds.
const MEASURED: f64 = 10_000.0;

/// Times the forward kernels: 16,384 tokens in all, hidden size 2048, random normal inputs, LSE written.
///
/// Rounds go over all lines in turn, so that a change of clocks meets every line. In each round a line's launches are
/// queued back to back between two events for about 10 ms; the median round is printed.
#[derive(Parser, Debug)]
#[command(name = "attn-gpu-bench")]
pub struct Options {
    /// Only lines that contain this.
    #[arg(long)]
    filter: Option<String>,
    /// Rounds.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Format of Q, K, V and O.
    #[arg(long, default_value = "bf16")]
    dtype: Precision,
    /// Measure nothing but what a launch costs the CPU, and how soon a process has its first answer.
    #[arg(long)]
    launch_path: bool,
    /// Also write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The GPU or the launch side.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The answer of a line is wrong.
    #[error("{line}: {mismatch}")]
    Wrong {
        /// The line.
        line: String,
        /// What is wrong.
        mismatch: crate::compare::Mismatch,
    },
    /// No line matches the filter.
    #[error("no line contains '{0}'")]
    NoLine(String),
    /// Launches of an existing plan allocated memory.
    #[error("launches of kernel {kernel} made {count} allocations; allowed: none")]
    Allocations {
        /// The kernel.
        kernel: &'static str,
        /// How many there were.
        count: u64,
    },
    /// The results' file cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A line ready to run, and its times so far.
struct Prepared {
    line: Line,
    case: Case,
    place: Placement,
    plan: Plan,
    count: u32,
    micros: Vec<f64>,
}

/// Measures and prints; an `Err` is also a wrong answer.
pub fn run(options: &Options) -> Result<(), BenchError> {
    if options.launch_path {
        return report_launch_path();
    }
    let wanted = |label: &str| options.filter.as_ref().is_none_or(|f| label.contains(f));
    let cases: Vec<(Line, Case)> = LINES.iter().map(|line| (*line, line.case(options.dtype))).collect();
    let cases: Vec<_> = cases.into_iter().filter(|(_, case)| wanted(&label(case))).collect();
    if cases.is_empty() {
        return Err(BenchError::NoLine(options.filter.clone().unwrap_or_default()));
    }
    let gpu = Gpu::open()?;
    println!("{}", gpu.describe());
    println!(
        "{}, random normal, events around {:.0} ms of launches, median of {} interleaved rounds; L2 as the last launch left it; peak {} TFLOP/s",
        options.dtype,
        MEASURED / 1e3,
        options.rounds,
        peak(&gpu)
    );
    let pool = Pool::new(options.dtype, cases.iter().map(|(_, case)| case))?;
    let mut lines: Vec<Prepared> =
        cases.into_iter().map(|(line, case)| prepare(&pool, &gpu, line, case)).collect::<Result<_, _>>()?;
    for _ in 0..options.rounds {
        for line in &mut lines {
            gpu.announce(label(&line.case));
            let micros = gpu.time(line.count, || pool.launch(&gpu, &line.plan, &line.place))?;
            line.micros.push(micros);
        }
    }
    lines.iter().for_each(|line| println!("{}", line.report(&gpu)));
    match &options.json {
        Some(path) => write_json(path.clone(), &gpu, &lines),
        None => Ok(()),
    }
}

/// Measures the launch path in a fresh process, and insists that it allocates nothing.
fn report_launch_path() -> Result<(), BenchError> {
    const ROWS: u32 = 200;
    let gpu = Gpu::open()?;
    println!("{}", gpu.describe());
    for path in launch_path::measure(&gpu, ROWS)? {
        println!("{}", path.report());
        if path.allocations > 0 {
            return Err(BenchError::Allocations { kernel: path.kernel, count: path.allocations });
        }
    }
    Ok(())
}

/// `fwd  d=128 causal  b=4 h=16 s=8192`.
fn label(case: &Case) -> String {
    let Case { batch, heads, kv_heads, seqlen_q, head_dim, head_dim_v, causal, .. } = case;
    let width = if head_dim == head_dim_v { format!("d={head_dim}") } else { format!("d={head_dim},{head_dim_v}") };
    let heads = if heads == kv_heads { format!("h={heads}") } else { format!("h={heads}:{kv_heads}") };
    format!("fwd  {width:<9} {:<7} b={batch:<3} {heads:<6} s={seqlen_q:<6}", if *causal { "causal" } else { "" })
}

/// Plans a line, checks its answer and warms up.
fn prepare(pool: &Pool, gpu: &Gpu, line: Line, case: Case) -> Result<Prepared, BenchError> {
    gpu.announce(label(&case));
    let place = case.layout.place(&case);
    let plan = Plan::new(gpu.device(), &gpu::problem(&case, &place)).map_err(GpuError::from)?;
    let (o, lse) = pool.answer(gpu, &plan, &place)?;
    let qkv = [0, 1, 2].map(|i: usize| pool.host(i));
    sampled::check(&case, &place, &Buffers { qkv, o: &o, lse: Some(&lse) }, SAMPLED_BLOCKS)
        .map_err(|mismatch| BenchError::Wrong { line: label(&case), mismatch })?;

    let launch = || pool.launch(gpu, &plan, &place);
    let once = gpu.time(3, launch)?;
    let count = (MEASURED / once).ceil().clamp(1.0, 1000.0) as u32;
    gpu.time(count, launch)?;
    Ok(Prepared { line, case, place, plan, count, micros: Vec::new() })
}

impl Prepared {
    fn median(&self) -> f64 {
        let mut micros = self.micros.clone();
        micros.sort_by(f64::total_cmp);
        micros[micros.len() / 2]
    }

    fn tflops(&self) -> f64 {
        self.plan.problem().flops() / self.median() * 1e-6
    }

    fn report(&self, gpu: &Gpu) -> String {
        let (tflops, kernel) = (self.tflops(), self.plan.kernel());
        let peer = self
            .line
            .peer
            .filter(|_| is_hopper(gpu))
            .map_or(String::new(), |(best, name)| format!("{:.2} x {name}", tflops / best));
        let regs = match kernel.plan {
            AnyPlan::Sm90(plan) => format!("{}/{}", plan.regs.consumer, plan.regs.producer),
            AnyPlan::Sm100(plan) => {
                format!("{}/{}/{}", plan.regs.softmax, plan.regs.correction, plan.regs.other)
            }
            _ => String::new(),
        };
        format!(
            "{} | {:8.1} us | {tflops:4.0} TFLOPS | {:.2} of peak | {peer:<12} | {regs} regs | {}",
            label(&self.case),
            self.median(),
            tflops / peak(gpu),
            kernel.name
        )
    }
}

fn write_json(path: PathBuf, gpu: &Gpu, lines: &[Prepared]) -> Result<(), BenchError> {
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({
                "case": line.case.to_string(),
                "kernel": line.plan.kernel().name,
                "median_us": line.median(),
                "rounds_us": line.micros,
                "tflops": line.tflops(),
                "peer": line.line.peer.filter(|_| is_hopper(gpu)).map(|(tflops, name)| json!({ "name": name, "tflops": tflops })),
            })
        })
        .collect();
    let text = format!("{:#}\n", json!({ "device": gpu.describe(), "lines": rows }));
    std::fs::write(&path, text).map_err(|source| BenchError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_labelled_as_problems_read() {
        let gqa = Line { group: 4, ..LINES[3] }.case(Precision::Bf16);
        assert_eq!(label(&gqa), "fwd  d=128     causal  b=2   h=16:4 s=8192  ");
        let wide = Line { head_dim: 192, ..LINES[0] }.case(Precision::Bf16);
        assert!(label(&wide).contains("d=192,128"));
    }
}
