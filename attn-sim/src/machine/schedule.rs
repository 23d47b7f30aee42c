//! Who runs next: a warp that can, for a while, then another; completions whenever they are due.

use super::context::Context;
use super::execute::Step;
use super::launch::Shape;
use super::memory::{Effects, GlobalMemory, GlobalView};
use super::program::Program;
use super::registers::Registers;
use super::rng::Rng;
use super::shared::{FIRST, SharedMemory};
use super::state::States;
use super::warp::{State, Warp};
use super::{AgentInfo, Block, Cluster, Machine};
use crate::counters::Counters;
use crate::report::{Finding, Kind, Stop};
use std::sync::Arc;

/// Greatest number of instructions that a warp runs before another may.
const TURN: (u64, u64) = (1, 200);

/// What a domain leaves.
pub struct Outcome {
    /// How it ended.
    pub result: Result<(), Stop>,
    /// What it counted.
    pub counters: Counters,
    /// What it found.
    pub findings: Vec<Finding>,
    /// The history that was asked for.
    pub trace: Vec<String>,
    /// What it did to global memory.
    pub effects: Effects,
}

impl Machine {
    /// A machine for some clusters of a launch, `number` among its machines.
    pub fn new(
        program: Arc<Program>,
        shape: Arc<Shape>,
        memory: Arc<GlobalMemory>,
        clusters: impl IntoIterator<Item = u64>,
        number: u64,
    ) -> Self {
        Machine {
            rng: Rng::new(shape.seed, number),
            global: GlobalView::new(memory),
            pending: clusters.into_iter().collect(),
            program,
            shape,
            clusters: Vec::new(),
            blocks: Vec::new(),
            warps: Vec::new(),
            counters: Counters::default(),
            now: 0,
            resident: 0,
            events: Default::default(),
            agents: Vec::new(),
            streams: Default::default(),
            findings: Default::default(),
            trace: Vec::new(),
            ready: Vec::new(),
            waiting: Default::default(),
            released: Default::default(),
        }
    }

    /// Runs until every cluster has ended.
    pub fn run(mut self) -> Outcome {
        let result = self.go();
        let effects = self.global.finish();
        Outcome { result, counters: self.counters, findings: self.findings.list, trace: self.trace, effects }
    }

    fn go(&mut self) -> Result<(), Stop> {
        let mut stalled: Vec<(usize, usize, usize)> = Vec::new();
        loop {
            self.start_clusters();
            while let Some(completion) = self.events.pop(self.now) {
                self.counters.completions += 1;
                completion(self)?;
            }
            if !self.ready.is_empty() {
                let pick = self.rng.below(self.ready.len());
                self.turn(pick)?;
            } else if let Some(due) = self.events.next_due() {
                self.now = self.now.max(due);
            } else if self.resident == 0 && self.pending.is_empty() {
                return Ok(());
            } else {
                // Waits that may give up do so once; if that leads back here, nothing will ever come.
                let waits = self.may_give_up();
                if waits.is_empty() || waits == stalled {
                    return Err(Stop::Deadlock { kernel: self.program.name.clone(), blocked: self.blocked() });
                }
                self.give_up(&waits);
                stalled = waits;
            }
        }
    }

    /// Waits that may give up: warp, split and instruction.
    fn may_give_up(&self) -> Vec<(usize, usize, usize)> {
        let splits =
            self.warps.iter().enumerate().flat_map(|(warp, w)| w.splits.iter().enumerate().map(move |s| (warp, s)));
        splits
            .filter(|(_, (_, split))| matches!(&split.state, State::Blocked(wait) if wait.gives_up))
            .map(|(warp, (number, split))| (warp, number, split.pc))
            .collect()
    }

    /// Lets waits give up.
    fn give_up(&mut self, waits: &[(usize, usize, usize)]) {
        for &(warp, split, _) in waits {
            self.warps[warp].splits[split].state = State::Resumed { timed_out: true };
        }
        self.waiting.clear();
        self.requeue_blocked();
        waits.iter().for_each(|&(warp, ..)| self.make_ready(warp));
    }

    /// Rebuilds the lists of waiters from the splits that still wait.
    fn requeue_blocked(&mut self) {
        for (index, warp) in self.warps.iter().enumerate() {
            for (number, split) in warp.splits.iter().enumerate() {
                if let State::Blocked(wait) = &split.state {
                    self.waiting.entry(wait.key).or_default().push((index, number));
                }
            }
        }
    }

    /// Takes a cluster that has not been started out of the launch: cluster launch control.
    pub fn cancel_cluster(&mut self) -> Option<[u32; 3]> {
        self.pending.pop_front().map(|index| self.shape.cluster_id(index))
    }

    fn start_clusters(&mut self) {
        while self.resident < self.shape.resident_clusters {
            let Some(index) = self.pending.pop_front() else { return };
            self.start_cluster(index);
        }
    }

    fn start_cluster(&mut self, index: u64) {
        let (shape, program) = (Arc::clone(&self.shape), Arc::clone(&self.program));
        let (cluster, first) = (self.clusters.len(), self.blocks.len());
        let id = shape.cluster_id(index);
        let threads: u32 = shape.block.iter().product();
        for (rank, ctaid) in shape.blocks_of(id).into_iter().enumerate() {
            let (block, start) = (self.blocks.len(), self.warps.len());
            for warp in 0..threads.div_ceil(32) {
                let live = u32::MAX >> (32 - (threads - warp * 32).min(32));
                let agent = self.agents.len() as u32;
                self.agents.push(AgentInfo { warp: self.warps.len(), clock: 1, asynchronous: false });
                self.ready.push(self.warps.len());
                self.warps.push(Warp::new(&program, block, warp, agent, live));
            }
            self.blocks.push(Block {
                ctaid,
                cluster,
                rank: rank as u32,
                shared: SharedMemory::new(program.dynamic_shared - FIRST + shape.shared),
                tmem: None,
                mbarriers: Default::default(),
                warps: start..self.warps.len(),
                live: threads.div_ceil(32),
                states: States::default(),
            });
        }
        let blocks = first..self.blocks.len();
        self.clusters.push(Cluster { id, live: blocks.len() as u32, blocks, states: States::default() });
        self.resident += 1;
    }

    /// Runs a warp for a number of instructions drawn from the seed, or until it cannot go on.
    fn turn(&mut self, pick: usize) -> Result<(), Stop> {
        let warp = self.ready[pick];
        let program = Arc::clone(&self.program);
        for _ in 0..self.rng.within(TURN) {
            let Some(split) = self.choose_split(warp) else { break };
            self.step(&program, warp, split)?;
            if self.now >= self.events.next_due().unwrap_or(u64::MAX) {
                break;
            }
        }
        if !self.warps[warp].can_run()
            && let Some(at) = self.ready.iter().position(|&w| w == warp)
        {
            self.ready.swap_remove(at);
        }
        Ok(())
    }

    /// A split of the warp that can run.
    fn choose_split(&mut self, warp: usize) -> Option<usize> {
        let splits = &self.warps[warp].splits;
        let can = |i: usize| matches!(splits[i].state, State::Ready | State::Resumed { .. });
        if splits.len() == 1 {
            return can(0).then_some(0);
        }
        let candidates = (0..splits.len()).filter(|&i| can(i)).count();
        let pick = (candidates > 0).then(|| self.rng.below(candidates))?;
        (0..splits.len()).filter(|&i| can(i)).nth(pick)
    }

    /// Executes one instruction of a split.
    fn step(&mut self, program: &Program, warp: usize, split: usize) -> Result<(), Stop> {
        let own = &self.warps[warp].splits[split];
        let (pc, mask) = (own.pc, own.mask);
        let (resumed, timed_out) = match own.state {
            State::Resumed { timed_out } => (true, timed_out),
            _ => (false, false),
        };
        let op = &program.ops[pc];
        let mask = match op.guard {
            None => mask,
            Some((reg, negated)) => mask & self.guard(warp, reg, negated, mask, pc),
        };
        self.now += 1;
        if self.now > self.shape.step_limit {
            let (kernel, limit) = (program.name.clone(), self.shape.step_limit);
            return Err(Stop::StepLimit { kernel, limit, running: self.blocked() });
        }
        if mask == 0 {
            self.warps[warp].advance(split, pc + 1);
            return Ok(());
        }
        if !self.shape.trace.is_empty() {
            self.trace_step(warp, pc as u32, mask, resumed);
        }
        if !resumed {
            self.counters.instruction(self.warps[warp].index as usize, op.class);
        }
        let block = self.warps[warp].block;
        let mut cx = Context { m: self, warp, block, mask, op: pc as u32, resumed, timed_out };
        let step = op.body.execute(&mut cx)?;
        self.finish_step(warp, split, mask, step)
    }

    /// Lanes whose guard lets them execute.
    fn guard(&mut self, warp: usize, reg: super::decode::Reg, negated: bool, mask: u32, pc: usize) -> u32 {
        let block = self.warps[warp].block;
        let source = if negated { super::decode::Source::NotPred(reg) } else { super::decode::Source::Reg(reg) };
        Context { m: self, warp, block, mask, op: pc as u32, resumed: false, timed_out: false }.pred(&source)
    }

    fn finish_step(&mut self, warp: usize, split: usize, mask: u32, step: Step) -> Result<(), Stop> {
        let pc = self.warps[warp].splits[split].pc;
        match step {
            Step::Next => self.warps[warp].advance(split, pc + 1),
            Step::Jump { target, taken } => self.branch(warp, split, &[(target, taken)]),
            Step::Scatter(ways) => self.branch(warp, split, &ways),
            Step::Exit => return self.exit(warp, split, mask),
            Step::Block(wait) => {
                *self.counters.waits.entry(wait.what).or_default() += 1;
                self.waiting.entry(wait.key).or_default().push((warp, split));
                self.warps[warp].splits[split].state = State::Blocked(wait);
            }
            Step::Gather { members, anywhere } => {
                self.warps[warp].splits[split].state = State::Gathering { members, anywhere };
                self.settle_gather(warp)?;
            }
        }
        Ok(())
    }

    /// Lanes of a split go their ways; those of no way go to the next instruction.
    fn branch(&mut self, warp: usize, split: usize, ways: &[(usize, u32)]) {
        let (pc, all) = (self.warps[warp].splits[split].pc, self.warps[warp].splits[split].mask);
        let mut list: Vec<(usize, u32)> = Vec::with_capacity(ways.len() + 1);
        let rest = ways.iter().fold(all, |rest, (_, mask)| rest & !mask);
        for &(target, mask) in ways.iter().chain(&[(pc + 1, rest)]) {
            match list.iter_mut().find(|(t, _)| *t == target) {
                Some((_, lanes)) => *lanes |= mask,
                None if mask != 0 => list.push((target, mask)),
                None => {}
            }
        }
        match list[..] {
            [(target, _)] => self.warps[warp].advance(split, target),
            _ => {
                let join = self.program.ops[pc].join;
                self.warps[warp].part(split, &list, join);
            }
        }
    }

    fn exit(&mut self, warp: usize, split: usize, lanes: u32) -> Result<(), Stop> {
        let pc = self.warps[warp].splits[split].pc;
        let rest = self.warps[warp].splits[split].mask & !lanes;
        self.warps[warp].exit(split, lanes);
        if rest != 0 {
            self.warps[warp].advance(split, pc + 1);
        }
        if self.warps[warp].live == 0 {
            self.end_warp(warp, pc as u32);
            return Ok(());
        }
        // Nobody waits for lanes that have ended.
        self.settle_gather(warp)
    }

    /// Executes an instruction for lanes that have gathered, if they have.
    fn settle_gather(&mut self, warp: usize) -> Result<(), Stop> {
        let count = self.warps[warp].splits.len();
        let complete = (0..count).find_map(|split| self.warps[warp].gathered(split));
        let Some((group, mask)) = complete else { return Ok(()) };
        let pc = self.warps[warp].splits[group[0]].pc;
        let program = Arc::clone(&self.program);
        let op = &program.ops[pc];
        let mask = match op.guard {
            None => mask,
            Some((reg, negated)) => mask & self.guard(warp, reg, negated, mask, pc),
        };
        let block = self.warps[warp].block;
        let mut cx = Context { m: self, warp, block, mask, op: pc as u32, resumed: true, timed_out: false };
        let step = op.body.execute(&mut cx)?;
        for split in group {
            let mask = self.warps[warp].splits[split].mask & mask;
            self.finish_step(warp, split, mask, step.clone())?;
        }
        Ok(())
    }

    /// A warp has no lanes left.
    fn end_warp(&mut self, warp: usize, op: u32) {
        let block = self.warps[warp].block;
        self.end_states(warp, op, |m| m.warps[warp].states.end());
        self.warps[warp].regs = Registers::default();
        self.blocks[block].live -= 1;
        self.wake(super::wait::Key::Cluster(self.blocks[block].cluster));
        (0..crate::barrier_state::BARRIERS).for_each(|i| self.wake(super::wait::Key::Barrier(block, i)));
        if self.blocks[block].live > 0 {
            return;
        }
        self.end_states(warp, op, |m| {
            let mut wrong = m.blocks[block].states.end();
            if let Some(memory) = &m.blocks[block].tmem
                && !memory.allocated().is_empty()
            {
                let message = format!("columns {:?} of tensor memory were not freed", memory.allocated());
                wrong.push((Kind::TensorMemory, message));
            }
            wrong
        });
        let cluster = self.blocks[block].cluster;
        self.clusters[cluster].live -= 1;
        if self.clusters[cluster].live > 0 {
            return;
        }
        self.end_states(warp, op, |m| m.clusters[cluster].states.end());
        // Peers may reach into a block's shared memory as long as the cluster runs, and copies that nothing has waited for
        // (which is reported) still read it then.
        let blocks = self.clusters[cluster].blocks.clone();
        blocks.clone().for_each(|block| self.blocks[block].tmem = None);
        self.behind_all(move |m| blocks.for_each(|block| m.blocks[block].shared = SharedMemory::new(0)));
        self.resident -= 1;
    }

    fn end_states(&mut self, warp: usize, op: u32, end: impl FnOnce(&mut Machine) -> Vec<(Kind, String)>) {
        let wrong = end(self);
        let lane_zero = 1;
        let block = self.warps[warp].block;
        let mut cx = Context { m: self, warp, block, mask: lane_zero, op, resumed: false, timed_out: false };
        wrong.into_iter().for_each(|(kind, message)| cx.report(kind, message));
    }
}
