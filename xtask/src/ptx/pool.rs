//! Compiling many kernels at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::arch::Arch;
use super::build::{self, Built, Job};
use crate::toolchain::Toolchain;

/// A kernel whose back end failed.
pub struct Failed {
    /// Entry point.
    pub name: String,
    arch: Arch,
    /// Why.
    pub why: anyhow::Error,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {:#}", self.arch.name(), self.name, self.why)
    }
}

/// Compiles all `jobs` in parallel, by default one on each core. Returns the kernels in the order of the jobs, and what failed.
pub fn compile_all(
    toolchain: &Toolchain,
    jobs: &[Job],
    threads: Option<usize>,
    verbose: bool,
) -> (Vec<Built>, Vec<Failed>) {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results = Mutex::new(BTreeMap::new());
    let threads = threads.unwrap_or_else(cores);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    let start = Instant::now();
                    let result = build::build(toolchain, job);
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    report_progress((done, jobs.len()), job, &result, start.elapsed(), verbose);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(index, result);
                }
            });
        }
    });
    let (mut built, mut failed) = (Vec::new(), Vec::new());
    for (index, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match result {
            Ok(kernel) => built.push(kernel),
            Err(why) => {
                let Job { arch, declared, .. } = &jobs[index];
                failed.push(Failed { name: declared.name.clone(), arch: *arch, why });
            }
        }
    }
    (built, failed)
}

/// A line for a kernel that was compiled just now.
fn report_progress((done, all): (usize, usize), job: &Job, result: &Result<Built>, took: Duration, verbose: bool) {
    let steps = match result {
        Ok(built) if built.cached => return,
        Ok(built) if verbose => built.steps.as_slice(),
        Ok(_) => &[],
        Err(_) => &[("failed", took)],
    };
    let steps: String = steps.iter().map(|(name, took)| format!("  {name} {:.2}", took.as_secs_f64())).collect();
    eprintln!("[{done:>2}/{all}] {:>6.2} s  {} {}{steps}", took.as_secs_f64(), job.arch.name(), job.declared.name);
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
