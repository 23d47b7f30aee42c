//! Variants of a kernel that `cargo xtask tune build` compiled from other plans, checked and timed beside the present one.
//!
//! Every variant answers small problems, all of whose elements are compared with the oracle, and then the timed ones, of which rows are.
//! Rounds of timing go over all variants and lengths, in a new order each time, so that clocks and neighbours meet all alike; then more
//! rounds over those that were fastest.

mod report;
mod variant;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use attn_host::Plan;
use attn_host::simulator;
use attn_tune::folder::{Folder, Job, Variant};
use attn_tune::results::{Line, Measured, Results, Timed};
use attn_tune::{Class, Element, FileError};
use clap::Parser;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::case::Case;
use crate::gpu::{self, Gpu, GpuError};
use crate::layout::Placement;
use crate::pool::{Pool, Spans};
use crate::precision::Precision;
use crate::sampled::Sample;
use variant::{Candidate, Small, Unusable};

/// Checks and times the kernels of a folder that `cargo xtask tune build` made.
///
/// Prints how many times as fast as the present plan each variant is, and its TFLOP/s with the spread of the rounds' middle half. Exits
/// with 1 when the present plan's answer is wrong, with 2 when there is no GPU.
#[derive(Parser, Debug)]
#[command(name = "attn-gpu-tune")]
pub struct Options {
    /// The folder, with its variants.json.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Write the results to this file, which `cargo xtask tune apply` reads.
    #[arg(long, value_name = "FILE", overrides_with = "json")]
    json: Option<PathBuf>,
    /// Rounds over all variants.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Further rounds over the fastest and the present plan, which tell near ones apart.
    #[arg(long, value_name = "N", default_value_t = 20)]
    finals: u32,
    /// How many are the fastest.
    #[arg(long, value_name = "N", default_value_t = 6)]
    finalists: usize,
    /// Device time of a measurement in a round, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 3.0)]
    measure: f64,
    /// Only classes whose name contains this, as in bf16_d64_causal.
    #[arg(long, value_name = "PART", default_value = "")]
    class: String,
    /// Leave out a variant, by its name: one that hangs, which ends the program.
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// Run the variants' PTX on the simulator: small problems, once. Its times say nothing of a GPU's.
    #[arg(long)]
    simulator: bool,
}

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
enum TuneError {
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("no class of the folder has '{0}' in its name")]
    NoClass(String),
    #[error("{0}: the present plan cannot be measured: {1}")]
    Present(Class, String),
}

/// Blocks of rows of each timed problem that are compared with the oracle.
const SAMPLED_BLOCKS: usize = 16;
/// Heads times head_dim of a timed problem.
const HIDDEN: usize = 2_048;
/// Length of the simulator's one timed problem.
const SIMULATED: usize = 96;
/// How long a launch may run before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures what the options ask for; returns the exit status.
pub fn run(options: &Options) -> u8 {
    let gpu = match if options.simulator { Gpu::simulated(simulator::Options::default()) } else { Gpu::open() } {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("no GPU to run on: {error}");
            return 2;
        }
    };
    match measure_all(&gpu, options) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            1
        }
    }
}

fn measure_all(gpu: &Gpu, options: &Options) -> Result<(), TuneError> {
    let folder = Folder::read(&options.folder)?;
    let jobs: Vec<&Job> = folder.classes.iter().filter(|job| job.class.to_string().contains(&options.class)).collect();
    if jobs.is_empty() {
        return Err(TuneError::NoClass(options.class.clone()));
    }
    println!("device: {}", gpu.describe());
    if !gpu.is_simulated() {
        gpu.set_patience(PATIENCE);
    }
    let mut results = Results { device: gpu.describe(), simulated: gpu.is_simulated(), classes: Vec::new() };
    for job in jobs {
        let start = Instant::now();
        let measured = measure(gpu, options, job)?;
        print!("{}", report::render(&measured));
        println!("{:.1} s", start.elapsed().as_secs_f64());
        results.classes.push(measured);
        // After every class, so that one that ends the program does not take the others with it.
        if let Some(path) = &options.json {
            results.write(path)?;
        }
    }
    Ok(())
}

/// A timed problem: what it is, where its tensors lie, what is right in it, and which parts of O and LSE tell.
struct Problem {
    case: Case,
    place: Placement,
    sample: Sample,
    spans: Spans,
}

fn measure(gpu: &Gpu, options: &Options, job: &Job) -> Result<Measured, TuneError> {
    let lengths = if gpu.is_simulated() { &[SIMULATED] } else { job.lengths.as_slice() };
    let cases: Vec<Case> = lengths.iter().map(|&length| timed_case(gpu, job, length)).collect();
    let pool = Pool::new(precision(job.class), cases.iter())?;
    let problems: Vec<Problem> = cases.into_iter().map(|case| Problem::of(case, &pool)).collect();
    let small = Small::all(job.class, precision(job.class), gpu.is_simulated());
    let longest = |of: fn(&Placement) -> usize| problems.iter().map(|problem| of(&problem.place)).max().unwrap_or(0);
    let answer = RefCell::new((vec![0; longest(|p| p.o.1.host_len())], vec![0; longest(|p| p.lse.1.host_len())]));
    let bench = Bench { gpu, options, class: job.class, small, pool, problems, answer };
    println!("\n{}: {} variants", job.class, job.variants.len());
    let (mut timed, mut ready) = (Vec::new(), Vec::new());
    for variant in &job.variants {
        let outcome = bench.prepare(variant);
        timed.push(Timed {
            name: variant.name.clone(),
            knobs: variant.knobs.clone(),
            failed: outcome.as_ref().err().map(ToString::to_string),
            micros: vec![Vec::new(); bench.problems.len()],
        });
        match outcome {
            Ok(found) => ready.push(Some(found)),
            // Nothing more can run in this context.
            Err(Unusable::Gpu(error)) if gpu.is_lost() => {
                println!("{} ({}) ended the context; --skip {0} leaves it out", variant.name, variant.knobs);
                return Err(error.into());
            }
            Err(_) => ready.push(None),
        }
    }
    if let Some(why) = timed.first().and_then(|present| present.failed.clone()) {
        return Err(TuneError::Present(job.class, why));
    }
    let line = |problem: &Problem| Line {
        length: problem.case.seqlen_q,
        case: problem.case.to_string(),
        flops: gpu::problem(&problem.case, &problem.place).flops(),
    };
    let lines = bench.problems.iter().map(line).collect();
    let mut measured = Measured { class: job.class, lines, variants: timed, dropped: job.dropped.clone() };
    let all: Vec<usize> = (0..ready.len()).collect();
    bench.time(&ready, &all, options.rounds, &mut measured)?;
    bench.time(&ready, &measured.leaders(options.finalists), options.finals, &mut measured)?;
    Ok(measured)
}

/// What a class's variants are measured with.
struct Bench<'a> {
    gpu: &'a Gpu,
    options: &'a Options,
    class: Class,
    small: Vec<Small>,
    pool: Pool,
    problems: Vec<Problem>,
    /// O and LSE on the host, as long as the longest; only what a problem's spans name was ever read back.
    answer: RefCell<(Vec<u16>, Vec<u32>)>,
}

/// A variant whose answers are right: for each problem its plan, and the launches of a measurement.
type Ready = Vec<(Plan, u32)>;

impl Bench<'_> {
    /// Checks a variant and warms it up.
    fn prepare(&self, variant: &Variant) -> Result<Ready, Unusable> {
        if self.options.skip.contains(&variant.name) {
            return Err(Unusable::Skipped);
        }
        self.gpu.announce(format!("{} ({}); --skip {0} leaves it out", variant.name, variant.knobs));
        let candidate = Candidate::of(self.class, variant, &self.options.folder)?;
        self.small.iter().try_for_each(|small| candidate.check(self.gpu, small))?;
        self.problems.iter().map(|problem| self.ready(&candidate, problem)).collect()
    }

    fn ready(&self, candidate: &Candidate<'_>, problem: &Problem) -> Result<(Plan, u32), Unusable> {
        let Problem { case, place, sample, spans } = problem;
        let plan = candidate.plan(self.gpu, &gpu::problem(case, place)).map_err(GpuError::from)?;
        let answer = &mut *self.answer.borrow_mut();
        self.pool.answer_in(self.gpu, &plan, place, spans, answer)?;
        sample.check(case, place, &answer.0, Some(&answer.1)).map_err(|mismatch| Unusable::wrong(case, mismatch))?;
        if self.gpu.is_simulated() {
            return Ok((plan, 1));
        }
        let once = self.gpu.time(3, || self.pool.launch(self.gpu, &plan, place))?;
        Ok((plan, (self.options.measure * 1e3 / once).ceil().clamp(1.0, 1000.0) as u32))
    }

    /// Adds the times of so many rounds over some variants.
    fn time(
        &self,
        ready: &[Option<Ready>],
        variants: &[usize],
        rounds: u32,
        measured: &mut Measured,
    ) -> Result<(), GpuError> {
        let mut order: Vec<(usize, usize)> = variants
            .iter()
            .flat_map(|&variant| (0..self.problems.len()).map(move |problem| (variant, problem)))
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for _ in 0..if self.gpu.is_simulated() { 1 } else { rounds } {
            order.shuffle(&mut rng);
            for &(variant, problem) in &order {
                let Some((plan, count)) = ready[variant].as_ref().map(|plans| &plans[problem]) else { continue };
                let place = &self.problems[problem].place;
                let micros = self.gpu.time(*count, || self.pool.launch(self.gpu, plan, place))?;
                measured.variants[variant].micros[problem].push(micros);
            }
        }
        Ok(())
    }
}

impl Problem {
    fn of(case: Case, pool: &Pool) -> Problem {
        let place = case.layout.place(&case);
        let sample = Sample::of(&case, &place, [0, 1, 2].map(|i| pool.host(i)), SAMPLED_BLOCKS);
        let spans = Spans { o: sample.spans(&place.o.0), lse: sample.spans(&place.lse.0) };
        Problem { case, place, sample, spans }
    }
}

fn precision(class: Class) -> Precision {
    match class.element {
        Element::Bf16 => Precision::Bf16,
        Element::F16 => Precision::F16,
    }
}

/// As many batches as give the job's tokens, and a hidden size of 2048; on the simulator one head of what it can do in seconds.
fn timed_case(gpu: &Gpu, job: &Job, length: usize) -> Case {
    let class = job.class;
    let (d, dv) = (class.line.d as usize, class.line.dv as usize);
    // Heads of 192 do not divide the hidden size; the model that has them uses as many as 128 gives.
    let heads = HIDDEN / if d == 192 { 128 } else { d };
    let (batch, heads) = if gpu.is_simulated() { (1, 1) } else { ((job.tokens / length).max(1), heads) };
    Case {
        batch,
        heads,
        kv_heads: heads,
        head_dim_v: dv,
        causal: class.line.causal,
        lse: true,
        ..Case::new(precision(class), length, d)
    }
}
