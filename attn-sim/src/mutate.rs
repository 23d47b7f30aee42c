//! Mutants of a kernel: one synchronising instruction deleted or weakened at a time.
//!
//! A check that no mutant trips proves little. [`mutations`] lists what can be taken away from a kernel's waits, fences,
//! commits, arrivals, expected bytes and barrier counts; [`apply`] makes the mutant; [`score`] runs each of them under
//! several seeds and tells which ones nobody noticed. A survivor is either a redundant instruction or a blind spot.
//!
//! The project's kernels in bf16, six seeds, blocks that go round several tiles (`tests/forward/mutants.rs`, ignored tests):
//!
//! | kernel | mutants | noticed |
//! |---|---|---|
//! | Hopper, head dimension 32 | 98 | 95.9 % |
//! | 128, O in Q's memory | 101 | 96.0 % |
//! | (192, 128), O in Q's memory | 86 | 94.2 % |
//! | sm_100a, head dimension 64 | 220 | 99.1 % |
//! | 128 | 208 | 99.0 % |
//! | 128, causal | 211 | 99.1 % |
//! | 128, one query tile | 154 | 99.4 % |
//! | (192, 128), O in Q's memory | 266 | 96.6 % |
//! | 256, one query tile, O in Q's memory | 187 | 97.3 % |
//! | sm_103a, head dimension 128 | 208 | 99.0 % |
//!
//! Those tests name each survivor and say why it orders nothing. `cargo xtask sim --mutate` scores any other kernel.

use std::fmt;

use crate::ptx::{Instruction, Module, Operand, RegId};

/// What is done to one instruction.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The instruction goes. One whose result is awaited in a loop becomes "done at once".
    Delete,
    /// Operand `operand` becomes the constant `to`.
    Operand {
        /// Which operand.
        operand: usize,
        /// Its new value.
        to: i64,
    },
    /// `mbarrier.arrive.expect_tx` becomes a plain arrival: the bytes are no longer waited for.
    DropExpectedBytes,
    /// The modifier at this index is replaced.
    Modifier {
        /// Which modifier.
        index: usize,
        /// Its replacement.
        to: &'static str,
    },
}

/// One change to one instruction of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutation {
    /// Index of the function in the module.
    pub function: usize,
    /// Index of the instruction in its code.
    pub at: usize,
    /// The instruction's line in the PTX text.
    pub line: u32,
    /// The instruction, without operands.
    pub instruction: String,
    /// What is done to it.
    pub change: Change,
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {} ", self.line, self.instruction)?;
        match &self.change {
            Change::Delete => f.write_str("deleted"),
            Change::Operand { operand, to } => write!(f, "with operand {operand} = {to}"),
            Change::DropExpectedBytes => f.write_str("without its expected bytes"),
            Change::Modifier { to, .. } => write!(f, "made .{to}"),
        }
    }
}

/// All mutations of the kernel's own code, in the order of its text; empty when the module has no such kernel.
pub fn mutations(module: &Module, kernel: &str) -> Vec<Mutation> {
    let Some(function) = module.functions.iter().position(|f| f.entry && f.name == kernel) else { return Vec::new() };
    let code = &module.functions[function].code;
    let mut list = Vec::new();
    for (at, instruction) in code.iter().enumerate() {
        for change in changes(code, instruction) {
            let (line, instruction) = (instruction.line, instruction.to_string());
            list.push(Mutation { function, at, line, instruction, change });
        }
    }
    list
}

/// What can be taken away from one instruction.
fn changes(code: &[Instruction], i: &Instruction) -> Vec<Change> {
    let has = |m: &str| i.modifiers.iter().any(|x| x == m);
    let counted = |operand: usize, deltas: &[i64]| {
        let value = i.operands.get(operand).and_then(|o| constant(code, o));
        let near = value.into_iter().flat_map(|v| deltas.iter().map(move |d| v + d));
        near.filter(|to| *to >= 0).map(|to| Change::Operand { operand, to }).collect::<Vec<_>>()
    };
    let mut list = Vec::new();
    match i.opcode.as_str() {
        "mbarrier" if has("init") => list.extend(counted(1, &[1, -1])),
        "mbarrier" if has("arrive") && has("expect_tx") => {
            list.extend([Change::Delete, Change::DropExpectedBytes]);
            list.extend(counted(i.operands.len() - 1, &[-16]));
        }
        "mbarrier" if has("arrive") || has("expect_tx") || has("try_wait") || has("test_wait") => {
            list.push(Change::Delete)
        }
        "wgmma" if has("wait_group") => {
            list.push(Change::Delete);
            list.extend(counted(0, &[1]));
        }
        "cp" if has("wait_group") => {
            list.push(Change::Delete);
            list.extend(counted(0, &[1]));
        }
        "cp" if has("commit_group") || has("wait_all") => list.push(Change::Delete),
        "wgmma" if has("fence") || has("commit_group") => list.push(Change::Delete),
        "tcgen05" if has("wait::ld") || has("wait::st") || has("commit") || fences_tcgen05(i) => {
            list.push(Change::Delete)
        }
        "bar" | "barrier" => {
            list.push(Change::Delete);
            if !has("cluster") && !has("warp") {
                list.extend(counted(1, &[32, -32]).into_iter().filter(|c| !matches!(c, Change::Operand { to: 0, .. })));
            }
        }
        "fence" | "membar" | "griddepcontrol" => list.push(Change::Delete),
        _ => {}
    }
    let order = i.modifiers.iter().position(|m| m == "release" || m == "acquire");
    if let (Some(index), true) = (order, i.opcode != "fence") {
        list.push(Change::Modifier { index, to: "relaxed" });
    }
    list
}

fn fences_tcgen05(i: &Instruction) -> bool {
    i.modifiers.iter().any(|m| m.starts_with("fence::"))
}

/// The value of an operand that is a constant, or a register that one `mov` of a constant defines.
fn constant(code: &[Instruction], operand: &Operand) -> Option<i64> {
    match operand {
        Operand::Int(value) => Some(*value),
        Operand::Reg(reg) => {
            let mut definitions = code.iter().filter(|i| i.operands.first() == Some(&Operand::Reg(*reg)));
            match (definitions.next(), definitions.next()) {
                (Some(mov), None) if mov.opcode == "mov" && mov.guard.is_none() => match mov.operands.get(1) {
                    Some(Operand::Int(value)) => Some(*value),
                    _ => None,
                },
                _ => None,
            }
        }
        _ => None,
    }
}

/// The module with one mutation made.
///
/// # Panics
/// When the mutation is not one of [`mutations`] of this module.
pub fn apply(module: &Module, mutation: &Mutation) -> Module {
    let mut module = module.clone();
    let code = &mut module.functions[mutation.function].code;
    let instruction = &mut code[mutation.at];
    match &mutation.change {
        Change::Delete => match awaited(instruction) {
            Some(predicate) => *instruction = always(instruction, predicate),
            None => delete(code, mutation.at),
        },
        Change::Operand { operand, to } => instruction.operands[*operand] = Operand::Int(*to),
        Change::DropExpectedBytes => {
            instruction.modifiers.retain(|m| m != "expect_tx");
            instruction.operands.pop();
        }
        Change::Modifier { index, to } => instruction.modifiers[*index] = (*to).to_owned(),
    }
    module
}

/// The predicate that a wait sets.
fn awaited(i: &Instruction) -> Option<RegId> {
    let waits = i.modifiers.iter().any(|m| m == "try_wait" || m == "test_wait");
    match i.operands.first() {
        Some(Operand::Reg(predicate)) if waits => Some(*predicate),
        _ => None,
    }
}

/// `setp.eq.s32 predicate, 0, 0`, under the instruction's guard.
fn always(i: &Instruction, predicate: RegId) -> Instruction {
    Instruction {
        line: i.line,
        guard: i.guard,
        opcode: "setp".to_owned(),
        modifiers: vec!["eq".to_owned(), "s32".to_owned()],
        operands: vec![Operand::Reg(predicate), Operand::Int(0), Operand::Int(0)],
    }
}

/// Removes an instruction; labels behind it move up by one.
fn delete(code: &mut Vec<Instruction>, at: usize) {
    code.remove(at);
    let shift = |label: &mut usize| {
        if *label > at {
            *label -= 1;
        }
    };
    for operand in code.iter_mut().flat_map(|i| i.operands.iter_mut()) {
        match operand {
            Operand::Label(label) => shift(label),
            Operand::Targets(labels) => labels.iter_mut().for_each(shift),
            _ => {}
        }
    }
}

/// How a mutant's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A finding, a deadlock or another stop.
    Reported,
    /// No report, but another result than the kernel's own.
    WrongResult,
    /// Neither.
    Unnoticed,
}

/// What became of all mutants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Mutants that a report gave away.
    pub reported: usize,
    /// Mutants that only a wrong result gave away.
    pub wrong: usize,
    /// The others.
    pub survivors: Vec<Mutation>,
}

impl Score {
    /// The share of mutants that were noticed, 1 when there were none.
    pub fn ratio(&self) -> f64 {
        let noticed = self.reported + self.wrong;
        let all = noticed + self.survivors.len();
        if all == 0 { 1.0 } else { noticed as f64 / all as f64 }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.reported + self.wrong + self.survivors.len();
        write!(f, "{all} mutants: {} reported, {} gave a wrong result, ", self.reported, self.wrong)?;
        write!(f, "{} unnoticed ({:.1} % noticed)", self.survivors.len(), 100.0 * self.ratio())?;
        self.survivors.iter().try_for_each(|m| write!(f, "\n  unnoticed: {m}"))
    }
}

/// Runs every mutant under each seed until one run notices it.
pub fn score(
    module: &Module,
    kernel: &str,
    seeds: impl Iterator<Item = u64> + Clone,
    mut run: impl FnMut(&Module, u64) -> Outcome,
) -> Score {
    let mut score = Score::default();
    for mutation in mutations(module, kernel) {
        let mutant = apply(module, &mutation);
        match seeds.clone().map(|seed| run(&mutant, seed)).find(|o| *o != Outcome::Unnoticed) {
            Some(Outcome::Reported) => score.reported += 1,
            Some(_) => score.wrong += 1,
            None => score.survivors.push(mutation),
        }
    }
    score
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        .version 8.0
        .target sm_90a
        .address_size 64
        .visible .entry k() {
            .reg .pred %p<3>;
            .reg .b32 %r<4>;
            mov.b32 %r1, 128;
            mbarrier.init.shared::cta.b64 [%r2], %r1;
            mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 64;
        WAIT:
            mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;
            @!%p1 bra WAIT;
            wgmma.wait_group.sync.aligned 0;
            bar.sync 1, %r1;
            @%p2 bra END;
            fence.proxy.async.shared::cta;
        END:
            ret;
        }";

    fn module() -> Module {
        Module::parse(TEXT).expect("the text is PTX")
    }

    fn named(part: &str) -> Mutation {
        let all = mutations(&module(), "k");
        let found = all.iter().find(|m| m.to_string().contains(part));
        found
            .unwrap_or_else(|| {
                panic!("no mutation {part:?} in {:?}", all.iter().map(Mutation::to_string).collect::<Vec<_>>())
            })
            .clone()
    }

    #[test]
    fn every_synchronising_instruction_is_listed() {
        let all: Vec<String> = mutations(&module(), "k").iter().map(|m| m.to_string()).collect();
        let has = |part: &str| all.iter().any(|m| m.contains(part));
        for part in [
            "init.shared::cta.b64 with operand 1 = 129",
            "init.shared::cta.b64 with operand 1 = 127",
            "expect_tx.shared::cta.b64 deleted",
            "without its expected bytes",
            "with operand 2 = 48",
            "try_wait.parity.shared::cta.b64 deleted",
            "wait_group.sync.aligned deleted",
            "wait_group.sync.aligned with operand 0 = 1",
            "bar.sync deleted",
            "bar.sync with operand 1 = 160",
            "bar.sync with operand 1 = 96",
            "fence.proxy.async.shared::cta deleted",
        ] {
            assert!(has(part), "{part:?} is missing in {all:#?}");
        }
        assert_eq!(all.len(), 12, "{all:#?}");
        assert!(mutations(&module(), "other").is_empty());
    }

    #[test]
    fn a_deleted_wait_is_done_at_once() {
        let mutant = apply(&module(), &named("try_wait"));
        let code = &mutant.functions[0].code;
        assert_eq!(code.len(), module().functions[0].code.len());
        assert!(code.iter().any(|i| i.opcode == "setp" && i.operands[1..] == [Operand::Int(0), Operand::Int(0)]));
    }

    #[test]
    fn labels_behind_a_deleted_instruction_move_up() {
        let target = |m: &Module, n: usize| {
            let jumps: Vec<usize> = m.functions[0]
                .code
                .iter()
                .flat_map(|i| &i.operands)
                .filter_map(|o| match o {
                    Operand::Label(l) => Some(*l),
                    _ => None,
                })
                .collect();
            m.functions[0].code[jumps[n]].to_string()
        };
        let original = module();
        for part in ["expect_tx.shared::cta.b64 deleted", "bar.sync deleted", "fence.proxy.async"] {
            let mutant = apply(&original, &named(part));
            assert_eq!(mutant.functions[0].code.len() + 1, original.functions[0].code.len());
            for jump in 0..2 {
                assert_eq!(target(&mutant, jump), target(&original, jump), "{part}");
            }
        }
    }

    #[test]
    fn a_score_counts_and_names_survivors() {
        let score = score(&module(), "k", 0..2, |mutant, seed| {
            let code = &mutant.functions[0].code;
            let has = |op: &str, m: &str| code.iter().any(|i| i.opcode == op && i.modifiers.iter().any(|x| x == m));
            match (has("bar", "sync"), has("fence", "proxy"), seed) {
                (false, _, 1) => Outcome::Reported,
                (_, false, _) => Outcome::WrongResult,
                _ => Outcome::Unnoticed,
            }
        });
        assert_eq!((score.reported, score.wrong, score.survivors.len()), (1, 1, 10));
        assert!((score.ratio() - 2.0 / 12.0).abs() < 1e-12);
        assert!(
            score.to_string().contains("12 mutants: 1 reported, 1 gave a wrong result, 10 unnoticed (16.7 % noticed)")
        );
    }
}
