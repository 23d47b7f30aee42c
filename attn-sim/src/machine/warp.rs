//! A warp: registers, and groups of lanes that went different ways.
//!
//! Lanes that part at a branch become splits, which the scheduler runs in any order, as hardware since Volta may. They
//! wait for each other at the branch's immediate post-dominator.

use super::clock::{Agent, Clock, Knowledge};
use super::program::{NOWHERE, Program};
use super::registers::Registers;
use super::shadow::Bits;
use super::state::States;
use super::wait::Wait;
use std::rc::Rc;

/// What a split does.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Can execute.
    Ready,
    /// Waits for an event; the instruction will be executed again.
    Blocked(Wait),
    /// Was woken: the instruction is executed again.
    Resumed {
        /// Because nothing else could run.
        timed_out: bool,
    },
    /// Waits for other lanes of the warp.
    Gathering {
        /// Who must be there.
        members: u32,
        /// At any instruction that gathers.
        anywhere: bool,
    },
    /// Parted into splits that will meet at its `pc`.
    Parted,
    /// Not in use.
    Free,
}

/// Lanes that execute together.
#[derive(Clone, Debug)]
pub struct Split {
    /// The next instruction.
    pub pc: usize,
    /// The lanes.
    pub mask: u32,
    /// Where they meet the splits they parted from.
    pub join: usize,
    /// The split that they were part of.
    pub parent: Option<usize>,
    /// What it does.
    pub state: State,
}

/// A thread's `.local` memory and call frames, for all lanes of a warp.
#[derive(Debug)]
pub struct Local {
    /// Bytes of lane 0, then of lane 1, and so on.
    pub data: Vec<u8>,
    /// Bytes that were written.
    pub written: Bits,
    /// Bytes of a lane.
    pub bytes: u32,
}

/// A warp of a block.
pub struct Warp {
    /// Index of its block in the machine.
    pub block: usize,
    /// Index in the block.
    pub index: u32,
    /// Its agent.
    pub agent: Agent,
    /// Its moment.
    pub clock: u32,
    /// What it knows.
    pub known: Rc<Knowledge>,
    /// Up to where its lanes have heard of each other's accesses.
    pub synced: u32,
    /// Later accesses of some lanes, of which the others have heard by way of other warps.
    pub returned: Option<Rc<Clock>>,
    /// The moment of their last access.
    pub touched: u32,
    /// Streams of operations that the lanes make together, of which each has learnt that its own part is complete, and up to
    /// where all lanes have heard of all parts.
    pub parts: Vec<(Agent, u32)>,
    /// Lanes that have not ended.
    pub live: u32,
    /// Whether some have ended with work of which the others have not heard.
    left: bool,
    /// Registers.
    pub regs: Registers,
    /// Lane groups.
    pub splits: Vec<Split>,
    /// Local memory.
    pub local: Local,
    /// What units keep for it.
    pub states: States,
}

impl Warp {
    /// A warp at the start of a program, whose lanes `live` exist.
    pub fn new(program: &Program, block: usize, index: u32, agent: Agent, live: u32) -> Self {
        let bytes = program.local_bytes;
        let mut known = Knowledge::default();
        known.seen.raise(agent, 1);
        Warp {
            block,
            index,
            agent,
            clock: 1,
            known: Rc::new(known),
            synced: 0,
            returned: None,
            touched: 0,
            parts: Vec::new(),
            live,
            left: false,
            regs: Registers::new(&program.layout),
            splits: vec![Split { pc: 0, mask: live, join: NOWHERE, parent: None, state: State::Ready }],
            local: Local { data: vec![0; bytes as usize * 32], written: Bits::new(bytes as usize * 32), bytes },
            states: States::default(),
        }
    }

    /// Each lane learns that its own part of a stream's operations is complete up to `clock`.
    pub fn learn_parts(&mut self, agent: Agent, clock: u32) {
        if !self.parts.iter().any(|(of, _)| *of == agent) {
            self.parts.push((agent, self.known.seen.get(agent)));
        }
        Rc::make_mut(&mut self.known).seen.raise(agent, clock);
    }

    /// Up to where all lanes know of an agent's work.
    pub fn all_know(&self, agent: Agent) -> u32 {
        let part = self.parts.iter().find(|(of, _)| *of == agent);
        part.map_or(self.known.seen.get(agent), |(_, from)| *from)
    }

    /// Learns what was released. What comes back to a warp of its lanes' work, those lanes have released before.
    pub fn hear(&mut self, released: &Knowledge) {
        Rc::make_mut(&mut self.known).join(released);
        self.synced = self.synced.max(released.seen.get(self.agent));
        self.parts.iter_mut().for_each(|(agent, from)| *from = released.seen.get(*agent).max(*from));
        if released.seen.has_lanes(self.agent) {
            let returned = self.returned.get_or_insert_default();
            Rc::make_mut(returned).join_lanes(&released.seen, self.agent);
        }
    }

    /// Agents of whose work the lanes know different parts, and from where on.
    pub fn apart(&self) -> impl Iterator<Item = (Agent, u32)> {
        let own = (self.touched > self.synced).then_some((self.agent, self.synced));
        let all = own.into_iter().chain(self.parts.iter().copied());
        all.filter(|&(agent, from)| self.known.seen.get(agent) > from)
    }

    /// Whether these lanes are all that there is to know of.
    pub fn is_whole(&self, lanes: u32) -> bool {
        lanes == self.live && !self.left
    }

    /// What some of its lanes know.
    pub fn known_by(&self, lanes: u32) -> Rc<Knowledge> {
        let mut known = Rc::clone(&self.known);
        if !self.is_whole(lanes) {
            self.apart().for_each(|(agent, from)| Rc::make_mut(&mut known).confine(agent, from, lanes));
        }
        known
    }

    /// The lanes have met: what each knew, all know.
    pub fn meet(&mut self) {
        self.synced = self.synced.max(self.touched);
        (self.returned, self.left) = (None, false);
        let known = &self.known;
        self.parts.iter_mut().for_each(|(agent, from)| *from = known.seen.get(*agent));
    }

    /// Whether some lanes can execute.
    pub fn can_run(&self) -> bool {
        self.splits.iter().any(|s| matches!(s.state, State::Ready | State::Resumed { .. }))
    }

    /// Moves a split to `pc`, where it may meet the splits that it parted from.
    pub fn advance(&mut self, split: usize, pc: usize) {
        self.splits[split].pc = pc;
        self.splits[split].state = State::Ready;
        if pc == self.splits[split].join && pc != NOWHERE {
            self.arrive(split);
        }
    }

    /// Ends a split's way: its lanes wait in the parent, which goes on when it has all of them.
    fn arrive(&mut self, split: usize) {
        let (mask, parent) = (self.splits[split].mask, self.splits[split].parent);
        let Some(parent) = parent else { return };
        self.free(split);
        self.splits[parent].mask |= mask;
        self.rejoin(parent);
    }

    fn free(&mut self, split: usize) {
        self.splits[split].state = State::Free;
        self.splits[split].mask = 0;
        self.splits[split].parent = None;
    }

    /// Lets a parted split go on if none of its parts is left; one without lanes ends.
    fn rejoin(&mut self, split: usize) {
        if self.splits.iter().any(|s| s.parent == Some(split) && s.state != State::Free) {
            return;
        }
        if self.splits[split].mask != 0 {
            let pc = self.splits[split].pc;
            self.advance(split, pc);
            return;
        }
        let parent = self.splits[split].parent;
        self.free(split);
        if let Some(parent) = parent {
            self.rejoin(parent);
        }
    }

    /// Parts a split: each entry's lanes go to its instruction, and meet again at `join`.
    pub fn part(&mut self, split: usize, ways: &[(usize, u32)], join: usize) {
        let own = &self.splits[split];
        // Parts that meet where the split itself meets others wait there, without a level in between.
        let parent = if own.join == join && own.parent.is_some() { own.parent } else { Some(split) };
        if parent == Some(split) {
            let own = &mut self.splits[split];
            (own.pc, own.mask, own.state) = (join, 0, State::Parted);
        } else {
            self.free(split);
        }
        let parts: Vec<usize> = ways
            .iter()
            .map(|&(pc, mask)| {
                let part = Split { pc, mask, join, parent, state: State::Ready };
                match self.splits.iter().position(|s| s.state == State::Free) {
                    Some(free) => {
                        self.splits[free] = part;
                        free
                    }
                    None => {
                        self.splits.push(part);
                        self.splits.len() - 1
                    }
                }
            })
            .collect();
        for (part, &(pc, _)) in parts.into_iter().zip(ways) {
            self.advance(part, pc);
        }
    }

    /// Ends lanes.
    pub fn exit(&mut self, split: usize, lanes: u32) {
        let apart = self.apart().next().is_some();
        self.left |= apart;
        self.live &= !lanes;
        self.splits[split].mask &= !lanes;
        if self.splits[split].mask == 0 {
            let parent = self.splits[split].parent;
            self.free(split);
            if let Some(parent) = parent {
                self.rejoin(parent);
            }
        }
    }

    /// Splits that gather with `split` and are complete, with all their lanes.
    pub fn gathered(&self, split: usize) -> Option<(Vec<usize>, u32)> {
        let State::Gathering { members, anywhere } = self.splits[split].state else { return None };
        let here = |s: &Split| match s.state {
            State::Gathering { members: m, anywhere: a } => {
                m == members && a == anywhere && (anywhere || s.pc == self.splits[split].pc)
            }
            _ => false,
        };
        let group: Vec<usize> = (0..self.splits.len()).filter(|&i| here(&self.splits[i])).collect();
        let lanes = group.iter().fold(0, |mask, &i| mask | self.splits[i].mask);
        (members & self.live & !lanes == 0).then_some((group, lanes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::decode::Layout;

    fn warp() -> Warp {
        let program = Program {
            name: String::new(),
            ops: Vec::new(),
            layout: Layout::default(),
            names: Vec::new(),
            dynamic_shared: 1024,
            local_bytes: 0,
            param_bytes: 0,
            bounds: Default::default(),
            communicates: false,
        };
        Warp::new(&program, 0, 0, 0, u32::MAX)
    }

    fn running(warp: &Warp) -> Vec<(usize, u32)> {
        let ready = warp.splits.iter().filter(|s| s.state == State::Ready);
        ready.map(|s| (s.pc, s.mask)).collect()
    }

    #[test]
    fn lanes_part_and_meet() {
        let mut warp = warp();
        warp.part(0, &[(5, 0xff), (1, !0xff)], 9);
        assert_eq!(running(&warp), [(5, 0xff), (1, !0xff)]);
        let (a, b) = (1, 2);
        warp.advance(a, 9);
        assert_eq!(running(&warp), [(1, !0xff)]);
        warp.advance(b, 9);
        assert_eq!(running(&warp), [(9, u32::MAX)]);
    }

    #[test]
    fn a_side_may_be_empty_and_lanes_may_end_on_the_way() {
        let mut warp = warp();
        warp.part(0, &[(9, 1), (1, !1)], 9);
        assert_eq!(running(&warp), [(1, !1)]);
        let split = warp.splits.iter().position(|s| s.state == State::Ready).expect("one side runs");
        warp.exit(split, !1);
        assert_eq!(running(&warp), [(9, 1)]);
        assert_eq!(warp.live, 1);
    }

    #[test]
    fn a_divergent_loop_needs_no_more_splits_than_ways() {
        let mut warp = warp();
        warp.part(0, &[(9, 1), (1, !1)], 9);
        for lane in 1..31 {
            let split = warp.splits.iter().position(|s| s.state == State::Ready).expect("the loop goes on");
            let mask = warp.splits[split].mask;
            warp.part(split, &[(9, 1 << lane), (1, mask & !(1 << lane))], 9);
        }
        assert!(warp.splits.len() <= 4);
        assert_eq!(running(&warp), [(1, 1 << 31)]);
    }

    #[test]
    fn lanes_gather_at_one_instruction() {
        let mut warp = warp();
        warp.part(0, &[(3, 0xffff), (1, !0xffff)], 9);
        warp.splits[1].state = State::Gathering { members: u32::MAX, anywhere: false };
        assert_eq!(warp.gathered(1), None);
        warp.splits[2].pc = 3;
        warp.splits[2].state = State::Gathering { members: u32::MAX, anywhere: false };
        assert_eq!(warp.gathered(1), Some((vec![1, 2], u32::MAX)));
    }
}
