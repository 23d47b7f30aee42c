//! Memory, barriers, roles and costs of a Hopper kernel, as lists; the kernel initialises its barriers with the same counts.

use super::block::{HANDED, INSIDE, TAKEN, TURN, ready};
use super::convert::CONVERTERS;
use crate::forward::anatomy::{Barriers, Named, Region, Role, Signal, Warps};
use crate::forward::cost::Work;
use crate::forward::plan::{Float8, Plan, ROWS, TAG_BYTES, WARPGROUP};

/// Arrivals that complete each kind of mbarrier: those of `full` and those of `empty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    /// The Q tile.
    pub q: (u32, u32),
    /// Stages of K.
    pub k: (u32, u32),
    /// Stages of V.
    pub v: (u32, u32),
    /// Stages of 8-bit tiles.
    pub raw: (u32, u32),
}

/// Operations on f32 that the polynomial of an exponential takes.
const EMULATED_FMA: u64 = 7;
/// And on the ALU pipe: two limits, an exponent moved into place.
const EMULATED_ALU: u64 = 3;

const LOAD: &[Role] = &[Role::Load];
const CONVERT: &[Role] = &[Role::Convert];
const CONSUMERS: &[Role] = &[Role::MmaSoftmax];

const fn full(name: &'static str, from: &'static [Role], means: &'static str) -> Signal {
    Signal { name, from, to: CONSUMERS, means }
}

const fn empty(name: &'static str, to: &'static [Role], means: &'static str) -> Signal {
    Signal { name, from: CONSUMERS, to, means }
}

const fn inside(name: &'static str, means: &'static str) -> Signal {
    Signal { name, from: CONSUMERS, to: CONSUMERS, means }
}

impl Plan {
    /// The counts that the kernel initialises its mbarriers with.
    pub const fn arrivals(&self) -> Arrivals {
        let warps = self.consumers() * WARPGROUP / 32;
        // Where O reuses Q's memory, Q is given back by the one thread of a warpgroup that knows that O has left.
        // Where warpgroups split the keys, a stage is one warpgroup's alone.
        let read = warps / self.split;
        let by_converters = (CONVERTERS, read);
        let loaded = (1, read);
        Arrivals {
            q: (1, if self.o_in_q() { self.consumers() } else { warps }),
            k: if matches!(self.float8, Float8::Keys) { by_converters } else { loaded },
            v: if matches!(self.float8, Float8::None) { loaded } else { by_converters },
            raw: (1, CONVERTERS),
        }
    }

    /// Every mbarrier, of a ring all `full` before all `empty`.
    pub const fn barrier_list(&self) -> [Barriers; 8] {
        let (stages, n) = (self.stages, self.arrivals());
        let k = 16 * self.q_stages;
        let v = k + 16 * stages;
        let raw = v + 16 * stages;
        let k_from = if n.k.0 > 1 { CONVERT } else { LOAD };
        let v_from = if n.v.0 > 1 { CONVERT } else { LOAD };
        let raw_full = Signal { name: "raw full", from: LOAD, to: CONVERT, means: "the stage holds a tile of 8 bits" };
        let raw_empty = Signal { name: "raw empty", from: CONVERT, to: LOAD, means: "the tile has been changed" };
        let q_means =
            if self.o_in_q() { "Q Kᵀ is done, and O has left its memory" } else { "the last Q Kᵀ is done" };
        [
            barriers(full("Q full", LOAD, "the Q tile is in shared memory"), 0, self.q_stages, n.q.0),
            barriers(empty("Q empty", LOAD, q_means), 8 * self.q_stages, self.q_stages, n.q.1),
            barriers(full("K full", k_from, "the stage holds a K tile"), k, stages, n.k.0),
            barriers(empty("K empty", k_from, "Q Kᵀ of the stage is done"), k + 8 * stages, stages, n.k.1),
            barriers(full("V full", v_from, "the stage holds a V tile"), v, stages, n.v.0),
            barriers(empty("V empty", v_from, "P V of the stage is done"), v + 8 * stages, stages, n.v.1),
            barriers(raw_full, raw, self.raw, n.raw.0),
            barriers(raw_empty, raw + 8 * self.raw, self.raw, n.raw.1),
        ]
    }

    /// The named barriers.
    pub const fn named_list(&self) -> [Named; 5] {
        let groups = self.consumers();
        let turns = if self.ping_pong && groups > 1 { groups } else { 0 };
        let turn = inside("turn", "the tensor cores are this warpgroup's");
        let met = inside("inside", "all threads of the warpgroup are here, with what they wrote of O");
        let made = Signal { name: "ready", from: LOAD, to: CONSUMERS, means: "the mbarriers are initialised" };
        let splits = if self.split > 1 { 1 } else { 0 };
        let handed = inside("handed", "a warpgroup's O and row statistics are in shared memory");
        let taken = inside("taken", "the other one has read them");
        [
            Named { signal: turn, first: TURN.id(), count: turns, threads: TURN.threads() },
            Named { signal: met, first: INSIDE.id(), count: groups, threads: INSIDE.threads() },
            Named { signal: handed, first: HANDED.id(), count: splits, threads: HANDED.threads() },
            Named { signal: taken, first: TAKEN.id(), count: splits, threads: TAKEN.threads() },
            Named { signal: made, first: ready(self).id(), count: 1, threads: ready(self).threads() },
        ]
    }

    /// The roles, by warp.
    pub const fn warps(&self) -> [Warps; 3] {
        let Plan { regs, float8, .. } = *self;
        let work = "S = Q Kᵀ, P = exp2(S), O += P V, in registers; at the end O / sum and LSE";
        let (others, others_work) = match float8 {
            Float8::None => (Role::Idle, "completes the warpgroup for setmaxnreg"),
            Float8::Keys => (Role::Convert, "K and V from 8 to 16 bits"),
            Float8::All => (Role::Convert, "V transposed"),
        };
        let warps = WARPGROUP / 32;
        [
            Warps {
                role: Role::Load,
                first: 0,
                count: 1,
                registers: regs.producer,
                work: "Q, and K and V through their rings, by TMA",
            },
            Warps { role: others, first: 1, count: CONVERTERS, registers: regs.producer, work: others_work },
            Warps {
                role: Role::MmaSoftmax,
                first: warps,
                count: self.consumers() * warps,
                registers: regs.consumer,
                work,
            },
        ]
    }

    /// Shared memory in order. Where O reuses Q's memory it is listed there, and has no entry of its own.
    pub const fn smem_regions(&self) -> [Region; 9] {
        let map = self.smem();
        let shared = self.o_in_q();
        // A tile of O may be the larger one.
        let q = if shared { map.k - map.q } else { self.q_bytes() };
        let note = if shared { "O, after the last Q Kᵀ" } else { "" };
        [
            Region { name: "Q", at: map.q, size: q, count: self.q_stages, note },
            Region { name: "O", at: map.o, size: self.o_bytes(), count: if shared { 0 } else { 1 }, note: "" },
            Region { name: "K ring", at: map.k, size: self.k_bytes(), count: self.stages, note: "" },
            Region { name: "V ring", at: map.v, size: self.v_bytes(), count: self.stages, note: "" },
            Region {
                name: "raw ring",
                at: map.raw,
                size: self.raw_bytes(),
                count: self.raw,
                note: "K and V of 8 bits",
            },
            Region {
                name: "handed over",
                at: map.handed,
                size: self.handed_bytes(),
                count: self.split - 1,
                note: "O and row statistics of the other keys",
            },
            Region {
                name: "tile slots",
                at: map.slots,
                size: self.slot_bytes(),
                count: if self.ragged { self.q_stages + 1 } else { 0 },
                note: "what the producer tells the consumers of a tile",
            },
            Region { name: "tags", at: map.tags, size: TAG_BYTES, count: self.raw, note: "what each 8-bit tile is" },
            Region { name: "mbarriers", at: map.barriers, size: 8, count: self.barrier_count(), note: "" },
        ]
    }

    /// What a block does for a block of keys without mask and without a rescale of O.
    pub const fn work(&self) -> Work {
        let (rows, keys, d, dv) = (self.bm as u64, self.bn as u64, self.d as u64, self.dv as u64);
        let bytes = self.operand_bytes() as u64;
        // What warps read and write to change 8-bit tiles.
        let shared = match self.float8 {
            Float8::None => 0,
            Float8::Keys => keys * (d + dv) * 3,
            Float8::All => keys * dv * 2,
        };
        let emulated = keys * self.exp2.emulated as u64 / self.exp2.period as u64;
        Work {
            // Those of 16 bits that take as long.
            flops: rows * keys * (d + dv) * bytes,
            exp2: rows * (keys - emulated),
            // Scale and offset, addition to the sum; the addition of a part of O.
            fma: rows * (2 * keys + emulated * EMULATED_FMA + if self.in_parts() { dv } else { 0 }),
            fma2: 0,
            // Rounding of pairs; blocks keep their reference.
            alu: rows * (keys / 2 + emulated * EMULATED_ALU),
            tmem_loaded: 0,
            tmem_stored: 0,
            // Each warpgroup reads its 64 rows of Q, and all of K and V; its P lies in registers.
            factors: (self.bm / ROWS) as u64 * ((ROWS as u64 + keys) * d + keys * dv) * bytes,
            shared,
            copied: keys * (d + dv) * self.key_bytes() as u64,
        }
    }

    /// What the rescale of all rows of O adds.
    pub const fn rescale_work(&self) -> Work {
        let (rows, dv) = (self.bm as u64, self.dv as u64);
        Work {
            flops: 0,
            exp2: rows,
            fma: rows * dv,
            fma2: 0,
            alu: 0,
            tmem_loaded: 0,
            tmem_stored: 0,
            factors: 0,
            shared: 0,
            copied: 0,
        }
    }
}

const fn barriers(signal: Signal, at: u32, count: u32, arrivals: u32) -> Barriers {
    Barriers { signal, at, stride: 8, count, arrivals }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::CONVERTERS;
    use crate::forward::{AnyPlan, Arch, KERNELS, Plan};
    use std::vec::Vec;

    fn plans() -> Vec<(&'static str, Plan)> {
        let of = |plan| if let AnyPlan::Sm90(plan) = plan { Some(plan) } else { None };
        let kernels = KERNELS.iter().filter(|kernel| kernel.arch == Arch::Sm90a);
        kernels.map(|kernel| (kernel.name, of(kernel.plan).expect("a Hopper plan"))).collect()
    }

    #[test]
    fn memory_barriers_and_warps_are_covered_without_overlap() {
        for (name, plan) in plans() {
            let mut at = 0;
            for region in plan.smem_regions().iter().filter(|region| region.count > 0) {
                assert_eq!(region.at, at, "{name}: {}", region.name);
                at = region.end();
            }
            assert_eq!(at, plan.smem().end, "{name}");
            let mut at = 0;
            for barriers in plan.barrier_list() {
                assert_eq!((barriers.at, barriers.stride), (at, 8), "{name}: {}", barriers.signal.name);
                at += 8 * barriers.count;
            }
            assert_eq!(at, 8 * plan.barrier_count(), "{name}");
            let mut next = 0;
            for warps in plan.warps() {
                assert_eq!(warps.first, next, "{name}");
                next += warps.count;
            }
            assert_eq!(next * 32, plan.threads(), "{name}");
        }
    }

    #[test]
    fn every_consumer_warp_gives_a_stage_back() {
        for (name, plan) in plans() {
            let n = plan.arrivals();
            assert_eq!([n.k.1, n.v.1], [plan.bm / 16; 2], "{name}");
            let filled = if plan.raw > 0 { CONVERTERS } else { 1 };
            assert_eq!((n.v.0, n.raw.1), (filled, CONVERTERS), "{name}");
            assert_eq!(n.q, (1, if plan.o_in_q() { plan.consumers() } else { 4 * plan.consumers() }), "{name}");
        }
    }
}
