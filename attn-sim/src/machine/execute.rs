//! The contract between the machine and the instructions of `isa`.
//!
//! An `isa` module decodes an instruction once, into a value that implements [`Execute`]; the machine calls
//! [`Execute::execute`] whenever a warp issues it, with a [`Context`] that gives lanes, registers and
//! memories. The pattern is `isa/mov.rs`.
//!
//! - Issue is `execute`: it checks operands, takes what the hardware takes at issue, and either has its effect at once or
//!   hands the rest to a unit: [`Machine::schedule`](super::Machine::schedule) with a completion that runs later, at a
//!   time drawn from the seed. A completion gets the machine, and acts as the [`Actor`](super::clock::Actor) that was
//!   made at issue by [`Context::begin`](super::Context::begin).
//! - An instruction that must wait returns [`Step::Block`]; it is executed again, with
//!   [`Context::resumed`](super::Context::resumed) set, after [`Machine::wake`](super::Machine::wake) for its key, and
//!   may block again. State that outlives an instruction lives in a type that implements
//!   [`UnitState`](super::UnitState), one for a warp, a block or a cluster.
//! - What is wrong but survivable goes to [`Context::report`](super::Context::report), what is not is
//!   `Err(`[`Context::fault`](super::Context::fault)`)`.

use super::context::Context;
use super::wait::Wait;
use crate::counters::Class;
use crate::report::Stop;
use std::fmt;

/// What a warp does after an instruction.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Goes on to the next instruction.
    Next,
    /// The lanes of the mask go to an instruction, the others to the next one.
    Jump {
        /// Index of the instruction.
        target: usize,
        /// Lanes that jump, of those executing.
        taken: u32,
    },
    /// Lanes go to different instructions. Lanes of no entry go to the next one.
    Scatter(Vec<(usize, u32)>),
    /// The executing lanes end.
    Exit,
    /// The executing lanes wait, then execute the instruction again.
    Block(Wait),
    /// The lanes of `members` execute the instruction together once all of them are here, or, with `anywhere`, at any
    /// instruction that gathers the same members.
    Gather {
        /// Lanes that are needed; ones that have ended are not waited for.
        members: u32,
        /// Whether lanes may stand at different instructions.
        anywhere: bool,
    },
}

/// Where control can go from an instruction when all its lanes execute it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next instruction.
    Next,
    /// To these, as indices into the code.
    Jump(Vec<usize>),
    /// Out of the kernel.
    End,
}

/// A decoded instruction.
pub trait Execute: fmt::Debug + Send + Sync {
    /// Executes it for the lanes of the context, of which there is at least one.
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop>;

    /// What it is counted as.
    fn class(&self) -> Class;

    /// Where control can go.
    fn flow(&self) -> Flow {
        Flow::Next
    }

    /// Whether blocks of other clusters may see its effect while they run, or it theirs: atomics, reductions,
    /// acquire and release of global memory, work stealing. Clusters of kernels without such an instruction run
    /// independently of each other.
    fn communicates(&self) -> bool {
        false
    }
}
