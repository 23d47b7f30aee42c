//! Hopper's forward kernel compiled from other plans than those of the table.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::arch::Arch;
use super::build::{Built, Job};
use super::frontend::{self, Source};
use super::ptxas::Resources;
use super::{Codegen, Failed, plans, pool, split};
use crate::toolchain::Toolchain;
use crate::workspace;

/// An instantiation to compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Entry point.
    pub name: String,
    /// The element type's name in the kernels' source.
    pub element: &'static str,
    /// Head dimensions of Q and K, and of V and O.
    pub dims: (u32, u32),
    /// With the causal mask.
    pub causal: bool,
    /// The plan's knobs.
    pub knobs: String,
}

/// Entry point and defect of a variant that must not be launched.
pub type Defective = (String, String);

/// Compiles `variants` into the folder `out`, as `build-ptx --out` does: cubins, with `ptx` their PTX too, and a manifest. Those with
/// defects are left out.
pub fn variants(toolchain: &Toolchain, variants: &[Variant], out: &Path, ptx: bool) -> Result<Vec<Defective>> {
    const ARCH: Arch = Arch::Sm90a;
    let dir = out.join(ARCH.name());
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let jobs = jobs(toolchain, variants, out, ARCH)?;
    let (built, failed) = pool::compile_all(toolchain, &jobs, None, false);
    let (good, bad): (Vec<_>, Vec<_>) = built.into_iter().partition(|built| built.resources.defects().is_empty());
    let mut bad: Vec<Defective> = bad.into_iter().map(|built: Built| (built.name, defects(&built.resources))).collect();
    bad.extend(failed.into_iter().map(|Failed { name, why, .. }| (name, format!("{why:#}"))));
    for built in &good {
        for extension in if ptx { &["cubin", "ptx"][..] } else { &["cubin"] } {
            let file = dir.join(format!("{}.{extension}", built.name));
            fs::copy(built.file(extension), &file).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    plans::note(&dir, &good.iter().collect::<Vec<_>>())?;
    Ok(bad)
}

/// What is wrong with a kernel, in ptxas' words without their preface.
fn defects(resources: &Resources) -> String {
    let short = |defect: &String| defect.rsplit(": ").next().unwrap_or_default().to_owned();
    resources.defects().iter().map(short).collect::<Vec<_>>().join("; ")
}

/// One annotated module for each variant. What rustc reads is left in the folder.
fn jobs(toolchain: &Toolchain, variants: &[Variant], out: &Path, arch: Arch) -> Result<Vec<Job>> {
    let file = out.join("variants.rs");
    fs::write(&file, source(variants)).with_context(|| format!("cannot write {}", file.display()))?;
    let file = file.canonicalize().with_context(|| format!("cannot find {}", file.display()))?;
    let root = workspace::root().join("attn-kernel/src/lib.rs");
    let source = Source { root: &root, name: "attn_kernel", variants: Some(&file) };
    let ir = frontend::emit(&toolchain.rust, &frontend::core(&toolchain.rust)?, source, arch)?;
    split(&ir, arch, "", Codegen::Llvm)
}

/// The file that takes the place of the crate's own instantiations.
fn source(variants: &[Variant]) -> String {
    let mut text = String::from("// Plans that the tuner tries.\n");
    for Variant { name, element, dims: (d, dv), causal, knobs } in variants {
        let mask = if *causal { "Causal" } else { "Full" };
        let _ = writeln!(text, "instance! {{ {name}: {element}, {mask}, tune::variant({d}, {dv}, {knobs:?}) }}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_a_line_with_its_plan() {
        let variant = Variant {
            name: "tune_f16_d192_128_causal_07".into(),
            element: "F16",
            dims: (192, 128),
            causal: true,
            knobs: "bm=128 bn=96".into(),
        };
        let line = "instance! { tune_f16_d192_128_causal_07: F16, Causal, tune::variant(192, 128, \"bm=128 bn=96\") }";
        assert_eq!(source(&[variant]).lines().nth(1), Some(line));
    }

    #[test]
    fn defects_are_told_in_few_words() {
        let complaint =
            "ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized";
        let resources = Resources { spill: 8, complaints: vec![complaint.into()], ..Resources::default() };
        let want = "wgmma.mma_async instructions are serialized; 8 bytes of registers spill to local memory";
        assert_eq!(defects(&resources), want);
    }
}
