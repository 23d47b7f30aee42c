//! The kernels beside attention: what prepares a launch, what joins its parts, what fills the cache. None depends on an architecture, so
//! each is compiled for all of them under one name.

use crate::append;
use crate::forward::fnv;
use crate::forward::{Arch, Kernel, combine, schedule};

/// A kernel as a loader needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// Its name, and that of its files. Kernels of several architectures may share it.
    pub name: &'static str,
    /// Architecture it is compiled for.
    pub arch: Arch,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block, at most.
    pub shared: u32,
    /// A number of what host and kernel must agree on.
    pub fingerprint: u64,
}

/// A kernel that exists for every architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Companion {
    /// Entry point's name.
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block, at most.
    pub shared: u32,
    /// A number of what host and kernel must agree on.
    pub fingerprint: u64,
}

/// Every one of them.
pub const COMPANIONS: &[Companion] =
    &[schedule::SCHEDULE, combine::COMBINE_BF16, combine::COMBINE_F16, append::APPEND_BF16, append::APPEND_F16];

impl Companion {
    /// One whose parameter struct has this layout.
    pub(crate) const fn new(name: &'static str, threads: u32, shared: u32, layout: &[u32]) -> Self {
        Companion { name, threads, shared, fingerprint: fnv(fnv(0xcbf2_9ce4_8422_2325, &[threads]), layout) }
    }

    /// The one compiled for `arch`.
    pub const fn entry_point(&self, arch: Arch) -> EntryPoint {
        let Companion { name, threads, shared, fingerprint } = *self;
        EntryPoint { name, arch, threads, shared, fingerprint }
    }
}

impl Kernel {
    /// The kernel as a loader needs it.
    pub const fn entry_point(&self) -> EntryPoint {
        let Kernel { name, arch, launch, .. } = *self;
        EntryPoint { name, arch, threads: launch.threads, shared: launch.shared, fingerprint: launch.fingerprint() }
    }
}
