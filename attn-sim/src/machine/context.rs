//! What an instruction sees while a warp executes it.

use super::clock::{Actor, Lane, Proxy};
use super::decode::{Addr, LANES, Reg, Source};
use super::events::{Queue, Unit};
use super::execute::Step;
use super::memory::Space;
use super::registers::{Hold, Lanes, Status};
use super::special::Special;
use super::state::UnitState;
use super::wait::{Key, Wait};
use super::{Location, Machine, Stream};
use crate::report::{Kind, Stop};
use std::rc::Rc;

/// The stream of a warp's loads from tensor memory.
pub const TENSOR_LOADS: &str = "tcgen05.ld";

/// One execution of an instruction by lanes of a warp.
pub struct Context<'a> {
    /// The machine, for what is not below.
    pub m: &'a mut Machine,
    /// The warp, an index in the machine.
    pub warp: usize,
    /// Its block, an index in the machine.
    pub block: usize,
    /// Lanes that execute: on the way here, and let through by the guard. Never empty.
    pub mask: u32,
    /// Index of the instruction in the program.
    pub op: u32,
    /// The instruction blocked before, and is executed again.
    pub resumed: bool,
    /// It was resumed because nothing else could run, and may give up.
    pub timed_out: bool,
}

/// The lanes of a mask, lowest first.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        (rest != 0).then(|| {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            lane
        })
    })
}

impl Context<'_> {
    // ---- who executes

    /// This warp at this moment, on the generic path to memory.
    pub fn actor(&self) -> Actor {
        let warp = &self.m.warps[self.warp];
        let (agent, clock, known) = (warp.agent, warp.clock, Rc::clone(&warp.known));
        let (proxy, lane, issuer, synced) = (Proxy::Generic, Lane::Any, agent, warp.synced);
        let returned = warp.returned.clone();
        Actor { agent, clock, known, proxy, op: self.op, warp: self.warp as u32, lane, issuer, synced, returned }
    }

    /// The same, as some of its lanes.
    pub fn actor_of(&self, lane: Lane) -> Actor {
        Actor { lane, ..self.actor() }
    }

    /// The lanes that execute have met: what each did before, the others have heard of.
    pub fn lanes_met(&mut self) {
        if self.mask.count_ones() > 1 {
            let warp = &mut self.m.warps[self.warp];
            warp.meet();
            if warp.touched == warp.clock {
                self.m.release(self.warp);
            }
        }
    }

    /// Lanes that execute, lowest first.
    pub fn lanes(&self) -> impl Iterator<Item = usize> + use<> {
        lanes(self.mask)
    }

    /// The lowest lane that executes.
    pub fn first_lane(&self) -> usize {
        self.mask.trailing_zeros() as usize
    }

    /// Lanes of the warp that have not ended.
    pub fn live(&self) -> u32 {
        self.m.warps[self.warp].live
    }

    /// The rule of `.aligned`: all lanes of the warp that have not ended execute together.
    pub fn aligned(&self) -> Result<(), Stop> {
        if self.mask == self.live() {
            return Ok(());
        }
        let message =
            format!("lanes {:#010x} of {:#010x} execute it; it needs all of them together", self.mask, self.live());
        Err(self.fault(Kind::Divergent, message))
    }

    /// The rule of a member mask: `None` once all lanes of `members` that have not ended execute together; until then
    /// the step to return. `members` must hold every executing lane.
    pub fn gather(&self, members: u32) -> Result<Option<Step>, Stop> {
        if self.mask & !members != 0 {
            let message = format!(
                "lanes {:#010x} execute it and are not in its member mask {members:#010x}",
                self.mask & !members
            );
            return Err(self.fault(Kind::Divergent, message));
        }
        let here = members & self.live() & !self.mask == 0;
        Ok((!here).then_some(Step::Gather { members, anywhere: false }))
    }

    // ---- what goes wrong

    /// Notes a broken rule and goes on.
    pub fn report(&mut self, kind: Kind, message: impl Into<String>) {
        let who = self.actor();
        self.m.report(&who, kind, message.into(), None);
    }

    /// A broken rule after which the launch cannot go on.
    pub fn fault(&self, kind: Kind, message: impl Into<String>) -> Stop {
        self.m.fault(&self.actor(), kind, message.into())
    }

    /// Operands that ask for what is not modelled.
    pub fn unsupported(&self, reason: impl Into<String>) -> Stop {
        let op = &self.m.program.ops[self.op as usize];
        Stop::Unsupported(crate::report::Unsupported {
            line: op.line,
            instruction: op.text.clone(),
            reason: reason.into(),
        })
    }

    // ---- registers

    /// Notes the read of a register by the executing lanes.
    fn note_read(&mut self, reg: Reg) {
        self.m.warps[self.warp].regs.touch(reg, self.m.now);
        let status = self.m.warps[self.warp].regs.status(reg);
        if status.written & self.mask != self.mask {
            let lane = (self.mask & !status.written).trailing_zeros();
            let message = format!("register {} was never written in lane {lane}", self.name(reg));
            self.report(Kind::Uninitialised, message);
        }
        if status.partial & self.mask != 0 {
            let lane = (self.mask & status.partial).trailing_zeros();
            let message = format!("a part of register {} was never written in lane {lane}", self.name(reg));
            self.report(Kind::Uninitialised, message);
        }
        match status.hold {
            Some((Hold::Writing, op)) => self.held(reg, op, "read, and an asynchronous operation still writes it"),
            Some((Hold::Loading, op)) => self.use_load(reg, op),
            _ => {}
        }
    }

    /// A value loaded from tensor memory is used before a wait: the load is over from here on, and noted once.
    fn use_load(&mut self, reg: Reg, op: u32) {
        let line = self.m.program.ops[op as usize].line;
        let message = format!("register {} is used with no tcgen05.wait::ld behind line {line}", self.name(reg));
        self.report(Kind::TensorOrder, message);
        let warp = self.warp;
        let agent = self.m.stream(Stream::Warp(warp, TENSOR_LOADS), warp);
        let clock = self.m.agents[agent as usize].clock;
        let warp = &mut self.m.warps[warp];
        warp.regs.end_load(op);
        warp.learn_parts(agent, clock);
    }

    /// Notes the write of a register by the executing lanes.
    fn note_write(&mut self, reg: Reg) {
        let mask = self.mask;
        let regs = &mut self.m.warps[self.warp].regs;
        regs.set_written(reg, mask);
        regs.touch(reg, self.m.now);
        if let Some((hold, op)) = regs.status(reg).hold {
            let message = match hold {
                Hold::Loading => return self.use_load(reg, op),
                Hold::Writing => "written, and an asynchronous operation still writes it",
                Hold::Reading => "written, and an asynchronous operation still reads it",
            };
            self.held(reg, op, message);
        }
    }

    fn held(&mut self, reg: Reg, op: u32, how: &str) {
        let who = self.actor();
        let message = format!(
            "register {} is {how}: no wait has covered line {}",
            self.name(reg),
            self.m.program.ops[op as usize].line
        );
        self.m.report(&who, Kind::RegisterInFlight, message, None);
    }

    /// The name of a register in the text.
    pub fn name(&self, reg: Reg) -> &str {
        &self.m.program.names[reg.id as usize]
    }

    /// Values to be copied as they are, with the bits of each that have none: taking those along is no use of them.
    pub fn copied(&mut self, source: &Source) -> (Lanes<u128>, Lanes<u128>) {
        let Source::Reg(reg) = source else { return (self.u128(source), [0; LANES]) };
        let regs = &mut self.m.warps[self.warp].regs;
        let (all, Status { written, partial, .. }) = (self.mask, regs.status(*reg));
        if written & !partial & all == all {
            return (self.u128(source), [0; LANES]);
        }
        let holes = regs.holes(*reg);
        let partial = partial & all;
        regs.set_written(*reg, partial);
        self.mask &= written;
        let values = if self.mask == 0 { [0; LANES] } else { self.u128(source) };
        self.mask = all;
        if partial != 0 {
            self.m.warps[self.warp].regs.set_holes(*reg, partial, &holes);
        }
        (values, holes)
    }

    /// Writes `bits` bits of values, some of which have none.
    pub fn set_copied(&mut self, dest: Option<Reg>, bits: u32, values: &Lanes<u128>, holes: &Lanes<u128>) {
        let keep = u128::MAX >> (128 - bits);
        let (mut none, mut some) = (0, 0);
        for lane in lanes(self.mask) {
            match holes[lane] & keep {
                0 => {}
                hole if hole == keep => none |= 1 << lane,
                _ => some |= 1 << lane,
            }
        }
        let all = self.mask;
        self.mask &= !none;
        if self.mask != 0 {
            self.set_u128(dest, values);
        }
        self.mask = all;
        let Some(reg) = dest.filter(|_| none | some != 0) else { return };
        let regs = &mut self.m.warps[self.warp].regs;
        regs.clear_written(reg, none);
        if some != 0 {
            regs.set_holes(reg, some, &holes.map(|hole| hole & keep));
        }
    }

    /// Lanes in which a value was written; all for what is no register.
    pub fn written(&self, source: &Source) -> u32 {
        match source {
            Source::Reg(reg) | Source::NotPred(reg) => self.m.warps[self.warp].regs.status(*reg).written,
            _ => u32::MAX,
        }
    }

    /// Values of 32 bits or fewer, zero-extended as they lie in the register; of a wider register, the low half.
    #[inline]
    pub fn u32(&mut self, source: &Source) -> Lanes<u32> {
        match source {
            Source::Reg(reg) if reg.is_pred() => {
                let bits = self.pred(source);
                std::array::from_fn(|lane| bits >> lane & 1)
            }
            Source::Reg(reg) => {
                self.note_read(*reg);
                *self.m.warps[self.warp].regs.row(*reg, 0)
            }
            Source::Imm(value) => [*value as u32; LANES],
            Source::Shared(offset) => [self.m.shared_address(self.block, *offset); LANES],
            Source::Special(special) => self.special(*special).map(|v| v as u32),
            Source::NotPred(_) => {
                let bits = self.pred(source);
                std::array::from_fn(|lane| bits >> lane & 1)
            }
        }
    }

    /// Values of 64 bits or fewer, zero-extended.
    #[inline]
    pub fn u64(&mut self, source: &Source) -> Lanes<u64> {
        match source {
            Source::Reg(reg) if reg.bits >= 64 => {
                self.note_read(*reg);
                let regs = &self.m.warps[self.warp].regs;
                let (low, high) = (regs.row(*reg, 0), regs.row(*reg, 1));
                std::array::from_fn(|lane| u64::from(high[lane]) << 32 | u64::from(low[lane]))
            }
            Source::Imm(value) => [*value; LANES],
            Source::Special(special) => self.special(*special),
            _ => self.u32(source).map(u64::from),
        }
    }

    /// Values of 128 bits or fewer, zero-extended.
    pub fn u128(&mut self, source: &Source) -> Lanes<u128> {
        match source {
            Source::Reg(reg) if reg.bits == 128 => {
                self.note_read(*reg);
                let regs = &self.m.warps[self.warp].regs;
                std::array::from_fn(|lane| {
                    (0..4).fold(0, |value, row| value | u128::from(regs.row(*reg, row)[lane]) << (32 * row))
                })
            }
            _ => self.u64(source).map(u128::from),
        }
    }

    /// Lanes in which a predicate, or a constant, is true. Lanes that do not execute are 0.
    #[inline]
    pub fn pred(&mut self, source: &Source) -> u32 {
        let bits = match source {
            Source::Reg(reg) if reg.is_pred() => {
                self.note_read(*reg);
                self.m.warps[self.warp].regs.pred(*reg)
            }
            Source::NotPred(reg) => {
                self.note_read(*reg);
                !self.m.warps[self.warp].regs.pred(*reg)
            }
            other => {
                let values = self.u32(other);
                (0..LANES).fold(0, |bits, lane| bits | u32::from(values[lane] != 0) << lane)
            }
        };
        bits & self.mask
    }

    /// Writes the executing lanes of a register of 32 bits or fewer; narrower ones keep their low bits. A wider register
    /// gets zeros above.
    #[inline]
    pub fn set_u32(&mut self, dest: Option<Reg>, values: &Lanes<u32>) {
        let Some(reg) = dest else { return };
        if reg.is_pred() || reg.bits > 32 {
            return self.set_u64(dest, &values.map(u64::from));
        }
        self.note_write(reg);
        let keep = if reg.bits == 32 { u32::MAX } else { (1 << reg.bits) - 1 };
        let mask = self.mask;
        let row = self.m.warps[self.warp].regs.row_mut(reg, 0);
        if mask == u32::MAX {
            row.iter_mut().zip(values).for_each(|(r, v)| *r = v & keep);
        } else {
            lanes(mask).for_each(|lane| row[lane] = values[lane] & keep);
        }
    }

    /// Writes the executing lanes of a register of 64 bits or fewer, which keeps the low bits.
    #[inline]
    pub fn set_u64(&mut self, dest: Option<Reg>, values: &Lanes<u64>) {
        let Some(reg) = dest else { return };
        if reg.is_pred() {
            let bits = (0..LANES).fold(0, |bits, lane| bits | ((values[lane] & 1) as u32) << lane);
            return self.set_pred(dest, bits);
        }
        if reg.bits <= 32 {
            return self.set_u32(dest, &values.map(|v| v as u32));
        }
        self.note_write(reg);
        let mask = self.mask;
        let regs = &mut self.m.warps[self.warp].regs;
        let row = regs.row_mut(reg, 0);
        lanes(mask).for_each(|lane| row[lane] = values[lane] as u32);
        let row = regs.row_mut(reg, 1);
        lanes(mask).for_each(|lane| row[lane] = (values[lane] >> 32) as u32);
        for high in 2..super::registers::words(reg.bits) {
            let row = regs.row_mut(reg, high);
            lanes(mask).for_each(|lane| row[lane] = 0);
        }
    }

    /// Writes the executing lanes of a register of 128 bits or fewer, which keeps the low bits.
    pub fn set_u128(&mut self, dest: Option<Reg>, values: &Lanes<u128>) {
        let Some(reg) = dest else { return };
        if reg.bits < 128 {
            return self.set_u64(dest, &values.map(|v| v as u64));
        }
        self.note_write(reg);
        let mask = self.mask;
        let regs = &mut self.m.warps[self.warp].regs;
        for word in 0..4 {
            let row = regs.row_mut(reg, word);
            lanes(mask).for_each(|lane| row[lane] = (values[lane] >> (32 * word)) as u32);
        }
    }

    /// Writes the executing lanes of a predicate.
    #[inline]
    pub fn set_pred(&mut self, dest: Option<Reg>, bits: u32) {
        let Some(reg) = dest else { return };
        if !reg.is_pred() {
            return self.set_u32(dest, &std::array::from_fn(|lane| bits >> lane & 1));
        }
        self.note_write(reg);
        let mask = self.mask;
        let pred = self.m.warps[self.warp].regs.pred_mut(reg);
        *pred = *pred & !mask | bits & mask;
    }

    /// A value that all executing lanes must agree on; `what` names it in the report if they do not.
    pub fn uniform(&mut self, source: &Source, what: &str) -> Result<u64, Stop> {
        let values = self.u64(source);
        let first = values[self.first_lane()];
        match self.lanes().find(|&lane| values[lane] != first) {
            None => Ok(first),
            Some(lane) => {
                let message = format!(
                    "{what} is {first:#x} in lane {} and {:#x} in lane {lane}",
                    self.first_lane(),
                    values[lane]
                );
                Err(self.fault(Kind::Operand, message))
            }
        }
    }

    // ---- memory

    /// Addresses of an operand in brackets.
    pub fn addresses(&mut self, addr: &Addr) -> Lanes<u64> {
        // A 32-bit address wraps at 32 bits, so that negative offsets work.
        let wide = matches!(addr.base, Source::Reg(Reg { bits: 64, .. }) | Source::Imm(_));
        let offset = addr.offset as u64;
        self.u64(&addr.base).map(|base| {
            let at = base.wrapping_add(offset);
            if wide { at } else { at & 0xffff_ffff }
        })
    }

    /// Where an address of a space leads for a lane.
    pub fn locate(&self, lane: usize, space: Space, addr: u64) -> Result<Location, Stop> {
        self.m.locate(&self.actor(), lane as u32, space, addr)
    }

    /// A lane's load of `out.len()` bytes, aligned to `align`.
    pub fn load(&mut self, lane: usize, space: Space, addr: u64, align: u64, out: &mut [u8]) -> Result<(), Stop> {
        self.load_as(Lane::One(lane as u8), lane, space, addr, align, out)
    }

    /// A load at a lane's address, for some lanes.
    pub fn load_as(
        &mut self,
        by: Lane,
        lane: usize,
        space: Space,
        addr: u64,
        align: u64,
        out: &mut [u8],
    ) -> Result<(), Stop> {
        let who = self.actor_of(by);
        self.m.warps[self.warp].touched = who.clock;
        let at = self.m.locate(&who, lane as u32, space, addr)?;
        self.m.check_aligned(&who, at, align)?;
        self.m.read(&who, at, out)
    }

    /// A lane's store of bytes, aligned to `align`.
    pub fn store(&mut self, lane: usize, space: Space, addr: u64, align: u64, bytes: &[u8]) -> Result<(), Stop> {
        self.store_as(Lane::One(lane as u8), lane, space, addr, align, bytes)
    }

    /// A store at a lane's address, for some lanes.
    pub fn store_as(
        &mut self,
        by: Lane,
        lane: usize,
        space: Space,
        addr: u64,
        align: u64,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        let who = self.actor_of(by);
        self.m.warps[self.warp].touched = who.clock;
        let at = self.m.locate(&who, lane as u32, space, addr)?;
        self.m.check_aligned(&who, at, align)?;
        self.m.write(&who, at, bytes)
    }

    /// A lane's address as block (an index in the machine) and offset in its shared memory, for instructions that take
    /// nothing else: generic addresses outside of the window are faults.
    pub fn shared_at(&self, lane: usize, space: Space, addr: u64) -> Result<(usize, u32), Stop> {
        match self.locate(lane, space, addr)? {
            Location::Shared { block, offset } => Ok((block, offset)),
            other => {
                Err(self.fault(Kind::OutOfBounds, format!("an address of shared memory was expected, not {other}")))
            }
        }
    }

    // ---- units

    /// An asynchronous operation on a stream, which knows what this warp knows: its accesses are made with the actor.
    /// With `in_order`, it also follows the operations issued on the stream before.
    pub fn begin(&mut self, stream: Stream, proxy: Proxy, in_order: bool) -> Actor {
        // What one thread issues follows what that thread has done.
        let lane = if self.mask.count_ones() == 1 { Lane::One(self.first_lane() as u8) } else { Lane::Any };
        let known = self.m.warps[self.warp].known_by(self.mask);
        let who = Actor { known, ..self.actor_of(lane) };
        self.m.begin(&who, stream, proxy, in_order)
    }

    /// Hands an operation to a unit: see [`Machine::schedule`].
    pub fn schedule(
        &mut self,
        unit: Unit,
        queue: Option<Queue>,
        completion: impl FnOnce(&mut Machine) -> Result<(), Stop> + 'static,
    ) {
        self.m.schedule(unit, queue, completion);
    }

    /// What a unit keeps for this warp.
    pub fn warp_state<T: UnitState + Default>(&mut self) -> &mut T {
        self.m.warps[self.warp].states.get()
    }

    /// What a unit keeps for this block.
    pub fn block_state<T: UnitState + Default>(&mut self) -> &mut T {
        self.m.blocks[self.block].states.get()
    }

    /// What a unit keeps for this cluster.
    pub fn cluster_state<T: UnitState + Default>(&mut self) -> &mut T {
        let cluster = self.cluster();
        self.m.clusters[cluster].states.get()
    }

    /// This block's cluster, an index in the machine.
    pub fn cluster(&self) -> usize {
        self.m.blocks[self.block].cluster
    }

    /// The step of an instruction that waits until [`Machine::wake`] of `key`.
    pub fn block_on(&self, key: Key, what: &'static str, detail: impl Into<String>) -> Step {
        Step::Block(Wait { key, what, detail: detail.into(), gives_up: false })
    }

    // ---- special registers

    /// A special register's values.
    pub fn special(&mut self, special: Special) -> Lanes<u64> {
        use Special::*;
        let (warp, block) = (&self.m.warps[self.warp], &self.m.blocks[self.block]);
        let cluster = &self.m.clusters[block.cluster];
        let shape = &self.m.shape;
        let linear = |lane: usize| u64::from(warp.index) * 32 + lane as u64;
        let tid = |axis: usize, lane: usize| {
            let [x, y, _] = shape.block.map(u64::from);
            match axis {
                0 => linear(lane) % x,
                1 => linear(lane) / x % y,
                _ => linear(lane) / (x * y),
            }
        };
        let threads: u32 = shape.block.iter().product();
        let same = match special {
            Tid(axis) => return std::array::from_fn(|lane| tid(axis, lane)),
            LaneId => return std::array::from_fn(|lane| lane as u64),
            LaneMaskEq => return std::array::from_fn(|lane| 1 << lane),
            LaneMaskLe => return std::array::from_fn(|lane| (2u64 << lane) - 1),
            LaneMaskLt => return std::array::from_fn(|lane| (1u64 << lane) - 1),
            LaneMaskGe => return std::array::from_fn(|lane| u64::from(u32::MAX << lane)),
            LaneMaskGt => return std::array::from_fn(|lane| u64::from(u32::MAX) & !((2u64 << lane) - 1)),
            Ntid(axis) => u64::from(shape.block[axis]),
            Ctaid(axis) => u64::from(block.ctaid[axis]),
            Nctaid(axis) => u64::from(shape.grid[axis]),
            WarpId => u64::from(warp.index),
            NWarpId => u64::from(threads.div_ceil(32)),
            SmId => shape.linear_block(block.ctaid) % u64::from(shape.sms),
            NSmId => u64::from(shape.sms),
            GridId => 0,
            ClusterId(axis) => u64::from(cluster.id[axis]),
            NClusterId(axis) => u64::from(shape.grid[axis] / shape.cluster[axis]),
            ClusterCtaid(axis) => u64::from(block.ctaid[axis] % shape.cluster[axis]),
            ClusterNctaid(axis) => u64::from(shape.cluster[axis]),
            ClusterCtaRank => u64::from(block.rank),
            ClusterNctaRank => shape.cluster.iter().map(|&n| u64::from(n)).product(),
            IsExplicitCluster => u64::from(shape.explicit_cluster),
            Clock => self.m.now & 0xffff_ffff,
            ClockHi => self.m.now >> 32,
            Clock64 | GlobalTimer => self.m.now,
            GlobalTimerLo => self.m.now & 0xffff_ffff,
            GlobalTimerHi => self.m.now >> 32,
            DynamicSmemSize => u64::from(shape.shared),
            TotalSmemSize | AggrSmemSize => u64::from(block.shared.end()),
        };
        [same; LANES]
    }
}
