//! `cargo xtask gpu-bundle`: the GPU suite, the benchmarks and the demo for a machine with only a driver.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{capi, process, workspace};

/// Packs the GPU suite, the benchmarks, the demo, freshly built kernels and a script into one folder.
///
/// The folder runs on a Linux machine that has an NVIDIA driver and nothing else: `run.sh` there runs everything, or
/// what its arguments name. Only the comparison with peers needs Python and PyTorch there.
#[derive(clap::Args)]
pub struct Options {
    /// Folder to fill; what is in it is replaced [default: target/gpu-bundle].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Architectures of the freshly built kernels, separated by commas.
    #[arg(long, value_name = "ARCH", default_value = "sm_90a,sm_100a,sm_103a")]
    arch: String,
}

const PROGRAMS: [&str; 3] = ["attn-gpu-suite", "attn-gpu-bench", "attn-demo"];
const SCRIPT: &str = include_str!("gpu_bundle/run.sh");
/// So that a bundle is quickly copied.
const MAX_MIB: f64 = 64.0;

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let out = options.out.clone().unwrap_or_else(|| workspace::target().join("gpu-bundle"));
    clear(&out)?;
    let script = out.join("run.sh");
    fs::write(&script, SCRIPT)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    fs::create_dir_all(out.join("data"))?;
    let sample = "data/minilm_layer3.safetensors";
    fs::copy(workspace::root().join("tests").join(sample), out.join(sample))?;
    for program in build_programs()? {
        let name = program.file_name().with_context(|| format!("{} has no name", program.display()))?;
        fs::copy(&program, out.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    fs::create_dir_all(out.join("bench"))?;
    for file in capi::BENCH {
        fs::copy(capi::bench_dir().join(file), out.join("bench").join(file))?;
    }
    fs::copy(capi::library()?, out.join("bench/libattn.so"))?;
    // A kernel with a defect is written all the same, and may be what the bundle is made to look at.
    let kernels = out.join("kernels");
    let kernels = kernels.to_str().with_context(|| format!("{} is not UTF-8", kernels.display()))?;
    let defects = crate::invoke(["build-ptx", "--arch", &options.arch, "--emit", "cubin", "--out", kernels]);

    let mib = size(&out)? as f64 / f64::from(1 << 20);
    println!("{}: {mib:.1} MiB; there, run ./run.sh", out.display());
    if mib > MAX_MIB {
        bail!("the bundle is larger than {MAX_MIB} MiB");
    }
    defects.context("the bundle is filled, but the kernels in it have defects")
}

/// Empties a folder of an earlier bundle, and refuses to empty any other.
fn clear(out: &Path) -> Result<()> {
    let empty = !out.exists() || fs::read_dir(out)?.next().is_none();
    if !empty && !out.join("run.sh").exists() {
        bail!("{} holds other things than a bundle; name another folder", out.display());
    }
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))
}

/// Builds the programs and returns where cargo put them.
fn build_programs() -> Result<Vec<PathBuf>> {
    let mut command = process::cargo();
    command.args([
        "build",
        "--release",
        "--package",
        "attn-tests",
        "--bins",
        "--message-format",
        "json-render-diagnostics",
    ]);
    command.stderr(std::process::Stdio::inherit());
    let output = process::run(&mut command)?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let executables: Vec<PathBuf> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .filter(|path| path.file_name().is_some_and(|name| PROGRAMS.iter().any(|p| *p == name)))
        .collect();
    if executables.len() != PROGRAMS.len() {
        bail!("cargo built {executables:?} where {PROGRAMS:?} were expected");
    }
    Ok(executables)
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bundles_folder_is_emptied() {
        let dir = std::env::temp_dir().join(format!("attn-bundle-{}", std::process::id()));
        clear(&dir).expect("created");
        fs::write(dir.join("thesis.tex"), "years of work").expect("writable");
        let error = clear(&dir).expect_err("not a bundle").to_string();
        assert!(error.contains("holds other things"), "{error}");
        assert!(dir.join("thesis.tex").exists());
        fs::write(dir.join("run.sh"), SCRIPT).expect("writable");
        clear(&dir).expect("a bundle is replaced");
        assert_eq!(size(&dir).expect("readable"), 0);
        fs::remove_dir_all(&dir).expect("removable");
    }

    #[test]
    fn the_script_runs_what_the_bundle_holds() {
        for program in PROGRAMS {
            assert!(SCRIPT.contains(&format!("./{program}")), "{program}");
        }
        for file in ["bench/peers.py", "bench/varlen.py", "bench/decode.py"] {
            assert!(SCRIPT.contains(file), "{file}");
        }
    }
}
