//! The program `attn-probes`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use super::machine::{Failure, Hardware, Machine, file_name};
use super::record::{self, Recording};
use super::{Agreement, Probe, forward};
use crate::case::Case;
use crate::gpu::Gpu;

/// Runs single instructions and small forward problems on the GPU and records or checks their results, bit for bit.
#[derive(Parser, Debug)]
#[command(name = "attn-probes")]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Run every probe and write the results to a safetensors file.
    Record {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        how: How,
    },
    /// Run every probe and compare the results with a recording.
    Check {
        /// The recording.
        file: PathBuf,
        #[command(flatten)]
        how: How,
    },
    /// Write the probes' PTX to a folder, a file for each text.
    Emit {
        /// The folder.
        folder: PathBuf,
    },
    /// Run probes from a number on, appending results to a file. Started by the other commands, so that a launch that never ends or
    /// breaks its context costs one probe.
    #[command(hide = true)]
    Worker {
        /// The number.
        from: usize,
        /// The file.
        out: PathBuf,
        #[command(flatten)]
        how: How,
    },
}

#[derive(clap::Args, Debug, Clone)]
struct How {
    /// A folder with the probes' machine code; without it, the driver compiles their PTX.
    #[arg(long, value_name = "DIR")]
    cubins: Option<PathBuf>,
    /// Only probes whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Only probes that this recording lacks; a new recording has its results too.
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// Seconds for everything.
    #[arg(long, default_value_t = 50)]
    seconds: u64,
}

impl How {
    fn beside(&self) -> Result<Recording, Failure> {
        Ok(self.beside.as_deref().map(Recording::load).transpose()?.unwrap_or_default())
    }
}

/// A probe or a forward case.
enum Job {
    Probe(Probe),
    Forward(Case),
}

impl Job {
    fn name(&self) -> String {
        match self {
            Job::Probe(probe) => probe.name.clone(),
            Job::Forward(case) => forward::name(case),
        }
    }

    fn agreement(&self) -> Agreement {
        match self {
            Job::Probe(probe) => probe.agreement,
            Job::Forward(_) => Agreement::Ulps(0, 0.0),
        }
    }
}

fn jobs(how: &How) -> Result<Vec<Job>, Failure> {
    let done = how.beside()?;
    let probes = super::all().into_iter().map(Job::Probe);
    let cases = forward::cases().into_iter().map(Job::Forward);
    let wanted = |name: String| name.contains(&how.filter) && !done.0.contains_key(&name);
    Ok(probes.chain(cases).filter(|job| wanted(job.name())).collect())
}

/// Runs the program.
pub fn run(options: &Options) -> ExitCode {
    let result = match &options.action {
        Action::Record { file, how } => record(file, how),
        Action::Check { file, how } => check(file, how),
        Action::Emit { folder } => emit(folder),
        Action::Worker { from, out, how } => worker(*from, out, how),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn emit(folder: &Path) -> Result<bool, Failure> {
    std::fs::create_dir_all(folder)?;
    for probe in super::all() {
        std::fs::write(
            folder.join(format!("{}.ptx", file_name(&probe.ptx))),
            format!("// {}\n{}", probe.name, probe.ptx),
        )?;
    }
    Ok(true)
}

fn record(file: &Path, how: &How) -> Result<bool, Failure> {
    let device = Hardware::open(None)?.name();
    let jobs = jobs(how)?;
    let mut recording = how.beside()?;
    let mut failures = 0;
    for (job, result) in jobs.iter().zip(run_all(&jobs, how)?) {
        match result {
            Ok(words) => {
                recording.0.insert(job.name(), record::compact(job.agreement(), &words));
            }
            Err(error) if is_illegal(&error) => {
                println!("ILLEGAL {}", job.name());
                recording.0.insert(job.name(), record::ILLEGAL.to_vec());
            }
            Err(error) => {
                println!("FAILED {}: {error}", job.name());
                failures += 1;
            }
        }
    }
    recording.save(file, &[("device", device.clone())])?;
    println!("{device}: {} recorded, {failures} failed", recording.0.len());
    Ok(failures == 0)
}

/// Whether the device refused to execute the instruction with these operands.
fn is_illegal(error: &str) -> bool {
    error.contains("illegal instruction")
}

fn check(file: &Path, how: &How) -> Result<bool, Failure> {
    let recording = Recording::load(file)?;
    let jobs = jobs(how)?;
    let (mut equal, mut failures) = (0, 0);
    for (job, result) in jobs.iter().zip(run_all(&jobs, how)?) {
        let name = job.name();
        match (recording.0.get(&name), result) {
            (Some(recorded), Ok(words)) => match record::compare(job.agreement(), recorded, &words) {
                Ok(_) => equal += 1,
                Err(difference) => {
                    println!("DIFFERS {name}: {}", describe(job, &difference));
                    failures += 1;
                }
            },
            (Some(recorded), Err(error)) if recorded.as_slice() == record::ILLEGAL && is_illegal(&error) => equal += 1,
            (recorded, result) => {
                let why = result.err().unwrap_or_else(|| "it is not in the recording".into());
                println!("FAILED {name}: {why} ({} words recorded)", recorded.map_or(0, Vec::len));
                failures += 1;
            }
        }
    }
    println!("{equal} equal, {failures} not");
    Ok(failures == 0)
}

fn describe(job: &Job, difference: &record::Difference) -> String {
    match (job, difference) {
        (Job::Probe(probe), record::Difference::Word { at, .. }) => {
            format!("{difference:x?}, inputs {}", record::inputs(probe, *at))
        }
        _ => format!("{difference:x?}"),
    }
}

type Outcome = Result<Vec<u32>, String>;

/// Runs the jobs in processes of their own: one process until something breaks it, then the next from the job behind.
fn run_all(jobs: &[Job], how: &How) -> Result<Vec<Outcome>, Failure> {
    let deadline = Instant::now() + Duration::from_secs(how.seconds);
    let out = std::env::temp_dir().join(format!("attn-probes-{}", std::process::id()));
    let mut outcomes: Vec<Outcome> = Vec::new();
    while outcomes.len() < jobs.len() && Instant::now() < deadline {
        let from = outcomes.len();
        File::create(&out)?;
        let status = work(from, &out, how, deadline)?;
        let found = outcomes_of(&out)?;
        // A process that ends well has done its part of the list; one that says what failed has an outcome for it.
        let explained = !found.is_empty() && (status.success() || found.last().is_some_and(Result::is_err));
        outcomes.extend(found);
        if outcomes.len() < jobs.len() && !explained {
            outcomes.push(Err(format!("its process ended with {status}")));
        }
        println!("{} of {}", outcomes.len(), jobs.len());
    }
    std::fs::remove_file(&out)?;
    outcomes.resize(jobs.len(), Err(format!("not run: the {} s were over", how.seconds)));
    Ok(outcomes)
}

/// One process.
fn work(from: usize, out: &Path, how: &How, deadline: Instant) -> Result<std::process::ExitStatus, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("worker").arg(from.to_string()).arg(out).arg("--filter").arg(&how.filter);
    if let Some(file) = &how.beside {
        command.arg("--beside").arg(file);
    }
    if let Some(cubins) = &how.cubins {
        command.arg("--cubins").arg(cubins);
    }
    let mut child = command.stdin(Stdio::null()).spawn()?;
    let (mut size, mut progress) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let now = std::fs::metadata(out)?.len();
        if now != size {
            (size, progress) = (now, Instant::now());
        }
        if progress.elapsed() > Duration::from_secs(10) || Instant::now() > deadline {
            child.kill()?;
            return Ok(child.wait()?);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A line of the worker's file: whether words or a message follow, and their bytes.
fn append(file: &mut File, outcome: &Outcome) -> io::Result<()> {
    let (tag, bytes) = match outcome {
        Ok(words) => (0u32, words.iter().flat_map(|word| word.to_le_bytes()).collect()),
        Err(message) => (1, message.clone().into_bytes()),
    };
    let mut line = Vec::with_capacity(8 + bytes.len());
    line.extend(tag.to_le_bytes());
    line.extend((bytes.len() as u32).to_le_bytes());
    line.extend(bytes);
    file.write_all(&line)
}

fn outcomes_of(path: &Path) -> io::Result<Vec<Outcome>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let mut outcomes = Vec::new();
    let mut rest = bytes.as_slice();
    // A process that was killed may leave an unfinished line.
    while rest.len() >= 8 && rest.len() >= 8 + word(&rest[4..]) as usize {
        let (line, behind) = rest.split_at(8 + word(&rest[4..]) as usize);
        outcomes.push(match word(line) {
            0 => Ok(line[8..].chunks_exact(4).map(word).collect()),
            _ => Err(String::from_utf8_lossy(&line[8..]).into_owned()),
        });
        rest = behind;
    }
    Ok(outcomes)
}

fn worker(from: usize, out: &Path, how: &How) -> Result<bool, Failure> {
    let mut file = OpenOptions::new().append(true).open(out)?;
    let jobs = jobs(how)?;
    let cases = jobs.iter().position(|job| matches!(job, Job::Forward(_))).unwrap_or(jobs.len());
    if from < cases {
        let mut hardware = Hardware::open(how.cubins.clone())?;
        for job in &jobs[from..cases] {
            if let Job::Probe(probe) = job {
                let outcome = hardware.run(probe).map_err(|error| error.to_string());
                append(&mut file, &outcome)?;
                if outcome.is_err() && hardware.is_lost() {
                    return Ok(false);
                }
            }
        }
        return Ok(true);
    }
    let gpu = Gpu::open()?;
    for job in &jobs[from..] {
        if let Job::Forward(case) = job {
            let outcome = forward::run(&gpu, case).map_err(|error| error.to_string());
            append(&mut file, &outcome)?;
            if outcome.is_err() && gpu.is_lost() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_file_is_read_up_to_where_it_was_cut() {
        let path = std::env::temp_dir().join(format!("attn-probes-test-{}", std::process::id()));
        let mut file = File::create(&path).expect("writable");
        let outcomes = [Ok(vec![1, 2, u32::MAX]), Err("no such instruction".to_owned()), Ok(vec![])];
        for outcome in &outcomes {
            append(&mut file, outcome).expect("writable");
        }
        file.write_all(&[0, 0, 0, 0, 9, 0, 0, 0, 1, 2]).expect("writable");
        assert_eq!(outcomes_of(&path).expect("readable"), outcomes);
        std::fs::remove_file(&path).expect("removable");
    }
}
