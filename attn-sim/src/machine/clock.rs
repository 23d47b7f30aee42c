//! Who has seen whose work: vector clocks over agents.
//!
//! An agent is a warp, or a stream of asynchronous operations whose completion is observed together: the copies that
//! complete on one mbarrier, the multiplies of one warp. Releases raise the agent's own clock, so that later accesses are not
//! covered by them.
//!
//! The lanes of a warp are one agent. What two of them do to each other since the warp last synchronised is told by the lane
//! that an access keeps; what one lane releases to other warps counts for all lanes, which is not judged.

use std::rc::Rc;

/// Index of an agent in its domain.
pub type Agent = u32;

/// For every agent, up to where its work is covered. Agents past the end are at 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock(Vec<u32>);

impl Clock {
    /// Up to where `agent`'s work is covered.
    #[inline]
    pub fn get(&self, agent: Agent) -> u32 {
        self.0.get(agent as usize).copied().unwrap_or(0)
    }

    /// Covers `agent`'s work up to `at`.
    pub fn raise(&mut self, agent: Agent, at: u32) {
        let i = agent as usize;
        if i >= self.0.len() {
            self.0.resize(i + 1, 0);
        }
        self.0[i] = self.0[i].max(at);
    }

    /// Covers nothing of `agent`'s work.
    pub fn forget(&mut self, agent: Agent) {
        if let Some(at) = self.0.get_mut(agent as usize) {
            *at = 0;
        }
    }

    /// Covers what `other` covers.
    pub fn join(&mut self, other: &Clock) {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a = (*a).max(*b);
        }
    }
}

/// What an agent, or a synchronisation object, knows of others' work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Work that happens before.
    pub seen: Clock,
    /// The part of it whose generic-proxy writes a proxy fence has made visible to asynchronous units.
    pub fenced: Clock,
}

impl Knowledge {
    /// Knows also what `other` knows.
    pub fn join(&mut self, other: &Knowledge) {
        self.seen.join(&other.seen);
        self.fenced.join(&other.fenced);
    }

    /// Knows nothing of an agent.
    pub fn forget(&mut self, agent: Agent) {
        self.seen.forget(agent);
        self.fenced.forget(agent);
    }

    /// Knows of one asynchronous operation, whose writes need no proxy fence.
    pub fn observe(&mut self, agent: Agent, at: u32) {
        self.seen.raise(agent, at);
        self.fenced.raise(agent, at);
    }

    /// A proxy fence: every write seen so far is visible to asynchronous units from here on.
    pub fn fence(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        self.fenced.join(&seen);
        self.seen = seen;
    }
}

/// Which path to memory an access takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// Ordinary loads, stores and atomics.
    Generic,
    /// Tensor and bulk copies, and the operand reads of matrix units.
    Async,
    /// Tensor memory, whose order with other threads needs the fences of tcgen05: `fenced` of the actor's knowledge is the part
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
}

/// Which lanes of a warp make an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// One.
    One(u8),
    /// Several, each of its own.
    Several,
    /// Whichever; other lanes of the warp are in order with it.
    Any,
    /// A matrix unit for the warp, in rows of A that the warpgroup's other warps multiply.
    OthersRows,
}

impl Lane {
    const fn code(self) -> u32 {
        match self {
            Lane::One(lane) => lane as u32,
            Lane::Several => 32,
            Lane::Any => 33,
            Lane::OthersRows => 34,
        }
    }

    const fn of(code: u32) -> Self {
        match code {
            0..32 => Lane::One(code as u8),
            32 => Lane::Several,
            34 => Lane::OthersRows,
            _ => Lane::Any,
        }
    }

    /// Whether two accesses of a warp are certainly by different lanes.
    pub const fn differs(self, other: Lane) -> bool {
        match (self, other) {
            (Lane::One(a), Lane::One(b)) => a != b,
            (Lane::One(_) | Lane::Several, Lane::Several) | (Lane::Several, Lane::One(_)) => true,
            _ => false,
        }
    }
}

/// An access, as shadow memory keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// On whose clock.
    pub agent: Agent,
    /// The moment; 0 is no access at all.
    pub clock: u32,
    /// The instruction, the lane, and whether it went through the asynchronous proxy.
    how: u32,
}

impl Epoch {
    const ASYNC: u32 = 1 << 31;
    const LANE: u32 = 25;
    const OP: u32 = (1 << Self::LANE) - 1;

    /// Whether this is an access.
    #[inline]
    pub const fn exists(self) -> bool {
        self.clock != 0
    }

    /// Index of the instruction in the program.
    pub const fn op(self) -> u32 {
        self.how & Self::OP
    }

    /// The lane.
    pub const fn lane(self) -> Lane {
        Lane::of(self.how >> Self::LANE & 0x3f)
    }

    /// The same by other lanes.
    pub const fn by(self, lane: Lane) -> Self {
        let how = self.how & !(0x3f << Self::LANE) | lane.code() << Self::LANE;
        Epoch { how, ..self }
    }

    /// Whether it went through the asynchronous proxy.
    #[inline]
    pub const fn is_async(self) -> bool {
        self.how & Self::ASYNC != 0
    }
}

impl Actor {
    /// This access, as shadow memory keeps it.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        let proxy = if self.proxy == Proxy::Async { Epoch::ASYNC } else { 0 };
        let how = self.op & Epoch::OP | self.lane.code() << Epoch::LANE | proxy;
        Epoch { agent: self.agent, clock: self.clock, how }
    }

    /// Whether `earlier` happens before this access.
    #[inline]
    pub fn follows(&self, earlier: Epoch) -> bool {
        let told = earlier.agent == self.agent && earlier.clock == self.clock
            || earlier.clock <= self.known.seen.get(earlier.agent);
        told && !self.apart(earlier)
    }

    /// Whether `earlier` is another lane's of the same warp, since the lanes last met. Lanes that execute one instruction
    /// together may touch the same bytes.
    #[inline]
    pub fn apart(&self, earlier: Epoch) -> bool {
        earlier.agent == self.issuer
            && earlier.clock > self.synced
            && self.lane.differs(earlier.lane())
            && earlier.op() != self.op
    }

    /// Whether the writes of `earlier` are visible on this access's path to memory, given that it happens before.
    #[inline]
    pub fn sees(&self, earlier: Epoch) -> bool {
        let own = earlier.agent == self.agent && earlier.clock == self.clock;
        let fenced = || own || earlier.clock <= self.known.fenced.get(earlier.agent);
        match self.proxy {
            Proxy::Generic => true,
            Proxy::Async => earlier.is_async() || fenced(),
            Proxy::Tensor => fenced(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(agent: Agent, clock: u32, known: &Knowledge, proxy: Proxy) -> Actor {
        let (known, lane) = (Rc::new(known.clone()), Lane::Any);
        Actor { agent, clock, known, proxy, op: 0, warp: 0, lane, issuer: agent, synced: 0 }
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
        assert!(!actor(1, 1, &known, Proxy::Async).sees(Epoch { clock: 2, ..write }));
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
}
