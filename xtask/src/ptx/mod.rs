//! `cargo xtask build-ptx`: the kernels from Rust to PTX and machine code.
//!
//! rustc writes unoptimised IR ([`frontend`]), which is annotated ([`annotate`]) and cut into one module per kernel
//! ([`ir`]); each then goes through LLVM or libNVVM ([`lower`]), ptxas ([`ptxas`]) and the disassembler ([`sass`]) on
//! its own, in parallel and cached ([`build`]).

mod annotate;
mod arch;
mod build;
mod declare;
mod frontend;
mod ir;
mod lower;
mod nvvm;
mod prebuilt;
mod prune;
mod ptxas;
mod rust_cuda;
mod sass;
mod scan;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use arch::Arch;
use build::{Built, Job};
use declare::Declared;
use frontend::Source;

use crate::toolchain::{self, Toolchain};
use crate::workspace;

/// Compiles the kernels of `attn-kernel` and prints one table of what they occupy.
///
/// Fails when a kernel spills registers, has a stack frame or draws a performance warning from ptxas.
#[derive(clap::Args)]
pub struct Options {
    /// Architectures, separated by commas; the default are those that have kernels.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sm_90a")]
    arch: Vec<Arch>,
    /// What turns the optimised program into PTX.
    #[arg(long, value_enum, default_value = "llvm")]
    codegen: Codegen,
    /// Only kernels whose name contains this.
    #[arg(long, value_name = "PART")]
    kernel: Option<String>,
    /// Folder for the results: `DIR/ARCH/KERNEL.EXT` [default: target/ptx].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What to write, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ptx,cubin")]
    emit: Vec<Emit>,
    /// Also compile the kernels that only tests start.
    #[arg(long)]
    probes: bool,
    /// Also write the kernels that attn-host carries: `attn-host/prebuilt`.
    #[arg(long, conflicts_with_all = ["kernel", "probes", "codegen"])]
    prebuilt: bool,
    /// Prove that the kernels that attn-host carries are those of the source.
    #[arg(long, conflicts_with_all = ["kernel", "probes", "codegen", "prebuilt"])]
    check_prebuilt: bool,
    /// Also print what each step took.
    #[arg(short, long)]
    verbose: bool,
    /// Kernels compiled at once [default: one per core].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

impl Options {
    fn arch_names(&self) -> String {
        self.arch.iter().map(|arch| arch.name()).collect::<Vec<_>>().join(", ")
    }

    fn out(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| workspace::target().join("ptx"))
    }
}

/// A way from IR to PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Codegen {
    /// LLVM's opt and llc.
    Llvm,
    /// NVIDIA's libNVVM; from Blackwell on, for Hopper it takes only the IR of LLVM 7.
    Nvvm,
    /// Rust-CUDA's code generator, for Hopper: needs a nightly, LLVM 7 and NVIDIA's toolkit, and is not exercised by CI.
    RustCuda,
}

/// A kind of result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// Annotated, unoptimised LLVM IR.
    Ir,
    /// PTX.
    Ptx,
    /// Machine code.
    Cubin,
    /// Machine code as text.
    Sass,
}

impl Emit {
    fn extension(self) -> &'static str {
        match self {
            Emit::Ir => "ll",
            Emit::Ptx => "ptx",
            Emit::Cubin => "cubin",
            Emit::Sass => "sass",
        }
    }
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    if options.codegen == Codegen::RustCuda {
        return rust_cuda::run(&options.arch, &options.out());
    }
    let start = Instant::now();
    let toolchain = toolchain::ready()?;
    let jobs = front(&toolchain, options)?;
    if jobs.is_empty() {
        bail!(
            "no kernel {}for {}",
            options.kernel.as_ref().map_or_else(String::new, |part| format!("with `{part}` in its name ")),
            options.arch_names()
        );
    }
    if options.verbose {
        eprintln!("{:>6.2} s  front end, {} kernels", start.elapsed().as_secs_f64(), jobs.len());
    }
    let (built, failed) = back(&toolchain, &jobs, options);
    for kernel in &built {
        write(&toolchain, kernel, options)?;
    }
    print!("{}", table::render(&built));
    let cached = built.iter().filter(|kernel| kernel.cached).count();
    println!("{} kernels, {cached} unchanged, in {:.1} s", built.len(), start.elapsed().as_secs_f64());
    prune::prune(&workspace::target().join("ptx-cache"))?;
    report_defects(&built, failed)?;
    for &arch in &options.arch {
        if options.prebuilt {
            prebuilt::write(&built, arch, toolchain.versions())?;
        }
        if options.check_prebuilt {
            prebuilt::check(&built, arch, &toolchain.versions())?;
        }
    }
    Ok(())
}

/// Compiles ahead what every later build uses.
pub fn prepare(toolchain: &Toolchain) -> Result<()> {
    frontend::core(&toolchain.rust).map(drop)
}

/// From Rust to one annotated module per kernel.
fn front(toolchain: &Toolchain, options: &Options) -> Result<Vec<Job>> {
    let core = frontend::core(&toolchain.rust)?;
    let root = workspace::root().join("attn-kernel/src/lib.rs");
    let mut jobs = Vec::new();
    for &arch in &options.arch {
        let ir = frontend::emit(
            &toolchain.rust,
            &core,
            Source { root: &root, name: "attn_kernel", probes: options.probes },
            arch,
        )?;
        jobs.extend(split(&ir, arch, options.kernel.as_deref().unwrap_or_default(), options.codegen)?);
    }
    Ok(jobs)
}

/// Annotates `ir` and cuts it into one job per kernel whose name contains `part`.
fn split(ir: &str, arch: Arch, part: &str, codegen: Codegen) -> Result<Vec<Job>> {
    let mut module = ir::Module::parse(ir)?;
    let lines = module.assembly.iter().filter_map(|line| Declared::parse(line).transpose());
    let declared: Vec<Declared> = lines.collect::<Result<_>>()?;
    annotate::annotate(&mut module, &declared)?;
    let mut jobs = Vec::new();
    for kernel in declared.into_iter().filter(|kernel| kernel.name.contains(part)) {
        let ir = module.extract(&kernel.name, |line| matches!(Declared::parse(line), Ok(None)))?;
        jobs.push(Job { arch, codegen, declared: kernel, ir });
    }
    Ok(jobs)
}

/// Compiles all `jobs` in parallel. Returns the kernels in the order of the jobs, and what failed.
fn back(toolchain: &Toolchain, jobs: &[Job], options: &Options) -> (Vec<Built>, Vec<String>) {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let threads = options.jobs.unwrap_or_else(cores);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, jobs.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    let start = Instant::now();
                    let result = build::build(toolchain, job);
                    report_progress(job, &result, start.elapsed(), options.verbose);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(index, result);
                }
            });
        }
    });
    let (mut built, mut failed) = (Vec::new(), Vec::new());
    for (index, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match result {
            Ok(kernel) => built.push(kernel),
            Err(error) => failed.push(format!("{} {}: {error:#}", jobs[index].arch.name(), jobs[index].declared.name)),
        }
    }
    (built, failed)
}

/// A line for a kernel that was compiled just now.
fn report_progress(job: &Job, result: &Result<Built>, took: Duration, verbose: bool) {
    let steps = match result {
        Ok(built) if built.cached => return,
        Ok(built) if verbose => built.steps.as_slice(),
        Ok(_) => &[],
        Err(_) => &[("failed", took)],
    };
    let steps: String = steps.iter().map(|(name, took)| format!("  {name} {:.2}", took.as_secs_f64())).collect();
    eprintln!("{:>6.2} s  {} {}{steps}", took.as_secs_f64(), job.arch.name(), job.declared.name);
}

/// Copies what the user asked for out of the cache.
fn write(toolchain: &Toolchain, kernel: &Built, options: &Options) -> Result<()> {
    let out = options.out().join(&kernel.arch);
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    for emit in &options.emit {
        let file = out.join(format!("{}.{}", kernel.name, emit.extension()));
        let content = match emit {
            Emit::Sass => sass::disassemble(toolchain, &kernel.file("cubin"))?.into_bytes(),
            _ => fs::read(kernel.file(emit.extension()))?,
        };
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Turns failures and defects into one error.
fn report_defects(built: &[Built], mut failed: Vec<String>) -> Result<()> {
    for kernel in built {
        failed.extend(kernel.resources.defects().iter().map(|d| format!("{} {}: {d}", kernel.arch, kernel.name)));
    }
    if !failed.is_empty() {
        bail!("{} defects\n  {}", failed.len(), failed.join("\n  "));
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
