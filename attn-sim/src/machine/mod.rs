//! The machine: blocks of clusters that run together, their memories, and what is under way.
//!
//! A machine runs one domain: a cluster, or all clusters of a kernel whose blocks communicate. It is deterministic: the
//! order of warps and of completions is drawn from the seed.

mod access;
pub mod clock;
pub mod context;
pub mod decode;
mod epoch;
pub mod events;
pub mod execute;
pub mod inline;
pub mod launch;
pub mod mbarrier;
pub mod memory;
pub mod program;
pub mod registers;
mod rng;
mod schedule;
pub mod shadow;
pub mod shared;
pub mod special;
pub mod state;
pub mod tmem;
pub mod trace;
pub mod wait;
pub mod warp;

pub use context::Context;
pub use state::UnitState;

use crate::counters::Counters;
use crate::report::{Blocked, Finding, Kind, Other, Site, Stop};
use clock::{Actor, Agent, Epoch, Knowledge, Proxy};
use events::Events;
use launch::Shape;
use mbarrier::Mbarrier;
use memory::GlobalView;
use program::Program;
use rng::Rng;
use shared::SharedMemory;
use state::States;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use tmem::TensorMemory;
use wait::Key;
use warp::{State, Warp};

/// A block that runs, or has run.
pub struct Block {
    /// `%ctaid`
    pub ctaid: [u32; 3],
    /// Index of its cluster in the machine.
    pub cluster: usize,
    /// `%cluster_ctarank`
    pub rank: u32,
    /// Shared memory.
    pub shared: SharedMemory,
    /// Tensor memory, once it is used.
    pub tmem: Option<Box<TensorMemory>>,
    /// Live mbarriers, by offset.
    pub mbarriers: BTreeMap<u32, Mbarrier>,
    /// Its warps, as indices into the machine's.
    pub warps: std::ops::Range<usize>,
    /// Warps that have not ended.
    pub live: u32,
    /// What units keep for it.
    pub states: States,
}

/// A cluster that runs, or has run. A launch without clusters has clusters of one block.
pub struct Cluster {
    /// `%clusterid`
    pub id: [u32; 3],
    /// Its blocks by rank, as indices into the machine's.
    pub blocks: std::ops::Range<usize>,
    /// Blocks that have not ended.
    pub live: u32,
    /// What units keep for it.
    pub states: States,
}

/// Streams of asynchronous operations that are observed together, each an agent of the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Operations that complete on the mbarrier at an offset of a block.
    Mbarrier(usize, u32),
    /// Operations of a warp that its own waits observe, by a name of the unit's choice: one for each thing that can be
    /// waited for apart, as the reads and the writes of bulk stores.
    Warp(usize, &'static str),
    /// Operations of a block's unit.
    Block(usize, &'static str),
}

struct AgentInfo {
    /// The warp that last issued on it.
    warp: usize,
    clock: u32,
    asynchronous: bool,
}

/// Findings, one for each pair of lines and rule.
#[derive(Default)]
pub struct Findings {
    list: Vec<Finding>,
    index: HashMap<(Kind, u32, u32), usize>,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        let key = (finding.kind, finding.at.line, finding.other.as_ref().map_or(0, |o| o.at.line));
        match self.index.get(&key) {
            Some(&i) => self.list[i].count += finding.count,
            None => {
                self.index.insert(key, self.list.len());
                self.list.push(finding);
            }
        }
    }
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Global memory.
    Global(u64),
    /// Shared memory of a block (an index in the machine).
    Shared {
        /// The block.
        block: usize,
        /// Offset, as in addresses.
        offset: u32,
    },
    /// Local memory of a lane of a warp.
    Local {
        /// The warp, an index in the machine.
        warp: usize,
        /// The lane.
        lane: u32,
        /// Offset in the lane's memory.
        offset: u32,
    },
    /// The kernel's parameters.
    Param(u64),
    /// The module's constants.
    Const(u64),
    /// A cell of a block's tensor memory, for reports: loads and stores do not reach it.
    Tensor {
        /// The block.
        block: usize,
        /// Its lane.
        lane: u32,
        /// Its column.
        column: u32,
    },
}

/// A domain of clusters while it runs.
pub struct Machine {
    /// The kernel.
    pub program: Arc<Program>,
    /// The launch.
    pub shape: Arc<Shape>,
    /// Clusters that have been started.
    pub clusters: Vec<Cluster>,
    /// Blocks that have been started.
    pub blocks: Vec<Block>,
    /// Warps that have been started.
    pub warps: Vec<Warp>,
    /// Global memory.
    pub global: GlobalView,
    /// Counts so far.
    pub counters: Counters,
    /// Instructions issued, which is this machine's time.
    pub now: u64,
    /// Clusters that wait to be started: indices in the grid.
    pending: std::collections::VecDeque<u64>,
    /// Clusters running.
    resident: u32,
    events: Events,
    rng: Rng,
    agents: Vec<AgentInfo>,
    streams: HashMap<Stream, Agent>,
    findings: Findings,
    trace: Vec<String>,
    /// Warps that can run.
    ready: Vec<usize>,
    /// Splits that wait for a key.
    waiting: HashMap<Key, Vec<(usize, usize)>>,
    released: HashMap<u64, Knowledge>,
}

impl Machine {
    /// Where an instruction was issued.
    pub fn site(&self, warp: usize, op: u32) -> Site {
        let (warp, line) = (&self.warps[warp], self.program.ops[op as usize].line);
        Site { block: self.blocks[warp.block].ctaid, warp: warp.index, line }
    }

    fn other(&self, earlier: Epoch) -> Other {
        let warp = self.agents[earlier.agent as usize].warp;
        Other { at: self.site(warp, earlier.op()), instruction: self.program.ops[earlier.op() as usize].text.clone() }
    }

    fn finding(&self, who: &Actor, kind: Kind, message: String, earlier: Option<Epoch>) -> Finding {
        Finding {
            kind,
            kernel: self.program.name.clone(),
            at: self.site(who.warp as usize, who.op),
            instruction: self.program.ops[who.op as usize].text.clone(),
            message,
            other: earlier.map(|e| self.other(e)),
            count: 1,
        }
    }

    /// Notes a broken rule and goes on.
    pub fn report(&mut self, who: &Actor, kind: Kind, message: String, earlier: Option<Epoch>) {
        let finding = self.finding(who, kind, message, earlier);
        self.findings.add(finding);
    }

    /// A broken rule after which the launch cannot go on.
    pub fn fault(&self, who: &Actor, kind: Kind, message: String) -> Stop {
        Stop::Fault(Box::new(self.finding(who, kind, message, None)))
    }

    /// The agent of a stream.
    fn stream(&mut self, stream: Stream, warp: usize) -> Agent {
        let agents = &mut self.agents;
        let agent = *self.streams.entry(stream).or_insert_with(|| {
            agents.push(AgentInfo { warp, clock: 0, asynchronous: true });
            (agents.len() - 1) as Agent
        });
        self.agents[agent as usize].warp = warp;
        agent
    }

    /// An asynchronous operation on a stream, which knows what `issuer` knows. With `in_order`, it also follows the
    /// operations issued on the stream before.
    pub fn begin(&mut self, issuer: &Actor, stream: Stream, proxy: Proxy, in_order: bool) -> Actor {
        let agent = self.stream(stream, issuer.warp as usize);
        let info = &mut self.agents[agent as usize];
        let before = info.clock;
        info.clock += 1;
        let clock = info.clock;
        let mut known = Rc::clone(&issuer.known);
        if in_order && before > 0 && known.seen.get(agent) < before {
            Rc::make_mut(&mut known).observe(agent, before);
        }
        // What the issuer does from here on is not ordered with the operation.
        if !self.agents[issuer.agent as usize].asynchronous {
            self.release(issuer.warp as usize);
        }
        Actor { agent, clock, known, proxy, ..issuer.clone() }
    }

    /// What a warp releases at this moment; its later accesses are not part of it.
    pub fn release(&mut self, warp: usize) -> Rc<Knowledge> {
        self.release_of(warp, self.warps[warp].live)
    }

    /// What some lanes of a warp release at this moment.
    pub fn release_of(&mut self, warp: usize, lanes: u32) -> Rc<Knowledge> {
        let warp = &mut self.warps[warp];
        let released = warp.known_by(lanes);
        warp.clock += 1;
        Rc::make_mut(&mut warp.known).seen.raise(warp.agent, warp.clock);
        self.agents[warp.agent as usize].clock = warp.clock;
        released
    }

    /// A warp learns what was released.
    pub fn acquire(&mut self, warp: usize, released: &Knowledge) {
        self.warps[warp].hear(released);
    }

    /// A warp learns that operations of a stream up to `clock` are complete.
    pub fn observe(&mut self, warp: usize, agent: Agent, clock: u32) {
        Rc::make_mut(&mut self.warps[warp].known).observe(agent, clock);
    }

    /// Lanes of a warp execute a proxy fence, which is for what they have done so far.
    pub fn fence_proxy(&mut self, warp: usize, lanes: u32) {
        let by = &mut self.warps[warp];
        let seen = by.known_by(lanes);
        Rc::make_mut(&mut by.known).fenced.join(&seen.seen);
        self.release(warp);
    }

    /// What was released at an address of global or shared memory by atomics and releasing stores.
    pub fn released_at(&mut self, generic: u64) -> &mut Knowledge {
        self.released.entry(generic).or_default()
    }

    /// Lets the splits that wait for a key look again.
    pub fn wake(&mut self, key: Key) {
        for (warp, split) in self.waiting.remove(&key).unwrap_or_default() {
            if matches!(&self.warps[warp].splits[split].state, State::Blocked(wait) if wait.key == key) {
                self.warps[warp].splits[split].state = State::Resumed { timed_out: false };
                self.make_ready(warp);
            }
        }
    }

    fn make_ready(&mut self, warp: usize) {
        if !self.ready.contains(&warp) {
            self.ready.push(warp);
        }
    }

    /// Counts bytes moved by a unit.
    pub fn count_bytes(&mut self, unit: &'static str, bytes: u64) {
        *self.counters.bytes.entry(unit).or_default() += bytes;
    }

    /// The block of a rank in the cluster of `block`.
    pub fn peer(&self, block: usize, rank: u32) -> Option<usize> {
        let blocks = &self.clusters[self.blocks[block].cluster].blocks;
        ((rank as usize) < blocks.len()).then(|| blocks.start + rank as usize)
    }

    /// Where a shared address leads, seen from a block: the rank above bit 24, the offset below.
    pub fn shared_location(&self, block: usize, addr: u32) -> Option<(usize, u32)> {
        self.peer(block, addr >> 24).map(|peer| (peer, addr & 0x00ff_ffff))
    }

    /// The address of an offset in a block's shared memory, in the cluster's window.
    pub fn shared_address(&self, block: usize, offset: u32) -> u32 {
        self.blocks[block].rank << 24 | offset
    }

    /// Why warps do not go on, for reports.
    fn blocked(&self) -> Vec<Blocked> {
        let mut list = Vec::new();
        for (index, warp) in self.warps.iter().enumerate() {
            for split in warp.splits.iter().filter(|s| !matches!(s.state, State::Free | State::Parted)) {
                let wait = match &split.state {
                    State::Blocked(wait) => format!("{} {}{}", wait.what, wait.detail, self.describe(wait.key)),
                    State::Gathering { members, .. } => format!("the lanes {members:#010x} of its warp"),
                    _ => "nothing: it can run".into(),
                };
                let op = &self.program.ops[split.pc];
                let at = self.site(index, split.pc as u32);
                list.push(Blocked { at, instruction: op.text.clone(), lanes: split.mask, wait });
            }
        }
        list
    }

    /// The present state of what is waited for.
    fn describe(&self, key: Key) -> String {
        let said = match key {
            Key::Mbarrier(block, offset) => {
                let bar = self.blocks[block].mbarriers.get(&offset);
                bar.map_or_else(String::new, |b| format!("missing {}", b.state.missing()))
            }
            Key::Barrier(block, _) | Key::Block(block) => self.blocks[block].states.describe(),
            Key::Cluster(cluster) => self.clusters[cluster].states.describe(),
            Key::Warp(warp) => self.warps[warp].states.describe(),
            Key::Lanes(_) => String::new(),
        };
        if said.is_empty() { said } else { format!(", {said}") }
    }
}
