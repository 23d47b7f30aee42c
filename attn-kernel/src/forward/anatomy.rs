//! What a plan consists of, as lists: memory, barriers, roles. The kernel initialises its barriers from the same entries that
//! `cargo xtask plan` prints.

/// A stretch of shared memory (bytes) or of tensor memory (columns).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// What lies there.
    pub name: &'static str,
    /// Where it starts.
    pub at: u32,
    /// How long one of them is.
    pub size: u32,
    /// How many lie one after the other.
    pub count: u32,
    /// What else lies there at other times, or another remark.
    pub note: &'static str,
}

impl Region {
    /// Where it ends.
    pub const fn end(&self) -> u32 {
        self.at + self.size * self.count
    }
}

/// What some warps of a block do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Loads Q, K and V by TMA.
    Load,
    /// Widens or transposes 8-bit tiles.
    Convert,
    /// Issues the multiplies.
    Mma,
    /// Turns scores into probabilities.
    Softmax,
    /// Rescales O and finishes it.
    Correction,
    /// Stores O by TMA.
    Store,
    /// Multiplies and softmax in one, as Hopper needs it: sums lie in registers.
    MmaSoftmax,
    /// Nothing; completes a warpgroup.
    Idle,
}

impl Role {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Load => "load",
            Role::Convert => "convert",
            Role::Mma => "mma",
            Role::Softmax => "softmax",
            Role::Correction => "correction",
            Role::Store => "store",
            Role::MmaSoftmax => "mma-softmax",
            Role::Idle => "idle",
        }
    }
}

/// The warps of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warps {
    /// What they do.
    pub role: Role,
    /// First warp of the block.
    pub first: u32,
    /// Warps.
    pub count: u32,
    /// Registers of a thread, by `setmaxnreg`.
    pub registers: u32,
    /// What they do for every block of keys.
    pub work: &'static str,
}

/// A fact that becomes true: which roles arrive at an mbarrier, which wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Name of the family.
    pub name: &'static str,
    /// Who arrives.
    pub from: &'static [Role],
    /// Who waits.
    pub to: &'static [Role],
    /// What is true once all have arrived.
    pub means: &'static str,
}

/// Mbarriers of one meaning: one for each tile, slot or stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barriers {
    /// Their meaning.
    pub signal: Signal,
    /// Bytes from the first mbarrier of the block to the first of these.
    pub at: u32,
    /// Bytes from one of them to the next.
    pub stride: u32,
    /// How many there are.
    pub count: u32,
    /// Arrivals that complete a phase.
    pub arrivals: u32,
}

/// Hardware barriers of one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Their meaning.
    pub signal: Signal,
    /// The first one's number.
    pub first: u32,
    /// How many there are.
    pub count: u32,
    /// Threads that meet at each, those that wait and those that only arrive.
    pub threads: u32,
}
