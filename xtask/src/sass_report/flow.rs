//! The control flow of a kernel: basic blocks, who follows whom, who dominates whom.

use std::collections::BTreeSet;

use super::parse::{Instruction, Kernel};

/// Instructions that are executed one after the other.
#[derive(Clone, Debug)]
pub struct Block {
    /// Index of the first instruction.
    pub first: usize,
    /// Index behind the last instruction.
    pub end: usize,
    /// Blocks that may follow.
    pub next: Vec<usize>,
    /// Blocks that may precede.
    pub before: Vec<usize>,
}

/// The blocks of a kernel, in the order of their addresses; the first is the entry.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Blocks that can be reached, so that what comes first in it comes first in the program, but for back edges.
    pub order: Vec<usize>,
    /// Where a block is in `order`; `usize::MAX` where it cannot be reached.
    pub rank: Vec<usize>,
    /// The closest block that is on every way from the entry to a block.
    dominator: Vec<usize>,
    /// Addresses of indirect jumps whose targets the disassembler does not say.
    pub unresolved: Vec<u32>,
}

impl Flow {
    /// Cuts `kernel` into blocks.
    pub fn of(kernel: &Kernel) -> Flow {
        let starts = starts(kernel);
        let block_at = |index: usize| starts.binary_search(&index).ok();
        let ends = starts.iter().skip(1).copied().chain([kernel.instructions.len()]);
        let mut unresolved = Vec::new();
        let mut blocks: Vec<Block> = starts
            .iter()
            .zip(ends)
            .map(|(&first, end)| {
                let last = &kernel.instructions[end - 1];
                let exits = Exits::of(last);
                if exits.unresolved {
                    unresolved.push(last.address);
                }
                let labelled = exits.labels.iter().filter_map(|&label| kernel.labels.get(label).copied());
                let onward = exits.onward.then_some(end).filter(|&index| index < kernel.instructions.len());
                let next: BTreeSet<_> = labelled.chain(onward).filter_map(block_at).collect();
                Block { first, end, next: next.into_iter().collect(), before: Vec::new() }
            })
            .collect();
        for from in 0..blocks.len() {
            for to in blocks[from].next.clone() {
                blocks[to].before.push(from);
            }
        }
        let order = order(&blocks);
        let mut rank = vec![usize::MAX; blocks.len()];
        for (position, &block) in order.iter().enumerate() {
            rank[block] = position;
        }
        let dominator = dominators(&blocks, &order, &rank);
        Flow { blocks, order, rank, dominator, unresolved }
    }

    /// Whether every way from the entry to `block` goes through `over`.
    pub fn dominates(&self, over: usize, mut block: usize) -> bool {
        if self.rank[block] == usize::MAX {
            return false;
        }
        while block != over && self.dominator[block] != block {
            block = self.dominator[block];
        }
        block == over
    }

    /// The closest block on every way from the entry to `block`; none for the entry.
    pub fn dominator(&self, block: usize) -> Option<usize> {
        Some(self.dominator[block]).filter(|&over| over != block && over != usize::MAX)
    }
}

/// Where an instruction leads.
struct Exits<'k> {
    labels: Vec<&'k str>,
    onward: bool,
    unresolved: bool,
}

impl<'k> Exits<'k> {
    fn of(instruction: &'k Instruction) -> Exits<'k> {
        let guarded = instruction.guard.as_deref().is_some_and(|guard| guard != "PT" && guard != "UPT");
        match instruction.base() {
            // Repeats for threads whose operand differs from their neighbours': once, where the operand is uniform.
            "BRA" if instruction.has("ANY") => Exits { labels: Vec::new(), onward: true, unresolved: false },
            "BRA" | "JMP" => {
                // A predicate or a mask may also be an operand, before the label.
                let conditional = guarded || instruction.operands.len() > 1;
                Exits { labels: instruction.label().into_iter().collect(), onward: conditional, unresolved: false }
            }
            "BRX" | "BRXU" | "JMX" | "JMXU" => {
                let labels: Vec<_> = instruction.targets.iter().map(String::as_str).collect();
                Exits { unresolved: labels.is_empty(), labels, onward: guarded }
            }
            "EXIT" | "RET" | "KILL" => Exits { labels: Vec::new(), onward: guarded, unresolved: false },
            // Calls come back; BSYNC, BREAK and WARPSYNC.COLLECTIVE lead on to the label that follows them.
            _ => Exits { labels: Vec::new(), onward: true, unresolved: false },
        }
    }
}

/// Where blocks begin: at labels and behind whatever may jump.
fn starts(kernel: &Kernel) -> Vec<usize> {
    let behind = kernel.instructions.iter().enumerate().filter_map(|(index, instruction)| {
        let jumps = ["BRA", "JMP", "BRX", "BRXU", "JMX", "JMXU", "EXIT", "RET", "KILL"];
        jumps.contains(&instruction.base()).then_some(index + 1)
    });
    let starts: BTreeSet<_> = [0].into_iter().chain(kernel.labels.values().copied()).chain(behind).collect();
    starts.into_iter().filter(|&index| index < kernel.instructions.len()).collect()
}

/// Reverse post-order from the entry.
fn order(blocks: &[Block]) -> Vec<usize> {
    let mut seen = vec![false; blocks.len()];
    let mut finished = Vec::new();
    // A block with how many of its successors have been visited.
    let mut open = vec![(0, 0)];
    seen[0] = true;
    while let Some((block, visited)) = open.pop() {
        match blocks[block].next.get(visited) {
            Some(&next) => {
                open.push((block, visited + 1));
                if !std::mem::replace(&mut seen[next], true) {
                    open.push((next, 0));
                }
            }
            None => finished.push(block),
        }
    }
    finished.reverse();
    finished
}

/// The immediate dominators, by Cooper, Harvey and Kennedy's iteration; the entry is its own.
fn dominators(blocks: &[Block], order: &[usize], rank: &[usize]) -> Vec<usize> {
    let mut over = vec![usize::MAX; blocks.len()];
    over[order[0]] = order[0];
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for &block in &order[1..] {
            let known = blocks[block].before.iter().copied().filter(|&from| over[from] != usize::MAX);
            let best = known.reduce(|a, b| meet(a, b, &over, rank));
            if let Some(best) = best.filter(|&best| over[block] != best) {
                over[block] = best;
                changed = true;
            }
        }
    }
    over
}

/// The closest common dominator of two blocks.
fn meet(mut a: usize, mut b: usize, over: &[usize], rank: &[usize]) -> usize {
    while a != b {
        if rank[a] > rank[b] {
            a = over[a];
        } else {
            b = over[b];
        }
    }
    a
}
