//! An access, as shadow memory keeps it: who, when, by which instruction and which lanes.

use super::clock::Agent;

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
    /// The lanes of a mask that is not empty, each for itself.
    pub const fn of_mask(mask: u32) -> Self {
        if mask.is_power_of_two() { Lane::One(mask.trailing_zeros() as u8) } else { Lane::Several }
    }

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

    /// An access by an agent at one moment.
    #[inline]
    pub const fn new(agent: Agent, clock: u32, op: u32, lane: Lane, is_async: bool) -> Self {
        let proxy = if is_async { Self::ASYNC } else { 0 };
        Epoch { agent, clock, how: op & Self::OP | lane.code() << Self::LANE | proxy }
    }

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
