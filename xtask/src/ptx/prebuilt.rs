//! The kernels that `attn-host` carries: written from the source, and proven to be what the source gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, GzBuilder};

use super::arch::Arch;
use super::build::Built;
use super::packed::{self, Files, PACKED, Part, family};
use super::ptxas::Resources;
use super::{frontend, lower, plans, probes, sass};
use crate::hash::Key;
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
    /// Machine code.
    cubin: Part,
    ptx: Part,
    ptx_version: String,
    #[serde(flatten)]
    resources: Resources,
    smem_dynamic: u32,
    sass: sass::Counts,
    /// Fingerprint of the plan that a launcher must have too.
    plan: String,
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
    Ok(recorded(arch)?.toolchain)
}

fn recorded(arch: Arch) -> Result<Manifest> {
    let path = dir(arch).join("manifest.json");
    let text =
        fs::read(&path).with_context(|| format!("there are no prebuilt kernels for {}; {AGAIN}", arch.name()))?;
    serde_json::from_slice(&text).with_context(|| format!("in {}; {AGAIN}", path.display()))
}

/// Unpacks the machine code of the prebuilt kernels of `arch` into a folder under `target`, for tools that read files.
pub fn cubins(arch: Arch) -> Result<PathBuf> {
    let (files, manifest) = (packed::read_all(&dir(arch))?, recorded(arch)?);
    let out = workspace::target().join("prebuilt").join(arch.name());
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    for kernel in &manifest.kernels {
        let code = kernel.cubin.of(&files).with_context(|| format!("{} is damaged; {AGAIN}", kernel.cubin.file))?;
        let path = out.join(format!("{}.cubin", kernel.name));
        fs::write(&path, code).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(out)
}

fn describe(built: &Built, files: &mut Files) -> Result<Kernel> {
    let read = |extension: &str| {
        let path = built.file(extension);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let mut add = |form: &str| -> Result<Part> {
        Ok(Part::add(files, format!("{}.{form}.{PACKED}", family(&built.name)), &read(form)?))
    };
    Ok(Kernel {
        name: built.name.clone(),
        cubin: add("cubin")?,
        ptx: add("ptx")?,
        ptx_version: built.ptx_version.clone(),
        resources: built.resources.clone(),
        smem_dynamic: built.smem_dynamic,
        sass: built.sass,
        plan: built.plan.map(plans::text).with_context(|| format!("kernel {} states no plan", built.name))?,
    })
}

/// The kernels of `arch` among `built` that are no probes, by name, and what their files hold.
fn describe_all(built: &[Built], arch: Arch) -> Result<(Vec<Kernel>, Files)> {
    let carried = |built: &&Built| built.arch == arch.name() && !built.name.starts_with(probes::PREFIX);
    let mut of_arch: Vec<_> = built.iter().filter(carried).collect();
    of_arch.sort_by(|a, b| a.name.cmp(&b.name));
    let mut files = Files::new();
    let kernels = of_arch.into_iter().map(|built| describe(built, &mut files)).collect::<Result<_>>()?;
    Ok((kernels, files))
}

/// Writes the kernels of `arch` among `built`.
pub fn write(built: &[Built], arch: Arch, toolchain: Versions) -> Result<()> {
    let dir = dir(arch);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot replace {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut bytes = 0;
    let (kernels, files) = describe_all(built, arch)?;
    for (name, content) in &files {
        let packed = packed::pack(content)?;
        fs::write(dir.join(name), &packed).with_context(|| format!("cannot write {name}"))?;
        bytes += packed.len();
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
    let (dir, manifest) = (dir(arch), recorded(arch)?);
    let (fresh, _) = describe_all(built, arch)?;
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
    let files = match packed::read_all(dir) {
        Ok(files) => files,
        Err(error) => return vec![format!("{error:#}")],
    };
    let parts = || kernels.iter().flat_map(|kernel| [(kernel, &kernel.cubin), (kernel, &kernel.ptx)]);
    let damaged = parts().filter(|(_, part)| part.of(&files).is_none());
    let mut wrong: Vec<String> = damaged
        .map(|(kernel, part)| format!("{} does not hold {} as the manifest describes it", part.file, kernel.name))
        .collect();
    let listed: BTreeSet<&str> = parts().map(|(_, part)| part.file.as_str()).collect();
    let names = fs::read_dir(dir).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok());
    let strangers = names.filter(|name| name != "manifest.json" && !listed.contains(name.as_str()));
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
    use crate::hash::sha256;

    fn kernel(name: &str, registers: u32, sha: &str) -> Kernel {
        let part = |form| Part { file: format!("{name}.{form}.zst"), at: 1, bytes: 4, sha256: sha.to_owned() };
        Kernel {
            name: name.to_owned(),
            cubin: part("cubin"),
            ptx: part("ptx"),
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
        fs::write(dir.join("a.cubin.zst"), packed::pack(b" code").unwrap()).unwrap();
        fs::write(dir.join("a.ptx.zst"), packed::pack(b" cod").unwrap()).unwrap();
        fs::write(dir.join("old.cubin.zst"), packed::pack(b"code").unwrap()).unwrap();
        let good = check_files(&dir, &[kernel("a", 8, &sha256(b"code"))]).join("\n");
        fs::write(dir.join("b.cubin.zst"), "no frame").unwrap();
        let unreadable = check_files(&dir, &[]).join("\n");
        fs::remove_dir_all(&dir).unwrap();
        assert!(!good.contains("a.cubin.zst does not"), "{good}");
        for part in ["a.ptx.zst does not hold a", "old.cubin.zst is not in the manifest"] {
            assert!(good.contains(part), "{good}");
        }
        assert!(unreadable.contains("b.cubin.zst"), "{unreadable}");
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
