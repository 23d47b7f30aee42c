//! One kernel from its own IR to a cubin, or out of the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::arch::Arch;
use super::declare::Declared;
use super::ptxas::Resources;
use super::{Codegen, lower, nvvm, prune, ptxas, sass};
use crate::hash::Key;
use crate::toolchain::Toolchain;
use crate::workspace;

/// A kernel that waits for its back end.
pub struct Job {
    /// Where it will run.
    pub arch: Arch,
    /// How it becomes PTX.
    pub codegen: Codegen,
    /// What it says about itself.
    pub declared: Declared,
    /// Its module, annotated.
    pub ir: String,
}

/// A kernel that was compiled.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Built {
    /// Entry point.
    pub name: String,
    /// Architecture.
    pub arch: String,
    /// The PTX version that its instructions need.
    pub ptx_version: String,
    /// Bytes of dynamic shared memory of a launch.
    pub smem_dynamic: u32,
    /// What ptxas says.
    pub resources: Resources,
    /// Instruction counts.
    pub sass: sass::Counts,
    /// Fingerprint of the plan that a launcher must have too; what is cached does not depend on it.
    #[serde(skip)]
    pub plan: Option<u64>,
    /// The folder with `kernel.ll`, `kernel.ptx` and `kernel.cubin`.
    #[serde(skip)]
    pub dir: PathBuf,
    /// What each step took, empty when the kernel came from the cache.
    #[serde(skip)]
    pub steps: Vec<(&'static str, Duration)>,
    /// Whether it came from the cache.
    #[serde(skip)]
    pub cached: bool,
}

impl Built {
    /// The file with the extension `extension`.
    pub fn file(&self, extension: &str) -> PathBuf {
        self.dir.join("kernel").with_extension(extension)
    }
}

/// Compiles `job`, or finds it compiled.
pub fn build(toolchain: &Toolchain, job: &Job) -> Result<Built> {
    let versions = serde_json::to_string(&toolchain.versions())?;
    let key = Key::new("kernel-1").add(versions).add(lower::flags()).add(job.arch.name()).add(&job.ir);
    let code = Declared { plan: None, ..job.declared.clone() };
    let lane = if job.codegen == Codegen::Nvvm { nvvm::REVISION } else { "" };
    let key = key.add(format!("{code:?} {:?}{lane}", job.codegen)).finish();
    let dir = workspace::target().join("ptx-cache").join(&key[..2]).join(&key[2..34]);
    if let Ok(report) = fs::read(dir.join("report.json")) {
        prune::touch(&dir.join("report.json"));
        return Ok(Built { dir, cached: true, plan: job.declared.plan, ..serde_json::from_slice(&report)? });
    }
    let temporary = dir.with_extension(format!("new-{}", std::process::id()));
    fs::create_dir_all(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
    let built = compile(toolchain, job, &temporary)?;
    if fs::rename(&temporary, &dir).is_err() {
        fs::remove_dir_all(&temporary)?;
    }
    Ok(Built { dir, ..built })
}

/// The back end proper. On an error the files stay where the message says, for a look at them.
pub fn compile(toolchain: &Toolchain, job: &Job, dir: &Path) -> Result<Built> {
    let stem = dir.join("kernel");
    let read = || fs::read_to_string(stem.with_extension("ptx")).context("the compiler wrote no PTX");
    fs::write(stem.with_extension("ll"), &job.ir)?;
    let mut steps = Vec::new();
    match job.codegen {
        Codegen::Llvm => {
            timed(&mut steps, "opt", || lower::optimise(&toolchain.rust, job.arch, &job.declared.name, &stem))?;
            timed(&mut steps, "llc", || lower::generate(&toolchain.rust, job.arch, &stem))?;
        }
        Codegen::RustCuda => bail!("Rust-CUDA compiles whole crates"),
        Codegen::Nvvm => {
            let ptx = timed(&mut steps, "libNVVM", || nvvm::compile(toolchain, job.arch, &job.ir))?;
            fs::write(stem.with_extension("ptx"), lower::with_version(&ptx, job.arch.oldest_ptx())?)?;
        }
    }
    lower::check(&read()?).with_context(|| format!("see {}", stem.with_extension("ptx").display()))?;
    let resources = timed(&mut steps, "ptxas", || ptxas::assemble(toolchain, job.arch, &stem))?;
    let sass = timed(&mut steps, "nvdisasm", || sass::disassemble(toolchain, &stem.with_extension("cubin")))?;
    let built = Built {
        name: job.declared.name.clone(),
        arch: job.arch.name().to_owned(),
        ptx_version: lower::version(&read()?).context("the PTX states no version")?.to_string(),
        smem_dynamic: job.declared.smem,
        resources,
        sass: sass::count(&sass),
        plan: job.declared.plan,
        dir: PathBuf::new(),
        steps,
        cached: false,
    };
    fs::write(dir.join("report.json"), serde_json::to_vec(&built)?)?;
    Ok(built)
}

fn timed<T>(
    steps: &mut Vec<(&'static str, Duration)>,
    name: &'static str,
    step: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let result = step();
    steps.push((name, start.elapsed()));
    result
}
