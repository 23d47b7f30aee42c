//! The plan of a Blackwell kernel: tensor memory, shared memory, barriers, roles and registers as one constant.
//!
//! [`maps`] says where everything lies, [`signals`] who tells whom, [`work`] what a block of keys costs.

pub mod maps;
pub mod signals;
pub mod work;

use super::super::narrow;
use super::super::plan::{Float8, Launch, REGISTER_FILE, SMEM_LIMIT, Schedule, WARPGROUP, panel};
use crate::attn::row::Share;
use crate::mem::{E4m3, Operand, tmem};
pub use maps::{BarrierMap, SmemMap, TmemMap};

/// Rows of a query tile: the M of one multiply, the lanes of tensor memory, the threads of a warpgroup.
pub const ROWS: u32 = 128;
/// Keys of a block.
pub const KEYS: u32 = 128;
/// Slots for scores in tensor memory.
pub const SLOTS: u32 = 2;
/// Columns of a chunk: what a softmax thread turns into probabilities at a time, and what the correction moves at a time.
pub const CHUNK: u32 = 32;
/// Chunks of a row of scores.
pub const CHUNKS: u32 = KEYS / CHUNK;
/// Slots in which the load warp tells the other roles the units of ragged sequences: the loads of the next one or two begin while the last
/// one's O is on its way. A power of two.
pub const UNIT_SLOTS: u32 = 4;
/// Bytes of such a slot.
pub const UNIT_BYTES: u32 = 48;
/// Binary logarithm of an 8-bit probability that does not saturate, a quarter less than that of the greatest.
const GREATEST_E4M3_LOG2: f32 = 8.75;

/// Registers per thread of each role, set by `setmaxnreg` after the roles part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Softmax warpgroups.
    pub softmax: u32,
    /// The correction warpgroup.
    pub correction: u32,
    /// The warpgroup of the multiply, load and store warps.
    pub other: u32,
    /// The warpgroup that widens 8-bit K and V; 0 where there is none.
    pub convert: u32,
}

/// Tile counts, ring, registers and tuning knobs of one Blackwell forward kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Head dimension of Q and K that the kernel is compiled for; a smaller one is zero-filled.
    pub d: u32,
    /// Head dimension of V and O that the kernel is compiled for.
    pub dv: u32,
    /// Which of Q, K and V are of 8 bits.
    pub float8: Float8,
    /// Query tiles of [`ROWS`] rows in flight, each with a softmax warpgroup: two, whose softmax and multiplies alternate; or one, whose
    /// blocks alternate between two slots of scores, for wide heads and few queries.
    pub tiles: u32,
    /// Stages of the ring that K and V share.
    pub stages: u32,
    /// Parts, by head dimension, in which a K block passes through the ring.
    pub k_parts: u32,
    /// Parts, by keys, in which a V block passes through the ring.
    pub v_parts: u32,
    /// Register budget.
    pub regs: Registers,
    /// O is rescaled only when the running maximum grew by more than this many powers of two. Zero: at every growth.
    pub rescale_threshold: f32,
    /// Polynomial share of exp2.
    pub exp2: Share,
    /// Tensor memory returns the maximum with the scores (sm_103a).
    pub load_max: bool,
    /// How tiles are dealt to blocks.
    pub schedule: Schedule,
    /// The kernel takes ragged sequences, whose units the load warp tells the other roles.
    pub ragged: bool,
}

impl Plan {
    /// Rows of a work tile.
    pub const fn bm(&self) -> u32 {
        self.tiles * ROWS
    }

    /// First warp of the correction warpgroup; the softmax warpgroups come before it.
    pub const fn correction_warp(&self) -> u32 {
        4 * self.tiles
    }

    /// The warp that issues the multiplies and owns tensor memory's allocation.
    pub const fn mma_warp(&self) -> u32 {
        self.correction_warp() + 4
    }

    /// The warp that stores O.
    pub const fn store_warp(&self) -> u32 {
        self.mma_warp() + 1
    }

    /// The warp that loads Q, K and V.
    pub const fn load_warp(&self) -> u32 {
        self.mma_warp() + 2
    }

    /// Whether warps widen K and V: no multiply takes factors of 16 and of 8 bits.
    pub const fn converts(&self) -> bool {
        matches!(self.float8, Float8::Keys)
    }

    /// First of the warps that do.
    pub const fn convert_warp(&self) -> u32 {
        self.mma_warp() + 4
    }

    /// Registers that `setmaxnreg` gives them; what it takes in kernels that have none of them, which never execute it.
    pub const fn convert_registers(&self) -> u32 {
        if self.converts() { self.regs.convert } else { 24 }
    }

    const fn warpgroups(&self) -> u32 {
        self.tiles + 2 + self.converts() as u32
    }

    /// Threads of a block; the fourth warp of the multiply, store and load warps' group is idle, because `setmaxnreg` takes whole warpgroups.
    pub const fn threads(&self) -> u32 {
        self.warpgroups() * WARPGROUP
    }

    /// Registers per thread at kernel entry: the even share, which `setmaxnreg` then redistributes.
    pub const fn entry_registers(&self) -> u32 {
        REGISTER_FILE / self.threads() / 8 * 8
    }

    /// Slots for units: none where every role works them out.
    pub const fn unit_slots(&self) -> u32 {
        if self.ragged { UNIT_SLOTS } else { 0 }
    }

    /// Bytes of an element that the tensor cores multiply, of Q, K, V and P.
    pub const fn operand_bytes(&self) -> u32 {
        if matches!(self.float8, Float8::All) { 1 } else { 2 }
    }

    /// Bytes of a panel's row of a tile as the tensor cores read it.
    pub const fn span(&self, d: u32) -> u32 {
        if self.operand_bytes() == 1 { narrow::span(d) } else { panel(d) * 2 }
    }

    /// Elements of a panel's row of Q.
    pub const fn panel(&self, d: u32) -> u32 {
        self.span(d) / self.operand_bytes()
    }

    /// Bytes of an element of K and V as they are loaded.
    pub const fn key_bytes(&self) -> u32 {
        if matches!(self.float8, Float8::None) { 2 } else { 1 }
    }

    /// Elements of a panel's row of K or V as they are loaded.
    pub const fn raw_panel(&self, d: u32) -> u32 {
        if self.key_bytes() == 1 { narrow::span(d) } else { panel(d) }
    }

    /// Keys of a k-step of P V: 32 bytes of V.
    pub const fn step_keys(&self) -> u32 {
        32 / self.operand_bytes()
    }

    /// K-steps of P V whose probabilities are signalled first: all chunks but the last.
    pub const fn early_steps(&self) -> u32 {
        (KEYS - CHUNK) / self.step_keys()
    }

    /// Bytes of one Q tile.
    pub const fn q_bytes(&self) -> u32 {
        ROWS * self.d * self.operand_bytes()
    }

    /// Bytes of one O tile.
    pub const fn o_bytes(&self) -> u32 {
        ROWS * self.dv * 2
    }

    /// Bytes of one part of a K block.
    pub const fn k_bytes(&self) -> u32 {
        KEYS * self.d * self.operand_bytes() / self.k_parts
    }

    /// Bytes of one part of a V block.
    pub const fn v_bytes(&self) -> u32 {
        KEYS * self.dv * self.operand_bytes() / self.v_parts
    }

    /// Bytes of a stage: the larger of a part of K and one of V.
    pub const fn stage_bytes(&self) -> u32 {
        if self.k_bytes() > self.v_bytes() { self.k_bytes() } else { self.v_bytes() }
    }

    /// Bytes that the copies of one part of a K block bring.
    pub const fn k_loaded(&self) -> u32 {
        KEYS * self.d * self.key_bytes() / self.k_parts
    }

    /// Bytes that the copies of one part of a V block bring.
    pub const fn v_loaded(&self) -> u32 {
        KEYS * self.dv * self.key_bytes() / self.v_parts
    }

    /// Stages of the ring of 8-bit parts on their way to the ring of K and V, as many as that has; none where there are no such parts.
    pub const fn raw_stages(&self) -> u32 {
        if self.converts() { self.stages } else { 0 }
    }

    /// Bytes of such a stage.
    pub const fn raw_bytes(&self) -> u32 {
        self.stage_bytes() / 2
    }

    /// What a launcher needs to know.
    pub const fn launch(&self) -> Launch {
        Launch {
            d: self.d,
            dv: self.dv,
            bm: self.bm(),
            bn: KEYS,
            threads: self.threads(),
            shared: self.smem().end,
            q_box: (self.panel(self.d), ROWS),
            k_box: (self.raw_panel(self.d), KEYS),
            v_box: (self.raw_panel(self.dv), KEYS / self.v_parts),
            o_box: (panel(self.dv), ROWS),
            schedule: self.schedule,
            per_sm: 1,
            waits: self.ragged,
            max_pack: ROWS,
            ragged: self.ragged,
            float8: self.float8,
        }
    }

    /// The plan itself, after proving at compile time that the hardware can run it.
    pub const fn checked(self) -> Self {
        assert!(
            self.d.is_multiple_of(32) && self.d >= 32 && self.dv.is_multiple_of(32) && self.dv >= 32,
            "head dimensions are instantiated in steps of 32"
        );
        assert!(self.d <= 256 && self.dv <= 256, "N of P V is at most 256, and so are a tile's columns of O");
        assert!(self.tiles == 1 || self.tiles == 2, "one or two query tiles");
        assert!(self.tmem().end <= tmem::COLUMNS, "scores and O do not fit the 512 columns of tensor memory");
        assert!(
            (self.d / self.k_parts).is_multiple_of(self.raw_panel(self.d)) && self.d.is_multiple_of(self.k_parts),
            "a part of K is whole panels"
        );
        assert!(
            self.v_parts == 1 || self.v_parts == 2 || self.v_parts == 4,
            "a part of V is whole k-steps, and the parts end where chunks of probabilities do"
        );
        assert!(
            self.converts() || self.stages >= 2 * if self.k_parts > self.v_parts { self.k_parts } else { self.v_parts },
            "a block's K and V must be in flight together"
        );
        assert!(
            !self.converts() || self.tiles == 1 && self.stages >= 2,
            "one query tile takes K and V part by part, two hold a block, and have no registers for warps that widen it"
        );
        let map = self.smem();
        assert!(
            map.o.is_multiple_of(1024) && map.kv.is_multiple_of(1024) && self.stage_bytes().is_multiple_of(1024),
            "swizzled tiles start on 1024 bytes"
        );
        assert!(map.end <= SMEM_LIMIT, "shared memory does not fit one multiprocessor");
        assert!(map.o != map.q || self.o_bytes() <= self.q_bytes(), "O reaches beyond its Q tile");
        assert!(matches!(self.float8, Float8::None) || self.ragged, "8-bit K and V are the serving kernels'");
        assert!(
            matches!(self.float8, Float8::None | Float8::Keys)
                || self.rescale_threshold + E4m3::LIFT <= GREATEST_E4M3_LOG2,
            "a probability would saturate before O is rescaled"
        );
        let r = self.regs;
        assert!(
            r.softmax.is_multiple_of(8) && r.correction.is_multiple_of(8) && r.other.is_multiple_of(8),
            "setmaxnreg counts in steps of 8"
        );
        assert!(
            if self.converts() { r.convert.is_multiple_of(8) && r.convert >= 24 } else { r.convert == 0 },
            "warps that widen K and V have registers, in steps of 8, and others none"
        );
        assert!(r.softmax <= 256 && r.correction >= 24 && r.other >= 24, "setmaxnreg takes 24 to 256");
        assert!(
            r.softmax * self.tiles + r.correction + r.other + r.convert <= self.entry_registers() * self.warpgroups(),
            "a softmax warpgroup would wait for registers that the block does not own"
        );
        assert!(
            r.softmax >= self.entry_registers()
                && r.other <= self.entry_registers()
                && r.convert <= self.entry_registers(),
            "softmax warpgroups take registers, the others give"
        );
        assert!(self.rescale_threshold >= 0.0 && self.rescale_threshold <= 8.0, "P must stay far below f16's maximum");
        assert!(self.exp2.period > 0 && self.exp2.emulated <= self.exp2.period, "a share is at most the whole");
        self
    }
}

#[cfg(test)]
mod tests;
