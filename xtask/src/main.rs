//! `cargo xtask`: everything around the kernels that is not a kernel.

mod bench;
mod capi;
mod demo;
mod gpu_bundle;
#[cfg(test)]
mod guide;
mod hash;
mod model;
mod package;
mod plan;
mod process;
mod ptx;
mod sass_report;
mod setup;
mod sim;
mod test;
mod toolchain;
mod tune;
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
    Setup(setup::Options),
    Model(model::Options),
    BuildPtx(ptx::Options),
    SassReport(sass_report::Options),
    Plan(plan::Options),
    /// Run the main job on real input: a file's Q, K and V through the kernel, checked and timed.
    Demo(demo::Options),
    /// Run every test that needs no GPU; with --gpu those on the GPU too.
    Test(test::Options),
    /// Run a kernel of any PTX file on the simulator; `cargo xtask sim --help` says how its parameters are given.
    #[command(disable_help_flag = true)]
    Sim(sim::Options),
    Bench(bench::Options),
    Tune(tune::Options),
    /// Pack the GPU tests and benchmarks into a folder that runs on a machine with only a driver.
    GpuBundle(gpu_bundle::Options),
    /// Pack the library crates as a registry would get them, and check their sizes.
    Package(package::Options),
}

/// Runs a command.
fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup(options) => setup::run(&options),
        Command::Model(options) => model::run(&options),
        Command::BuildPtx(options) => ptx::run(&options),
        Command::SassReport(options) => sass_report::run(&options),
        Command::Plan(options) => plan::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Sim(options) => sim::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Tune(options) => tune::run(&options),
        Command::GpuBundle(options) => gpu_bundle::run(&options),
        Command::Package(options) => package::run(&options),
    }
}

/// Runs a command given by its words, for commands that are made of others.
fn invoke<'a>(words: impl IntoIterator<Item = &'a str>) -> anyhow::Result<()> {
    dispatch(Cli::try_parse_from(std::iter::once("xtask").chain(words))?.command)
}

fn main() -> std::process::ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
