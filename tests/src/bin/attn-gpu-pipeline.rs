//! The pipeline's overlap, measured by a program that needs nothing but a driver.

use std::process::ExitCode;

use attn_tests::pipeline;
use clap::Parser;

fn main() -> ExitCode {
    match pipeline::run(&pipeline::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
