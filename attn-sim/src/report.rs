//! What the machine says: findings, which it collects while a launch goes on, and stops, which end it.

use std::fmt;

/// An instruction, or a form of one, that the machine does not model. Never a wrong answer in its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{instruction}` is not modelled: {reason}")]
pub struct Unsupported {
    /// Line of the PTX text.
    pub line: u32,
    /// Opcode and modifiers as written.
    pub instruction: String,
    /// What about it.
    pub reason: String,
}

/// What rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Access outside an allocation, or outside a window of an address space.
    OutOfBounds,
    /// Address not a multiple of what the access needs.
    Misaligned,
    /// Memory or a register was read before anything was written to it.
    Uninitialised,
    /// Two unordered accesses of the same memory, one of which writes.
    Race,
    /// Two unordered accesses, one of them by an asynchronous unit whose completion the other did not wait for.
    InFlight,
    /// A generic-proxy write reaches an asynchronous unit without a proxy fence.
    ProxyFence,
    /// A register that a matrix unit still reads or writes was touched.
    RegisterInFlight,
    /// A wait, fence or commit that the instruction's rules ask for is missing.
    MissingFence,
    /// `.aligned` or `.sync` executed by some of the threads that must execute it together.
    Divergent,
    /// An mbarrier's count, transaction count or life was misused.
    Mbarrier,
    /// A named or cluster barrier was misused.
    Barrier,
    /// Tensor memory was misused: allocation rules, lane quarter, not freed.
    TensorMemory,
    /// A fence or a wait of tcgen05 that PTX asks for is missing, where today's assembler orders the accesses without it: other
    /// threads' accesses behind a thread synchronisation, values of a load used before `wait::ld`, and what a lane releases of
    /// other lanes' loads and stores without having met them. Several compilers leave them out.
    TensorOrder,
    /// A warp wrote rows of A in shared memory that other warps of its warpgroup multiply with, and nothing orders it with their
    /// `wgmma`: PTX does not say which warp reads which rows. Hardware's warps read the 16 that they multiply, and some kernels
    /// build on that.
    WarpgroupOrder,
    /// `setmaxnreg` asked for more than there is, or for the wrong direction.
    RegisterPool,
    /// Asynchronous work that still uses the block's memory when the block ends.
    OutstandingAtExit,
    /// Operands that the instruction forbids.
    Operand,
    /// Operands for which the device stops with an illegal-instruction error.
    IllegalInstruction,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::OutOfBounds => "out of bounds",
            Kind::Misaligned => "misaligned",
            Kind::Uninitialised => "uninitialised read",
            Kind::Race => "race",
            Kind::InFlight => "in flight",
            Kind::ProxyFence => "missing proxy fence",
            Kind::RegisterInFlight => "register in flight",
            Kind::MissingFence => "missing wait or fence",
            Kind::Divergent => "divergent",
            Kind::Mbarrier => "mbarrier misuse",
            Kind::Barrier => "barrier misuse",
            Kind::TensorMemory => "tensor memory misuse",
            Kind::TensorOrder => "tensor memory order",
            Kind::WarpgroupOrder => "warpgroup order",
            Kind::RegisterPool => "register pool",
            Kind::OutstandingAtExit => "outstanding at exit",
            Kind::Operand => "operand",
            Kind::IllegalInstruction => "illegal instruction",
        })
    }
}

/// Where in a launch something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// `%ctaid`.
    pub block: [u32; 3],
    /// Warp of the block.
    pub warp: u32,
    /// Line of the PTX text.
    pub line: u32,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "line {}, block ({x},{y},{z}), warp {}", self.line, self.warp)
    }
}

/// A broken rule, with both sides where there are two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub kind: Kind,
    /// The kernel.
    pub kernel: String,
    /// Who noticed: the later access, the waiter.
    pub at: Site,
    /// Its instruction, opcode and modifiers.
    pub instruction: String,
    /// What is wrong, in a sentence with address and sizes.
    pub message: String,
    /// Who else took part, and how: the earlier access, the writer.
    pub other: Option<Other>,
    /// How often the same two lines broke the same rule.
    pub count: u64,
}

/// The other side of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Where it was issued.
    pub at: Site,
    /// Its instruction.
    pub instruction: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    {} `{}`, {}", self.kind, self.message, self.kernel, self.instruction, self.at)?;
        if let Some(other) = &self.other {
            write!(f, "\n    against `{}`, {}", other.instruction, other.at)?;
        }
        if self.count > 1 {
            write!(f, "\n    {} times", self.count)?;
        }
        Ok(())
    }
}

/// Why one warp cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Where it stands.
    pub at: Site,
    /// Its instruction.
    pub instruction: String,
    /// Lanes that wait, as a mask.
    pub lanes: u32,
    /// What for.
    pub wait: String,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`, lanes {:#010x}, waits for {}", self.at, self.instruction, self.lanes, self.wait)
    }
}

/// Why a launch ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A broken rule after which going on would make no sense.
    #[error("{0}")]
    Fault(Box<Finding>),
    /// No warp can run and no asynchronous operation is under way.
    #[error("deadlock in {kernel}: nothing can run\n{}", list(.blocked))]
    Deadlock {
        /// The kernel.
        kernel: String,
        /// Every warp that waits.
        blocked: Vec<Blocked>,
    },
    /// More instructions than the launch allows: most likely a loop that polls what never comes.
    #[error("{kernel}: more than {limit} instructions of one cluster, still running:\n{}", list(.running))]
    StepLimit {
        /// The kernel.
        kernel: String,
        /// The limit of the launch.
        limit: u64,
        /// Where every warp is.
        running: Vec<Blocked>,
    },
    /// `trap`.
    #[error("{kernel}: trap, {at}")]
    Trap {
        /// The kernel.
        kernel: String,
        /// Where.
        at: Site,
    },
    /// An assertion of the kernel.
    #[error("{kernel}: {message}, {at}")]
    Assertion {
        /// The kernel.
        kernel: String,
        /// Where.
        at: Site,
        /// Which one, and in which lane.
        message: String,
    },
    /// An instruction whose operands ask for something that the machine does not model.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

fn list(blocked: &[Blocked]) -> String {
    blocked.iter().map(|b| format!("    {b}")).collect::<Vec<_>>().join("\n")
}
