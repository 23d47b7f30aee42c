//! The programs that turn device Rust into machine code, and where they were found.

mod find;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

pub use find::find;

/// A complete kernel toolchain.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// A rustc that may use unstable features, whose LLVM is the version of `opt` and `llc`.
    pub rustc: PathBuf,
    /// The source of `core` that belongs to `rustc`: the folder that holds `core/src/lib.rs`.
    pub library: PathBuf,
    /// LLVM's optimiser.
    pub opt: PathBuf,
    /// LLVM's code generator.
    pub llc: PathBuf,
    /// Folder with the shared libraries of the programs above, when it is not one that the loader searches.
    pub shared: Option<PathBuf>,
    /// NVIDIA's programs.
    pub cuda: Cuda,
    /// `rustc -vV`, and the first line of every other tool's version: what identifies the bytes that come out.
    pub versions: Versions,
}

/// NVIDIA's part of the toolchain.
#[derive(Clone, Debug)]
pub struct Cuda {
    /// The assembler.
    pub ptxas: PathBuf,
    /// The disassembler.
    pub nvdisasm: PathBuf,
}

/// Versions of the tools, as they state them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Versions {
    /// For instance `rustc 1.96.0 (ac68faa20 2026-05-25)`.
    pub rustc: String,
    /// For instance `22.1.8`.
    pub llvm: String,
    /// For instance `13.5.37`.
    pub ptxas: String,
}

impl Toolchain {
    /// A command that runs one of the toolchain's programs.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(shared) = &self.shared {
            command.env("LD_LIBRARY_PATH", shared);
        }
        command
    }

    /// A command that runs rustc with unstable features allowed, whatever channel it was built for.
    pub fn rustc(&self) -> Command {
        let mut command = self.command(&self.rustc);
        command.env("RUSTC_BOOTSTRAP", "1");
        // The host toolchain's settings are not for this compiler.
        for name in ["RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS"] {
            command.env_remove(name);
        }
        command
    }
}

/// The toolchain, fetched first where there is none.
pub fn ready() -> Result<Toolchain> {
    find()
}
