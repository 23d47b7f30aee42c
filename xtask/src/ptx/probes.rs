//! The probes' PTX in `attn-sim/tests/ptx/probes`, which its tests run: written from the source, and proven to be what the
//! source gives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::arch::Arch;
use super::options::Options;
use super::{Codegen, frontend, jobs, pool, prebuilt};
use crate::toolchain::Toolchain;
use crate::workspace;

/// How the names of kernels begin that only tests start.
pub const PREFIX: &str = "probe_";

/// Which probes of which architecture: sm_103a has one form of load more than sm_100a.
const WANTED: [(Arch, &str); 3] =
    [(Arch::Sm90a, PREFIX), (Arch::Sm100a, PREFIX), (Arch::Sm103a, "probe_tcgen05_reduce")];

fn dir() -> PathBuf {
    workspace::root().join("attn-sim/tests/ptx/probes")
}

/// Packed PTX by its path below [`dir`].
type Files = BTreeMap<String, Vec<u8>>;

/// What the source gives.
fn fresh(toolchain: &Toolchain, options: &Options) -> Result<Files> {
    let core = frontend::core(&toolchain.rust)?;
    let mut all = Vec::new();
    for (arch, part) in WANTED {
        all.extend(jobs(toolchain, &core, arch, part, Codegen::Llvm)?);
    }
    let (built, failed) = pool::compile_all(toolchain, &all, options.jobs, options.verbose);
    let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
    ensure!(failed.is_empty(), "probes that do not compile\n  {}", failed.join("\n  "));
    let packed = built.iter().map(|probe| {
        let text = fs::read(probe.file("ptx")).with_context(|| format!("cannot read the PTX of {}", probe.name))?;
        Ok((format!("{}/{}.ptx.gz", probe.arch, probe.name), prebuilt::gzip(&text)?))
    });
    packed.collect()
}

/// What lies there.
fn committed(dir: &Path) -> Result<Files> {
    let mut files = Files::new();
    for (arch, _) in WANTED {
        let folder = dir.join(arch.name());
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.insert(format!("{}/{name}", arch.name()), fs::read(&path)?);
        }
    }
    Ok(files)
}

/// Writes them anew.
pub fn write(toolchain: &Toolchain, options: &Options) -> Result<()> {
    let (dir, files) = (dir(), fresh(toolchain, options)?);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot replace {}", dir.display()))?;
    }
    for (arch, _) in WANTED {
        fs::create_dir_all(dir.join(arch.name())).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    for (name, bytes) in &files {
        fs::write(dir.join(name), bytes).with_context(|| format!("cannot write {name}"))?;
    }
    println!("{} probes, {} KiB, written to {}", files.len(), size(&files) / 1024, dir.display());
    Ok(())
}

/// Proves that they are what the source gives with the tools that the prebuilt kernels were compiled with. Other tools give other
/// texts, which say nothing.
pub fn check(toolchain: &Toolchain, options: &Options) -> Result<()> {
    if prebuilt::recorded_tools(Arch::Sm90a)? != toolchain.versions() {
        println!("the probes of attn-sim's tests are not compared: other tools are recorded");
        return Ok(());
    }
    let fresh = fresh(toolchain, options)?;
    let wrong = differences(&committed(&dir())?, &fresh);
    if !wrong.is_empty() {
        bail!(
            "the probes of attn-sim's tests are not those of the source; {}\n  {}",
            prebuilt::AGAIN,
            wrong.join("\n  ")
        );
    }
    println!("probes of attn-sim's tests: {} equal the source's, byte for byte", fresh.len());
    Ok(())
}

fn size(files: &Files) -> usize {
    files.values().map(Vec::len).sum()
}

fn differences(committed: &Files, fresh: &Files) -> Vec<String> {
    let gone = committed.keys().filter(|name| !fresh.contains_key(*name)).map(|name| format!("{name} is gone"));
    let others = fresh.iter().filter_map(|(name, bytes)| match committed.get(name) {
        None => Some(format!("{name} is missing")),
        Some(old) if old != bytes => Some(format!("{name} is another text")),
        Some(_) => None,
    });
    others.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_that_changed_came_or_went_are_named() {
        let files = |all: &[(&str, u8)]| all.iter().map(|(name, byte)| ((*name).to_owned(), vec![*byte])).collect();
        let (old, new): (Files, Files) =
            (files(&[("a", 1), ("b", 1), ("c", 1)]), files(&[("a", 1), ("b", 2), ("d", 1)]));
        assert!(differences(&old, &old).is_empty());
        assert_eq!(differences(&old, &new), ["b is another text", "d is missing", "c is gone"]);
    }
}
