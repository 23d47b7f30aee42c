//! From annotated IR to PTX.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::arch::{Arch, PtxVersion};
use crate::process;
use crate::toolchain::Rust;

/// Register arrays of 64 to 128 elements exist only when every loop over them is unrolled in full. A loop whose length
/// is not known stays as it is written.
const OPT_FLAGS: &[&str] = &["-unroll-threshold=1000000", "-unroll-allow-partial=0", "-unroll-runtime=0"];

/// No comments: they name functions by numbers that change with every function that the crate gains.
const LLC_FLAGS: &[&str] = &["-O3", "-filetype=asm", "-asm-verbose=0"];

/// What the result depends on besides the IR and the tools.
pub fn flags() -> String {
    [OPT_FLAGS, LLC_FLAGS].concat().join(" ")
}

/// LLVM's optimiser, from `STEM.ll` to `STEM.bc`.
pub fn optimise(rust: &Rust, arch: Arch, kernel: &str, stem: &Path) -> Result<()> {
    process::run(
        rust.command("opt")
            .arg("-passes=internalize,globaldce,default<O3>")
            .arg(format!("-internalize-public-api-list={kernel}"))
            .args(OPT_FLAGS)
            .args(target(arch))
            .arg(stem.with_extension("ll"))
            .arg("-o")
            .arg(stem.with_extension("bc")),
    )
    .map(drop)
}

/// LLVM's code generator, from `STEM.bc` to `STEM.ptx`.
pub fn generate(rust: &Rust, arch: Arch, stem: &Path) -> Result<()> {
    process::run(
        rust.command("llc")
            .args(LLC_FLAGS)
            .args(target(arch))
            .arg(stem.with_extension("bc"))
            .arg("-o")
            .arg(stem.with_extension("ptx")),
    )
    .map(drop)
}

fn target(arch: Arch) -> [String; 2] {
    let version = arch.oldest_ptx();
    [format!("-mcpu={}", arch.name()), format!("-mattr=+ptx{}{}", version.major, version.minor)]
}

/// `ptx` with another `.version`.
pub fn with_version(ptx: &str, version: PtxVersion) -> Result<String> {
    let at = ptx.find(".version ").context("the PTX states no version")?;
    let end = at + ptx[at..].find('\n').context("the PTX ends in its version")?;
    Ok(format!("{}.version {version}{}", &ptx[..at], &ptx[end..]))
}

/// The version that `ptx` states.
pub fn version(ptx: &str) -> Option<PtxVersion> {
    PtxVersion::parse(ptx.split_once(".version ")?.1)
}

/// Refuses PTX that is not one kernel in registers: a call that was not inlined, a function, local memory.
pub fn check(ptx: &str) -> Result<()> {
    for line in ptx.lines().map(str::trim) {
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with('@'));
        let first = words.next().unwrap_or_default();
        if first.starts_with("//") {
            continue;
        }
        if line.contains(".func ") {
            bail!("a function was not inlined: `{line}`");
        }
        if first == "call" || first.starts_with("call.") {
            bail!("a call was not inlined: `{line}`");
        }
        if first == ".local" {
            bail!("an array does not fit registers and went to local memory: `{line}`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_kernels_pass() {
        check(".visible .entry k(\n)\n{\n\t// call site\n\tbar.sync 0;\n\tret;\n}\n").unwrap();
        for (ptx, word) in [
            (".func (.param .b32 r) f()\n", "function"),
            ("\t@%p1 call.uni panic, ();\n", "call"),
            ("\t.local .align 16 .b8 \t__local_depot0[256];\n", "local memory"),
        ] {
            let error = check(ptx).unwrap_err().to_string();
            assert!(error.contains(word), "{ptx}: {error}");
        }
    }

    #[test]
    fn the_version_is_replaced() {
        let ptx = "//\n.version 8.0\n.target sm_90a\n";
        let newer = with_version(ptx, PtxVersion { major: 8, minor: 6 }).unwrap();
        assert_eq!(newer, "//\n.version 8.6\n.target sm_90a\n");
        assert_eq!(version(&newer), Some(PtxVersion { major: 8, minor: 6 }));
    }
}
