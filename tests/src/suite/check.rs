//! One case of the suite: run, compared with the oracle, repeated.

use crate::compare::{self, Mismatch, Report};
use crate::gpu::{Gpu, GpuError, LSE_POISON, Loaded, Output};
use crate::input::Inputs;
use crate::lists::{self, Entry};
use crate::precision::POISON;
use crate::recorded::{self, Answer, Disagreement};
use crate::sampled::{self, Buffers};
use crate::suite::{Line, Options, Records};

/// How often a case of the `repeat` list runs.
const REPEATS: u64 = 20;
/// Blocks of rows of a repeated case that are compared with the oracle.
const SAMPLED_BLOCKS: usize = 64;

/// Why an answer is not accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
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
    #[error("sequence {sequence}: {what}{at:?}, (row, head, column), is not that of '{other}'")]
    Apart { sequence: usize, what: &'static str, at: (usize, usize, usize), other: String },
    #[error("'{other}': {error}")]
    Other { other: String, error: GpuError },
    #[error("by {kernel}: {why}")]
    Kernel { kernel: &'static str, why: Box<Failure> },
    #[error("run {run}, of seed {seed}: {error}")]
    Run { run: u64, seed: u64, error: GpuError },
}

/// Runs a case; what it measured, or why its answer is not accepted.
pub(super) fn check(gpu: &Gpu, entry: &Entry, options: &Options, records: &mut Records) -> Result<Report, Failure> {
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
        repeat(gpu, || loaded.run(), &output, (options.seed, REPEATS))?;
        return Ok(report);
    }
    repeat(gpu, || loaded.run(), &output, (options.seed, options.seeds))?;
    let attention = inputs.attention(case);
    let (o, lse) = loaded.tensors(&output, case.precision);
    let (reference, lowp) = (attention.reference(), attention.lowp(case.precision));
    let report = compare::check(&o, lse.as_ref(), &reference, &lowp, case.precision)?;
    if *list == lists::RECORDED || matches!(options.case, Some(Line::Dense(_))) {
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

/// Of `runs` runs all equal the first, bit by bit. On the simulator each has a seed of its own, from `seed` on.
pub(super) fn repeat(
    gpu: &Gpu,
    run_again: impl Fn() -> Result<Output, GpuError>,
    first: &Output,
    (seed, runs): (u64, u64),
) -> Result<(), Failure> {
    let again = |run: u64| {
        gpu.reseed(seed.wrapping_add(run - 1))?;
        let again = run_again().map_err(|error| Failure::Run { run, seed: seed.wrapping_add(run - 1), error })?;
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
