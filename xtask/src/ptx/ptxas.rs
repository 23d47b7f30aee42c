//! ptxas: from PTX to a cubin, and what it says about resources.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::arch::{Arch, PtxVersion};
use super::lower;
use crate::process;
use crate::toolchain::Toolchain;

/// What a kernel occupies.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    /// Registers of a thread at entry.
    pub registers: u32,
    /// Bytes of registers spilled to local memory, stores and loads.
    pub spill: u32,
    /// Bytes of stack.
    pub stack: u32,
    /// Bytes of static shared memory.
    pub smem_static: u32,
    /// Complaints of ptxas that make the kernel unusable: warnings, serialised wgmma, ignored setmaxnreg.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub complaints: Vec<String>,
}

/// Assembles `STEM.ptx` to `STEM.cubin`. The PTX version is raised to what its instructions need.
pub fn assemble(toolchain: &Toolchain, arch: Arch, stem: &Path) -> Result<Resources> {
    let ptx = stem.with_extension("ptx");
    // Every retry states a newer version than the one before, so there are few.
    loop {
        let output = Command::new(&toolchain.cuda.ptxas)
            .args(["-v", "-O3", "-arch"])
            .arg(arch.name())
            .arg(&ptx)
            .arg("-o")
            .arg(stem.with_extension("cubin"))
            .output()
            .with_context(|| format!("cannot start {}", toolchain.cuda.ptxas.display()))?;
        let said = process::text(&output);
        if output.status.success() {
            return Ok(Resources::parse(&said));
        }
        let text = fs::read_to_string(&ptx)?;
        match (needed_version(&said), lower::version(&text)) {
            (Some(needed), Some(stated)) if needed > stated => fs::write(&ptx, lower::with_version(&text, needed)?)?,
            _ => bail!("ptxas refuses {}:\n{}", ptx.display(), excerpt(&said)),
        }
    }
}

/// The beginning of what ptxas says, which repeats itself for every instruction that it does not like.
fn excerpt(said: &str) -> String {
    const LINES: usize = 6;
    let more = said.lines().count().saturating_sub(LINES);
    let mut lines: Vec<_> = said.lines().take(LINES).map(|line| format!("    {line}")).collect();
    if more > 0 {
        lines.push(format!("    ... and {more} lines more"));
    }
    lines.join("\n")
}

/// The newest version that ptxas asks for in `... requires PTX ISA .version 8.6 or later`.
fn needed_version(said: &str) -> Option<PtxVersion> {
    said.split("requires PTX ISA .version ").skip(1).filter_map(PtxVersion::parse).max()
}

impl Resources {
    fn parse(said: &str) -> Resources {
        let complaint = |line: &&str| {
            let lower = line.to_lowercase();
            lower.contains("warning") || lower.contains("performance loss") || line.contains("(C75")
        };
        Resources {
            registers: number_before(said, " registers"),
            spill: number_before(said, " bytes spill stores") + number_before(said, " bytes spill loads"),
            stack: number_before(said, " bytes stack frame"),
            smem_static: number_before(said, " bytes smem"),
            complaints: said.lines().filter(complaint).map(|line| line.trim().to_owned()).collect(),
        }
    }

    /// Why the kernel must not be used, if so.
    pub fn defects(&self) -> Vec<String> {
        let mut defects = self.complaints.clone();
        if self.spill > 0 {
            defects.push(format!("{} bytes of registers spill to local memory", self.spill));
        }
        if self.stack > 0 {
            defects.push(format!("a stack frame of {} bytes", self.stack));
        }
        defects
    }
}

/// The number in front of `label`, 0 when the text does not have it.
fn number_before(text: &str, label: &str) -> u32 {
    let before = text.split_once(label).map_or("", |(before, _)| before);
    let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    before[before.len() - digits..].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\
        ptxas info    : Function properties for k\n    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n\
        ptxas info    : Used 168 registers, used 3 barriers, 1024 bytes smem\n";

    #[test]
    fn resources_are_read_from_what_ptxas_says() {
        let got = Resources::parse(SAID);
        assert_eq!((got.registers, got.spill, got.stack, got.smem_static), (168, 12, 16, 1024));
        assert_eq!(got.defects().len(), 2);
    }

    #[test]
    fn complaints_are_kept() {
        let said = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized\n\
                    ptxas warning : something\nptxas info    : Used 8 registers\n";
        assert_eq!(Resources::parse(said).defects().len(), 2);
    }

    #[test]
    fn the_version_that_instructions_need_is_found() {
        let said = "ptxas k.ptx, line 9; error   : Feature 'a' requires PTX ISA .version 8.1 or later\n\
                    ptxas k.ptx, line 9; error   : Feature 'b' requires PTX ISA .version 8.6 or later\n";
        assert_eq!(needed_version(said), Some(PtxVersion { major: 8, minor: 6 }));
        assert_eq!(needed_version("ptxas fatal : syntax"), None);
    }
}
