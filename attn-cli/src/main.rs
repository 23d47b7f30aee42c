//! `attn`: what the attention kernels do with a problem, on tensors of files, and how fast.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

mod bench;
mod card;
mod check;
mod device;
mod error;
mod figures;
mod files;
mod info;
mod job;
mod options;
mod plan;
mod problem;
mod progress;
mod run;
mod table;
mod target;

use error::Failure;

/// Attention on NVIDIA GPUs from the command line: what there is, what would be done, doing it, timing it.
#[derive(Parser, Debug)]
#[command(name = "attn", version, after_help = AFTER, max_term_width = 120, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER: &str = "\
Exit status: 0 done; 1 the answer is wrong (--check); 2 the command line; 3 a file, or a problem that no kernel computes; \
4 no GPU or driver; 5 a failure while running.

Examples:
  attn info                                            the device, and which kernel computes what
  attn plan --seqlen 8192 --heads 32 --causal          what a launch would be, here or with --arch elsewhere
  attn run qkv.safetensors --causal --check            attention on a file's q, k and v, compared with f64
  attn bench --mix decode                              how fast";

#[derive(clap::Subcommand, Debug)]
enum Command {
    Info(info::Options),
    Plan(plan::Options),
    Run(run::Options),
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let done = match Cli::parse().command {
        Command::Info(options) => info::run(&options, &mut out),
        Command::Plan(options) => plan::run(&options, &mut out),
        Command::Run(options) => run::run(&options, &mut out),
        Command::Bench(options) => bench::run(&options, &mut out),
    };
    match done.and_then(|()| out.flush().map_err(Failure::from)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough, as head does.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
