//! A launch: its shape, how its clusters are spread over machines, and how what they did is put together.

use super::Machine;
use super::clock::Epoch;
use super::memory::{GlobalMemory, Merge, Overlap};
use super::program::Program;
use super::schedule::Outcome;
use super::trace::Trace;
use crate::counters::Counters;
use crate::report::{Finding, Kind, Other, Site, Stop};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What all machines of a launch have in common.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Whether the launch or the kernel names a cluster.
    pub explicit_cluster: bool,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The parameter buffer.
    pub params: Vec<u8>,
    /// The module's constants.
    pub constants: Vec<u8>,
    /// Seed of the schedule.
    pub seed: u64,
    /// Multiprocessors.
    pub sms: u32,
    /// Clusters that run at a time, where they run together.
    pub resident_clusters: u32,
    /// Instructions that one machine may issue.
    pub step_limit: u64,
    /// Histories to keep.
    pub trace: Vec<Trace>,
}

impl Shape {
    /// Clusters of the grid.
    pub fn clusters(&self) -> u64 {
        (0..3).map(|axis| u64::from(self.grid[axis] / self.cluster[axis])).product()
    }

    /// `%clusterid` of a cluster's index.
    pub fn cluster_id(&self, index: u64) -> [u32; 3] {
        let n: [u64; 3] = std::array::from_fn(|axis| u64::from(self.grid[axis] / self.cluster[axis]));
        [index % n[0], index / n[0] % n[1], index / (n[0] * n[1])].map(|i| i as u32)
    }

    /// `%ctaid` of a cluster's blocks, by rank.
    pub fn blocks_of(&self, id: [u32; 3]) -> Vec<[u32; 3]> {
        let [x, y, z] = self.cluster;
        let rank = move |r: u32| [r % x, r / x % y, r / (x * y)];
        (0..x * y * z).map(|r| std::array::from_fn(|axis| id[axis] * self.cluster[axis] + rank(r)[axis])).collect()
    }

    /// A block's index in the grid.
    pub fn linear_block(&self, ctaid: [u32; 3]) -> u64 {
        let [x, y, _] = self.grid.map(u64::from);
        u64::from(ctaid[0]) + x * (u64::from(ctaid[1]) + y * u64::from(ctaid[2]))
    }
}

/// What a launch leaves.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What it did, in numbers.
    pub counters: Counters,
    /// Rules that it broke.
    pub findings: Vec<Finding>,
    /// The histories that were asked for, a line an event, with the machine's time first.
    pub trace: Vec<String>,
}

/// A launch that ended early.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{stop}")]
pub struct Failure {
    /// Why.
    pub stop: Box<Stop>,
    /// What was found before.
    pub findings: Vec<Finding>,
    /// The histories that were asked for, up to here.
    pub trace: Vec<String>,
}

/// Runs a launch on `threads` cores. What its clusters write reaches `memory` in their order, up to the first that stops.
pub(crate) fn run(
    program: &Arc<Program>,
    shape: &Arc<Shape>,
    memory: &mut GlobalMemory,
    threads: usize,
) -> Result<Run, Failure> {
    let clusters = shape.clusters();
    let groups: Vec<Vec<u64>> =
        if program.communicates { vec![(0..clusters).collect()] } else { (0..clusters).map(|c| vec![c]).collect() };
    let base = Arc::new(std::mem::take(memory));
    let mut collected = Collected::default();
    // Wide grids are put together in slices, so that the views of all clusters never exist at once.
    let mut current = base;
    for (slice, groups) in groups.chunks(threads.max(1) * 8).enumerate() {
        let first = slice * threads.max(1) * 8;
        let outcomes = run_slice(program, shape, &current, groups, first, threads);
        let mut merged = Arc::try_unwrap(current).unwrap_or_else(|shared| (*shared).clone());
        let stopped = collected.take(program, shape, outcomes, first, &mut merged);
        current = Arc::new(merged);
        if stopped {
            break;
        }
    }
    *memory = Arc::try_unwrap(current).unwrap_or_else(|shared| (*shared).clone());
    collected.finish()
}

/// Runs some machines and returns what each leaves, in order.
fn run_slice(
    program: &Arc<Program>,
    shape: &Arc<Shape>,
    memory: &Arc<GlobalMemory>,
    groups: &[Vec<u64>],
    first: usize,
    threads: usize,
) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<Option<Outcome>>> = Mutex::new(groups.iter().map(|_| None).collect());
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(i) else { return };
            let machine = Machine::new(
                Arc::clone(program),
                Arc::clone(shape),
                Arc::clone(memory),
                group.iter().copied(),
                (first + i) as u64,
            );
            let outcome = machine.run();
            outcomes.lock().expect("no worker panics while it holds the lock")[i] = Some(outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(groups.len()) {
            scope.spawn(work);
        }
        work();
    });
    let outcomes = outcomes.into_inner().expect("all workers are done");
    outcomes.into_iter().flatten().collect()
}

/// What the machines of a launch left, put together.
#[derive(Default)]
struct Collected {
    counters: Counters,
    findings: super::Findings,
    merge: Merge,
    trace: Vec<String>,
    stop: Option<Stop>,
}

impl Collected {
    /// Takes outcomes in order; true once one had stopped.
    fn take(
        &mut self,
        program: &Program,
        shape: &Shape,
        outcomes: Vec<Outcome>,
        first: usize,
        memory: &mut GlobalMemory,
    ) -> bool {
        for (i, outcome) in outcomes.into_iter().enumerate() {
            self.counters.add(&outcome.counters);
            self.trace.extend(outcome.trace);
            outcome.findings.into_iter().for_each(|f| self.findings.add(f));
            for overlap in self.merge.add(first + i, outcome.effects, memory) {
                self.findings.add(overlap_finding(program, shape, first + i, &overlap));
            }
            if let Err(stop) = outcome.result {
                self.stop = Some(stop);
                return true;
            }
        }
        false
    }

    fn finish(self) -> Result<Run, Failure> {
        let (findings, trace) = (self.findings.list, self.trace);
        match self.stop {
            Some(stop) => Err(Failure { stop: Box::new(stop), findings, trace }),
            None => Ok(Run { counters: self.counters, findings, trace }),
        }
    }
}

/// Two clusters touched a byte, at least one of them writing.
fn overlap_finding(program: &Program, shape: &Shape, domain: usize, overlap: &Overlap) -> Finding {
    let block_of = |domain: usize| shape.blocks_of(shape.cluster_id(domain as u64))[0];
    let side = |domain: usize, access: Option<Epoch>| {
        let op = access.map(|e| &program.ops[e.op() as usize]);
        let at = Site { block: block_of(domain), warp: 0, line: op.map_or(0, |op| op.line) };
        (at, op.map_or_else(|| "an access".to_owned(), |op| op.text.clone()))
    };
    let ((at, instruction), (other, text)) = (side(domain, overlap.mine), side(overlap.earlier, overlap.theirs));
    let how = if overlap.both_wrote { "written by both" } else { "written by one and read by the other" };
    let bytes = if overlap.bytes == 1 { "1 byte".to_owned() } else { format!("{} bytes", overlap.bytes) };
    Finding {
        kind: Kind::Race,
        kernel: program.name.clone(),
        at,
        instruction,
        message: format!("global {:#x} is {how} of two clusters, which nothing orders: {bytes}", overlap.addr),
        other: Some(Other { at: other, instruction: text }),
        count: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_clusters_cover_the_grid() {
        let shape = Shape {
            grid: [4, 6, 2],
            block: [32, 1, 1],
            cluster: [2, 3, 1],
            explicit_cluster: true,
            shared: 0,
            params: Vec::new(),
            constants: Vec::new(),
            seed: 0,
            sms: 132,
            resident_clusters: 1,
            step_limit: 1,
            trace: Vec::new(),
        };
        let mut all: Vec<_> = (0..shape.clusters()).flat_map(|c| shape.blocks_of(shape.cluster_id(c))).collect();
        assert_eq!(shape.blocks_of([1, 0, 0])[1], [3, 0, 0]);
        all.sort_by_key(|&b| shape.linear_block(b));
        assert_eq!(all.iter().map(|&b| shape.linear_block(b)).collect::<Vec<_>>(), (0..48).collect::<Vec<_>>());
    }
}
