//! How long a block of keys keeps each unit of a multiprocessor, from the work that a plan gives it and published throughputs.
//!
//! These are bounds: a unit that does nothing else and never waits needs this many cycles. What a block waits for (latencies, issue
//! slots, the order of its roles) comes on top; `cargo xtask sass-report` counts the instructions that were really made.

use super::plan::Arch;

/// What one multiprocessor does in a cycle.
///
/// Multiplies, exp2, f32 arithmetic and shared memory: NVIDIA's architecture papers and the throughput table of the CUDA
/// programming guide; 32 exp2 on sm_103: NVIDIA on Blackwell Ultra. Packed f32, the integer half and what the ALU pipe does:
/// measured on a B300 by others, equal to the guide's table where that has a row. Tensor memory: 228 bytes per cycle loaded
/// as measured on a B300 by others, half of it stored, the ratio of the published microbenchmarks (arXiv 2512.02189).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Floating-point operations of 16-bit matrix multiplies.
    pub flops: f64,
    /// Lanes of exp2.
    pub exp2: f64,
    /// Whether there is tensor memory.
    pub tmem: bool,
}

/// Lanes of scalar f32 arithmetic.
pub const FMA: f64 = 128.0;
/// Lanes of integer multiplication, and of instructions on two f32 at once.
pub const FMA_HALF: f64 = 64.0;
/// Lanes of the ALU pipe.
pub const ALU: f64 = 64.0;
/// Bytes of shared memory.
pub const SHARED: f64 = 128.0;
/// Bytes loaded from tensor memory.
pub const TMEM_LOAD: f64 = 228.0;
/// Bytes stored to tensor memory.
pub const TMEM_STORE: f64 = 114.0;

impl Machine {
    /// Hopper.
    pub const SM90: Machine = Machine { flops: 4096.0, exp2: 16.0, tmem: false };
    /// Blackwell.
    pub const SM100: Machine = Machine { flops: 8192.0, exp2: 16.0, tmem: true };
    /// Blackwell Ultra.
    pub const SM103: Machine = Machine { flops: 8192.0, exp2: 32.0, tmem: true };

    /// The machine that kernels for `arch` run on.
    pub const fn of(arch: Arch) -> Machine {
        match arch {
            Arch::Sm90a => Machine::SM90,
            Arch::Sm100a => Machine::SM100,
            Arch::Sm103a => Machine::SM103,
        }
    }

    /// The cycles that `work` takes of each unit.
    pub const fn cycles(&self, work: &Work) -> Cycles {
        Cycles {
            tensor: work.flops as f64 / self.flops,
            exp2: work.exp2 as f64 / self.exp2,
            fma: work.fma as f64 / FMA + work.fma2 as f64 / FMA_HALF,
            alu: work.alu as f64 / ALU,
            tmem_load: work.tmem_loaded as f64 / TMEM_LOAD,
            tmem_store: work.tmem_stored as f64 / TMEM_STORE,
            shared: (work.factors + work.shared) as f64 / SHARED,
            copies: work.copied as f64 / SHARED,
        }
    }
}

/// What a block of threads does for one block of keys, all its query tiles together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations of the multiplies.
    pub flops: u64,
    /// Exponentials of the MUFU unit.
    pub exp2: u64,
    /// Scalar f32 operations.
    pub fma: u64,
    /// Operations on two f32 at once.
    pub fma2: u64,
    /// Maxima, comparisons, selections, roundings of a pair, integer additions.
    pub alu: u64,
    /// Bytes from tensor memory to registers.
    pub tmem_loaded: u64,
    /// Bytes from registers to tensor memory.
    pub tmem_stored: u64,
    /// Bytes of factors that multiplies read from shared memory.
    pub factors: u64,
    /// Bytes that threads read from and write to shared memory.
    pub shared: u64,
    /// Bytes of K and V that TMA writes to shared memory.
    pub copied: u64,
}

impl Work {
    /// This and `other`.
    pub const fn and(&self, other: &Work) -> Work {
        Work {
            flops: self.flops + other.flops,
            exp2: self.exp2 + other.exp2,
            fma: self.fma + other.fma,
            fma2: self.fma2 + other.fma2,
            alu: self.alu + other.alu,
            tmem_loaded: self.tmem_loaded + other.tmem_loaded,
            tmem_stored: self.tmem_stored + other.tmem_stored,
            factors: self.factors + other.factors,
            shared: self.shared + other.shared,
            copied: self.copied + other.copied,
        }
    }
}

/// Cycles of one multiprocessor, each unit by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cycles {
    /// Tensor cores.
    pub tensor: f64,
    /// The MUFU unit.
    pub exp2: f64,
    /// The FMA pipe.
    pub fma: f64,
    /// The ALU pipe.
    pub alu: f64,
    /// Loads of tensor memory.
    pub tmem_load: f64,
    /// Stores to tensor memory.
    pub tmem_store: f64,
    /// Shared memory: factors of multiplies, accesses of threads.
    pub shared: f64,
    /// TMA's writes to shared memory, counted apart: whether reads wait for them is not published.
    pub copies: f64,
}

impl Cycles {
    /// Every unit, the name as tables have it.
    pub const fn units(&self) -> [(&'static str, f64); 8] {
        [
            ("tensor cores", self.tensor),
            ("MUFU (exp2)", self.exp2),
            ("FMA pipe", self.fma),
            ("ALU pipe", self.alu),
            ("TMEM loads", self.tmem_load),
            ("TMEM stores", self.tmem_store),
            ("shared memory", self.shared),
            ("TMA to shared memory", self.copies),
        ]
    }

    /// The unit that is busy longest.
    pub const fn bound(&self) -> (&'static str, f64) {
        let units = self.units();
        let (mut most, mut i) = (units[0], 1);
        while i < units.len() {
            if units[i].1 > most.1 {
                most = units[i];
            }
            i += 1;
        }
        most
    }
}
