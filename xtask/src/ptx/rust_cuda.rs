//! The `rust-cuda` lane: the kernels through Rust-CUDA's code generator, which this only drives.
//!
//! The code generator is a plug-in of one particular nightly, built against LLVM 7, libclang and NVIDIA's toolkit. What of
//! it is missing is said before anything is started. This lane is not exercised by CI: the driver and the kernels
//! type-check against the pinned revision, no more has been shown.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::arch::Arch;
use crate::workspace;

/// The nightly that the pinned revision needs, as in `xtask/rust-cuda/rust-toolchain.toml`.
const NIGHTLY: &str = "nightly-2026-04-02";

/// Compiles all kernels to `OUT/sm_90a/rust-cuda.ptx`.
pub fn run(archs: &[Arch], out: &Path) -> Result<()> {
    if let Some(arch) = archs.iter().find(|&&arch| arch != Arch::Sm90a) {
        bail!("--codegen rust-cuda compiles for sm_90a; its LLVM 7 knows no {}. Use llvm or nvvm for it", arch.name());
    }
    let missing = missing();
    ensure!(missing.is_empty(), "--codegen rust-cuda needs what is not here:\n  {}", missing.join("\n  "));
    let file = out.join(Arch::Sm90a.name()).join("rust-cuda.ptx");
    fs::create_dir_all(out.join(Arch::Sm90a.name())).with_context(|| format!("cannot create {}", out.display()))?;
    let file = std::path::absolute(file)?;
    let mut cargo = Command::new("cargo");
    // The project's own toolchain is not for this package.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC"] {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_TARGET_DIR", workspace::target().join("rust-cuda"));
    cargo.current_dir(workspace::root().join("xtask/rust-cuda")).args(["run", "--release", "--"]).arg(&file);
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "Rust-CUDA failed ({status})");
    println!("wrote {}", file.display());
    Ok(())
}

/// What this lane needs and does not find, each with how to get it.
fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !says(Command::new("rustup").args(["run", NIGHTLY, "rustc", "--version"]), "rustc") {
        missing.push(format!(
            "the compiler {NIGHTLY}: rustup toolchain install {NIGHTLY} --component rust-src,rustc-dev,llvm-tools"
        ));
    }
    let llvm_config = std::env::var_os("LLVM_CONFIG").unwrap_or_else(|| "llvm-config".into());
    if !says(Command::new(llvm_config).arg("--version"), "7.") {
        missing.push("LLVM 7 with headers and static libraries: LLVM_CONFIG naming its llvm-config".to_owned());
    }
    let toolkit = ["CUDA_PATH", "CUDA_HOME"].iter().any(|name| std::env::var_os(name).is_some());
    if !toolkit {
        missing.push("NVIDIA's toolkit with libNVVM: CUDA_PATH naming its folder".to_owned());
    }
    missing
}

/// Whether `command` succeeds and prints something that starts with `part`.
fn says(command: &mut Command, part: &str) -> bool {
    let output = command.output();
    output.is_ok_and(|output| output.status.success() && output.stdout.starts_with(part.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_architectures_are_refused_by_name() {
        let error = run(&[Arch::Sm90a, Arch::Sm100a], Path::new("out")).unwrap_err().to_string();
        assert!(error.contains("no sm_100a"), "{error}");
    }

    #[test]
    fn a_program_is_asked_for_its_version() {
        assert!(says(Command::new("echo").arg("7.1.0"), "7."));
        assert!(!says(Command::new("echo").arg("17.1.0"), "7."));
        assert!(!says(&mut Command::new("no-such-program-here"), ""));
    }
}
