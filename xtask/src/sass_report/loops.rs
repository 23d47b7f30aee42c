//! Loops, and what one iteration executes.
//!
//! A wait for a barrier is a loop too, written out of line: try, and when that fails jump away, try until it succeeds, jump
//! back. Only the first try counts. Nor do the ways on which ptxas repeats a collective instruction for a warp that is not
//! together (`BRA.DIV`). What is left has branches (a skipped rescale, the elected thread's part); two ways are reported:
//! what every iteration executes (blocks that no way through leaves out) and the longest way through.

use std::collections::{BTreeMap, BTreeSet};

use super::class::{Class, class};
use super::flow::Flow;
use super::parse::{Instruction, Kernel};

/// A natural loop.
#[derive(Clone, Debug)]
pub struct Loop {
    /// The block that every iteration starts with.
    pub header: usize,
    /// Blocks that jump back to it.
    pub latches: Vec<usize>,
    /// All blocks, of inner loops too.
    pub body: BTreeSet<usize>,
    /// Whether it only waits.
    pub waits: bool,
}

/// The longest wait loop: a try, a sleep and what surrounds them.
const WAIT_LENGTH: usize = 24;

/// The loops of a kernel, outer ones before those inside them.
pub fn loops(kernel: &Kernel, flow: &Flow) -> Vec<Loop> {
    let mut latches: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
    for &from in &flow.order {
        for &to in flow.blocks[from].next.iter().filter(|&&to| flow.dominates(to, from)) {
            // A loop that begins with a wait shares its header with it.
            let waits = waits(kernel, flow, &body(flow, to, &[from]));
            latches.entry((to, waits)).or_default().push(from);
        }
    }
    let mut loops: Vec<Loop> = latches
        .into_iter()
        .map(|((header, waits), latches)| Loop { header, body: body(flow, header, &latches), latches, waits })
        .collect();
    loops.sort_by_key(|l| (std::cmp::Reverse(l.body.len()), l.header));
    loops
}

/// The header, and whatever reaches a jump back without passing it.
fn body(flow: &Flow, header: usize, latches: &[usize]) -> BTreeSet<usize> {
    let mut body = BTreeSet::from([header]);
    let mut open = latches.to_vec();
    while let Some(block) = open.pop() {
        if flow.rank[block] != usize::MAX && body.insert(block) {
            open.extend(&flow.blocks[block].before);
        }
    }
    body
}

/// Whether a loop does nothing but poll.
fn waits(kernel: &Kernel, flow: &Flow, body: &BTreeSet<usize>) -> bool {
    let instructions = || body.iter().flat_map(|&block| instructions(kernel, flow, block));
    let polls = |i: &Instruction| {
        let poll = ["TRYWAIT", "PHASECHK", "TRY_ALLOC", "FIND_AND_SET", "STRONG"];
        matches!(i.base(), "NANOSLEEP" | "YIELD" | "ATOM" | "ATOMG" | "ATOMS") || poll.iter().any(|part| i.has(part))
    };
    let works = |i: &Instruction| {
        matches!(class(i), Some(Class::Tensor | Class::Mufu | Class::Fma | Class::TensorMemory | Class::Copy))
    };
    instructions().count() <= WAIT_LENGTH && instructions().any(polls) && !instructions().any(works)
}

/// The instructions of `block`.
pub fn instructions<'k>(kernel: &'k Kernel, flow: &Flow, block: usize) -> &'k [Instruction] {
    &kernel.instructions[flow.blocks[block].first..flow.blocks[block].end]
}

/// What one iteration of a loop executes, as blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Iteration {
    /// Blocks that every iteration executes.
    pub every: Vec<usize>,
    /// Blocks of the longest way through.
    pub longest: Vec<usize>,
    /// Instructions left out: wait loops after the first try, ways for warps that are not together.
    pub left_out: usize,
}

/// The iteration of `of`, whose inner loops that do not wait are left to themselves.
pub fn iteration(kernel: &Kernel, flow: &Flow, all: &[Loop], of: &Loop) -> Iteration {
    let inner = |l: &&Loop| l.header != of.header && of.body.contains(&l.header);
    let every = |block: usize| of.latches.iter().all(|&latch| flow.dominates(block, latch));
    let nested: BTreeSet<_> = all.iter().filter(inner).filter(|l| !l.waits).flat_map(|l| l.body.clone()).collect();
    let out_of_line: Vec<_> = all
        .iter()
        .filter(inner)
        .filter(|l| l.waits)
        .map(|l| l.header)
        .chain(apart(kernel, flow, of))
        .filter(|&block| !every(block))
        .collect();
    let aside = |block: usize| out_of_line.iter().any(|&from| flow.dominates(from, block));
    let own: BTreeSet<_> = of.body.iter().copied().filter(|block| !nested.contains(block) && !aside(*block)).collect();
    let way: BTreeSet<_> = of.body.iter().copied().filter(|&block| !aside(block)).collect();
    let length =
        |block: usize| if own.contains(&block) { flow.blocks[block].end - flow.blocks[block].first } else { 0 };
    Iteration {
        every: own.iter().copied().filter(|&block| !avoidable(flow, of, &way, block)).collect(),
        longest: longest(flow, of, &way, length).into_iter().filter(|block| own.contains(block)).collect(),
        left_out: of
            .body
            .iter()
            .filter(|&&block| aside(block))
            .map(|&block| flow.blocks[block].end - flow.blocks[block].first)
            .sum(),
    }
}

/// Blocks to which warps go that are not together.
fn apart(kernel: &Kernel, flow: &Flow, of: &Loop) -> Vec<usize> {
    let divergent = |block: &usize| instructions(kernel, flow, *block).last().filter(|last| last.has("DIV"));
    let targets = of.body.iter().filter_map(divergent).filter_map(|last| kernel.labels.get(last.label()?));
    targets.filter_map(|&index| flow.blocks.iter().position(|block| block.first == index)).collect()
}

/// Whether a way through leaves `block` out.
fn avoidable(flow: &Flow, of: &Loop, way: &BTreeSet<usize>, block: usize) -> bool {
    let mut reached = BTreeSet::new();
    let mut open = vec![of.header];
    while let Some(from) = open.pop() {
        if from != block && way.contains(&from) && reached.insert(from) {
            open.extend(flow.blocks[from].next.iter().filter(|&&next| flow.rank[next] > flow.rank[from]));
        }
    }
    of.latches.iter().any(|latch| reached.contains(latch))
}

/// The longest way from the header to a jump back, each block once, along edges that lead forward.
fn longest(flow: &Flow, of: &Loop, way: &BTreeSet<usize>, length: impl Fn(usize) -> usize) -> Vec<usize> {
    let mut forward: Vec<_> = way.iter().copied().collect();
    forward.sort_by_key(|&block| flow.rank[block]);
    let mut best: BTreeMap<usize, (usize, Option<usize>)> = BTreeMap::from([(of.header, (length(of.header), None))]);
    for block in forward {
        let Some(&(so_far, _)) = best.get(&block) else { continue };
        for &next in flow.blocks[block].next.iter().filter(|n| way.contains(n) && flow.rank[**n] > flow.rank[block]) {
            let reached = so_far + length(next);
            let entry = best.entry(next).or_insert((0, None));
            if reached >= entry.0 {
                *entry = (reached, Some(block));
            }
        }
    }
    let end = of.latches.iter().filter(|latch| best.contains_key(latch)).max_by_key(|latch| best[latch].0);
    let mut path: Vec<usize> = std::iter::successors(end.copied(), |block| best[block].1).collect();
    path.reverse();
    path
}
