//! Who has seen whose work: vector clocks over agents.
//!
//! An agent is a warp, or a stream of asynchronous operations whose completion is observed together: the copies that
//! complete on one mbarrier, the multiplies of one warp. The lanes of a warp are one agent, so what two lanes of a warp do
//! to each other is not judged. Releases raise the agent's own clock, so that later accesses are not covered by them.

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
}

/// An access, as shadow memory keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// On whose clock.
    pub agent: Agent,
    /// The moment; 0 is no access at all.
    pub clock: u32,
    /// Index of the instruction, with [`Epoch::ASYNC`] for the asynchronous proxy.
    pub op: u32,
}

impl Epoch {
    /// Bit of [`Epoch::op`].
    pub const ASYNC: u32 = 1 << 31;

    /// Whether this is an access.
    #[inline]
    pub const fn exists(self) -> bool {
        self.clock != 0
    }

    /// The instruction.
    pub const fn op(self) -> u32 {
        self.op & !Self::ASYNC
    }

    /// Whether it went through the asynchronous proxy.
    #[inline]
    pub const fn is_async(self) -> bool {
        self.op & Self::ASYNC != 0
    }
}

impl Actor {
    /// This access, as shadow memory keeps it.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        let proxy = if self.proxy == Proxy::Async { Epoch::ASYNC } else { 0 };
        Epoch { agent: self.agent, clock: self.clock, op: self.op | proxy }
    }

    /// Whether `earlier` happens before this access.
    #[inline]
    pub fn follows(&self, earlier: Epoch) -> bool {
        earlier.agent == self.agent && earlier.clock == self.clock
            || earlier.clock <= self.known.seen.get(earlier.agent)
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
        Actor { agent, clock, known: Rc::new(known.clone()), proxy, op: 0, warp: 0 }
    }

    #[test]
    fn a_release_covers_what_came_before_it_only() {
        let mut barrier = Knowledge::default();
        let mut writer = Knowledge::default();
        writer.seen.raise(0, 1);
        let (before, after) = (Epoch { agent: 0, clock: 1, op: 0 }, Epoch { agent: 0, clock: 2, op: 0 });
        barrier.join(&writer);
        let reader = actor(1, 1, &barrier, Proxy::Generic);
        assert!(reader.follows(before) && !reader.follows(after));
    }

    #[test]
    fn a_generic_write_reaches_the_asynchronous_proxy_through_a_fence() {
        let write = Epoch { agent: 0, clock: 1, op: 0 };
        let mut known = Knowledge::default();
        known.seen.raise(0, 1);
        assert!(!actor(1, 1, &known, Proxy::Async).sees(write));
        assert!(actor(1, 1, &known, Proxy::Generic).sees(write));
        known.fence();
        assert!(actor(1, 1, &known, Proxy::Async).sees(write));
        assert!(!actor(1, 1, &known, Proxy::Async).sees(Epoch { clock: 2, ..write }));
    }
}
