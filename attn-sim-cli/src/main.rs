//! Runs a kernel of any PTX file on the PTX machine.

mod buffers;
mod element;
mod mutants;
mod options;
mod run;
mod spec;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match run::run(&options::Options::parse(), &mut std::io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
