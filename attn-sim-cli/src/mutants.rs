//! `--mutate`: which of a kernel's synchronising instructions the simulator misses.

use std::io::Write;

use attn_sim::mutate::{self, Outcome};
use attn_sim::ptx::Module;
use attn_sim::report::Finding;
use attn_sim::{Error, Gpu};

use crate::buffers::{self, All};
use crate::options::Options;
use crate::run::{self, RunError};
use crate::spec::Spec;

/// How a run ended.
struct Ended {
    /// Every buffer's bytes.
    buffers: Vec<Vec<u8>>,
    /// Bytes that hold something, by buffer: where the first one that does not is.
    written: Vec<Option<u64>>,
    /// Its first finding, or why it stopped.
    wrong: Option<String>,
    /// Instructions of warps.
    instructions: u64,
}

/// Runs all mutants and reports to `out`; true when none survives.
pub fn run(options: &Options, spec: &Spec, before: &All, text: &str, out: &mut impl Write) -> Result<bool, RunError> {
    let module = Gpu::new().load(text)?.module().clone();
    let mut right: Vec<Ended> = Vec::new();
    for seed in run::seeds(options) {
        let ended = one(options, spec, before, &module, seed, options.steps)?;
        if let Some(what) = ended.wrong {
            return Err(RunError::Unclean { seed, what });
        }
        right.push(ended);
    }
    let name = run::kernel(&Gpu::new().load_module(module.clone()), options)?.name().to_owned();
    // A result that the schedule changes says nothing about a mutant.
    let first = &right[0];
    let fixed = |i: usize| right.iter().all(|r| r.buffers[i] == first.buffers[i] && r.written[i] == first.written[i]);
    let compared: Vec<usize> = (0..first.buffers.len()).filter(|&i| fixed(i)).collect();
    let longest = right.iter().map(|r| r.instructions).max().unwrap_or(0);
    // A mutant that runs so much longer polls for what never comes.
    let steps = options.steps.min(8 * longest + (1 << 20));
    let score = mutate::score(&module, &name, run::seeds(options), |mutant, seed| {
        match one(options, spec, before, mutant, seed, steps) {
            Err(_) => Outcome::Reported,
            Ok(ended) if ended.wrong.is_some() => Outcome::Reported,
            Ok(ended) => {
                let same = |&i: &usize| ended.buffers[i] == first.buffers[i] && ended.written[i] == first.written[i];
                if compared.iter().all(same) { Outcome::Unnoticed } else { Outcome::WrongResult }
            }
        }
    });
    writeln!(out, "{name}: {score}")?;
    Ok(score.survivors.is_empty())
}

/// Runs a module's kernel in memory of its own.
fn one(
    options: &Options,
    spec: &Spec,
    before: &All,
    module: &Module,
    seed: u64,
    steps: u64,
) -> Result<Ended, RunError> {
    let mut gpu = Gpu::new();
    let kernel = run::kernel(&gpu.load_module(module.clone()), options)?;
    let addresses = buffers::place(&mut gpu, before)?;
    let mut launch = run::launch(options, buffers::params(spec, before, &addresses, &kernel)?);
    (launch.seed, launch.step_limit) = (seed, steps);
    let (wrong, instructions) = match launch.run(&mut gpu, &kernel) {
        Ok(run) => (run.findings.first().map(Finding::to_string), run.counters.total()),
        Err(Error::Failed(failure)) => (Some(failure.stop.to_string()), 0),
        Err(error) => return Err(error.into()),
    };
    let (mut buffers, mut written) = (Vec::new(), Vec::new());
    for (name, filled) in before {
        let Some(&address) = addresses.get(name) else { continue };
        buffers.push(gpu.read(address, filled.bytes.len())?.to_vec());
        written.push(gpu.first_unwritten(address, filled.bytes.len())?);
    }
    Ok(Ended { buffers, written, wrong, instructions })
}
