//! `cargo xtask demo`: the main job on real input.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process;

/// Attention on the Q, K and V of a file: run on the GPU, checked, timed.
///
/// Compared with the file's own o and lse where it has them for this mask, else with softmax attention in f64 on the
/// CPU. Without a GPU the kernel runs on the simulator.
#[derive(clap::Args)]
pub struct Options {
    /// A safetensors file with q, k, v (batch, seq, heads, head_dim; bf16 or f16) and optionally the expected o and lse
    /// [default: tests/data/minilm_layer3.safetensors].
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Mask the keys after each query, aligned to the last query and the last key.
    #[arg(long)]
    causal: bool,
    /// Write o and lse to this safetensors file.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Run on the simulator even where there is a GPU.
    #[arg(long)]
    simulator: bool,
    /// The architecture that the simulator simulates: sm_90a, sm_100a or sm_103a.
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Seed of the simulator's schedule.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the command: the program is `tests/src/bin/attn-demo.rs`, which a GPU bundle carries too.
pub fn run(options: &Options) -> Result<()> {
    let mut command = process::cargo();
    // Paths are the caller's, so the program starts where the caller is.
    command.current_dir(std::env::current_dir()?);
    command.args(["run", "--quiet", "--release", "--manifest-path"]).arg(crate::workspace::root().join("Cargo.toml"));
    command.args(["--package", "attn-tests", "--bin", "attn-demo", "--"]);
    for (flag, path) in [("--input", &options.input), ("--output", &options.output)] {
        if let Some(path) = path {
            command.arg(flag).arg(path);
        }
    }
    command.args(options.causal.then_some("--causal"));
    command.args(options.simulator.then_some("--simulator"));
    if let Some(arch) = &options.arch {
        command.args(["--arch", arch]);
    }
    command.arg("--seed").arg(options.seed.to_string());
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        // The program has said what is wrong.
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}
