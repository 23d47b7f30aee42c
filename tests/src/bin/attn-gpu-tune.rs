//! The tuner's measurement as a program that needs nothing but a driver.

use std::process::ExitCode;

use attn_tests::tune;
use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(tune::run(&tune::Options::parse()))
}
