//! Counting instructions in the machine code.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process;
use crate::toolchain::Toolchain;

/// How often the instructions that decide about speed occur.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Matrix multiplies: HGMMA on Hopper, UTCHMMA on Blackwell; QGMMA and UTCQMMA of 8-bit factors.
    pub mma: u32,
    /// Special functions, exp2 above all.
    pub mufu: u32,
    /// Loads from local memory.
    pub ldl: u32,
    /// Stores to local memory.
    pub stl: u32,
}

/// The machine code of `cubin` as text.
pub fn disassemble(toolchain: &Toolchain, cubin: &Path) -> Result<String> {
    // Without data-flow analysis, which only finds the targets of indirect jumps, it takes half the time.
    let output = process::run(Command::new(&toolchain.cuda.nvdisasm).args(["-c", "-ndf"]).arg(cubin))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Counts the instructions of a disassembly.
pub fn count(sass: &str) -> Counts {
    let mut counts = Counts::default();
    for name in sass.lines().filter_map(mnemonic) {
        match name {
            "HGMMA" | "QGMMA" | "UTCHMMA" | "UTCQMMA" => counts.mma += 1,
            "MUFU" => counts.mufu += 1,
            "LDL" => counts.ldl += 1,
            "STL" => counts.stl += 1,
            _ => {}
        }
    }
    counts
}

/// The instruction's name on a line like `        /*0010*/              @P0 HGMMA.64x128x16.F32 R24, ... ;`.
fn mnemonic(line: &str) -> Option<&str> {
    let (address, code) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    if address.is_empty() || !address.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let name = code.split_whitespace().find(|word| !word.starts_with('@') && *word != "{")?;
    name.trim_end_matches(';').split('.').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_by_name() {
        let sass = "\t.text.k:\n        /*0000*/                   LDC R1, c[0x0][0x28] ;\n\
                    .L_x_1:\n        /*0010*/              @!P0 HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;\n\
                            /*0020*/                   MUFU.EX2 R3, R4 ;\n        /*0030*/  { MUFU.EX2 R3, R4 ;\n\
                            /*0040*/                   STL [R1], R2 ;\n        /* 0x0000 */\n";
        assert_eq!(count(sass), Counts { mma: 1, mufu: 2, ldl: 0, stl: 1 });
    }
}
