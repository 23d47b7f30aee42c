//! The benchmark as a program that needs nothing but a driver.

use std::process::ExitCode;

use attn_tests::bench;
use attn_tests::counting::Counting;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    match bench::run(&bench::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
