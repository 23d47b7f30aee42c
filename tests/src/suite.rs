//! The GPU suite: every case of the lists on the GPU, or on the simulator in its place, against the oracle, then the repeats.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use attn_host::simulator::{self, Arch};
use attn_kernel::forward::KERNELS;
use clap::Parser;

use crate::case::Case;
use crate::compare::{self, Mismatch, Report};
use crate::gpu::{Gpu, GpuError, LSE_POISON, Loaded, Output};
use crate::input::Inputs;
use crate::lists::{self, Entry};
use crate::precision::POISON;
use crate::recorded::{self, Agreement, Answer, Disagreement, Recording};
use crate::sample::SampleError;
use crate::sampled::{self, Buffers};

/// How often a case of the `repeat` list runs.
const REPEATS: u64 = 20;
/// Blocks of rows of a repeated case that are compared with the oracle.
const SAMPLED_BLOCKS: usize = 64;

/// Runs the attention kernels on the GPU, or on the simulator, against a reference in f64 on the CPU.
///
/// Outputs are poisoned before each run and what lies between and around them is checked after it. The last line counts
/// what passed and failed; the exit status is 0 when nothing failed, 1 when something did, 2 when there is no GPU.
#[derive(Parser, Debug, Default)]
#[command(name = "attn-gpu-suite")]
pub struct Options {
    /// Only cases whose line, with the list's name before it and a kernel's behind it ("corner: bf16 b=..."), contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Only this case, as a failure prints it.
    #[arg(long, value_name = "LINE")]
    case: Option<Case>,
    /// The kernel that runs the cases, by its name, in place of the one that is chosen for each.
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Print the cases instead of running them.
    #[arg(long)]
    list: bool,
    /// Every seventh case.
    #[arg(long)]
    quick: bool,
    /// The short list for runs under compute-sanitizer.
    #[arg(long)]
    sanitizer: bool,
    /// Run on the simulator instead of a GPU: the list of small cases for it, or with --all-lists every list.
    #[arg(long)]
    simulator: bool,
    /// The architecture that the simulator simulates: sm_90a, sm_100a or sm_103a.
    #[arg(long, value_name = "ARCH", default_value_t, requires = "simulator")]
    arch: Arch,
    /// Seed of the simulator's schedules.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "simulator")]
    seed: u64,
    /// Run every case under this many seeds, beginning with --seed; all answers have the same bits.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "simulator", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// With --simulator: every list, the large cases too, which takes long.
    #[arg(long, requires = "simulator")]
    all_lists: bool,
    /// The list of small cases for the simulator, on the GPU too.
    #[arg(long)]
    simulator_list: bool,
    /// Write the answers, at most 160 rows of each, to this safetensors file.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Also compare the answers with those that were recorded in this file, up to what rounding explains.
    #[arg(long, value_name = "FILE")]
    recorded: Option<PathBuf>,
}

/// What became of a case.
enum Outcome {
    Passed(Report),
    Skipped(String),
    Failed(String),
}

/// Why an answer is not accepted.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error(transparent)]
    Wrong(#[from] Mismatch),
    #[error("wrote outside {what}: element {at} of its buffer, where the guards and gaps are")]
    Overwrite { what: &'static str, at: usize },
    #[error("not as recorded: {0}")]
    Recorded(#[from] Disagreement),
    #[error("run {run} of {runs} differs from run 1 in {what}, first at element {at} of its buffer")]
    Unequal { run: u64, runs: u64, what: &'static str, at: usize },
    #[error("run {run}, of seed {seed}: {error}")]
    Run { run: u64, seed: u64, error: GpuError },
}

/// Counts of one list.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Largest error as a part of its bound.
    worst: f64,
    worst_lse: f64,
}

/// The file of answers to compare with, and the one to write.
struct Records {
    old: Option<(Recording, Agreement)>,
    new: Option<(PathBuf, Recording)>,
}

impl Records {
    fn new(options: &Options, device: String) -> Result<Self, SampleError> {
        let old = options.recorded.as_deref().map(Recording::load).transpose()?;
        Ok(Records {
            old: old.map(|recording| (recording, Agreement::default())),
            new: options.record.clone().map(|path| (path, Recording { device, ..Recording::default() })),
        })
    }

    /// Notes and compares the answer of one case.
    fn take(&mut self, case: &Case, inputs: &Inputs, answer: Answer) -> Result<(), Disagreement> {
        if let Some((recording, agreement)) = &mut self.old {
            agreement.add(&recording.compare(case, inputs, &answer)?);
        }
        if let Some((_, recording)) = &mut self.new {
            recording.insert(case, inputs, answer);
        }
        Ok(())
    }

    /// Writes the file and says how near the answers were.
    fn finish(&self) -> Result<(), SampleError> {
        if let Some((path, recording)) = &self.new {
            recording.save(path)?;
            println!("{} answers recorded in {}", recording.cases.len(), path.display());
        }
        if let Some((recording, agreement)) = &self.old {
            println!("beside {}: {agreement}", recording.device);
        }
        Ok(())
    }
}

impl Options {
    /// The architecture as the kernels' plans name it.
    fn architecture(&self) -> attn_kernel::forward::Arch {
        match self.arch {
            Arch::Sm90a => attn_kernel::forward::Arch::Sm90a,
            Arch::Sm100a => attn_kernel::forward::Arch::Sm100a,
            Arch::Sm103a => attn_kernel::forward::Arch::Sm103a,
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let all = match (self.case, self.sanitizer, self.simulator_list || self.simulator && !self.all_lists) {
            (Some(case), ..) => return vec![Entry { list: "case", case, kernel: None }],
            (None, true, _) => lists::sanitizer(),
            (None, false, true) => lists::simulator(self.architecture()),
            (None, false, false) => [lists::checked(), lists::kernels(), lists::repeat()].concat(),
        };
        let wanted = |e: &Entry| self.filter.as_ref().is_none_or(|f| line(e).contains(f));
        all.into_iter().filter(wanted).step_by(if self.quick { 7 } else { 1 }).collect()
    }
}

/// Runs what the options ask for; returns the exit status.
pub fn run(options: &Options) -> u8 {
    let entries = options.entries();
    if options.list {
        entries.iter().for_each(|entry| println!("{}", line(entry)));
        return 0;
    }
    if entries.is_empty() {
        eprintln!("no case matches the filter");
        return 1;
    }
    let simulated = simulator::Options { arch: options.arch, seed: options.seed, ..Default::default() };
    let gpu = match if options.simulator { Gpu::simulated(simulated) } else { Gpu::open() } {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("no GPU to run on: {error}");
            return 2;
        }
    };
    println!("device: {}", gpu.describe());
    let entries: Vec<Entry> = entries.into_iter().filter(|entry| can_run(&gpu, entry)).collect();
    if options.simulator {
        println!("seed: {}, {} of them a case", options.seed, options.seeds);
    }
    let mut records = match Records::new(options, gpu.describe()) {
        Ok(records) => records,
        Err(error) => {
            eprintln!("error: {error}");
            return 1;
        }
    };
    let tallies = run_all(&gpu, &entries, options, &mut records);
    if let Err(error) = records.finish() {
        eprintln!("error: {error}");
        return 1;
    }
    print_table(&tallies, entries.len())
}

/// Whether the device is of the architecture of the kernel that an entry names.
fn can_run(gpu: &Gpu, entry: &Entry) -> bool {
    let here = gpu.device().info().compute_capability;
    let of = |name: &str| KERNELS.iter().any(|k| k.name == name && k.arch.compute_capability() == here);
    entry.kernel.is_none_or(of)
}

fn run_all(gpu: &Gpu, entries: &[Entry], options: &Options, records: &mut Records) -> BTreeMap<&'static str, Tally> {
    let (start, mut tallies) = (Instant::now(), BTreeMap::<_, Tally>::new());
    let mut failed = 0;
    for (i, entry) in entries.iter().enumerate() {
        let Entry { list, case, .. } = entry;
        let (outcome, lost) = match check(gpu, entry, options, records) {
            Ok(report) => (Outcome::Passed(report), false),
            Err(Failure::Gpu(error @ GpuError::TooLarge { .. })) => (Outcome::Skipped(error.to_string()), false),
            Err(Failure::Gpu(error)) => (Outcome::Failed(error.to_string()), gpu.is_lost()),
            Err(failure) => (Outcome::Failed(failure.to_string()), false),
        };
        let tally = tallies.entry(*list).or_default();
        match outcome {
            Outcome::Passed(report) => tally.pass(&report),
            Outcome::Skipped(why) => {
                tally.skipped += 1;
                println!("skipped {}\n  {why}", line(entry));
            }
            Outcome::Failed(why) => {
                (tally.failed, failed) = (tally.failed + 1, failed + 1);
                let kernel = entry.kernel.map_or(String::new(), |name| format!(" --kernel {name}"));
                println!("FAILED {list}, again with --case '{case}'{kernel}\n  {why}");
            }
        }
        let done = i + 1;
        if done.is_multiple_of(if gpu.is_simulated() { 10 } else { 50 }) || done == entries.len() {
            println!("{done} of {} cases, {failed} failed, {:.0} s", entries.len(), start.elapsed().as_secs_f64());
        }
        if lost {
            println!("the CUDA context is lost: {} cases were not run", entries.len() - done);
            break;
        }
        // A pipe would otherwise hold the lines back until the end, or for ever when a kernel hangs.
        std::io::stdout().flush().unwrap_or(());
    }
    tallies
}

impl Tally {
    fn pass(&mut self, report: &Report) {
        self.passed += 1;
        self.worst = self.worst.max(report.error / report.bound.max(f64::MIN_POSITIVE));
        self.worst_lse = self.worst_lse.max(report.lse_error.unwrap_or(0.0));
    }
}

fn print_table(tallies: &BTreeMap<&'static str, Tally>, expected: usize) -> u8 {
    println!(
        "{:<10} {:>6} {:>6} {:>7}   {:>20} {:>16}",
        "list", "passed", "failed", "skipped", "worst error / bound", "worst LSE error"
    );
    for (list, t) in tallies {
        println!(
            "{list:<10} {:>6} {:>6} {:>7}   {:>20.2} {:>16.1e}",
            t.passed, t.failed, t.skipped, t.worst, t.worst_lse
        );
    }
    let sum = |of: fn(&Tally) -> usize| tallies.values().map(of).sum::<usize>();
    let (passed, failed, skipped) = (sum(|t| t.passed), sum(|t| t.failed), sum(|t| t.skipped));
    let not_run = expected - passed - failed - skipped;
    if skipped + not_run > 0 {
        println!("{skipped} skipped, {not_run} not run");
    }
    println!("{passed} passed, {failed} failed");
    u8::from(failed + not_run > 0)
}

/// An entry to read.
fn line(Entry { list, case, kernel }: &Entry) -> String {
    format!("{list}: {case}{}", kernel.map_or(String::new(), |name| format!(" ({name})")))
}

fn check(gpu: &Gpu, entry: &Entry, options: &Options, records: &mut Records) -> Result<Report, Failure> {
    let Entry { list, case, kernel } = entry;
    let inputs = Inputs::of(case);
    let kernel = match (&options.kernel, kernel) {
        (Some(name), _) => Some(name.as_str()),
        // Recorded answers and simulated ones are of the same kernels.
        (None, None) if *list == lists::RECORDED => Some(gpu.general_kernel(case)?),
        (None, name) => *name,
    };
    let loaded = gpu.load_kernel(case, &inputs, kernel)?;
    let output = loaded.run()?;
    untouched(&loaded, &output)?;
    if *list == "repeat" {
        let qkv = loaded.place().qkv.map(|(arena, _)| loaded.arenas()[arena].as_slice());
        let buffers = Buffers { qkv, o: &output.o, lse: output.lse.as_deref() };
        let report = sampled::check(case, loaded.place(), &buffers, SAMPLED_BLOCKS)?;
        repeat(gpu, &loaded, &output, options.seed, REPEATS)?;
        return Ok(report);
    }
    repeat(gpu, &loaded, &output, options.seed, options.seeds)?;
    let attention = inputs.attention(case);
    let (o, lse) = loaded.tensors(&output, case.precision);
    let (reference, lowp) = (attention.reference(), attention.lowp(case.precision));
    let report = compare::check(&o, lse.as_ref(), &reference, &lowp, case.precision)?;
    if *list == lists::RECORDED || options.case.is_some() {
        records.take(case, &inputs, Answer::of(case, &o, lse.as_ref(), recorded::ROWS))?;
    }
    Ok(report)
}

/// Whether the guards around the outputs and the gaps in them are as they were.
fn untouched(loaded: &Loaded<'_>, output: &Output) -> Result<(), Failure> {
    let place = loaded.place();
    if let Some(at) = place.o.0.overwritten(&output.o, POISON) {
        return Err(Failure::Overwrite { what: "o", at });
    }
    match output.lse.as_ref().and_then(|lse| place.lse.0.overwritten(lse, LSE_POISON)) {
        Some(at) => Err(Failure::Overwrite { what: "lse", at }),
        None => Ok(()),
    }
}

/// Of `runs` runs all equal the first, bit by bit. On the simulator each has a seed of its own.
fn repeat(gpu: &Gpu, loaded: &Loaded<'_>, first: &Output, seed: u64, runs: u64) -> Result<(), Failure> {
    let again = |run: u64| {
        gpu.reseed(seed.wrapping_add(run - 1))?;
        let again = loaded.run().map_err(|error| Failure::Run { run, seed: seed.wrapping_add(run - 1), error })?;
        if let Some(at) = again.o.iter().zip(&first.o).position(|(a, b)| a != b) {
            return Err(Failure::Unequal { run, runs, what: "o", at });
        }
        let lse = again.lse.iter().flatten().zip(first.lse.iter().flatten()).position(|(a, b)| a != b);
        match lse {
            Some(at) => Err(Failure::Unequal { run, runs, what: "lse", at }),
            None => Ok(()),
        }
    };
    let all = (2..=runs).try_for_each(again);
    gpu.reseed(seed)?;
    all
}
