//! A rustc with what belongs to it: the source of its library, and the programs of its LLVM.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// rustc older than this lacks what the kernels use.
pub const OLDEST: (u32, u32) = (1, 95);

/// A rustc and the LLVM that it was built with.
#[derive(Clone, Debug)]
pub struct Rust {
    /// The compiler.
    pub rustc: PathBuf,
    /// The source of the standard library that belongs to it: the folder that holds `core/src/lib.rs`.
    pub library: PathBuf,
    /// The folder of `opt` and `llc`.
    llvm_bin: PathBuf,
    /// Folders with the shared libraries of these programs, for `LD_LIBRARY_PATH`, when they are in unusual places.
    shared: Option<OsString>,
    /// For instance `1.96.0 (ac68faa20 2026-05-25)`.
    pub version: String,
    /// For instance `22.1.8`.
    pub llvm_version: String,
    /// Where it was found.
    pub origin: &'static str,
}

impl Rust {
    /// The toolchain of `rustc`. `parts` are the folders of the library's source and of LLVM's programs, where they are
    /// not in the compiler's sysroot. All programs are started once, so that what is found also works.
    pub fn at(rustc: PathBuf, parts: (Option<PathBuf>, Option<PathBuf>), origin: &'static str) -> Result<Rust> {
        let rustc = existing(rustc)?;
        let shared = shared_libraries(&rustc);
        let (version, llvm_version) = (String::new(), String::new());
        let mut rust =
            Rust { rustc, library: PathBuf::new(), llvm_bin: PathBuf::new(), shared, version, llvm_version, origin };
        let said = process::text(&process::run(rust.command("rustc").arg("-vV"))?);
        let release = field(&said, "release: ").context("rustc -vV names no release")?;
        ensure!(at_least(release, OLDEST), "rustc is {release}, the kernels need {}.{}", OLDEST.0, OLDEST.1);
        let llvm = field(&said, "LLVM version: ").context("rustc -vV names no LLVM version")?;
        rust.version = said.lines().next().unwrap_or_default().trim_start_matches("rustc ").to_owned();

        let sysroot = process::text(&process::run(rust.command("rustc").args(["--print", "sysroot"]))?);
        let sysroot = PathBuf::from(sysroot.trim_end());
        rust.library = parts.0.unwrap_or_else(|| sysroot.join("lib/rustlib/src/rust/library"));
        let core = rust.library.join("core/src/lib.rs");
        ensure!(core.is_file(), "rust-src is not installed (no {})", core.display());
        rust.llvm_bin = parts.1.map_or_else(|| llvm_of(&sysroot), Ok)?;
        existing(rust.llvm_bin.join("opt"))?;
        let said = process::text(&process::run(rust.command("llc").arg("--version"))?);
        rust.llvm_version = field(&said, "LLVM version ").context("llc --version names no version")?.to_owned();
        ensure!(
            major(&rust.llvm_version) == major(llvm),
            "{} is of LLVM {}, but rustc writes the IR of LLVM {llvm}",
            rust.llvm_bin.join("llc").display(),
            rust.llvm_version
        );
        Ok(rust)
    }

    /// A command for `rustc`, `opt` or `llc`. rustc may use unstable features, whatever channel it was built for.
    pub fn command(&self, program: &str) -> Command {
        let mut command = match program {
            "rustc" => Command::new(&self.rustc),
            _ => Command::new(self.llvm_bin.join(program)),
        };
        // The host toolchain's settings are not for this compiler; cargo also gives its own libraries to what it runs.
        match &self.shared {
            Some(shared) => command.env("LD_LIBRARY_PATH", shared),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
        for name in ["RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS"] {
            command.env_remove(name);
        }
        command.env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

/// The folder of `opt` and `llc`: rustup's component llvm-tools puts them below rustlib, Debian beside it.
fn llvm_of(sysroot: &Path) -> Result<PathBuf> {
    let lib = sysroot.join("lib");
    let folders = [lib.join("rustlib"), lib.clone()].into_iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    let mut bins = folders.filter_map(|folder| Some(folder.ok()?.path().join("bin")));
    bins.find(|bin| bin.join("opt").is_file() && bin.join("llc").is_file())
        .with_context(|| format!("llvm-tools is not installed (no opt and llc below {})", lib.display()))
}

/// The folders of shared libraries around a rustc that was unpacked rather than installed: `usr/lib` and `lib` of its tree.
fn shared_libraries(rustc: &Path) -> Option<OsString> {
    let usr = rustc.parent()?.parent()?;
    let folder = Path::new("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let folders = [Some(usr), usr.parent()].into_iter().flatten().map(|root| root.join(&folder));
    let folders: Vec<_> = folders.filter(|folder| folder.is_dir()).collect();
    if folders.is_empty() { None } else { std::env::join_paths(folders).ok() }
}

/// `path`, if it is a file.
pub fn existing(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.is_file(), "{} does not exist", path.display());
    Ok(path)
}

/// What follows `label` up to the end of its line.
pub fn field<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(label)?;
    Some(rest.lines().next()?.trim())
}

/// Whether the version `release` (`1.96.0-nightly`) is `oldest` or newer.
pub fn at_least(release: &str, oldest: (u32, u32)) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= oldest
}

fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or(version)
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

    #[test]
    fn a_rustc_that_is_not_there_is_named() {
        let error = Rust::at("/no/such/rustc".into(), (None, None), "a test").unwrap_err().to_string();
        assert_eq!(error, "/no/such/rustc does not exist");
    }
}
