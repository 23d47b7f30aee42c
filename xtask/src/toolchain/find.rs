//! Looking for the tools where they may already be, in order: environment, rustup, the private copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::rust::{existing, field};
use super::{Cuda, Rust};
use crate::process;
use crate::workspace;

/// The CUDA release whose assembler and disassembler know every instruction that the kernels use.
const CUDA_MAJOR: &str = "13";

/// Where `setup` puts what it fetches.
pub fn private(part: &str) -> PathBuf {
    workspace::target().join("toolchain").join(part)
}

/// What a search came to.
pub enum Search<T> {
    /// Found.
    Found(T),
    /// Not found: why each place was passed over.
    Missing(Vec<String>),
}

/// Looks for rustc and LLVM. An error means that the environment names something unusable.
pub fn rust() -> Result<Search<Rust>> {
    if let Some(rustc) = env_path("ATTN_KERNEL_RUSTC") {
        let parts = (env_path("ATTN_KERNEL_LIBRARY"), env_path("ATTN_KERNEL_LLVM_BIN"));
        let found = Rust::at(rustc, parts, "ATTN_KERNEL_RUSTC").context(
            "ATTN_KERNEL_RUSTC is set but not usable; ATTN_KERNEL_LIBRARY and ATTN_KERNEL_LLVM_BIN name the folders of its \
             library source and of its LLVM's opt and llc where it does not have them itself",
        );
        return found.map(Search::Found);
    }
    let mut reasons = vec!["ATTN_KERNEL_RUSTC is not set".to_owned()];
    let nightlies = nightlies().into_iter().map(|dir| (dir.join("bin/rustc"), dir, "rustup's nightly"));
    let copy = private("rust");
    for (rustc, dir, origin) in nightlies.chain([(copy.join("usr/bin/rustc"), copy, "Debian's packages")]) {
        if !dir.is_dir() {
            reasons.push(format!("{} does not exist", dir.display()));
            continue;
        }
        match Rust::at(rustc, (None, None), origin) {
            Ok(rust) => return Ok(Search::Found(rust)),
            Err(error) => reasons.push(format!("{}: {error:#}", dir.display())),
        }
    }
    Ok(Search::Missing(reasons))
}

/// Looks for NVIDIA's tools.
pub fn cuda() -> Search<Cuda> {
    let mut reasons = Vec::new();
    let home = env_path("CUDA_HOME");
    if home.is_none() {
        reasons.push("CUDA_HOME is not set".to_owned());
    }
    let home = home.map(|home| (home, "CUDA_HOME"));
    for (home, origin) in home.into_iter().chain([(private("cuda"), "PyPI's wheels")]) {
        if !home.is_dir() {
            reasons.push(format!("{} does not exist", home.display()));
            continue;
        }
        match cuda_in(&home, origin) {
            Ok(cuda) => return Search::Found(cuda),
            Err(error) => reasons.push(format!("{}: {error:#}", home.display())),
        }
    }
    Search::Missing(reasons)
}

fn cuda_in(home: &Path, origin: &'static str) -> Result<Cuda> {
    let program = |name: &str| existing(home.join("bin").join(name));
    let (ptxas, nvdisasm, cuobjdump) = (program("ptxas")?, program("nvdisasm")?, program("cuobjdump")?);
    let said = process::text(&process::run(Command::new(&ptxas).arg("--version"))?);
    let version = field(&said, ", V").context("ptxas --version names no version")?.to_owned();
    ensure!(version.starts_with(CUDA_MAJOR), "ptxas is {version}, the kernels need CUDA {CUDA_MAJOR}");
    let libnvvm = ["nvvm/lib64", "lib", "lib64"].map(|dir| home.join(dir).join("libnvvm.so.4"));
    Ok(Cuda { ptxas, nvdisasm, cuobjdump, libnvvm: libnvvm.into_iter().find(|path| path.is_file()), version, origin })
}

/// Installed nightlies of rustup, the newest name first.
fn nightlies() -> Vec<PathBuf> {
    let home = env_path("RUSTUP_HOME").or_else(|| Some(env_path("HOME")?.join(".rustup")));
    let Some(Ok(entries)) = home.map(|home| fs::read_dir(home.join("toolchains"))) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly")))
        .collect();
    found.sort();
    found.reverse();
    found
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
