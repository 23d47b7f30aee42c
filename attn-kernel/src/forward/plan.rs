//! The plan of a kernel: tile shapes, memory map and register budget as one constant.
//!
//! The kernel is compiled from it, the launcher sizes the launch from it, and [`Plan::checked`] refuses a plan that does
//! not fit the hardware when the crate is compiled.

mod refusal;
#[cfg(test)]
mod tests;

use super::narrow;
use super::serve::Unit;
use crate::mem::{Bf16, Element, F16};

pub use super::launch::{AnyPlan, Family, Kernel, Launch};

/// A GPU architecture that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// Hopper with its architecture-specific instructions (wgmma, setmaxnreg): compute capability 9.0 exactly.
    Sm90a,
    /// Blackwell (B200, GB200) with tcgen05: compute capability 10.0 exactly.
    Sm100a,
    /// Blackwell Ultra (B300, GB300), with twice the exponentials and maxima on the way out of tensor memory: 10.3 exactly.
    Sm103a,
}

impl Arch {
    /// Every one of them.
    pub const ALL: [Arch; 3] = [Arch::Sm90a, Arch::Sm100a, Arch::Sm103a];

    /// The name that compilers use.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Sm90a => "sm_90a",
            Arch::Sm100a => "sm_100a",
            Arch::Sm103a => "sm_103a",
        }
    }

    /// The compute capability whose devices run these kernels.
    pub const fn compute_capability(self) -> (u32, u32) {
        match self {
            Arch::Sm90a => (9, 0),
            Arch::Sm100a => (10, 0),
            Arch::Sm103a => (10, 3),
        }
    }
}

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// 8 bits, of which 4 are the exponent's and 3 the mantissa's: for Q, K and V, by [`Float8`].
    E4m3,
}

impl DType {
    /// Bytes of one element.
    pub const fn bytes(self) -> u32 {
        match self {
            DType::Bf16 | DType::F16 => 2,
            DType::E4m3 => 1,
        }
    }

    /// [`Element::SUM_BOUND`]; none of a type that O is not of.
    pub const fn sum_bound(self) -> f32 {
        match self {
            DType::Bf16 => Bf16::SUM_BOUND,
            DType::F16 => F16::SUM_BOUND,
            DType::E4m3 => 0.0,
        }
    }
}

/// Registers per thread of each role, set by `setmaxnreg` after the roles part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Consumer warpgroups (matrix multiply and softmax).
    pub consumer: u32,
    /// The producer warpgroup (TMA).
    pub producer: u32,
}

/// How many of the exponentials are computed by a polynomial on the FMA units rather than by the MUFU unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exp2 {
    /// Of every `period` consecutive accumulator registers of a row pair ...
    pub period: u32,
    /// ... the first `emulated` use the polynomial. Zero: all on the MUFU unit.
    pub emulated: u32,
}

impl Exp2 {
    /// All exponentials on the MUFU unit.
    pub const HARDWARE: Exp2 = Exp2 { period: 1, emulated: 0 };
}

/// Which of Q, K and V are 8-bit floats (e4m3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Float8 {
    /// None.
    #[default]
    None,
    /// K and V, which warps beside the loading one widen to Q's 16 bits in shared memory.
    Keys,
    /// All three, which are multiplied as they are; on Hopper, whose multiplies read 8-bit V along the keys only, the warps beside the loading
    /// one transpose it. O is of 16 bits.
    All,
}

/// How the tiles of a problem are dealt to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// As many blocks as multiprocessors, each walking every n-th tile: for tiles of equal length. Q of the next tile arrives
    /// while the last one is still being stored.
    Persistent,
    /// A block a tile, the longest first: the hardware hands the next tile to the multiprocessor that is free first, which
    /// evens out tiles of unequal length.
    LongestFirst,
    /// As many blocks as multiprocessors, each walking pairs of a long and a short tile ([`paired`](crate::attn::walk::paired)): for
    /// tiles of unequal length, without a start and an end of a block for each.
    Paired,
}

/// Tile shapes, stages, registers and tuning knobs of one Hopper forward kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Head dimension of Q and K that the kernel is compiled for; a smaller one is zero-filled.
    pub d: u32,
    /// Head dimension of V and O that the kernel is compiled for.
    pub dv: u32,
    /// Which of Q, K and V are of 8 bits.
    pub float8: Float8,
    /// Query rows of a tile: 64 per consumer warpgroup, or for `split` of them.
    pub bm: u32,
    /// Keys of a K or V tile.
    pub bn: u32,
    /// Consumer warpgroups that have the same rows and take the key blocks in turn; what they have found is merged at a tile's end. 1: none
    /// does. For problems with fewer tiles than multiprocessors.
    pub split: u32,
    /// Stages of the K ring, and of the V ring.
    pub stages: u32,
    /// Stages of the ring of 8-bit tiles on their way to the rings of K and V; none where there are no such tiles.
    pub raw: u32,
    /// Stages of the Q ring. With two, the next tile's Q arrives while this one's is still in use.
    pub q_stages: u32,
    /// Blocks that a multiprocessor is to hold at once: registers and shared memory are shared between them.
    pub per_sm: u32,
    /// Register budget.
    pub regs: Registers,
    /// Polynomial share of exp2.
    pub exp2: Exp2,
    /// Consumer warpgroups take turns on the tensor cores (ping-pong), so that one's softmax hides under the other's MMA.
    pub ping_pong: bool,
    /// Eighths of the next block's exponentials that a warpgroup computes before it waits for its own P V. The more, the more of its softmax
    /// runs under its own multiply, but V is given back later, and the new P needs registers beside the old one. Zero: it waits for P V
    /// and the next scores at once.
    pub exp_under_output: u32,
    /// How tiles are dealt to blocks.
    pub schedule: Schedule,
    /// The kernel takes ragged sequences, and has slots of shared memory through which the producer tells its tiles.
    pub ragged: bool,
    /// They are packed, and nothing else: no pages, no splits. What is known when the kernel is compiled takes no registers.
    pub plain: bool,
    /// No sequence has more keys than one block: there is no loop over blocks, and no registers for one.
    pub single: bool,
    /// Measured times, by which a launcher chooses between kernels for the same head dimensions and mask.
    pub cost: Cost,
}

/// What a block spends, in nanoseconds on an H100, while its multiprocessor is as full as the plan wants it. Numbers that only compare
/// kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// On a tile, beside its key blocks.
    pub tile: u32,
    /// On a key block of a tile.
    pub block: u32,
}

/// Byte offsets of what lies in a forward kernel's dynamic shared memory, in memory order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmemMap {
    /// Q tile; each warpgroup's 64 rows of every panel are one contiguous block.
    pub q: u32,
    /// O tile. Equal to `q` when it does not fit beside it: each warpgroup then overwrites its own rows of Q, which only
    /// that warpgroup reads and only before its last Q K^T has completed.
    pub o: u32,
    /// K ring.
    pub k: u32,
    /// V ring.
    pub v: u32,
    /// Ring of 8-bit tiles that are not yet what the tensor cores read.
    pub raw: u32,
    /// Where warpgroups that split the keys hand over O and the row statistics.
    pub handed: u32,
    /// The present tiles, of ragged sequences.
    pub slots: u32,
    /// What each 8-bit tile is, for each stage of their ring.
    pub tags: u32,
    /// Mbarriers, 8 bytes each.
    pub barriers: u32,
    /// Bytes in all.
    pub end: u32,
}

/// Threads of a warpgroup.
pub const WARPGROUP: u32 = 128;
/// Columns of O that are multiplied at a time where it is [in strips](Plan::in_strips).
pub const STRIP: u32 = 32;
/// Query rows that a consumer warpgroup owns: the M of one wgmma.
pub const ROWS: u32 = 64;
/// Shared memory that one block may use on Hopper and Blackwell: 227 KiB.
pub const SMEM_LIMIT: u32 = 227 * 1024;
/// Shared memory of a multiprocessor, of which each block takes 1 KiB more than it asks for.
pub const SMEM_OF_SM: u32 = 228 * 1024;
/// Bytes of the word that says what an 8-bit tile is.
pub const TAG_BYTES: u32 = 8;
/// Registers with which the producer draws units: with fewer it spills.
const DRAWING: u32 = 48;
/// Keys of a quarter of a block, for [`Plan::in_part_blocks`].
pub const PART: u32 = 32;
/// Registers of a multiprocessor.
pub const REGISTER_FILE: u32 = 64 * 1024;

impl Plan {
    /// Whether blocks draw the units of a list; else they are dealt to them.
    pub const fn draws(&self) -> bool {
        self.ragged && (self.plain || self.regs.producer >= DRAWING)
    }

    /// Whether the producer asks for the next unit before it has loaded the last of this one: with 32 registers it would spill.
    pub const fn asks_early(&self) -> bool {
        self.plain && self.regs.producer >= 40
    }

    /// Whether of a tile's first block only the quarters are multiplied that are seen. Not where there is but one warpgroup, which decodes long
    /// caches, nor in dense kernels, which lose 2 % by it.
    pub const fn in_part_blocks(&self) -> bool {
        let many_rows = self.ragged && self.consumers() > 1;
        many_rows && matches!(self.float8, Float8::None) && self.bn == 4 * PART
    }

    /// Whether no problem of the kernel's splits its keys.
    pub const fn unsplit(&self) -> bool {
        self.plain || self.single
    }

    /// Consumer warpgroups.
    pub const fn consumers(&self) -> u32 {
        self.bm / ROWS * self.split
    }

    /// Threads of a block: the consumers and one producer warpgroup.
    pub const fn threads(&self) -> u32 {
        (self.consumers() + 1) * WARPGROUP
    }

    /// What a launcher needs to know.
    pub const fn launch(&self) -> Launch {
        Launch {
            d: self.d,
            dv: self.dv,
            bm: self.bm,
            bn: self.bn,
            threads: self.threads(),
            shared: self.smem().end,
            q_box: (self.span(self.d) / self.operand_bytes(), ROWS),
            k_box: (self.raw_span(self.d) / self.key_bytes(), self.bn),
            v_box: (self.raw_span(self.dv) / self.key_bytes(), self.bn),
            o_box: (panel(self.dv), ROWS),
            schedule: self.schedule,
            per_sm: self.per_sm,
            waits: true,
            max_pack: 1,
            ragged: self.ragged,
            float8: self.float8,
        }
    }

    /// Registers per thread at kernel entry: the even share, which `setmaxnreg` then redistributes, or what a consumer needs if that is less.
    pub const fn entry_registers(&self) -> u32 {
        let even = REGISTER_FILE / (self.threads() * self.per_sm) / 8 * 8;
        if even > self.regs.consumer { self.regs.consumer } else { even }
    }

    /// [`panel`].
    pub const fn panel(d: u32) -> u32 {
        panel(d)
    }

    /// Bytes of an element that the tensor cores multiply, of Q, K and V.
    pub const fn operand_bytes(&self) -> u32 {
        if matches!(self.float8, Float8::All) { 1 } else { 2 }
    }

    /// Bytes of an element of K and V as they are loaded.
    pub const fn key_bytes(&self) -> u32 {
        if matches!(self.float8, Float8::None) { 2 } else { 1 }
    }

    /// Bytes of a panel's row of a Q or K tile as the tensor cores read it.
    pub const fn span(&self, d: u32) -> u32 {
        if self.operand_bytes() == 1 { narrow::span(d) } else { panel(d) * 2 }
    }

    /// Bytes of a panel's row of a K or V tile as it is loaded.
    pub const fn raw_span(&self, d: u32) -> u32 {
        if self.key_bytes() == 1 { narrow::span(d) } else { panel(d) * 2 }
    }

    /// Whether a block's P V is a sum of its own, which is then added to O. Hopper's tensor cores keep 13 bits behind the point of the greatest
    /// term when they add products of 8-bit factors, and cut off the rest: a sum that went on over thousands of keys would lose a part of
    /// it for each 32.
    pub const fn in_parts(&self) -> bool {
        matches!(self.float8, Float8::All)
    }

    /// Whether such a sum takes more registers than O leaves: then it is made and added [`STRIP`] columns at a time.
    pub const fn in_strips(&self) -> bool {
        self.in_parts() && self.dv > 128
    }

    /// Words of P that a thread holds for a block.
    pub const fn p_words(&self) -> u32 {
        self.bn / 8 * self.operand_bytes()
    }

    /// Bytes of a stage of 8-bit tiles.
    pub const fn raw_bytes(&self) -> u32 {
        match self.float8 {
            Float8::None => 0,
            Float8::Keys => self.bn * (if self.d > self.dv { self.d } else { self.dv }),
            Float8::All => self.bn * self.dv,
        }
    }

    /// Bytes through which a warpgroup hands over its O and row statistics, in f32.
    pub const fn handed_bytes(&self) -> u32 {
        if self.split > 1 { WARPGROUP * 4 * (self.dv / 2 + 4) } else { 0 }
    }

    /// Bytes of the slot of a tile, of which there are one more than stages of Q.
    pub const fn slot_bytes(&self) -> u32 {
        if self.ragged { Unit::WORDS * 4 } else { 0 }
    }

    /// Bytes of one Q tile.
    pub const fn q_bytes(&self) -> u32 {
        self.bm * self.d * self.operand_bytes()
    }

    /// Bytes of the O tile.
    pub const fn o_bytes(&self) -> u32 {
        self.bm * self.dv * 2
    }

    /// Bytes of one K tile.
    pub const fn k_bytes(&self) -> u32 {
        self.bn * self.d * self.operand_bytes()
    }

    /// Bytes of one V tile.
    pub const fn v_bytes(&self) -> u32 {
        self.bn * self.dv * self.operand_bytes()
    }

    /// Mbarriers: full and empty of every Q stage, then of every K, V and 8-bit stage.
    pub const fn barrier_count(&self) -> u32 {
        2 * self.q_stages + 4 * self.stages + 2 * self.raw
    }

    const fn map(&self, o_beside_q: bool) -> SmemMap {
        let q = 0;
        let (o, k) = if o_beside_q {
            (self.q_stages * self.q_bytes(), self.q_stages * self.q_bytes() + self.o_bytes())
        } else {
            let larger = if self.q_bytes() > self.o_bytes() { self.q_bytes() } else { self.o_bytes() };
            (q, larger)
        };
        let v = k + self.stages * self.k_bytes();
        let raw = v + self.stages * self.v_bytes();
        let handed = raw + self.raw * self.raw_bytes();
        let slots = handed + self.handed_bytes();
        let tags = slots + self.slot_bytes() * (self.q_stages + 1);
        let barriers = tags + TAG_BYTES * self.raw;
        SmemMap { q, o, k, v, raw, handed, slots, tags, barriers, end: barriers + 8 * self.barrier_count() }
    }

    /// Where everything lies in shared memory. O gets its own space when there is room, else it reuses Q's.
    pub const fn smem(&self) -> SmemMap {
        let roomy = self.map(true);
        if roomy.end <= self.smem_limit() { roomy } else { self.map(false) }
    }

    /// Shared memory that one block may use.
    const fn smem_limit(&self) -> u32 {
        let share = SMEM_OF_SM / self.per_sm - 1024;
        if share < SMEM_LIMIT { share } else { SMEM_LIMIT }
    }

    /// Whether O reuses Q's shared memory.
    pub const fn o_in_q(&self) -> bool {
        self.smem().o == self.smem().q
    }
}

/// Elements of a swizzled panel's row: a tile of head dimension `d` is stored as `d / panel(d)` panels of `rows x panel(d)` elements,
/// each panel row one swizzle span (128 or 64 bytes).
pub const fn panel(d: u32) -> u32 {
    if d.is_multiple_of(64) { 64 } else { 32 }
}
