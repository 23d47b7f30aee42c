//! Single instructions on the GPU, as a program that needs nothing but a driver.

use std::process::ExitCode;

use attn_tests::probe::command;
use clap::Parser;

fn main() -> ExitCode {
    command::run(&command::Options::parse())
}
