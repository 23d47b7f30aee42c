//! Where everything lies: shared memory, the mbarriers in it, and tensor memory.

use super::{KEYS, Plan, ROWS, SLOTS, UNIT_BYTES};
use crate::forward::anatomy::Region;
use crate::forward::plan::SMEM_LIMIT;

/// Byte offsets of what lies in dynamic shared memory, in memory order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmemMap {
    /// Q tiles, one after the other.
    pub q: u32,
    /// O tiles. Equal to `q` when they do not fit beside: each then overwrites its Q tile after the last Q Kᵀ.
    pub o: u32,
    /// The ring of K and V.
    pub kv: u32,
    /// The ring of 8-bit parts of K and V that are to be widened.
    pub raw: u32,
    /// Factors for O's rows, f32, by slot and row.
    pub factors: u32,
    /// `1 / sum` of each row's exponentials, f32, by tile and row.
    pub inverses: u32,
    /// Slots in which the units of ragged sequences are told.
    pub units: u32,
    /// Mbarriers; see [`Plan::barriers`].
    pub barriers: u32,
    /// Where tensor memory's allocation is reported.
    pub tmem: u32,
    /// Bytes in all.
    pub end: u32,
}

/// Byte offsets of the mbarriers, from the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierMap {
    /// Full and empty of each Q tile.
    pub q: u32,
    /// Full and empty of each O tile.
    pub o: u32,
    /// Full and empty of each tile's inverses.
    pub inverses: u32,
    /// Full of every stage of K and V, then empty of every stage.
    pub kv: u32,
    /// Full of every stage of 8-bit parts, then empty of every stage.
    pub raw: u32,
    /// By slot: the scores are complete.
    pub scores: u32,
    /// By slot: the early probabilities are stored and O's rows are rescaled.
    pub ready: u32,
    /// By slot: the last chunk of probabilities is stored.
    pub last: u32,
    /// By tile: P V is complete, after each block with one tile, after the last block with two.
    pub output: u32,
    /// Full and empty of each slot of units.
    pub units: u32,
    /// Bytes in all.
    pub end: u32,
}

/// Columns of tensor memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmemMap {
    /// Scores of each slot: [`KEYS`] columns of f32.
    pub scores: [u32; SLOTS as usize],
    /// Probabilities of each slot, two a column or four of 8 bits, in the upper half of the slot's scores: a thread has all of its scores in registers
    /// before it stores the first probability.
    pub probabilities: [u32; SLOTS as usize],
    /// O of the first tile, `dv` columns of f32; the second tile's follows.
    pub output: u32,
    /// Columns in use.
    pub end: u32,
}

impl Plan {
    /// Where the mbarriers lie.
    pub const fn barriers(&self) -> BarrierMap {
        let o = 16 * self.tiles;
        let inverses = o + 16 * self.tiles;
        let kv = inverses + 16 * self.tiles;
        let raw = kv + 16 * self.stages;
        let scores = raw + 16 * self.raw_stages();
        let ready = scores + 8 * SLOTS;
        let last = ready + 8 * SLOTS;
        let output = last + 8 * SLOTS;
        let units = output + 8 * self.tiles;
        let end = units + 16 * self.unit_slots();
        BarrierMap { q: 0, o, inverses, kv, raw, scores, ready, last, output, units, end }
    }

    const fn map(&self, o_beside_q: bool) -> SmemMap {
        let (q, o) = (self.tiles * self.q_bytes(), self.tiles * self.o_bytes());
        let first = if o_beside_q { q } else { 0 };
        let kv = if o_beside_q { q + o } else { q };
        let raw = kv + self.stages * self.stage_bytes();
        let factors = raw + self.raw_stages() * self.raw_bytes();
        let inverses = factors + SLOTS * ROWS * 4;
        let units = inverses + self.tiles * ROWS * 4;
        let barriers = units + self.unit_slots() * UNIT_BYTES;
        let tmem = barriers + self.barriers().end;
        SmemMap { q: 0, o: first, kv, raw, factors, inverses, units, barriers, tmem, end: tmem + 8 }
    }

    /// Where everything lies in shared memory. O gets its own space when there is room, else it reuses Q's.
    pub const fn smem(&self) -> SmemMap {
        let roomy = self.map(true);
        if roomy.end <= SMEM_LIMIT { roomy } else { self.map(false) }
    }

    /// Whether O reuses Q's shared memory.
    pub const fn o_in_q(&self) -> bool {
        self.smem().o == self.smem().q
    }

    /// Where everything lies in tensor memory.
    pub const fn tmem(&self) -> TmemMap {
        let output = SLOTS * KEYS;
        TmemMap {
            scores: [0, KEYS],
            probabilities: [KEYS / 2, KEYS + KEYS / 2],
            output,
            end: output + self.tiles * self.dv,
        }
    }

    /// Shared memory in order. Where O reuses Q's memory it is listed there, and has no entry of its own.
    pub const fn smem_regions(&self) -> [Region; 10] {
        let map = self.smem();
        let shared = self.o_in_q();
        let q_note = if shared { "O of the same tile, after the last Q Kᵀ" } else { "" };
        let kv_note = "a part of K or of V";
        [
            Region { name: "Q", at: map.q, size: self.q_bytes(), count: self.tiles, note: q_note },
            Region { name: "O", at: map.o, size: self.o_bytes(), count: if shared { 0 } else { self.tiles }, note: "" },
            Region { name: "K, V ring", at: map.kv, size: self.stage_bytes(), count: self.stages, note: kv_note },
            Region {
                name: "raw ring",
                at: map.raw,
                size: self.raw_bytes(),
                count: self.raw_stages(),
                note: "a part of K or of V, of 8 bits",
            },
            Region { name: "factors of O", at: map.factors, size: ROWS * 4, count: SLOTS, note: "f32 a row" },
            Region { name: "1 / sum", at: map.inverses, size: ROWS * 4, count: self.tiles, note: "f32 a row" },
            Region {
                name: "tile slots",
                at: map.units,
                size: UNIT_BYTES,
                count: self.unit_slots(),
                note: "what the load warp tells the others of a tile",
            },
            Region { name: "mbarriers", at: map.barriers, size: 8, count: self.barriers().end / 8, note: "" },
            Region { name: "TMEM address", at: map.tmem, size: 4, count: 1, note: "" },
            Region { name: "padding", at: map.tmem + 4, size: 4, count: 1, note: "" },
        ]
    }

    /// Tensor memory in order; the probabilities lie in the upper half of their slot's scores.
    pub const fn tmem_regions(&self) -> [Region; 3] {
        let map = self.tmem();
        let note = if self.operand_bytes() == 1 {
            "P of the slot, 8 bits each, from the middle on"
        } else {
            "P of the slot, 16 bits each, in the upper half"
        };
        [
            Region { name: "S, slot 0", at: map.scores[0], size: KEYS, count: 1, note },
            Region { name: "S, slot 1", at: map.scores[1], size: KEYS, count: 1, note },
            Region { name: "O", at: map.output, size: self.dv, count: self.tiles, note: "f32" },
        ]
    }
}
