//! The kernels that `attn-host` carries: written from the source, and proven to be what the source gives.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, GzBuilder};

use super::arch::Arch;
use super::build::Built;
use super::ptxas::Resources;
use super::{frontend, lower, plans, sass};
use crate::hash::{Key, sha256};
use crate::toolchain::Versions;
use crate::workspace;

/// What to do about it.
pub const AGAIN: &str = "`cargo xtask build-ptx --prebuilt` writes them anew";

/// `prebuilt/ARCH/manifest.json`.
#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Manifest {
    /// SHA-256 over the kernels' source and the compilers' flags.
    source: String,
    /// What compiled them.
    toolchain: Versions,
    /// The kernels, by name.
    kernels: Vec<Kernel>,
}

/// One kernel of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Kernel {
    name: String,
    /// File beside the manifest: machine code.
    cubin: String,
    cubin_sha256: String,
    /// File beside the manifest: PTX, gzip.
    ptx: String,
    ptx_sha256: String,
    ptx_version: String,
    #[serde(flatten)]
    resources: Resources,
    smem_dynamic: u32,
    sass: sass::Counts,
    /// Fingerprint of the plan that a launcher must have too.
    plan: String,
}

/// A kernel with the bytes of its two files.
struct Packed {
    kernel: Kernel,
    cubin: Vec<u8>,
    ptx: Vec<u8>,
}

fn dir(arch: Arch) -> PathBuf {
    workspace::root().join("attn-host/prebuilt").join(arch.name())
}

/// What the source is: equal hashes give equal kernels with equal tools. Probes are not among the prebuilt kernels.
fn source_hash(arch: Arch) -> Result<String> {
    let root = workspace::root().join("attn-kernel/src");
    let flags = frontend::arguments(frontend::Source { root: &root, name: "attn_kernel", variants: None }, arch);
    let key = Key::new("prebuilt").add(flags.join("\n")).add(lower::flags());
    Ok(key.tree(&root, |path| !path.starts_with("probe"))?.finish())
}

/// Packs a text. No time and no name are in the header, so that equal texts give equal bytes.
pub fn gzip(text: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(text)?;
    Ok(gzip.finish()?)
}

/// The tools that the prebuilt kernels of `arch` were compiled with.
pub fn recorded_tools(arch: Arch) -> Result<Versions> {
    let path = dir(arch).join("manifest.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}; {AGAIN}", path.display()))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).with_context(|| format!("in {}; {AGAIN}", path.display()))?;
    Ok(manifest.toolchain)
}

fn pack(built: &Built) -> Result<Packed> {
    let read = |extension: &str| {
        let path = built.file(extension);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let cubin = read("cubin")?;
    let ptx = gzip(&read("ptx")?)?;
    let kernel = Kernel {
        name: built.name.clone(),
        cubin: format!("{}.cubin", built.name),
        cubin_sha256: sha256(&cubin),
        ptx: format!("{}.ptx.gz", built.name),
        ptx_sha256: sha256(&ptx),
        ptx_version: built.ptx_version.clone(),
        resources: built.resources.clone(),
        smem_dynamic: built.smem_dynamic,
        sass: built.sass,
        plan: built.plan.map(plans::text).with_context(|| format!("kernel {} states no plan", built.name))?,
    };
    Ok(Packed { kernel, cubin, ptx })
}

fn pack_all(built: &[Built], arch: Arch) -> Result<Vec<Packed>> {
    let mut packed: Vec<_> = built.iter().filter(|b| b.arch == arch.name()).map(pack).collect::<Result<_>>()?;
    packed.sort_by(|a, b| a.kernel.name.cmp(&b.kernel.name));
    Ok(packed)
}

/// Writes the kernels of `arch` among `built`.
pub fn write(built: &[Built], arch: Arch, toolchain: Versions) -> Result<()> {
    let dir = dir(arch);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot replace {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut bytes = 0;
    let mut kernels = Vec::new();
    for Packed { kernel, cubin, ptx } in pack_all(built, arch)? {
        fs::write(dir.join(&kernel.cubin), &cubin)?;
        fs::write(dir.join(&kernel.ptx), &ptx)?;
        bytes += cubin.len() + ptx.len();
        kernels.push(kernel);
    }
    println!("{} kernels, {} KiB, written to {}", kernels.len(), bytes / 1024, dir.display());
    let manifest = Manifest { source: source_hash(arch)?, toolchain, kernels };
    let mut text = serde_json::to_string_pretty(&manifest)?;
    text.push('\n');
    fs::write(dir.join("manifest.json"), text).with_context(|| format!("cannot write {}", dir.display()))
}

/// Proves that the prebuilt kernels of `arch` are those that the source gives.
///
/// The source's hash must be the recorded one. With the recorded toolchain the bytes must be equal, with another one
/// what the kernels occupy must.
pub fn check(built: &[Built], arch: Arch, toolchain: &Versions) -> Result<()> {
    let dir = dir(arch);
    let path = dir.join("manifest.json");
    let text =
        fs::read(&path).with_context(|| format!("there are no prebuilt kernels for {}; {AGAIN}", arch.name()))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).with_context(|| format!("in {}; {AGAIN}", path.display()))?;
    let fresh: Vec<Kernel> = pack_all(built, arch)?.into_iter().map(|packed| packed.kernel).collect();
    let same_tools = manifest.toolchain == *toolchain;
    let mut wrong = check_files(&dir, &manifest.kernels);
    if manifest.source != source_hash(arch)? {
        wrong.push("attn-kernel/src or the compilers' flags changed since they were written".to_owned());
    }
    wrong.extend(differences(&manifest.kernels, &fresh, same_tools));
    if !wrong.is_empty() {
        bail!(
            "the prebuilt kernels for {} are not those of the source; {AGAIN}\n  {}",
            arch.name(),
            wrong.join("\n  ")
        );
    }
    ensure!(!fresh.is_empty(), "there are no kernels for {}", arch.name());
    let how = if same_tools { "byte for byte" } else { "in what they occupy: other tools are recorded" };
    println!("prebuilt kernels for {}: {} equal the source's, {how}", arch.name(), fresh.len());
    Ok(())
}

/// Files that are missing, damaged or in nobody's list.
fn check_files(dir: &Path, kernels: &[Kernel]) -> Vec<String> {
    let mut listed: BTreeMap<&str, &str> = BTreeMap::new();
    for kernel in kernels {
        listed.insert(&kernel.cubin, &kernel.cubin_sha256);
        listed.insert(&kernel.ptx, &kernel.ptx_sha256);
    }
    let mut wrong = Vec::new();
    for (name, sha) in &listed {
        match fs::read(dir.join(name)) {
            Ok(bytes) if sha256(&bytes) == **sha => {}
            Ok(_) => wrong.push(format!("{name} is not the file that the manifest describes")),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    let names = fs::read_dir(dir).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok());
    let strangers = names.filter(|name| name != "manifest.json" && !listed.contains_key(name.as_str()));
    wrong.extend(strangers.map(|name| format!("{name} is not in the manifest")));
    wrong
}

/// What differs between the recorded kernels and fresh ones.
fn differences(recorded: &[Kernel], fresh: &[Kernel], same_tools: bool) -> Vec<String> {
    let by_name = |kernels: &[Kernel]| -> BTreeMap<String, Kernel> {
        kernels.iter().map(|kernel| (kernel.name.clone(), kernel.clone())).collect()
    };
    let (recorded, fresh) = (by_name(recorded), by_name(fresh));
    let mut wrong = Vec::new();
    for (name, kernel) in &fresh {
        match recorded.get(name) {
            None => wrong.push(format!("{name} is missing")),
            Some(old) if same_tools && old != kernel => wrong.push(format!("{name} compiles to other bytes")),
            Some(old) if old.plan != kernel.plan => wrong.push(format!("{name} was compiled from another plan")),
            Some(old) if (old.smem_dynamic, &old.resources) != (kernel.smem_dynamic, &kernel.resources) => {
                wrong.push(format!(
                    "{name} occupies {} registers and {} + {} bytes of shared memory, recorded are {} and {} + {}",
                    kernel.resources.registers,
                    kernel.resources.smem_static,
                    kernel.smem_dynamic,
                    old.resources.registers,
                    old.resources.smem_static,
                    old.smem_dynamic
                ));
            }
            Some(_) => {}
        }
    }
    wrong.extend(recorded.keys().filter(|name| !fresh.contains_key(*name)).map(|name| format!("{name} is gone")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str, registers: u32, sha: &str) -> Kernel {
        Kernel {
            name: name.to_owned(),
            cubin: format!("{name}.cubin"),
            cubin_sha256: sha.to_owned(),
            ptx: format!("{name}.ptx.gz"),
            ptx_sha256: sha.to_owned(),
            ptx_version: "8.0".to_owned(),
            resources: Resources { registers, ..Resources::default() },
            smem_dynamic: 1024,
            sass: sass::Counts::default(),
            plan: plans::text(7),
        }
    }

    #[test]
    fn equal_tools_must_give_equal_bytes_and_others_equal_resources() {
        let (old, new) = ([kernel("a", 168, "1")], [kernel("a", 168, "2")]);
        assert!(differences(&old, &old, true).is_empty());
        assert_eq!(differences(&old, &new, true), ["a compiles to other bytes"]);
        assert!(differences(&old, &new, false).is_empty());
        let more = differences(&old, &[kernel("a", 170, "2")], false);
        assert!(more[0].contains("170 registers") && more[0].contains("recorded are 168"), "{more:?}");
    }

    #[test]
    fn kernels_that_came_or_went_are_named() {
        let (old, new) = ([kernel("a", 8, "1")], [kernel("b", 8, "1")]);
        assert_eq!(differences(&old, &new, true), ["b is missing", "a is gone"]);
    }

    #[test]
    fn damaged_missing_and_unlisted_files_are_named() {
        let dir = std::env::temp_dir().join(format!("attn-prebuilt-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("a.cubin"), "code").unwrap();
        fs::write(dir.join("old.cubin"), "code").unwrap();
        let wrong = check_files(&dir, &[kernel("a", 8, "not its hash")]).join("\n");
        fs::remove_dir_all(&dir).unwrap();
        for part in ["a.cubin is not the file", "a.ptx.gz: ", "old.cubin is not in the manifest"] {
            assert!(wrong.contains(part), "{wrong}");
        }
    }

    #[test]
    fn a_manifest_survives_its_file() {
        let toolchain = Versions { rustc: "1.96".into(), llvm: "22".into(), cuda: "13.5".into() };
        let manifest = Manifest { source: "0".into(), toolchain, kernels: vec![kernel("a", 168, "1")] };
        let text = serde_json::to_string(&manifest).unwrap();
        assert!(text.contains("\"registers\":168"), "{text}");
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }
}
