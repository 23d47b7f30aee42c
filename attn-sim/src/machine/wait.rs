//! What warps wait for.

/// Who is waited for: [`Machine::wake`](super::Machine::wake) of the same key lets the waiters look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The mbarrier at an offset in a block's shared memory.
    Mbarrier(usize, u32),
    /// A named barrier of a block.
    Barrier(usize, u32),
    /// A cluster's barrier.
    Cluster(usize),
    /// Asynchronous work of a warp.
    Warp(usize),
    /// Something that a block hands out: registers, tensor memory.
    Block(usize),
    /// Lanes of the own warp.
    Lanes(usize),
}

/// A wait, as the report of a deadlock tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Who is waited for.
    pub key: Key,
    /// What it is counted as: `mbarrier`, `named barrier`.
    pub what: &'static str,
    /// The rest in words: address, phase, members.
    pub detail: String,
    /// Whether the instruction may also give up: it is then executed with
    /// [`Context::timed_out`](super::Context::timed_out) when nothing else can run.
    pub gives_up: bool,
}
