//! The report on one kernel.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::class::{Class, class};
use super::flow::Flow;
use super::loops::{self, Loop};
use super::mma::{self, Product};
use super::parse::Kernel;
use super::role::{Marks, Role};
use super::unit::{Machine, Unit};

/// What the user says about roles that the machine code does not.
#[derive(Clone, Debug, Default)]
pub struct Assumptions {
    /// KV blocks that one iteration covers.
    pub per: BTreeMap<Role, f64>,
    /// Warps of one block of threads.
    pub warps: BTreeMap<Role, f64>,
    /// Whether loops round other loops are reported too.
    pub outer: bool,
}

/// A kernel's loops and what they cost.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Entry point.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
    /// What was read.
    pub file: String,
    /// What it occupies, where a cubin says it.
    pub resources: Option<Resources>,
    /// Instructions of the kernel.
    pub instructions: usize,
    /// Loads from local memory.
    pub ldl: usize,
    /// Stores to local memory.
    pub stl: usize,
    /// Loops with a role, by role and then by address.
    pub loops: Vec<LoopReport>,
    /// Names of instructions that the program does not know.
    pub unknown: Vec<String>,
    /// Matrix multiplies in these loops whose shape is not a constant, counted at no cost.
    pub shapeless: usize,
    /// Addresses of indirect jumps that lead nobody knows where: loops through them are not found.
    pub unresolved: Vec<u32>,
}

/// What a kernel occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Resources {
    /// Registers of a thread at entry.
    pub registers: u32,
    /// Bytes of stack.
    pub stack: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Bytes of local memory.
    pub local: u32,
    /// Most threads of a block.
    pub threads: Option<u32>,
}

/// One loop.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LoopReport {
    /// What it is for.
    pub role: Role,
    /// Whether its scores are masked.
    pub masked: bool,
    /// Whether it goes round other loops, which are not counted in it.
    pub outer: bool,
    /// Address of its first instruction.
    pub from: u32,
    /// Address of its last jump back.
    pub to: u32,
    /// KV blocks of one iteration: counts and cycles are divided by it.
    pub per: f64,
    /// Warps that run it: cycles are multiplied by it.
    pub warps: f64,
    /// Instructions of an iteration that were counted for the role, of the longest way.
    pub marks: Marks,
    /// Instructions left out: tries after the first of wait loops, ways for warps that are not together.
    pub left_out: usize,
    /// What every iteration executes.
    pub every: Counts,
    /// The longest way through an iteration.
    pub longest: Counts,
}

/// One way through a loop, for one KV block.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Counts {
    /// Instructions of one warp.
    pub instructions: f64,
    /// By class.
    pub classes: BTreeMap<Class, f64>,
    /// By name, without suffixes but for MUFU's.
    pub names: BTreeMap<String, f64>,
    /// Cycles of one multiprocessor, all warps of the role together.
    pub cycles: BTreeMap<Unit, f64>,
}

/// Reports on `kernel`.
pub fn report(kernel: &Kernel, file: &str, resources: Option<Resources>, assume: &Assumptions) -> Result<Report> {
    let machine = Machine::of(&kernel.arch)
        .with_context(|| format!("{} is for `{}`; known are sm_90, sm_100 and sm_103", kernel.name, kernel.arch))?;
    let flow = Flow::of(kernel);
    let all = loops::loops(kernel, &flow);
    let analysis = Analysis { kernel, flow: &flow, machine, assume, threads: resources.and_then(|r| r.threads) };
    let mut found: Vec<_> = all.iter().filter(|l| !l.waits).filter_map(|l| analysis.examine(&all, l)).collect();
    found.sort_by_key(|(l, _)| (l.outer, l.role, l.masked, l.from));
    let count = |name: &str| kernel.instructions.iter().filter(|i| i.base() == name).count();
    let mut unknown: Vec<_> =
        kernel.instructions.iter().filter(|i| class(i).is_none()).map(|i| i.name.clone()).collect();
    unknown.sort();
    unknown.dedup();
    Ok(Report {
        kernel: kernel.name.clone(),
        arch: kernel.arch.clone(),
        file: file.to_owned(),
        resources,
        instructions: kernel.instructions.len(),
        ldl: count("LDL"),
        stl: count("STL"),
        shapeless: found.iter().map(|(_, shapeless)| shapeless).sum(),
        loops: found.into_iter().map(|(l, _)| l).collect(),
        unknown,
        unresolved: flow.unresolved,
    })
}

/// A kernel under examination.
struct Analysis<'k> {
    kernel: &'k Kernel,
    flow: &'k Flow,
    machine: Machine,
    assume: &'k Assumptions,
    threads: Option<u32>,
}

impl Analysis<'_> {
    /// The report on `of` and how many of its multiplies have no known shape; none where it has no role.
    fn examine(&self, all: &[Loop], of: &Loop) -> Option<(LoopReport, usize)> {
        let outer = all.iter().any(|l| !l.waits && l.header != of.header && of.body.contains(&l.header));
        if outer && !self.assume.outer {
            return None;
        }
        let iteration = loops::iteration(self.kernel, self.flow, all, of);
        let instructions = |blocks: &[usize]| {
            let of_block = |&block: &usize| loops::instructions(self.kernel, self.flow, block);
            blocks.iter().flat_map(of_block).collect::<Vec<_>>()
        };
        let marks = Marks::of(instructions(&iteration.longest));
        let role = marks.role()?;
        let (per, warps) = (self.per(role, &marks), self.warps(role));
        let (longest, shapeless) = self.counts(&iteration.longest, per, warps);
        let latch = of.latches.iter().map(|&latch| self.flow.blocks[latch].end - 1).max()?;
        let report = LoopReport {
            role,
            masked: marks.masked(),
            outer,
            from: self.kernel.instructions[self.flow.blocks[of.header].first].address,
            to: self.kernel.instructions[latch].address,
            per,
            warps,
            marks,
            left_out: iteration.left_out,
            every: self.counts(&iteration.every, per, warps).0,
            longest,
        };
        Some((report, shapeless))
    }

    /// KV blocks of one iteration: what the user says, else a row of 128 scores per thread of Blackwell's softmax.
    fn per(&self, role: Role, marks: &Marks) -> f64 {
        let row =
            self.machine.tmem() && role == Role::Softmax && marks.scores > 128 && marks.scores.is_multiple_of(128);
        let unrolled = if row { f64::from(marks.scores / 128) } else { 1.0 };
        self.assume.per.get(&role).copied().unwrap_or(unrolled)
    }

    /// Warps of the role: what the user says, else what FlashAttention's kernels have.
    fn warps(&self, role: Role) -> f64 {
        let usual = match role {
            Role::Softmax => 8.0,
            Role::Correction | Role::Epilogue => 4.0,
            Role::Mma | Role::Load => 1.0,
            // All but the warpgroup that loads.
            Role::MmaSoftmax => f64::from(self.threads.map_or(8, |threads| (threads / 32).saturating_sub(4).max(4))),
        };
        self.assume.warps.get(&role).copied().unwrap_or(usual)
    }

    /// Counts `blocks`; also multiplies of unknown shape.
    fn counts(&self, blocks: &[usize], per: f64, warps: f64) -> (Counts, usize) {
        let mut counts = Counts::default();
        let mut shapeless = 0;
        for &block in blocks {
            for index in self.flow.blocks[block].first..self.flow.blocks[block].end {
                let instruction = &self.kernel.instructions[index];
                let product = mma::product(self.kernel, self.flow, block, index);
                shapeless += usize::from(product.is_none() && mma::multiplies(instruction));
                counts.instructions += 1.0 / per;
                *counts.classes.entry(class(instruction).unwrap_or(Class::Unknown)).or_default() += 1.0 / per;
                let name = if instruction.base() == "MUFU" { &instruction.name } else { instruction.base() };
                *counts.names.entry(name.to_owned()).or_default() += 1.0 / per;
                // One thread of the block starts a multiply of tcgen05, however many warps go round the loop.
                let warps = if product.is_some_and(Product::of_one_thread) { 1.0 } else { warps };
                for (unit, cycles) in self.machine.cost(instruction, product) {
                    *counts.cycles.entry(unit).or_default() += cycles * warps / per;
                }
            }
        }
        (counts, shapeless)
    }
}

impl Report {
    /// Cycles of one multiprocessor for a KV block of every role: of each role the loop without mask, else its first.
    pub fn together(&self, way: impl Fn(&LoopReport) -> &Counts) -> BTreeMap<Unit, f64> {
        let mut sum = BTreeMap::new();
        for role in Role::ALL {
            let steady = self.loops.iter().filter(|l| l.role == role && !l.outer).min_by_key(|l| l.masked);
            for (&unit, cycles) in steady.into_iter().flat_map(|l| &way(l).cycles) {
                *sum.entry(unit).or_default() += cycles;
            }
        }
        sum
    }
}
