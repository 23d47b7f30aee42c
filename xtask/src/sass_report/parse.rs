//! The disassembler's text, read into instructions.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes from the kernel's start.
    pub address: u32,
    /// What it is predicated on, for instance `!P0`.
    pub guard: Option<String>,
    /// Name with suffixes, for instance `MUFU.EX2`.
    pub name: String,
    /// What follows the name, at its commas.
    pub operands: Vec<String>,
    /// Labels of an indirect jump's targets, where the disassembler found them.
    pub targets: Vec<String>,
}

impl Instruction {
    /// The name before the first dot.
    pub fn base(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// Whether the name has the suffix `suffix`.
    pub fn has(&self, suffix: &str) -> bool {
        self.name.split('.').skip(1).any(|part| part == suffix)
    }

    /// The label that an operand names.
    pub fn label(&self) -> Option<&str> {
        self.operands.iter().find_map(|operand| operand.strip_prefix("`(")?.strip_suffix(')'))
    }
}

/// One function of a cubin.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Entry point.
    pub name: String,
    /// Architecture, for instance `sm_100a`.
    pub arch: String,
    /// In the order of their addresses.
    pub instructions: Vec<Instruction>,
    /// The index of the instruction after each label.
    pub labels: BTreeMap<String, usize>,
}

/// Reads what `nvdisasm -c` writes: the kernels in their order.
pub fn kernels(text: &str) -> Result<Vec<Kernel>> {
    let mut arch = String::new();
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in text.lines() {
        let words = line.trim();
        if let Some(target) = words.strip_prefix(".target") {
            arch = target.trim().trim_end_matches(',').to_owned();
        } else if let Some(section) = words.strip_prefix(".section\t").or_else(|| words.strip_prefix(".section ")) {
            let name = section.trim().split(',').next().unwrap_or_default().trim_matches('"');
            if let Some(name) = name.strip_prefix(".text.") {
                kernels.push(Kernel { name: name.to_owned(), arch: arch.clone(), ..Kernel::default() });
            }
        } else if let Some(kernel) = kernels.last_mut() {
            if let Some(instruction) = instruction(words) {
                kernel.instructions.push(instruction);
            } else if let Some(label) = words.strip_suffix(':').filter(|_| !line.starts_with(char::is_whitespace)) {
                kernel.labels.insert(label.to_owned(), kernel.instructions.len());
            }
        }
    }
    kernels.retain(|kernel| !kernel.instructions.is_empty());
    ensure!(!kernels.is_empty(), "the disassembly holds no instructions");
    Ok(kernels)
}

/// The instruction on a line like `/*0250*/ @P0 SYNCS.EXCH.64 URZ, [UR40], UR4 ;`.
fn instruction(line: &str) -> Option<Instruction> {
    let (address, code) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u32::from_str_radix(address, 16).ok()?;
    let (code, note) = code.split_once("(*").unwrap_or((code, ""));
    // Braces hold instructions that issue together on old architectures.
    let mut code = code.trim().trim_start_matches('{').trim_end_matches('}').trim().trim_end_matches(';').trim();
    let mut guard = None;
    if let Some(rest) = code.strip_prefix('@') {
        let (predicate, after) = rest.split_once(char::is_whitespace)?;
        guard = Some(predicate.to_owned());
        code = after.trim_start();
    }
    let (name, operands) = code.split_once(char::is_whitespace).unwrap_or((code, ""));
    if !name.starts_with(|first: char| first.is_ascii_uppercase()) {
        return None;
    }
    let operands = operands.split(',').map(|operand| operand.trim().to_owned()).filter(|o| !o.is_empty()).collect();
    let targets = note.split_once("BRANCH_TARGETS ").map_or("", |(_, list)| list.split('"').next().unwrap_or_default());
    let targets = targets.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned).collect();
    Some(Instruction { address, guard, name: name.to_owned(), operands, targets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_guard_name_operands_and_targets() {
        let line = "/*0190*/  @!P0 BRA `(.L_x_4) ;";
        let branch = instruction(line).unwrap();
        assert_eq!((branch.address, branch.guard.as_deref(), branch.label()), (0x190, Some("!P0"), Some(".L_x_4")));
        let jump = instruction("/*0180*/ BRXU UR6 -0x190     (*\"BRANCH_TARGETS .L_x_91,.L_x_92\"*);").unwrap();
        assert_eq!(
            (jump.base(), jump.targets.as_slice()),
            ("BRXU", [".L_x_91".into(), ".L_x_92".to_owned()].as_slice())
        );
        let store = instruction("/*0020*/ STTM.x16 tmem[UR9+0x40], R68 ;").unwrap();
        assert_eq!(store.operands, ["tmem[UR9+0x40]", "R68"]);
        assert!(store.has("x16") && !store.has("x1"));
        assert_eq!(instruction("/* 0x000fe200 */"), None);
    }

    #[test]
    fn labels_point_at_the_instruction_after_them() {
        let text = "\t.target\tsm_100a\n\t.section\t.text.k,\"ax\",@progbits\nk:\n  /*0000*/ MOV R1, R2 ;\n.L_x_0:\n  /*0010*/ EXIT ;\n";
        let kernels = kernels(text).unwrap();
        assert_eq!((kernels[0].name.as_str(), kernels[0].arch.as_str()), ("k", "sm_100a"));
        assert_eq!((kernels[0].labels["k"], kernels[0].labels[".L_x_0"]), (0, 1));
        assert!(super::kernels("nothing").unwrap_err().to_string().contains("no instructions"));
    }
}
