//! Finding a kernel's cubin, and what NVIDIA's tools say about it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::parse::{self, Kernel};
use super::report::Resources;
use crate::process;
use crate::ptx::{self, Arch};
use crate::toolchain::{self, Cuda};
use crate::workspace;

/// Machine code that was read.
pub struct Code {
    /// The file, as the user would name it.
    pub file: String,
    /// The kernel; of several the longest.
    pub kernel: Kernel,
    /// What it occupies; none where only text was given.
    pub resources: Option<Resources>,
}

/// The kernels that can be named, as `(architecture, name)` with their files: fresh ones before those of `attn-host`.
pub fn known(arches: &[Arch]) -> Vec<((&'static str, String), PathBuf)> {
    let mut found = BTreeMap::new();
    for &arch in arches {
        let prebuilt = ptx::prebuilt_cubins(arch).ok();
        for dir in [Some(workspace::target().join("ptx").join(arch.name())), prebuilt].into_iter().flatten() {
            let Ok(entries) = fs::read_dir(dir) else { continue };
            for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_cubin(path)) {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                found.entry((arch.name(), name)).or_insert(path);
            }
        }
    }
    found.into_iter().collect()
}

fn is_cubin(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cubin")
}

/// The file that `what` names: itself, or the kernel of this name, or the only one with this in its name.
pub fn find(what: &str, arches: &[Arch]) -> Result<PathBuf> {
    if Path::new(what).is_file() {
        return Ok(what.into());
    }
    let known = known(arches);
    let names = |list: &[&((&str, String), PathBuf)]| {
        list.iter().map(|((arch, name), _)| format!("{name} ({arch})")).collect::<Vec<_>>().join(", ")
    };
    let exact: Vec<_> = known.iter().filter(|((_, name), _)| name == what).collect();
    let part: Vec<_> = known.iter().filter(|((_, name), _)| name.contains(what)).collect();
    match (exact.as_slice(), part.as_slice()) {
        ([(_, path)], _) | ([], [(_, path)]) => Ok(path.clone()),
        ([], []) if what.contains('/') || is_cubin(Path::new(what)) => bail!("there is no file {what}"),
        ([], []) => bail!(
            "`{what}` is no file, and no kernel has it in its name; `cargo xtask sass-report` lists those that there are"
        ),
        ([], several) | (several, _) => {
            bail!("`{what}` can be {}: say a whole name, or --arch", names(several))
        }
    }
}

/// Reads a cubin, or the text that `nvdisasm -c` made of one.
pub fn read(path: &Path) -> Result<Code> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let short = path.strip_prefix(workspace::root()).unwrap_or(path);
    let file = short.display().to_string();
    let (text, cuda) = if bytes.starts_with(b"\x7fELF") {
        let cuda = toolchain::cuda()?;
        (disassemble(&cuda, path)?, Some(cuda))
    } else {
        (String::from_utf8(bytes).with_context(|| format!("{file} is neither a cubin nor text"))?, None)
    };
    let kernels = parse::kernels(&text).with_context(|| format!("{file} holds no machine code"))?;
    let kernel = kernels.into_iter().max_by_key(|kernel| kernel.instructions.len()).context("no kernel")?;
    let resources = cuda.map(|cuda| resources(&cuda, path, &kernel.name)).transpose()?;
    Ok(Code { file, kernel, resources })
}

/// With the targets of indirect jumps, which a plain disassembly has not.
fn disassemble(cuda: &Cuda, path: &Path) -> Result<String> {
    let output = process::run(Command::new(&cuda.nvdisasm).arg("-c").arg(path))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn resources(cuda: &Cuda, path: &Path, kernel: &str) -> Result<Resources> {
    let say = |option: &str| -> Result<String> {
        Ok(process::text(&process::run(Command::new(&cuda.cuobjdump).arg(option).arg(path))?))
    };
    usage(&say("--dump-resource-usage")?, &say("-elf")?, kernel)
}

/// Reads `REG:168 STACK:0 SHARED:1024 ...` behind the kernel's name, and the block's threads in its section of attributes.
fn usage(usage: &str, elf: &str, kernel: &str) -> Result<Resources> {
    let (_, line) = usage
        .split_once(&format!(" Function {kernel}:"))
        .with_context(|| format!("cuobjdump says nothing of {kernel}'s resources"))?;
    let fields: BTreeMap<_, _> = line.split_whitespace().map_while(|field| field.split_once(':')).collect();
    let number = |name: &str| {
        let value = fields.get(name).with_context(|| format!("cuobjdump says nothing of {kernel}'s {name}"))?;
        value.parse().with_context(|| format!("cuobjdump says {name}:{value} of {kernel}"))
    };
    Ok(Resources {
        registers: number("REG")?,
        stack: number("STACK")?,
        shared: number("SHARED")?,
        local: number("LOCAL")?,
        threads: threads(elf, kernel),
    })
}

/// The product of the three numbers of `EIATTR_REQNTID`, or else of `EIATTR_MAX_THREADS`.
fn threads(elf: &str, kernel: &str) -> Option<u32> {
    // The section's name stands in the list of sections too.
    let own = elf.split(".nv.info.").filter(|part| part.split_whitespace().next() == Some(kernel));
    let attribute = |part: &'static str| move |of: &str| of.split_once(part).map(|(_, rest)| rest.to_owned());
    let rest = own
        .clone()
        .find_map(attribute("EIATTR_REQNTID"))
        .or_else(|| own.clone().find_map(attribute("EIATTR_MAX_THREADS")))?;
    let (_, values) = rest.split_once("Value:")?;
    values.lines().next()?.split_whitespace().map(|n| u32::from_str_radix(n.strip_prefix("0x")?, 16).ok()).product()
}

/// The names, to read.
pub fn list(arches: &[Arch]) -> Result<String> {
    let known = known(arches);
    ensure!(!known.is_empty(), "no kernel is compiled: `cargo xtask build-ptx` first");
    let line = |((arch, name), path): &((&str, String), PathBuf)| {
        let path = path.strip_prefix(workspace::root()).unwrap_or(path);
        format!("{name}  {arch}  {}\n", path.display())
    };
    Ok(known.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_those_of_the_kernel() {
        let said = "Resource usage:\n Common:\n  GLOBAL:0\n Function other:\n  REG:9 STACK:1 SHARED:2 LOCAL:3\n \
                    Function k:\n  REG:168 STACK:0 SHARED:1024 LOCAL:8 CONSTANT[0]:1152\n";
        let elf = "1 .nv.info.k\n.nv.info\n EIATTR_REGCOUNT\n.nv.info.other\n EIATTR_MAX_THREADS\n Value:\t0x20 0x1 0x1 \n.nv.info.k\n\tAttribute:\tEIATTR_MAX_THREADS\n\
                   \tFormat:\tEIFMT_SVAL\n\tValue:\t0x180 0x2 0x1 \n";
        let expected = Resources { registers: 168, stack: 0, shared: 1024, local: 8, threads: Some(768) };
        assert_eq!(usage(said, elf, "k").unwrap(), expected);
        assert!(usage(said, elf, "absent").unwrap_err().to_string().contains("absent"));
    }

    #[test]
    fn a_name_that_fits_several_kernels_is_refused_with_their_names() {
        let error = find("fwd_sm90_bf16_d128", &Arch::ALL).map(|path| path.ends_with("fwd_sm90_bf16_d128.cubin"));
        assert!(error.unwrap(), "a whole name is not a part of a longer one");
        let error = find("fwd_sm90_bf16_d1", &Arch::ALL).unwrap_err().to_string();
        assert!(error.contains("fwd_sm90_bf16_d192 (sm_90a)") && error.contains("--arch"), "{error}");
        assert!(find("no such kernel", &Arch::ALL).unwrap_err().to_string().contains("is no file, and"));
        assert_eq!(find("absent.cubin", &Arch::ALL).unwrap_err().to_string(), "there is no file absent.cubin");
    }
}
