//! `attn run`: attention on the tensors of files.

use std::io::Write;
use std::path::PathBuf;

use attn_host::simulator;
use attn_tests::precision::Precision;
use clap::Args;

use crate::check;
use crate::device::Loaded;
use crate::error::Failure;
use crate::figures::Figures;
use crate::files::{self, Input, Tensors};
use crate::options::Scores;
use crate::progress;
use crate::table::facts;
use crate::target::Target;

mod assemble;

/// Launches between two events when a launch is timed.
const TIMED: u32 = 20;

/// Attention on the tensors of files
///
/// A safetensors file has all tensors by name; .npy files are named on the command line, NAME=FILE, or by their own names.
///
/// q                          (batch, seqlen_q, heads, head_dim), or (total_q, heads, head_dim) with cu_seqlens_q
/// k                          (batch, seqlen_k, kv_heads, head_dim), or (total_k, ..) with cu_seqlens_k, or (pages, page_size, ..) with page_table
/// v                          like k, with head_dim_v; heads is a multiple of kv_heads
/// cu_seqlens_q, cu_seqlens_k (batch + 1): where packed sequences begin, and the end; cu_seqlens stands for both
/// seqused_q, seqused_k       (batch): rows in use
/// page_table                 (batch, width): pages of each sequence
/// sinks                      (heads): logits without a value
/// alibi_slopes               (heads) or (batch, heads)
/// q_descale, k_descale, v_descale  (kv_heads) or (batch, kv_heads): factors of 8-bit q, k, v
///
/// q, k and v are bf16 or f16, f32 or f64 that are rounded to --dtype, or e4m3 (k and v, or all). A safetensors file's metadata may say mask (none, causal) and scale (a number, 1/sqrt(N)).
#[derive(Args, Debug)]
#[command(verbatim_doc_comment, after_help = AFTER)]
pub struct Options {
    /// FILE.safetensors, FILE.npy or NAME=FILE.npy
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<Input>,
    /// Round q, k and v to this format: bf16 or f16 [default: theirs, bf16 where they are f32]
    #[arg(long)]
    dtype: Option<Precision>,
    #[command(flatten)]
    scores: Scores,
    /// Compare with f64 on the CPU, in rows spread over the answer where all would take long; exit status 1 where it is wrong
    #[arg(long)]
    check: bool,
    /// Compare all rows
    #[arg(long, requires = "check")]
    check_all: bool,
    /// Write o and lse to FILE.safetensors, or o to FILE.npy (f32 where it is bf16)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

const AFTER: &str = "\
Examples:
  attn run qkv.safetensors --causal --check -o answer.safetensors
  attn run q=queries.npy k=keys.npy v=values.npy --dtype f16 --window 256:0 -o o.npy
  attn run packed.safetensors cu_seqlens=lengths.npy --softcap 30 --check
  attn run qkv.safetensors --simulate --check          without a GPU";

/// Runs the command.
pub fn run(options: &Options, out: &mut impl Write) -> Result<(), Failure> {
    let tensors = Tensors::read(&options.inputs)?;
    let job = assemble::job(&tensors, options.dtype, &options.scores)?;
    job.arrays.check(&job.spec.problem(&job.arrays))?;
    let gpu = options.target.open()?;
    let mut loaded = Loaded::new(&gpu, &job)?;
    let spinner = progress::spinner(if gpu.is_simulated() { "simulating" } else { "running" });
    let answer = loaded.run();
    spinner.finish_and_clear();
    let answer = answer?;
    let inputs: Vec<String> = options.inputs.iter().map(Input::to_string).collect();
    let mut lines = vec![
        ("input", inputs.join(" ")),
        ("problem", loaded.plan.problem().to_string()),
        ("device", gpu.describe()),
        ("kernel", loaded.plan.kernel().name.to_owned()),
        ("launch", launch(&loaded)),
    ];
    lines.push(if gpu.is_simulated() { ("time", simulated()) } else { ("time", timed(&gpu, &loaded, &job)?) });
    write!(out, "{}", facts(&lines))?;
    if let Some(path) = &options.output {
        files::write(path, &job, &answer).map_err(Failure::file(path))?;
        writeln!(out, "output   {}", path.display())?;
    }
    if options.check {
        let checked = check::check(&job, &answer, options.check_all)?;
        writeln!(out, "check    right in {} of {} rows: {}", checked.rows, checked.of, checked.report)?;
    }
    Ok(())
}

fn launch(loaded: &Loaded<'_>) -> String {
    let plan = &loaded.plan;
    let splits = if plan.splits() > 1 { format!(", keys in {} parts", plan.splits()) } else { String::new() };
    format!(
        "{} blocks of {} threads, {} bytes of shared memory, {} of workspace{splits}",
        plan.grid().0,
        plan.block().0,
        plan.smem_bytes(),
        plan.workspace_bytes()
    )
}

fn timed(gpu: &attn_tests::gpu::Gpu, loaded: &Loaded<'_>, job: &crate::job::Job) -> Result<String, Failure> {
    gpu.time(TIMED, || loaded.launch())?;
    let micros = gpu.time(TIMED, || loaded.launch())?;
    let Figures { flops, bytes } = Figures::of(&job.spec, &job.arrays);
    let (tflops, gbytes) = (flops / micros * 1e-6, bytes / micros * 1e-3);
    Ok(format!("{micros:.1} us a launch, {TIMED} back to back: {tflops:.1} TFLOP/s, {gbytes:.0} GB/s"))
}

fn simulated() -> String {
    let Some(launch) = simulator::last_launch() else { return "nothing was launched".to_owned() };
    let instructions = launch.counters.map_or(0, |counters| counters.total());
    let seconds = launch.wall.as_secs_f64();
    format!("{seconds:.1} s of simulation, {instructions} instructions of warps without a race or a missing wait")
}
