//! `cargo xtask tune`: from plans to try to lines of the table, in three steps that may run on different machines.
//!
//! [`build`] compiles variants of a kernel into a folder; `attn-gpu-tune` in that folder checks and times them where a GPU is;
//! [`apply`] writes what won into the table ([`table`]).

mod apply;
mod build;
mod table;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::workspace;

/// Try other plans for a Hopper kernel, and write what is fastest into the table of plans.
///
/// Without a step: all three on this machine, which has a GPU. Otherwise `tune build` here, `./run.sh` in the folder that it makes on
/// the machine with the GPU, which needs nothing but a driver, and `tune apply` here with the results.json that came out.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Options {
    #[command(subcommand)]
    step: Option<Step>,
    #[command(flatten)]
    build: build::Options,
    /// Show what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Subcommand)]
enum Step {
    Build(build::Options),
    Apply(apply::Options),
}

/// Exit status of the program on a machine without a usable GPU.
const NO_GPU: i32 = 2;

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    match &options.step {
        Some(Step::Build(build)) => build::run(build).map(drop),
        Some(Step::Apply(apply)) => apply::run(apply),
        None => {
            let folder = build::run(&options.build)?;
            measure(&folder, &[])?;
            apply::run(&apply::Options::of(folder.join("results.json"), options.dry_run))
        }
    }
}

/// All three steps with one or two other plans of each line and the simulator in the GPU's place; the table stays as it is.
pub fn on_the_simulator() -> Result<()> {
    let folder = workspace::target().join("tune-simulated");
    let out = folder.to_str().with_context(|| format!("{} is not UTF-8", folder.display()))?;
    let mut words = vec!["tune", "build", "--ptx", "--out", out, "--head-dim", "64", "--causal"];
    words.extend(["--class", "usual,small,short"]);
    for plan in ["bm=128 bn=80 turns=0", "stages=3 exp2=1/8", "stages=6", "bn=20"] {
        words.extend(["--plan", plan]);
    }
    crate::invoke(words)?;
    measure(&folder, &["--simulator"])?;
    apply::run(&apply::Options::of(folder.join("results.json"), true))
}

/// Runs the program of a folder.
fn measure(folder: &Path, words: &[&str]) -> Result<()> {
    let script = folder.join("run.sh");
    let status =
        Command::new(&script).args(words).status().with_context(|| format!("cannot start {}", script.display()))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(NO_GPU) => bail!(
            "this machine has no GPU that the kernels run on; run {} on one that has, then `cargo xtask tune apply RESULTS`",
            script.display()
        ),
        _ => bail!("the measurement failed ({status})"),
    }
}
