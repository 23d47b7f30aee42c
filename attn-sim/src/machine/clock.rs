//! Who has seen whose work: vector clocks over agents.
//!
//! An agent is a warp, or a stream of asynchronous operations whose completion is observed together: the copies that
//! complete on one mbarrier, the multiplies of one warp. Releases raise the agent's own clock, so that later accesses are not
//! covered by them.
//!
//! The lanes of a warp are one agent. What two of them do to each other since the warp last synchronised is told by the lane
//! that an access keeps. What some lanes release to other warps is all that the lanes knew when they last met, and of what they
//! did since then the part of those lanes. What one lane acquires counts for all lanes, which is not judged.

use super::context::lanes;
use super::decode::LANES;
use std::rc::Rc;

pub use super::epoch::{Epoch, Lane};

/// Index of an agent in its domain.
pub type Agent = u32;

/// Work of one lane of an agent that is covered, where that of the other lanes is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OfLane {
    agent: Agent,
    lane: u8,
    at: u32,
}

/// For every agent, up to where its work is covered. Agents past the end are at 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// All lanes' work.
    all: Vec<u32>,
    /// More of some lanes: mostly none.
    lanes: Vec<OfLane>,
}

impl Clock {
    /// Up to where the work of all lanes of `agent` is covered.
    #[inline]
    pub fn get(&self, agent: Agent) -> u32 {
        self.all.get(agent as usize).copied().unwrap_or(0)
    }

    /// Whether an access is covered.
    #[inline]
    pub fn covers(&self, access: Epoch) -> bool {
        access.clock <= self.get(access.agent) || self.covers_lane(access)
    }

    /// Whether an access is covered as one of its lane's. Of one by several lanes, two of them must be covered: which lanes
    /// they were is not kept.
    pub fn covers_lane(&self, access: Epoch) -> bool {
        let mut covering = self.lanes.iter().filter(|of| of.agent == access.agent && access.clock <= of.at);
        match access.lane() {
            Lane::One(lane) => covering.any(|of| of.lane == lane),
            Lane::Several => covering.nth(1).is_some(),
            Lane::Any | Lane::OthersRows => covering.next().is_some(),
        }
    }

    /// Covers `agent`'s work up to `at`.
    pub fn raise(&mut self, agent: Agent, at: u32) {
        let i = agent as usize;
        if i >= self.all.len() {
            self.all.resize(i + 1, 0);
        }
        self.all[i] = self.all[i].max(at);
    }

    fn raise_lane(&mut self, more: OfLane) {
        if more.at <= self.get(more.agent) {
            return;
        }
        match self.lanes.iter_mut().find(|of| (of.agent, of.lane) == (more.agent, more.lane)) {
            Some(of) => of.at = of.at.max(more.at),
            None => self.lanes.push(more),
        }
        let covered = self.lanes.iter().filter(|of| of.agent == more.agent);
        if covered.clone().count() == LANES {
            let least = covered.map(|of| of.at).min().expect("there are some");
            self.raise(more.agent, least);
            self.lanes.retain(|of| of.agent != more.agent || of.at > least);
        }
    }

    /// Of `agent`'s work after `from`, covers only that of the lanes of a mask.
    pub fn confine(&mut self, agent: Agent, from: u32, mask: u32) {
        let at = self.get(agent);
        if at > from {
            self.all[agent as usize] = from;
            lanes(mask).for_each(|lane| self.raise_lane(OfLane { agent, lane: lane as u8, at }));
        }
    }

    /// Whether more of some lanes of `agent` is covered.
    pub fn has_lanes(&self, agent: Agent) -> bool {
        self.lanes.iter().any(|of| of.agent == agent)
    }

    /// Covers what `other` covers of some lanes of `agent` alone.
    pub fn join_lanes(&mut self, other: &Clock, agent: Agent) {
        other.lanes.iter().filter(|of| of.agent == agent).for_each(|of| self.raise_lane(*of));
    }

    /// Covers nothing of `agent`'s work.
    pub fn forget(&mut self, agent: Agent) {
        if let Some(at) = self.all.get_mut(agent as usize) {
            *at = 0;
        }
        self.lanes.retain(|of| of.agent != agent);
    }

    /// Covers what `other` covers.
    pub fn join(&mut self, other: &Clock) {
        if other.all.len() > self.all.len() {
            self.all.resize(other.all.len(), 0);
        }
        for (a, b) in self.all.iter_mut().zip(&other.all) {
            *a = (*a).max(*b);
        }
        if !self.lanes.is_empty() {
            let all = &self.all;
            self.lanes.retain(|of| of.at > all.get(of.agent as usize).copied().unwrap_or(0));
        }
        other.lanes.iter().for_each(|of| self.raise_lane(*of));
    }
}

/// What an agent, or a synchronisation object, knows of others' work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Work that happens before.
    pub seen: Clock,
    /// The part of it whose generic-proxy writes a proxy fence has made visible to asynchronous units.
    pub fenced: Clock,
    /// The part of it, of operations on tensor memory, that a commit or `tcgen05.fence::before_thread_sync` has ordered before
    /// the release.
    pub tensor: Clock,
}

impl Knowledge {
    /// Knows also what `other` knows.
    pub fn join(&mut self, other: &Knowledge) {
        self.seen.join(&other.seen);
        self.fenced.join(&other.fenced);
        self.tensor.join(&other.tensor);
    }

    /// Knows nothing of an agent.
    pub fn forget(&mut self, agent: Agent) {
        self.clocks().for_each(|clock| clock.forget(agent));
    }

    /// Of an agent's work after `from`, knows only that of the lanes of a mask.
    pub fn confine(&mut self, agent: Agent, from: u32, mask: u32) {
        self.clocks().for_each(|clock| clock.confine(agent, from, mask));
    }

    fn clocks(&mut self) -> impl Iterator<Item = &mut Clock> {
        [&mut self.seen, &mut self.fenced, &mut self.tensor].into_iter()
    }

    /// Knows of one asynchronous operation, whose writes need no proxy fence.
    pub fn observe(&mut self, agent: Agent, at: u32) {
        self.seen.raise(agent, at);
        self.fenced.raise(agent, at);
    }

    /// A proxy fence: every write seen so far is visible to asynchronous units from here on.
    pub fn fence(&mut self) {
        self.fenced.join(&self.seen);
    }
}

/// Which path to memory an access takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// Ordinary loads, stores and atomics.
    Generic,
    /// Tensor and bulk copies, and the operand reads of matrix units.
    Async,
    /// Tensor memory, whose order with other threads needs the fences of tcgen05: `tensor` of the actor's knowledge is the part
    /// that they cover.
    Tensor,
}

/// Somebody who accesses memory, at one moment.
#[derive(Clone, Debug)]
pub struct Actor {
    /// On whose clock.
    pub agent: Agent,
    /// The moment.
    pub clock: u32,
    /// What happened before.
    pub known: Rc<Knowledge>,
    /// The path to memory.
    pub proxy: Proxy,
    /// Index of the instruction in the program.
    pub op: u32,
    /// The warp that issued it, as an index into the machine's warps.
    pub warp: u32,
    /// Which of its lanes.
    pub lane: Lane,
    /// Agent of the issuing warp.
    pub issuer: Agent,
    /// Up to where that warp's lanes have heard of each other's work.
    pub synced: u32,
    /// What they have heard of later work, by way of other warps.
    pub returned: Option<Rc<Clock>>,
}

impl Actor {
    /// This access, as shadow memory keeps it.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.agent, self.clock, self.op, self.lane, self.proxy == Proxy::Async)
    }

    /// Whether `earlier` happens before this access.
    #[inline]
    pub fn follows(&self, earlier: Epoch) -> bool {
        let told = earlier.agent == self.agent && earlier.clock == self.clock || self.known.seen.covers(earlier);
        told && !self.apart(earlier)
    }

    /// Whether `earlier` is another lane's of the same warp, since the lanes last met, and did not come back from others to
    /// whom that lane had released it. Lanes that execute one instruction together may touch the same bytes.
    #[inline]
    pub fn apart(&self, earlier: Epoch) -> bool {
        earlier.agent == self.issuer
            && earlier.clock > self.synced
            && self.lane.differs(earlier.lane())
            && earlier.op() != self.op
            && !self.returned.as_ref().is_some_and(|returned| returned.covers_lane(earlier))
    }

    /// Whether the writes of `earlier` are visible on this access's path to memory, given that it happens before.
    #[inline]
    pub fn sees(&self, earlier: Epoch) -> bool {
        let own = earlier.agent == self.agent && earlier.clock == self.clock;
        match self.proxy {
            Proxy::Generic => true,
            Proxy::Async => earlier.is_async() || own || self.known.fenced.covers(earlier),
            Proxy::Tensor => own || self.known.tensor.covers(earlier),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(agent: Agent, clock: u32, known: &Knowledge, proxy: Proxy) -> Actor {
        let (known, lane) = (Rc::new(known.clone()), Lane::Any);
        Actor { agent, clock, known, proxy, op: 0, warp: 0, lane, issuer: agent, synced: 0, returned: None }
    }

    fn at(agent: Agent, clock: u32) -> Epoch {
        actor(agent, clock, &Knowledge::default(), Proxy::Generic).epoch()
    }

    #[test]
    fn a_release_covers_what_came_before_it_only() {
        let mut barrier = Knowledge::default();
        let mut writer = Knowledge::default();
        writer.seen.raise(0, 1);
        let (before, after) = (at(0, 1), at(0, 2));
        barrier.join(&writer);
        let reader = actor(1, 1, &barrier, Proxy::Generic);
        assert!(reader.follows(before) && !reader.follows(after));
    }

    #[test]
    fn a_generic_write_reaches_the_asynchronous_proxy_through_a_fence() {
        let write = at(0, 1);
        let mut known = Knowledge::default();
        known.seen.raise(0, 1);
        assert!(!actor(1, 1, &known, Proxy::Async).sees(write));
        assert!(actor(1, 1, &known, Proxy::Generic).sees(write));
        known.fence();
        assert!(actor(1, 1, &known, Proxy::Async).sees(write));
        assert!(!actor(1, 1, &known, Proxy::Async).sees(at(0, 2)));
    }

    #[test]
    fn lanes_of_a_warp_are_apart_until_they_meet() {
        let by = |lane: Lane, op: u32, synced: u32| {
            let mut known = Knowledge::default();
            known.seen.raise(0, 3);
            Actor { lane, op, synced, ..actor(0, 3, &known, Proxy::Generic) }
        };
        let write = by(Lane::One(4), 7, 0).epoch();
        assert_eq!((write.op(), write.lane(), write.is_async()), (7, Lane::One(4), false));
        assert!(by(Lane::One(4), 8, 0).follows(write));
        assert!(!by(Lane::One(5), 8, 0).follows(write));
        assert!(!by(Lane::Several, 8, 0).follows(write));
        assert!(by(Lane::Any, 8, 0).follows(write));
        assert!(by(Lane::One(5), 7, 0).follows(write), "the same instruction");
        assert!(by(Lane::One(5), 8, 3).follows(write), "they have met since");
        assert_eq!(write.by(Lane::Several).lane(), Lane::Several);
    }

    #[test]
    fn some_lanes_cover_their_own_work_until_all_have_joined() {
        let by = |lane: Lane, clock: u32| at(0, clock).by(lane);
        let of = |lanes: u32| {
            let mut clock = Clock::default();
            clock.raise(0, 5);
            clock.confine(0, 2, lanes);
            clock
        };
        let mut clock = of(1 << 3);
        assert!(clock.covers(by(Lane::One(7), 2)) && !clock.covers(by(Lane::One(7), 3)));
        assert!(clock.covers(by(Lane::One(3), 5)) && !clock.covers(by(Lane::One(3), 6)));
        assert!(clock.covers(by(Lane::Any, 5)) && !clock.covers(by(Lane::Several, 5)));
        clock.join(&of(1 << 4));
        assert!(clock.covers(by(Lane::Several, 5)));
        (5..35).for_each(|lane| clock.join(&of(1 << (lane % 32))));
        assert!(clock.covers(by(Lane::One(7), 5)));
        assert_eq!((clock.get(0), clock.lanes.len()), (5, 0));
        clock.join(&of(1));
        clock.forget(0);
        assert!(!clock.covers(by(Lane::Any, 1)));
    }

    #[test]
    fn what_a_lane_released_comes_back_to_the_others() {
        let mut known = Knowledge::default();
        known.seen.raise(0, 3);
        let mut returned = Clock::default();
        returned.raise(0, 2);
        returned.confine(0, 0, 1 << 4);
        let write = |lane, clock| at(0, clock).by(lane);
        let reader = Actor { lane: Lane::One(5), op: 1, ..actor(0, 3, &known, Proxy::Generic) };
        assert!(!reader.follows(write(Lane::One(4), 2)));
        let reader = Actor { returned: Some(Rc::new(returned)), ..reader };
        assert!(reader.follows(write(Lane::One(4), 2)));
        assert!(!reader.follows(write(Lane::One(4), 3)) && !reader.follows(write(Lane::One(6), 2)));
    }
}
