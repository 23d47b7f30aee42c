//! Who tells whom: roles, barriers, and the arrivals that complete them. The kernel initialises its barriers with these counts.

use super::{Plan, SLOTS};
use crate::forward::anatomy::{Barriers, Named, Role, Signal, Warps};
use crate::forward::plan::WARPGROUP;
use crate::pipe::named::NamedBarrier;

/// Warps of a warpgroup.
const WARPS: u32 = WARPGROUP / 32;

/// Arrivals of a role at an mbarrier: one thread loads, stores, or commits the multiplies; of a warpgroup one lane of each warp.
const fn arrivals_of(role: Role) -> u32 {
    match role {
        Role::Load | Role::Mma | Role::Store => 1,
        Role::Softmax | Role::Correction | Role::Convert => WARPS,
        Role::MmaSoftmax | Role::Idle => panic!("no role of a Blackwell kernel that arrives"),
    }
}

/// Arrivals of all of `roles`.
const fn arrivals(roles: &[Role]) -> u32 {
    let (mut sum, mut i) = (0, 0);
    while i < roles.len() {
        sum += arrivals_of(roles[i]);
        i += 1;
    }
    sum
}

/// Arrivals that complete each kind of mbarrier; of a ring's, those of `full` and those of `empty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    /// Q tiles.
    pub q: (u32, u32),
    /// O tiles.
    pub o: (u32, u32),
    /// Inverses of the rows' sums.
    pub inverses: (u32, u32),
    /// Stages of K and V.
    pub kv: (u32, u32),
    /// Stages of 8-bit parts.
    pub raw: (u32, u32),
    /// Scores are complete.
    pub scores: u32,
    /// Early probabilities are stored and O is rescaled.
    pub ready: u32,
    /// All probabilities are stored.
    pub last: u32,
    /// O is complete.
    pub output: u32,
    /// Slots of units.
    pub units: (u32, u32),
}

/// Named barriers, a pair of warps each, by slot and warp of its warpgroup: the softmax warp arrives, the correction warp of the same rows
/// waits.
pub const FACTORS: NamedBarrier = NamedBarrier::new(1, 2 * 32);

const Q_FULL: Signal = signal("Q full", &[Role::Load], &[Role::Mma], "the Q tile is in shared memory");
const Q_EMPTY: Signal = signal("Q empty", &[Role::Mma], &[Role::Load], "the tile's last Q Kᵀ is done");
const Q_AND_O_EMPTY: Signal = signal(
    "Q empty",
    &[Role::Mma, Role::Store],
    &[Role::Load],
    "the tile's last Q Kᵀ is done, and O has left its memory",
);
const O_FULL: Signal = signal("O full", &[Role::Correction], &[Role::Store], "the finished O tile is in shared memory");
const O_EMPTY: Signal = signal("O empty", &[Role::Store], &[Role::Correction], "the O tile has been read");
const INVERSES_FULL: Signal =
    signal("1 / sum full", &[Role::Softmax], &[Role::Correction], "1 / sum of each row is written");
const INVERSES_EMPTY: Signal =
    signal("1 / sum empty", &[Role::Correction], &[Role::Softmax], "1 / sum of each row has been read");
const KV_FULL: Signal = signal("K, V full", &[Role::Load], &[Role::Mma], "the stage holds its part of K or V");
const KV_EMPTY: Signal =
    signal("K, V empty", &[Role::Mma], &[Role::Load], "the multiplies that read the stage are done");
const WIDE_FULL: Signal =
    signal("K, V full", &[Role::Convert], &[Role::Mma], "the stage holds its part of K or V, widened");
const WIDE_EMPTY: Signal =
    signal("K, V empty", &[Role::Mma], &[Role::Convert], "the multiplies that read the stage are done");
const RAW_FULL: Signal = signal("raw full", &[Role::Load], &[Role::Convert], "the stage holds a part of 8 bits");
const RAW_EMPTY: Signal = signal("raw empty", &[Role::Convert], &[Role::Load], "the part has been widened");
const SCORES: Signal = signal("scores", &[Role::Mma], &[Role::Softmax], "S of the slot is complete");
const READY: Signal = signal(
    "ready",
    &[Role::Softmax, Role::Correction],
    &[Role::Mma],
    "all of P but the last chunk is stored, O is rescaled",
);
const LAST: Signal = signal("last", &[Role::Softmax], &[Role::Mma], "the last chunk of P is stored");
const OUTPUT: Signal = signal("output", &[Role::Mma], &[Role::Correction], "O of the tile is complete");
const LISTENERS: [Role; 4] = [Role::Softmax, Role::Correction, Role::Mma, Role::Store];
const LISTENERS_AND_CONVERT: [Role; 5] = [Role::Softmax, Role::Correction, Role::Mma, Role::Store, Role::Convert];
const UNIT_FULL: Signal = signal("tile slot full", &[Role::Load], &LISTENERS, "the slot holds the next tile");
const UNIT_EMPTY: Signal = signal("tile slot empty", &LISTENERS, &[Role::Load], "every role has read the slot");
const UNIT_FULL_5: Signal = Signal { to: &LISTENERS_AND_CONVERT, ..UNIT_FULL };
const UNIT_EMPTY_5: Signal = Signal { from: &LISTENERS_AND_CONVERT, ..UNIT_EMPTY };
const FACTORS_WRITTEN: Signal =
    signal("factors", &[Role::Softmax], &[Role::Correction], "the factors of these 32 rows of O are written");

const fn signal(name: &'static str, from: &'static [Role], to: &'static [Role], means: &'static str) -> Signal {
    Signal { name, from, to, means }
}

impl Plan {
    /// Where O reuses Q's memory, Q is given back by the multiplies and by the store of O.
    const fn q_empty(&self) -> Signal {
        if self.o_in_q() { Q_AND_O_EMPTY } else { Q_EMPTY }
    }

    /// Who fills the stages that the multiplies read: the load warp, or those that widen what it has loaded.
    const fn kv(&self) -> [Signal; 2] {
        if self.converts() { [WIDE_FULL, WIDE_EMPTY] } else { [KV_FULL, KV_EMPTY] }
    }

    /// Who is told the units.
    const fn unit(&self) -> [Signal; 2] {
        if self.converts() { [UNIT_FULL_5, UNIT_EMPTY_5] } else { [UNIT_FULL, UNIT_EMPTY] }
    }

    /// The counts that the kernel initialises its mbarriers with.
    pub const fn arrivals(&self) -> Arrivals {
        let ([kv_full, kv_empty], [unit_full, unit_empty]) = (self.kv(), self.unit());
        Arrivals {
            q: (arrivals(Q_FULL.from), arrivals(self.q_empty().from)),
            o: (arrivals(O_FULL.from), arrivals(O_EMPTY.from)),
            inverses: (arrivals(INVERSES_FULL.from), arrivals(INVERSES_EMPTY.from)),
            kv: (arrivals(kv_full.from), arrivals(kv_empty.from)),
            raw: (arrivals(RAW_FULL.from), arrivals(RAW_EMPTY.from)),
            scores: arrivals(SCORES.from),
            ready: arrivals(READY.from),
            last: arrivals(LAST.from),
            output: arrivals(OUTPUT.from),
            // Each query tile has softmax warps of its own.
            units: (
                arrivals(unit_full.from),
                arrivals(unit_empty.from) + (self.tiles - 1) * arrivals_of(Role::Softmax),
            ),
        }
    }

    /// Every mbarrier: those of a tile's buffer lie side by side, of the ring all `full` before all `empty`.
    pub const fn barrier_list(&self) -> [Barriers; 16] {
        let ([kv_full, kv_empty], [unit_full, unit_empty]) = (self.kv(), self.unit());
        let (at, n) = (self.barriers(), self.arrivals());
        let (tiles, stages, slots) = (self.tiles, self.stages, self.unit_slots());
        let raw = self.raw_stages();
        [
            barriers(Q_FULL, at.q, 16, tiles, n.q.0),
            barriers(self.q_empty(), at.q + 8, 16, tiles, n.q.1),
            barriers(O_FULL, at.o, 16, tiles, n.o.0),
            barriers(O_EMPTY, at.o + 8, 16, tiles, n.o.1),
            barriers(INVERSES_FULL, at.inverses, 16, tiles, n.inverses.0),
            barriers(INVERSES_EMPTY, at.inverses + 8, 16, tiles, n.inverses.1),
            barriers(kv_full, at.kv, 8, stages, n.kv.0),
            barriers(kv_empty, at.kv + 8 * stages, 8, stages, n.kv.1),
            barriers(RAW_FULL, at.raw, 8, raw, n.raw.0),
            barriers(RAW_EMPTY, at.raw + 8 * raw, 8, raw, n.raw.1),
            barriers(SCORES, at.scores, 8, SLOTS, n.scores),
            barriers(READY, at.ready, 8, SLOTS, n.ready),
            barriers(LAST, at.last, 8, SLOTS, n.last),
            barriers(OUTPUT, at.output, 8, tiles, n.output),
            barriers(unit_full, at.units, 16, slots, n.units.0),
            barriers(unit_empty, at.units + 8, 16, slots, n.units.1),
        ]
    }

    /// The named barriers.
    pub const fn named_list(&self) -> [Named; 1] {
        let count = SLOTS * WARPS;
        [Named { signal: FACTORS_WRITTEN, first: FACTORS.id(), count, threads: FACTORS.threads() }]
    }

    /// The roles, by warp.
    pub const fn warps(&self) -> [Warps; 7] {
        let r = self.regs;
        let converters = if self.converts() { WARPS } else { 0 };
        let softmax = "S to registers; maximum, P = exp2(S), packed over S; the row's sum; at the end LSE";
        let correction = "O's rows times their factors where the maximum grew much; at the end O / sum";
        [
            warps(Role::Softmax, 0, self.correction_warp(), r.softmax, softmax),
            warps(Role::Correction, self.correction_warp(), WARPS, r.correction, correction),
            warps(Role::Mma, self.mma_warp(), 1, r.other, "S = Q Kᵀ and O += P V of every tile, one lane issues"),
            warps(Role::Store, self.store_warp(), 1, r.other, "at the end O to global memory, by TMA"),
            warps(Role::Load, self.load_warp(), 1, r.other, "K and V through the ring, Q of every tile, by TMA"),
            warps(Role::Idle, self.load_warp() + 1, 1, r.other, "completes the warpgroup for setmaxnreg"),
            warps(Role::Convert, self.convert_warp(), converters, r.convert, "K and V from 8 to 16 bits"),
        ]
    }
}

const fn barriers(signal: Signal, at: u32, stride: u32, count: u32, arrivals: u32) -> Barriers {
    Barriers { signal, at, stride, count, arrivals }
}

const fn warps(role: Role, first: u32, count: u32, registers: u32, work: &'static str) -> Warps {
    Warps { role, first, count, registers, work }
}
