//! Looking for the tools in the places where they may already be.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Cuda, Toolchain, Versions};
use crate::process;

/// Finds a toolchain without fetching anything.
pub fn find() -> Result<Toolchain> {
    let rustc = env_path("ATTN_KERNEL_RUSTC").context("ATTN_KERNEL_RUSTC is not set")?;
    let library = env_path("ATTN_KERNEL_LIBRARY").context("ATTN_KERNEL_LIBRARY is not set")?;
    let llvm = env_path("ATTN_KERNEL_LLVM_BIN").context("ATTN_KERNEL_LLVM_BIN is not set")?;
    let cuda = env_path("CUDA_HOME").context("CUDA_HOME is not set")?;
    let shared = shared_libraries(&rustc);
    let cuda = Cuda { ptxas: cuda.join("bin/ptxas"), nvdisasm: cuda.join("bin/nvdisasm") };
    let mut toolchain = Toolchain {
        opt: llvm.join("opt"),
        llc: llvm.join("llc"),
        rustc,
        library,
        shared,
        cuda,
        versions: Versions { rustc: String::new(), llvm: String::new(), ptxas: String::new() },
    };
    toolchain.versions = versions(&toolchain)?;
    Ok(toolchain)
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The folder of `librustc_driver` beside a rustc that was unpacked rather than installed.
fn shared_libraries(rustc: &Path) -> Option<PathBuf> {
    let lib = rustc.parent()?.parent()?.join("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    lib.is_dir().then_some(lib)
}

/// Asks every tool for its version, which also proves that it starts.
fn versions(toolchain: &Toolchain) -> Result<Versions> {
    let rustc = process::text(&process::run(toolchain.rustc().arg("-vV"))?);
    let rustc_llvm = field(&rustc, "LLVM version: ").context("rustc -vV names no LLVM version")?;
    let llc = process::text(&process::run(toolchain.command(&toolchain.llc).arg("--version"))?);
    let llvm = field(&llc, "LLVM version ").context("llc --version names no version")?;
    if major(rustc_llvm) != major(llvm) {
        bail!("{} has LLVM {llvm}, but rustc writes LLVM {rustc_llvm} IR", toolchain.llc.display());
    }
    let ptxas = process::text(&process::run(Command::new(&toolchain.cuda.ptxas).arg("--version"))?);
    let ptxas = field(&ptxas, ", V").context("ptxas --version names no version")?;
    Ok(Versions {
        rustc: rustc.lines().next().unwrap_or_default().to_owned(),
        llvm: llvm.to_owned(),
        ptxas: ptxas.to_owned(),
    })
}

/// What follows `label` up to the end of its line.
fn field<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(label)?;
    Some(rest.lines().next()?.trim())
}

fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or(version)
}
