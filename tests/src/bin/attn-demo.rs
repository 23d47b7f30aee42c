//! The demo as a program that needs nothing but a driver, and says so where there is none.

use std::process::ExitCode;

use attn_tests::demo;
use clap::Parser;

fn main() -> ExitCode {
    match demo::run(&demo::Options::parse(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
