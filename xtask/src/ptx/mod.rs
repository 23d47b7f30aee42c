//! `cargo xtask build-ptx`: the kernels from Rust to PTX and machine code.
//!
//! rustc writes unoptimised IR ([`frontend`]), which is annotated ([`annotate`]) and cut into one module per kernel
//! ([`ir`]); each then goes through LLVM or libNVVM ([`lower`]), ptxas ([`ptxas`]) and the disassembler ([`sass`]) on
//! its own, in parallel and cached ([`build`]).

mod annotate;
mod arch;
mod build;
mod constants;
mod declare;
mod frontend;
mod ir;
mod lower;
mod nvvm;
mod options;
mod packed;
mod plans;
mod pool;
mod prebuilt;
mod probes;
mod prune;
mod ptxas;
mod rust_cuda;
mod sass;
mod scan;
mod table;
#[cfg(test)]
mod tests;
mod variants;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use build::{Built, Job};
use declare::Declared;
use frontend::Source;
use options::Emit;
use pool::Failed;

pub use arch::Arch;
pub use options::{Codegen, Options};
pub use prebuilt::cubins as prebuilt_cubins;
pub use variants::{Defective, Variant, variants};

use crate::toolchain::{self, Toolchain};
use crate::workspace;

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
    let (built, failed) = pool::compile_all(&toolchain, &jobs, options.jobs, options.verbose);
    let failed = failed.iter().map(ToString::to_string).collect();
    for kernel in &built {
        write(&toolchain, kernel, options)?;
    }
    for arch in &options.arch {
        let kernels: Vec<&Built> = built.iter().filter(|kernel| kernel.arch == arch.name()).collect();
        if !kernels.is_empty() {
            plans::note(&options.out().join(arch.name()), &kernels)?;
        }
    }
    print!("{}", table::render(&built));
    let cached = built.iter().filter(|kernel| kernel.cached).count();
    println!("kernels: {}, unchanged: {cached}, {:.1} s", built.len(), start.elapsed().as_secs_f64());
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
    if options.prebuilt {
        probes::write(&toolchain, options)?;
    }
    if options.check_prebuilt {
        probes::check(&toolchain, options)?;
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
    let part = options.kernel.as_deref().unwrap_or_default();
    let jobs = options.arch.iter().map(|arch| jobs(toolchain, &core, *arch, part, options.codegen));
    let mut jobs: Vec<Job> = jobs.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    jobs.retain(|job| options.probes || !job.declared.name.starts_with(probes::PREFIX));
    Ok(jobs)
}

/// One annotated module for each kernel of `attn-kernel`, the probes among them, whose name contains `part`.
fn jobs(toolchain: &Toolchain, core: &Path, arch: Arch, part: &str, codegen: Codegen) -> Result<Vec<Job>> {
    let root = workspace::root().join("attn-kernel/src/lib.rs");
    let source = Source { root: &root, name: "attn_kernel", variants: None };
    split(&frontend::emit(&toolchain.rust, core, source, arch)?, arch, part, codegen)
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
        bail!("kernels with defects are not to be used\n  {}", failed.join("\n  "));
    }
    Ok(())
}
