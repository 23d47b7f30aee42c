//! `cargo xtask test`: everything that runs without a GPU, and the GPU suite where it is asked for.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{process, tune, workspace};

/// Runs the tests of every crate, takes every kernel through ptxas, proves that the prebuilt kernels are the source's, and
/// runs each on the simulator.
#[derive(clap::Args)]
pub struct Options {
    /// Also run the GPU suite on this machine's GPU. Fails where there is none.
    #[arg(long)]
    gpu: bool,
}

/// Exit status of the GPU suite on a machine without a usable GPU.
const NO_GPU: i32 = 2;

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    // The service's tests embed sentences with it.
    crate::invoke(["model"])?;
    heading("tests of all crates; beside them the kernels are compiled and simulated, which is printed after them");
    // Each has stretches that keep one core busy.
    let (passed, (said, others)) = std::thread::scope(|scope| {
        let others = scope.spawn(kernels);
        (cargo_tests(), others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    print!("{said}");
    others?;
    let passed = passed?;
    heading("the tuner on the simulator");
    tune::on_the_simulator()?;
    if options.gpu {
        heading("GPU suite");
        gpu_suite()?;
    }
    let gpu = if options.gpu { "the GPU suite passed" } else { "the GPU suite was not asked for (--gpu)" };
    println!(
        "\n{passed} tests passed, every kernel compiles, is the one that attn-host carries and is right on the simulator, \
         {gpu}; {:.0} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Takes every kernel through ptxas, compares those that attn-host carries, and runs all on the simulator. What that printed, as far as
/// it came.
fn kernels() -> (String, Result<()>) {
    let mut said = String::new();
    let result = kernel_steps().and_then(|steps| {
        steps.into_iter().try_for_each(|(title, mut command)| {
            let start = Instant::now();
            let output = process::run(&mut command).with_context(|| title.to_owned())?;
            let text = String::from_utf8_lossy(&output.stdout);
            write!(said, "\n== {title}\n{text}{:.0} s\n", start.elapsed().as_secs_f64())?;
            Ok(())
        })
    });
    (said, result)
}

fn kernel_steps() -> Result<Vec<(&'static str, Command)>> {
    let mut compile = Command::new(std::env::current_exe()?);
    compile.args(["build-ptx", "--probes", "--check-prebuilt"]);
    // The answers are compared with an H100's too.
    let mut hopper = simulated(&["--recorded"]);
    hopper.arg(workspace::root().join("tests/data/h100_forward.safetensors"));
    let mut steps = vec![
        ("every kernel from Rust through ptxas; those that attn-host carries are those of the source", compile),
        ("every Hopper kernel on the simulator", hopper),
        ("every Blackwell kernel on the simulator", simulated(&["--arch", "sm_100a"])),
        ("B300's kernels", simulated(&["--arch", "sm_103a", "--filter", "kernels:", "--seeds", "2"])),
    ];
    for list in ["varlen:", "decode:", "paged:"] {
        steps.push(("B300's serving kernels", simulated(&["--arch", "sm_103a", "--filter", list])));
    }
    Ok(steps)
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// Runs `cargo test` on the workspace and returns how many tests passed. Optimised, because references in f64 are many
/// times slower otherwise.
fn cargo_tests() -> Result<u32> {
    let mut command = process::cargo();
    command
        .args(["test", "--release", "--workspace", "--features", "attn-host/cudarc", "--no-fail-fast"])
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let lines = BufReader::new(child.stdout.take().context("cargo has an output")?).lines();
    let (mut passed, mut failed) = (0, 0);
    for line in lines {
        let line = line?;
        if let Some((p, f)) = counts(&line) {
            (passed, failed) = (passed + p, failed + f);
        }
        println!("{line}");
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo test: {passed} passed, {failed} failed ({status})");
    }
    Ok(passed)
}

/// Passed and failed of a line like `test result: ok. 43 passed; 0 failed; 1 ignored; ...`.
fn counts(line: &str) -> Option<(u32, u32)> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let words: Vec<&str> = rest.split([' ', ';']).collect();
        let at = words.iter().position(|w| *w == word)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    Some((number("passed")?, number("failed")?))
}

/// The command that runs the suite.
fn suite() -> Command {
    let mut command = process::cargo();
    command.args(["run", "--quiet", "--release", "--package", "attn-tests", "--bin", "attn-gpu-suite", "--"]);
    command
}

/// The command that runs it on the simulator.
fn simulated(words: &[&str]) -> Command {
    let mut command = suite();
    command.arg("--simulator").args(words);
    command
}

fn gpu_suite() -> Result<()> {
    let status = suite().status().context("cannot start cargo")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(NO_GPU) => bail!(
            "this machine has no GPU that the kernels run on; everything else passed \
             (`cargo xtask gpu-bundle` packs the suite for a machine that has one)"
        ),
        _ => bail!("the GPU suite failed ({status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn test_counts_are_read_from_cargos_lines() {
        let line = "test result: ok. 43 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.35s";
        assert_eq!(counts(line), Some((43, 0)));
        let line = "test result: FAILED. 7 passed; 12 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(counts(line), Some((7, 12)));
        assert_eq!(counts("test tests::result ... ok"), None);
    }
}
