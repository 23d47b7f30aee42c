//! The GPU suite as a program that needs nothing but a driver.

use std::process::ExitCode;

use attn_tests::suite;
use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(suite::run(&suite::Options::parse()))
}
