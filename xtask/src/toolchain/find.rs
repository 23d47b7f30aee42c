//! Looking for the tools where they may already be, in order: environment, rustup, the private copy.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Cuda, Rust};
use crate::process;
use crate::workspace;

/// rustc older than this lacks what the kernels use.
pub const OLDEST_RUSTC: (u32, u32) = (1, 95);
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
        let rust = Rust {
            library: env_path("ATTN_KERNEL_LIBRARY").map_or_else(|| library_of(&rustc), Ok)?,
            llvm_bin: env_path("ATTN_KERNEL_LLVM_BIN").map_or_else(|| llvm_of(&rustc), Ok)?,
            ..Rust::new(rustc, "ATTN_KERNEL_RUSTC")
        };
        return complete(rust).map(Search::Found).context("ATTN_KERNEL_RUSTC is set, but not usable");
    }
    let mut reasons = vec!["ATTN_KERNEL_RUSTC is not set".to_owned()];
    for toolchain in nightlies() {
        let name = toolchain.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rustc = toolchain.join("bin/rustc");
        let found = library_of(&rustc).and_then(|library| {
            complete(Rust { library, llvm_bin: llvm_of(&rustc)?, ..Rust::new(rustc, "rustup's nightly") })
        });
        match found {
            Ok(rust) => return Ok(Search::Found(rust)),
            Err(error) => reasons.push(format!("rustup's {name}: {error:#}")),
        }
    }
    let copy = private("rust");
    if !copy.is_dir() {
        reasons.push(format!("{} does not exist yet", copy.display()));
        return Ok(Search::Missing(reasons));
    }
    let rustc = copy.join("usr/bin/rustc");
    let found = library_of(&rustc).and_then(|library| {
        complete(Rust { library, llvm_bin: debian_llvm(&copy)?, ..Rust::new(rustc, "Debian's packages") })
    });
    Ok(found.map_or_else(
        |error| {
            reasons.push(format!("{}: {error:#}", copy.display()));
            Search::Missing(reasons)
        },
        Search::Found,
    ))
}

/// Looks for NVIDIA's tools.
pub fn cuda() -> Search<Cuda> {
    let mut reasons = Vec::new();
    let home = env_path("CUDA_HOME");
    if home.is_none() {
        reasons.push("CUDA_HOME is not set".to_owned());
    }
    let private = private("cuda");
    if !private.is_dir() {
        reasons.push(format!("{} does not exist yet", private.display()));
    }
    let private = Some(private).filter(|dir| dir.is_dir());
    for (home, origin) in
        home.into_iter().map(|home| (home, "CUDA_HOME")).chain(private.map(|dir| (dir, "PyPI's wheels")))
    {
        match cuda_in(&home, origin) {
            Ok(cuda) => return Search::Found(cuda),
            Err(error) => reasons.push(format!("{}: {error:#}", home.display())),
        }
    }
    Search::Missing(reasons)
}

fn cuda_in(home: &Path, origin: &'static str) -> Result<Cuda> {
    let program = |name: &str| existing(home.join("bin").join(name));
    let (ptxas, nvdisasm) = (program("ptxas")?, program("nvdisasm")?);
    let said = process::text(&process::run(Command::new(&ptxas).arg("--version"))?);
    let version = field(&said, ", V").context("ptxas --version names no version")?.to_owned();
    ensure!(version.starts_with(CUDA_MAJOR), "ptxas is {version}, the kernels need CUDA {CUDA_MAJOR}");
    let libnvvm = ["nvvm/lib64", "lib", "lib64"].map(|dir| home.join(dir).join("libnvvm.so.4"));
    Ok(Cuda { ptxas, nvdisasm, libnvvm: libnvvm.into_iter().find(|path| path.is_file()), version, origin })
}

impl Rust {
    fn new(rustc: PathBuf, origin: &'static str) -> Rust {
        Rust {
            shared: shared_libraries(&rustc),
            rustc,
            library: PathBuf::new(),
            llvm_bin: PathBuf::new(),
            version: String::new(),
            llvm_version: String::new(),
            origin,
        }
    }
}

/// Asks the programs for their versions, which also proves that they start, and checks that they fit together.
fn complete(mut rust: Rust) -> Result<Rust> {
    existing(rust.library.join("core/src/lib.rs"))?;
    let said = process::text(&process::run(rust.command("rustc").arg("-vV"))?);
    let llvm = field(&said, "LLVM version: ").context("rustc -vV names no LLVM version")?;
    let release = field(&said, "release: ").context("rustc -vV names no release")?;
    ensure!(
        at_least(release, OLDEST_RUSTC),
        "rustc is {release}, the kernels need {}.{}",
        OLDEST_RUSTC.0,
        OLDEST_RUSTC.1
    );
    existing(rust.llvm_bin.join("opt"))?;
    let llc = process::text(&process::run(rust.command("llc").arg("--version"))?);
    let llc = field(&llc, "LLVM version ").context("llc --version names no version")?;
    if llc.split('.').next() != llvm.split('.').next() {
        bail!("{} is LLVM {llc}, but rustc writes the IR of LLVM {llvm}", rust.llvm_bin.join("llc").display());
    }
    rust.version = said.lines().next().unwrap_or_default().trim_start_matches("rustc ").to_owned();
    rust.llvm_version = llc.to_owned();
    Ok(rust)
}

/// The standard library's source in the sysroot of `rustc`.
fn library_of(rustc: &Path) -> Result<PathBuf> {
    let library = sysroot(rustc)?.join("lib/rustlib/src/rust/library");
    ensure!(library.is_dir(), "rust-src is not installed (no {})", library.display());
    Ok(library)
}

/// The folder of rustup's component llvm-tools in the sysroot of `rustc`.
fn llvm_of(rustc: &Path) -> Result<PathBuf> {
    let rustlib = sysroot(rustc)?.join("lib/rustlib");
    let hosts = fs::read_dir(&rustlib).with_context(|| format!("cannot read {}", rustlib.display()))?;
    let mut bins = hosts.filter_map(|host| Some(host.ok()?.path().join("bin")));
    bins.find(|bin| bin.join("opt").is_file() && bin.join("llc").is_file())
        .with_context(|| format!("llvm-tools is not installed (no opt and llc below {})", rustlib.display()))
}

/// The folder above `bin/rustc`. Only a rustc that says otherwise itself lies elsewhere.
fn sysroot(rustc: &Path) -> Result<PathBuf> {
    let rustc = rustc.canonicalize().with_context(|| format!("{} does not exist", rustc.display()))?;
    let sysroot = rustc.parent().and_then(Path::parent);
    Ok(sysroot.with_context(|| format!("{} is in no folder", rustc.display()))?.to_owned())
}

/// The folder of `opt` and `llc` in a tree of Debian packages.
fn debian_llvm(root: &Path) -> Result<PathBuf> {
    let lib = root.join("usr/lib");
    let entries = fs::read_dir(&lib).with_context(|| format!("cannot read {}", lib.display()))?;
    let mut folders = entries.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    folders.find(|bin| bin.join("opt").is_file()).with_context(|| format!("no opt below {}", lib.display()))
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

/// The folders of shared libraries around a rustc that was unpacked rather than installed: `usr/lib` and `lib` of its tree.
fn shared_libraries(rustc: &Path) -> Option<OsString> {
    let usr = rustc.parent()?.parent()?;
    let folder = Path::new("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let folders = [Some(usr), usr.parent()].into_iter().flatten().map(|root| root.join(&folder));
    let folders: Vec<_> = folders.filter(|folder| folder.is_dir()).collect();
    if folders.is_empty() { None } else { std::env::join_paths(folders).ok() }
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.is_file(), "{} does not exist", path.display());
    Ok(path)
}

/// What follows `label` up to the end of its line.
fn field<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(label)?;
    Some(rest.lines().next()?.trim())
}

/// Whether the version `release` (`1.96.0-nightly`) is `oldest` or newer.
pub fn at_least(release: &str, oldest: (u32, u32)) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= oldest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(at_least("1.96.0", (1, 95)) && at_least("1.100.0-nightly", (1, 95)) && at_least("2.0", (1, 95)));
        assert!(!at_least("1.94.9", (1, 95)) && !at_least("1.9", (1, 95)) && !at_least("", (1, 95)));
        assert!(at_least("1.96.0+dfsg1-1~deb12u2", (1, 96)));
    }

    #[test]
    fn fields_end_with_their_line() {
        assert_eq!(field("rustc 1.96.0\nLLVM version: 22.1.8\nx", "LLVM version: "), Some("22.1.8"));
        assert_eq!(field("Cuda compilation tools, release 13.5, V13.5.37\n", ", V"), Some("13.5.37"));
    }
}
