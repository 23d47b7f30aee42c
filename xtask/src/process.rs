//! Running other programs and keeping what they said when they fail.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` to its end; an exit status other than 0 becomes an error that carries the program's output.
pub fn run(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name} failed ({})\n{}", output.status, text(&output).trim_end());
    }
    Ok(output)
}

/// cargo itself, the one that runs this program, at the repository's root.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::workspace::root());
    cargo
}

/// Builds a program of the workspace, optimised, and returns where cargo put it.
pub fn build_program(package: &str, name: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command.args([
        "build",
        "--release",
        "--package",
        package,
        "--bin",
        name,
        "--message-format",
        "json-render-diagnostics",
    ]);
    command.stderr(Stdio::inherit());
    let output = run(&mut command)?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.with_context(|| format!("cargo built no program {name}"))
}

/// What a program wrote to both of its outputs.
pub fn text(output: &Output) -> String {
    let mut all = String::from_utf8_lossy(&output.stdout).into_owned();
    all.push_str(&String::from_utf8_lossy(&output.stderr));
    all
}
