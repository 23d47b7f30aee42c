//! `cargo xtask`: everything around the kernels that is not a kernel.

mod hash;
mod process;
mod ptx;
mod setup;
mod toolchain;
mod workspace;

use clap::{Parser, Subcommand};

/// Builds, runs and checks the attention kernels.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or fetch the toolchain that compiles kernels.
    Setup(setup::Options),
    /// Compile the kernels from Rust to PTX and cubin, and print their resources.
    BuildPtx(ptx::Options),
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::BuildPtx(options) => ptx::run(&options),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
