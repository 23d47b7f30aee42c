//! The programs that turn device Rust into machine code: where they are, and fetching them when they are nowhere.

mod debian;
mod find;
pub mod host;
mod rust;
mod wheels;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use find::Search;
pub use rust::Rust;

use crate::workspace;

/// A complete kernel toolchain.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// rustc and LLVM.
    pub rust: Rust,
    /// NVIDIA's programs.
    pub cuda: Cuda,
}

/// NVIDIA's programs.
#[derive(Clone, Debug)]
pub struct Cuda {
    /// The assembler.
    pub ptxas: PathBuf,
    /// The disassembler.
    pub nvdisasm: PathBuf,
    /// What prints a cubin's resources.
    pub cuobjdump: PathBuf,
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
    Ok(Toolchain { rust: find_or_fetch("rustc for kernels", "rust", find::rust, debian::fetch)?, cuda: cuda()? })
}

/// Finds NVIDIA's programs alone; what is nowhere is fetched.
pub fn cuda() -> Result<Cuda> {
    find_or_fetch("NVIDIA's tools", "cuda", || Ok(find::cuda()), wheels::fetch)
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
