//! rustc's part: from Rust to unoptimised LLVM IR.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::arch::Arch;
use crate::hash::Key;
use crate::process;
use crate::toolchain::Rust;
use crate::workspace;

const TARGET: &str = "nvptx64-nvidia-cuda";

/// Flags of everything that is compiled for the device. MIR jump threading is off because it copies code with barriers
/// into both sides of a branch (seen with rustc 1.96: one `bar.sync` became two divergent ones).
const FLAGS: &[&str] = &[
    "--edition=2024",
    "--crate-type=rlib",
    "--target",
    TARGET,
    "-Cpanic=abort",
    "-Copt-level=3",
    "-Ccodegen-units=1",
    "-Zmir-enable-passes=-JumpThreading",
    // Without file names and line numbers in panics, an edit does not change the functions below it.
    "-Zlocation-detail=none",
];

/// The stand-in for `compiler_builtins`, which rustc wants to load although nothing is used from it.
const COMPILER_BUILTINS: &str = "#![feature(compiler_builtins)]\n#![compiler_builtins]\n#![no_std]\n";

/// A folder with `core` compiled for the device; compiled on the first call for a toolchain, which takes half a minute.
pub fn core(rust: &Rust) -> Result<PathBuf> {
    let key = Key::new("core").add(&rust.version).add(FLAGS.join(" ")).add(COMPILER_BUILTINS).finish();
    let dir = workspace::target().join("ptx-cache").join(format!("core-{}", &key[..16]));
    if dir.is_dir() {
        return Ok(dir);
    }
    let _lock = workspace::lock(&dir.with_extension("lock"))?;
    if dir.is_dir() {
        return Ok(dir);
    }
    eprintln!("compiling `core` for {TARGET}, once for {} ...", rust.version);
    let temporary = dir.with_extension(format!("new-{}", std::process::id()));
    fs::create_dir_all(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
    process::run(
        rust.command("rustc")
            .args(["--crate-name=core", "--cap-lints=allow", "--out-dir"])
            .arg(&temporary)
            .args(FLAGS)
            .arg(rust.library.join("core/src/lib.rs")),
    )
    .context("cannot compile `core` for the device")?;
    let builtins = temporary.join("compiler_builtins.rs");
    fs::write(&builtins, COMPILER_BUILTINS)?;
    process::run(
        rust.command("rustc")
            .args(["--crate-name=compiler_builtins", "--cap-lints=allow", "--emit=metadata", "--out-dir"])
            .arg(&temporary)
            .arg("-L")
            .arg(&temporary)
            .args(FLAGS)
            .arg(&builtins),
    )
    .context("cannot compile the empty `compiler_builtins`")?;
    // Only a complete folder gets the final name.
    fs::rename(&temporary, &dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Names the file of the kernels that are compiled in place of a crate's own.
const VARIANTS: &str = "ATTN_VARIANTS";

/// What to compile.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The crate's root file.
    pub root: &'a Path,
    /// The crate's name.
    pub name: &'a str,
    /// A file of the kernels that are compiled in place of the crate's own, and of the probes.
    pub variants: Option<&'a Path>,
}

/// Compiles `source` for `arch` and returns the IR.
pub fn emit(rust: &Rust, core: &Path, source: Source, arch: Arch) -> Result<String> {
    let arguments = arguments(source, arch);
    let sources = source.root.parent().unwrap_or(source.root);
    let mut key = Key::new("ir").add(&rust.version).add(arguments.join("\n")).tree(sources, |_| true)?;
    if let Some(file) = source.variants {
        key = key.add(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    let key = key.finish();
    let cache = workspace::target().join("ptx-cache");
    let file = cache.join(format!("ir-{}-{}-{}.ll", source.name, arch.name(), &key[..32]));
    if let Ok(text) = fs::read_to_string(&file) {
        return Ok(text);
    }
    // Apart from the crate's own kernels, whose next build would otherwise start from nothing.
    let lane = if source.variants.is_some() { "variants" } else { source.name };
    let incremental = cache.join("incremental").join(lane).join(arch.name());
    fs::create_dir_all(&incremental).with_context(|| format!("cannot create {}", incremental.display()))?;
    // Another build of the same kernels waits here: both would write the same file. Its name is always the same because
    // rustc starts from nothing when it changes.
    let _lock = workspace::lock(&incremental.with_extension("lock"))?;
    let output = incremental.with_extension("ll");
    let mut command = rust.command("rustc");
    if let Some(file) = source.variants {
        command.env(VARIANTS, file);
    }
    command.args(&arguments).arg("-L").arg(core).arg(format!("--emit=llvm-ir={}", output.display()));
    // Saves four fifths of the time after an edit. Also used when there is nothing to build on: the IR of a build without
    // it differs a little, and a result must not depend on what was built before.
    command.arg(format!("-Cincremental={}", incremental.display())).arg(source.root);
    // The compiler speaks to the user itself: warnings as well as errors.
    let status = command.status().with_context(|| format!("cannot start {}", rust.rustc.display()))?;
    ensure!(status.success(), "{} does not compile for {}", source.root.display(), arch.name());
    fs::rename(&output, &file)?;
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// What rustc is told besides files and folders.
pub fn arguments(source: Source, arch: Arch) -> Vec<String> {
    let mut arguments: Vec<String> = FLAGS.iter().map(|&flag| flag.to_owned()).collect();
    let mut add = |argument: &str| arguments.push(argument.to_owned());
    add(&format!("--crate-name={}", source.name));
    add("-Cno-prepopulate-passes");
    // An architecture without kernels uses none of the features that kernels need.
    add("-Aunused-features");
    // And the kernels of the others are dead code. The host's build of the crate sees what nobody uses.
    add("-Adead-code");
    add(&format!("-Ctarget-cpu={}", arch.name()));
    add(&format!("--cfg=attn_arch=\"{}\"", arch.name()));
    // The probes are always there, and left out of what is compiled on: one run of the front end serves every build.
    add(if source.variants.is_some() { "--cfg=attn_variants" } else { "--cfg=attn_probes" });
    let known: Vec<_> = Arch::ALL.iter().map(|arch| format!("\"{}\"", arch.name())).collect();
    add(&format!("--check-cfg=cfg(attn_arch, values({}))", known.join(", ")));
    add("--check-cfg=cfg(attn_probes, attn_variants, test)");
    add("--check-cfg=cfg(feature, values(\"rust-cuda\"))");
    arguments
}
