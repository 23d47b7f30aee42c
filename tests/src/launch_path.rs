//! What a launch costs the CPU, and how soon a process has its first answer.

use std::time::{Duration, Instant};

use crate::case::Case;
use crate::counting::allocations;
use crate::gpu::{Gpu, GpuError, Loaded};
use crate::input::Inputs;
use crate::precision::Precision;

/// Launches queued in a row: fewer than make the driver wait for room in its queue.
pub const ROW: u32 = 100;

/// What was measured of one kernel.
#[derive(Clone, Debug)]
pub struct LaunchPath {
    /// The kernel.
    pub kernel: &'static str,
    /// From the context being there to the answer of the first launch: buffers, the kernel's loading, the plan, the launch.
    pub first: Duration,
    /// CPU microseconds of one launch, a row each, in increasing order.
    pub micros: Vec<f64>,
    /// Allocations of all these launches.
    pub allocations: u64,
}

impl LaunchPath {
    /// The median, microseconds.
    pub fn median(&self) -> f64 {
        self.micros[self.micros.len() / 2]
    }

    /// One line.
    pub fn report(&self) -> String {
        let (rows, last) = (self.micros.len(), self.micros.len() - 1);
        format!(
            "launch path | first answer {:6.2} ms after the context | {:5.2} us of CPU a launch (10th to 90th percentile {:.2} to {:.2}, \
             {rows} rows of {ROW}) | {} allocations | {}",
            self.first.as_secs_f64() * 1e3,
            self.median(),
            self.micros[last / 10],
            self.micros[last - last / 10],
            self.allocations,
            self.kernel
        )
    }
}

/// Problems so small that the device is never what is waited for.
fn cases() -> impl Iterator<Item = Case> {
    [(128, false), (64, true), (256, true)].into_iter().map(|(head_dim, causal)| Case {
        causal,
        lse: true,
        ..Case::new(Precision::Bf16, 128, head_dim)
    })
}

/// Measures, `rows` rows for each kernel. The first kernel's `first` is that of the process if nothing was planned before.
///
/// # Errors
/// Whatever the driver or the launch side says.
pub fn measure(gpu: &Gpu, rows: u32) -> Result<Vec<LaunchPath>, GpuError> {
    cases().map(|case| of_case(gpu, &case, rows)).collect()
}

/// Measures one kernel.
///
/// # Errors
/// Whatever the driver or the launch side says.
pub fn of_case(gpu: &Gpu, case: &Case, rows: u32) -> Result<LaunchPath, GpuError> {
    let inputs = Inputs::of(case);
    let start = Instant::now();
    let loaded = gpu.load(case, &inputs)?;
    loaded.launch()?;
    gpu.wait()?;
    let first = start.elapsed();
    let (mut micros, mut all) = (Vec::with_capacity(rows as usize), 0);
    for _ in 0..rows {
        let (asked, micros_of_row) = allocations(|| row(&loaded));
        micros.push(micros_of_row?);
        all += asked;
        gpu.wait()?;
    }
    micros.sort_by(f64::total_cmp);
    Ok(LaunchPath { kernel: loaded.plan.kernel().name, first, micros, allocations: all })
}

/// CPU microseconds of one launch in a row of them.
fn row(loaded: &Loaded<'_>) -> Result<f64, GpuError> {
    let start = Instant::now();
    (0..ROW).try_for_each(|_| loaded.launch())?;
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(ROW))
}
