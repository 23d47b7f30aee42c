//! The GPU suite: every case of the lists on the GPU, or on the simulator in its place, against the oracle, then the repeats.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use attn_host::simulator::{self, Arch};
use clap::Parser;

use crate::case::Case;
use crate::compare::Report;
use crate::gpu::{Gpu, GpuError};
use crate::input::Inputs;
use crate::lists::{self, Entry};
use crate::recorded::{Agreement, Answer, Disagreement, Recording};
use crate::sample::SampleError;
use crate::serve::lists as serving_lists;
use crate::serve::random;

mod check;
mod job;
mod serving;

use check::Failure;
use job::{Job, Line};

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
    case: Option<Line>,
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
    /// So many random serving problems, small ones with --simulator, instead of the lists.
    #[arg(long, value_name = "N", conflicts_with = "case")]
    random: Option<usize>,
    /// Seed of the random problems, and of the simulator's schedules.
    #[arg(long, value_name = "N", default_value_t = 0)]
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

    fn jobs(&self) -> Vec<Job> {
        let wanted = |job: &Job| self.filter.as_ref().is_none_or(|f| job.line().contains(f));
        let all = match (&self.case, self.random) {
            (Some(Line::Dense(case)), _) => vec![Job::Dense(Entry { list: "case", case: *case, kernel: None })],
            (Some(Line::Serving(case)), _) => vec![Job::Serving { list: "case", case: case.clone() }],
            (None, Some(count)) => {
                let size = if self.simulator { random::Size::SIMULATOR } else { random::Size::GPU };
                let cases = random::cases(count, self.seed, size).into_iter();
                cases.map(|case| Job::Serving { list: "random", case: Box::new(case) }).collect()
            }
            (None, None) => self.listed(),
        };
        all.into_iter().filter(wanted).step_by(if self.quick { 7 } else { 1 }).collect()
    }

    /// The lists that the options name.
    fn listed(&self) -> Vec<Job> {
        let small = self.simulator_list || self.simulator && !self.all_lists;
        let (dense, serving) = match (self.sanitizer, small) {
            (true, _) => (lists::sanitizer(), serving_lists::sanitizer()),
            (false, true) => (lists::simulator(self.architecture()), serving_lists::simulator()),
            (false, false) => {
                ([lists::checked(), lists::kernels(), lists::repeat()].concat(), serving_lists::checked())
            }
        };
        let serving = serving.into_iter().map(|entry| Job::Serving { list: entry.list, case: Box::new(entry.case) });
        dense.into_iter().map(Job::Dense).chain(serving).collect()
    }
}

/// Runs what the options ask for; returns the exit status.
pub fn run(options: &Options) -> u8 {
    let jobs = options.jobs();
    if options.list {
        jobs.iter().for_each(|job| println!("{}", job.line()));
        return 0;
    }
    if jobs.is_empty() {
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
    let jobs: Vec<Job> = jobs.into_iter().filter(|job| job.can_run(&gpu)).collect();
    if jobs.is_empty() {
        eprintln!("the device has no kernels for these cases");
        return 1;
    }
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
    let tallies = run_all(&gpu, &jobs, options, &mut records);
    if let Err(error) = records.finish() {
        eprintln!("error: {error}");
        return 1;
    }
    print_table(&tallies, jobs.len())
}

fn run_all(gpu: &Gpu, jobs: &[Job], options: &Options, records: &mut Records) -> BTreeMap<&'static str, Tally> {
    let (start, mut tallies) = (Instant::now(), BTreeMap::<_, Tally>::new());
    let mut failed = 0;
    for (i, job) in jobs.iter().enumerate() {
        let (outcome, lost) = match job.check(gpu, options, records) {
            Ok(report) => (Outcome::Passed(report), false),
            Err(Failure::Gpu(error @ GpuError::TooLarge { .. })) => (Outcome::Skipped(error.to_string()), false),
            Err(Failure::Gpu(error)) => (Outcome::Failed(error.to_string()), gpu.is_lost()),
            Err(failure) => (Outcome::Failed(failure.to_string()), false),
        };
        let tally = tallies.entry(job.list()).or_default();
        match outcome {
            Outcome::Passed(report) => tally.pass(&report),
            Outcome::Skipped(why) => {
                tally.skipped += 1;
                println!("skipped {}\n  {why}", job.line());
            }
            Outcome::Failed(why) => {
                (tally.failed, failed) = (tally.failed + 1, failed + 1);
                println!("FAILED {}, again with {}\n  {why}", job.list(), job.again());
            }
        }
        let done = i + 1;
        if done.is_multiple_of(if gpu.is_simulated() { 10 } else { 50 }) || done == jobs.len() {
            println!("{done} of {} cases, {failed} failed, {:.0} s", jobs.len(), start.elapsed().as_secs_f64());
        }
        if lost {
            println!("the CUDA context is lost: {} cases were not run", jobs.len() - done);
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
        "{:<16} {:>6} {:>6} {:>7}   {:>20} {:>16}",
        "list", "passed", "failed", "skipped", "worst error / bound", "worst LSE error"
    );
    for (list, t) in tallies {
        println!(
            "{list:<16} {:>6} {:>6} {:>7}   {:>20.2} {:>16.1e}",
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
