//! Writes the table of embedded kernels from `prebuilt/<arch>/manifest.json`, an empty one when there is none.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The part of a manifest that is needed here.
#[derive(serde::Deserialize)]
struct Manifest {
    kernels: Vec<Kernel>,
}

#[derive(serde::Deserialize)]
struct Kernel {
    name: String,
    cubin: Part,
    ptx: Part,
    /// Fingerprint of the plan that it was compiled from, hexadecimal.
    plan: String,
}

/// A part of what a packed file holds.
#[derive(serde::Deserialize)]
struct Part {
    /// Name beside the manifest.
    file: PathBuf,
    at: usize,
    bytes: usize,
}

impl Part {
    fn source(&self, dir: &Path) -> String {
        let Part { file, at, bytes } = self;
        format!("Packed {{ frame: include_bytes!({:?}), at: {at}, bytes: {bytes} }}", dir.join(file))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    if env::var_os("CARGO_FEATURE_CUST").is_some() {
        // cust asks for `-lcuda`; its symbols are defined by this crate, so the empty archive there is all the linker needs.
        println!("cargo::rustc-link-search=native={}", manifest_dir.join("link/lib64").display());
    }
    let prebuilt = manifest_dir.join("prebuilt");
    println!("cargo::rerun-if-changed={}", prebuilt.display());
    let mut table = String::from("static EMBEDDED: &[Embedded] = &[\n");
    for dir in architectures(&prebuilt)? {
        add(&dir, &mut table).map_err(|e| format!("{}: {e}", dir.join("manifest.json").display()))?;
    }
    table.push_str("];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("embedded.rs"), table)?;
    Ok(())
}

/// Folders with a manifest, in order.
fn architectures(prebuilt: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    if !prebuilt.is_dir() {
        return Ok(Vec::new());
    }
    let entries: Result<Vec<_>, _> = fs::read_dir(prebuilt)?.map(|entry| entry.map(|e| e.path())).collect();
    let mut dirs: Vec<_> = entries?.into_iter().filter(|dir| dir.join("manifest.json").is_file()).collect();
    dirs.sort();
    Ok(dirs)
}

fn add(dir: &Path, table: &mut String) -> Result<(), Box<dyn Error>> {
    let arch = dir.file_name().unwrap_or_default().to_string_lossy();
    let manifest: Manifest = serde_json::from_slice(&fs::read(dir.join("manifest.json"))?)?;
    for Kernel { name, cubin, ptx, plan } in manifest.kernels {
        let (cubin, ptx) = (cubin.source(dir), ptx.source(dir));
        writeln!(
            table,
            "    Embedded {{ name: {name:?}, arch: {arch:?}, cubin: {cubin}, ptx: {ptx}, plan: 0x{plan} }},"
        )?;
    }
    Ok(())
}
