//! `cargo xtask sim`: any kernel on the simulator.

use std::ffi::OsString;

use anyhow::{Context, Result};

use crate::process;

/// The words of the command, which are the program's own: it is built when it is first asked for.
#[derive(clap::Args)]
pub struct Options {
    /// Options of the simulator's program, --help among them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Runs the command: the program is `attn-sim-cli/src/main.rs`.
pub fn run(options: &Options) -> Result<()> {
    let mut command = process::cargo();
    // Paths are the caller's, so the program starts where the caller is.
    command.current_dir(std::env::current_dir()?);
    command.args(["run", "--quiet", "--release", "--manifest-path"]).arg(crate::workspace::root().join("Cargo.toml"));
    command.args(["--package", "attn-sim-cli", "--bin", "attn-sim", "--"]).args(&options.words);
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        // The program has said what is wrong.
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}
