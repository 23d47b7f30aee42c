//! The programs that turn device Rust into machine code: where they are, and fetching them when they are nowhere.

mod debian;
mod find;
mod host;
mod wheels;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use find::Search;

use crate::workspace;

/// A complete kernel toolchain.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// rustc and LLVM.
    pub rust: Rust,
    /// NVIDIA's programs.
    pub cuda: Cuda,
}

/// A rustc and the LLVM that it was built with.
#[derive(Clone, Debug)]
pub struct Rust {
    /// The compiler.
    pub rustc: PathBuf,
    /// The source of the standard library that belongs to it: the folder that holds `core/src/lib.rs`.
    pub library: PathBuf,
    /// The folder of `opt` and `llc`.
    pub llvm_bin: PathBuf,
    /// Folders with the shared libraries of these programs, for `LD_LIBRARY_PATH`, when they are in unusual places.
    pub shared: Option<OsString>,
    /// For instance `1.96.0 (ac68faa20 2026-05-25)`.
    pub version: String,
    /// For instance `22.1.8`.
    pub llvm_version: String,
    /// Where it was found.
    pub origin: &'static str,
}

/// NVIDIA's programs.
#[derive(Clone, Debug)]
pub struct Cuda {
    /// The assembler.
    pub ptxas: PathBuf,
    /// The disassembler.
    pub nvdisasm: PathBuf,
    /// NVIDIA's own compiler from IR to PTX, for the `nvvm` lane.
    pub libnvvm: Option<PathBuf>,
    /// For instance `V13.5.37`, without the V.
    pub version: String,
    /// Where it was found.
    pub origin: &'static str,
}

/// Versions of the tools: what identifies the bytes that come out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Versions {
    /// rustc.
    pub rustc: String,
    /// opt and llc.
    pub llvm: String,
    /// NVIDIA's tools.
    pub cuda: String,
}

impl Rust {
    /// A command for `rustc`, `opt` or `llc`. rustc may use unstable features, whatever channel it was built for.
    pub fn command(&self, program: &str) -> Command {
        let mut command = match program {
            "rustc" => Command::new(&self.rustc),
            _ => Command::new(self.llvm_bin.join(program)),
        };
        if let Some(shared) = &self.shared {
            command.env("LD_LIBRARY_PATH", shared);
        }
        // The host toolchain's settings are not for this compiler.
        for name in ["RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS"] {
            command.env_remove(name);
        }
        command.env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

impl Toolchain {
    /// The tools' versions.
    pub fn versions(&self) -> Versions {
        Versions {
            rustc: self.rust.version.clone(),
            llvm: self.rust.llvm_version.clone(),
            cuda: self.cuda.version.clone(),
        }
    }
}

/// Finds the toolchain; what is nowhere is fetched.
pub fn ready() -> Result<Toolchain> {
    Ok(Toolchain {
        rust: find_or_fetch("rustc for kernels", "rust", find::rust, debian::fetch)?,
        cuda: find_or_fetch("NVIDIA's tools", "cuda", || Ok(find::cuda()), wheels::fetch)?,
    })
}

fn find_or_fetch<T>(
    what: &str,
    part: &str,
    find: impl Fn() -> Result<Search<T>>,
    fetch: fn(&Path) -> Result<()>,
) -> Result<T> {
    if let Search::Found(found) = find()? {
        return Ok(found);
    }
    // Whoever comes second finds what the first has fetched.
    let _lock = workspace::lock(&find::private(part).with_extension("lock"))?;
    match find()? {
        Search::Found(found) => return Ok(found),
        Search::Missing(reasons) => explain(what, &reasons),
    }
    fetch_part(part, fetch).with_context(|| format!("cannot fetch {what}"))?;
    match find()? {
        Search::Found(found) => Ok(found),
        Search::Missing(reasons) => bail!("what was fetched does not work: {}", reasons.join("; ")),
    }
}

fn explain(what: &str, reasons: &[String]) {
    eprintln!("fetching {what}, because");
    for reason in reasons {
        eprintln!("  - {reason}");
    }
}

/// Runs `fetch` on an empty folder, which becomes `target/toolchain/PART` when it succeeds.
fn fetch_part(part: &str, fetch: fn(&Path) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let staging = host::Staging::new(&find::private(part))?;
    fetch(staging.path())?;
    staging.finish()?;
    eprintln!("  done in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}
