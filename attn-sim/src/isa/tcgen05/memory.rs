//! `tcgen05.ld` and `tcgen05.st`: tensor memory to and from the registers of a warp.

use super::super::Decoded;
use super::{Order, begin};
use crate::counters::Class;
use crate::layout::tmem::{COLUMNS, Cell, Shape};
use crate::machine::Context;
use crate::machine::clock::{Actor, Lane};
use crate::machine::context::TENSOR_LOADS;
use crate::machine::decode::{Addr, Decode, LANES, Reg, Source};
use crate::machine::events::Unit;
use crate::machine::execute::{Execute, Step};
use crate::machine::registers::{Hold, Lanes};
use crate::machine::wait::Key;
use crate::num::Format;
use crate::num::float::{MinMax, min_max};
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop, Unsupported};

/// Lanes of tensor memory that each warp of four reaches.
const QUARTER: u32 = 32;

/// Decodes `tcgen05.ld{.red}.sync.aligned.SHAPE.xN..` and `tcgen05.st.sync.aligned.SHAPE.xN..`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    let load = cx.has("ld");
    let red = cx.has("red");
    let address = if load { 1 + usize::from(red) } else { 0 };
    let place = Place::decode(cx, address)?;
    let registers = if load { cx.dests(0)?.len() } else { cx.sources(cx.operands() - 1, ScalarType::B32)?.len() };
    if registers as u32 != place.registers {
        return Err(cx.unsupported(format!("{registers} registers for {} of the shape", place.registers)));
    }
    if !load {
        return Ok(Box::new(Store { sources: cx.sources(cx.operands() - 1, ScalarType::B32)?, place }));
    }
    let reduce = if red { Some((Reduce::decode(cx)?, cx.dest(1)?)) } else { None };
    Ok(Box::new(Load { dests: cx.dests(0)?, reduce, place }))
}

/// Which cells an instruction moves.
#[derive(Debug)]
struct Place {
    shape: Shape,
    registers: u32,
    /// `.pack::16b`, `.unpack::16b`: registers hold the low halves of two neighbouring columns.
    halves: bool,
    address: Addr,
    /// Columns between the halves of `16x32bx2`.
    distance: u32,
}

impl Place {
    fn decode(cx: &Decode<'_>, address: usize) -> Result<Self, Unsupported> {
        let shape = cx.modifiers().find_map(Shape::parse).ok_or_else(|| cx.unsupported("no shape"))?;
        let repeat = cx.modifiers().find_map(|m| m.strip_prefix('x')?.parse::<u32>().ok());
        let repeat = repeat.filter(|n| n.is_power_of_two() && *n <= shape.most());
        let repeat = repeat.ok_or_else(|| cx.unsupported("no repetition, or one that the shape has not"))?;
        let distance = if shape == Shape::X16x32x2 { cx.int(address + 1)? } else { 0 };
        let columns = u32::try_from(distance).ok().filter(|&d| d < COLUMNS);
        let distance = columns.ok_or_else(|| cx.unsupported(format!("{distance} columns between the halves")))?;
        Ok(Place {
            shape,
            registers: repeat * shape.registers(),
            halves: cx.has("pack::16b") || cx.has("unpack::16b"),
            address: cx.address(address)?,
            distance,
        })
    }

    /// The first cell, which must lie in the warp's quarter. Lanes below 32 count from that quarter's first: kernels for
    /// the hardware give all warps of a warpgroup one address.
    fn start(&self, cx: &mut Context<'_>) -> Result<Cell, Stop> {
        cx.aligned()?;
        if cx.mask != u32::MAX {
            return Err(cx.fault(Kind::Divergent, format!("lanes {:#010x} execute it; it needs a whole warp", cx.mask)));
        }
        let addresses = cx.addresses(&self.address);
        if let Some(lane) = (0..LANES).find(|&l| addresses[l] != addresses[0]) {
            let message =
                format!("the address is {:#x} in lane 0 and {:#x} in lane {lane}", addresses[0], addresses[lane]);
            return Err(cx.fault(Kind::Operand, message));
        }
        let mut start = Cell::of(addresses[0] as u32);
        let quarter = QUARTER * (cx.m.warps[cx.warp].index % 4);
        if start.lane < QUARTER {
            start.lane += quarter;
        }
        let allowed = start.lane == quarter || (self.shape.lanes() == 16 && start.lane == quarter + 16);
        if allowed {
            return Ok(start);
        }
        let message = format!(
            "lane {} of tensor memory: this warp reaches lanes {quarter} to {}",
            start.lane,
            quarter + QUARTER - 1
        );
        Err(cx.fault(Kind::TensorMemory, message))
    }

    /// Columns for each 32 bits of a register.
    fn columns_each(&self) -> u32 {
        if self.halves { 2 } else { 1 }
    }

    /// Runs of columns that each lane of the shape moves: their first columns, from the address's, and their length.
    fn runs(&self) -> (Vec<u32>, u32) {
        let each = self.columns_each();
        match self.shape {
            Shape::X16x32x2 => (vec![0, self.distance], self.registers * each),
            shape => (vec![0], QUARTER * self.registers / shape.lanes() * each),
        }
    }

    /// Run and position in it of a thread's register, and its lane from the address's.
    fn find(&self, thread: u32, register: u32) -> (u32, usize, usize) {
        let second = self.shape == Shape::X16x32x2 && thread >= 16;
        let cell = self.shape.cell(thread, register, 0);
        (cell.lane, usize::from(second), (cell.column * self.columns_each()) as usize)
    }

    /// Index of a run of a lane among all.
    fn index(&self, lane: u32, run: usize) -> usize {
        lane as usize * if self.shape == Shape::X16x32x2 { 2 } else { 1 } + run
    }
}

/// The threads that move a lane of the shape.
fn by(who: &Actor, place: &Place, lane: u32) -> Actor {
    let threads = if place.shape == Shape::X32x32 { Lane::One(lane as u8) } else { Lane::Several };
    Actor { lane: threads, ..who.clone() }
}

/// Reads the runs of all lanes of the shape.
fn read(cx: &mut Context<'_>, who: &Actor, place: &Place, start: Cell) -> Result<Vec<Vec<u32>>, Stop> {
    let (runs, length) = place.runs();
    let mut all = Vec::new();
    for lane in 0..place.shape.lanes() {
        let who = by(who, place, lane);
        for run in &runs {
            let first = start.column + run;
            let block = cx.block;
            all.push(cx.m.tmem_read(&who, block, start.lane + lane, first..first + length)?.to_vec());
        }
    }
    Ok(all)
}

/// The operation is under way until its event.
fn pend(cx: &mut Context<'_>, stores: bool, who: &Actor, registers: &[Option<Reg>]) {
    let (warp, op) = (cx.warp, cx.op);
    let pending = cx.warp_state::<Order>().pending(stores);
    pending.issued += 1;
    pending.last = Some((who.agent, who.clock));
    pending.registers.extend(registers.iter().flatten());
    for reg in registers.iter().flatten() {
        cx.m.warps[warp].regs.hold(*reg, Hold::Loading, op);
    }
    cx.schedule(Unit::TensorMemory, Some((Unit::TensorMemory, 2 * warp as u64 + u64::from(stores))), move |m| {
        m.warps[warp].states.get::<Order>().pending(stores).completed += 1;
        m.wake(Key::Warp(warp));
        Ok(())
    });
}

/// `tcgen05.ld`
#[derive(Debug)]
struct Load {
    dests: Vec<Option<Reg>>,
    reduce: Option<(Reduce, Option<Reg>)>,
    place: Place,
}

impl Execute for Load {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let start = self.place.start(cx)?;
        let who = begin(cx, TENSOR_LOADS).tensor;
        let runs = read(cx, &who, &self.place, start)?;
        let mut reduced: Option<Lanes<u32>> = None;
        for (i, dest) in self.dests.iter().enumerate() {
            let value: Lanes<u32> = std::array::from_fn(|t| {
                let (lane, run, at) = self.place.find(t as u32, i as u32);
                let run = &runs[self.place.index(lane, run)];
                if self.place.halves { run[at] & 0xffff | run[at + 1] << 16 } else { run[at] }
            });
            cx.set_u32(*dest, &value);
            if let Some((reduce, _)) = &self.reduce {
                let so_far = reduced.unwrap_or(value);
                reduced = Some(std::array::from_fn(|t| reduce.apply(so_far[t], value[t])));
            }
        }
        let mut registers = self.dests.clone();
        if let (Some((_, dest)), Some(value)) = (&self.reduce, reduced) {
            cx.set_u32(*dest, &value);
            registers.push(*dest);
        }
        pend(cx, false, &who, &registers);
        cx.m.count_bytes("tcgen05.ld", u64::from(4 * self.place.registers) * LANES as u64);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::TensorMemory
    }
}

/// The reduction of `.red` over the registers of a thread.
#[derive(Debug)]
struct Reduce {
    ty: ScalarType,
    op: MinMax,
}

impl Reduce {
    fn decode(cx: &Decode<'_>) -> Result<Self, Unsupported> {
        let ty = cx.ty()?;
        if !matches!(ty, ScalarType::F32 | ScalarType::U32 | ScalarType::S32) {
            return Err(cx.unsupported("a reduction of another type than f32, u32 and s32"));
        }
        Ok(Reduce {
            ty,
            op: MinMax { max: cx.has("max"), nan: cx.has("NaN"), abs: cx.has("abs"), ..MinMax::default() },
        })
    }

    fn apply(&self, a: u32, b: u32) -> u32 {
        match (self.ty, self.op.max) {
            (ScalarType::U32, true) => a.max(b),
            (ScalarType::U32, false) => a.min(b),
            (ScalarType::S32, true) => (a as i32).max(b as i32) as u32,
            (ScalarType::S32, false) => (a as i32).min(b as i32) as u32,
            _ => min_max(Format::F32, self.op, a.into(), b.into()) as u32,
        }
    }
}

/// `tcgen05.st`
#[derive(Debug)]
struct Store {
    sources: Vec<Source>,
    place: Place,
}

impl Execute for Store {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let start = self.place.start(cx)?;
        let (firsts, length) = self.place.runs();
        let mut runs = vec![vec![0; length as usize]; self.place.shape.lanes() as usize * firsts.len()];
        for (i, source) in self.sources.iter().enumerate() {
            let values = cx.u32(source);
            for (t, value) in values.iter().enumerate() {
                let (lane, run, at) = self.place.find(t as u32, i as u32);
                let run = &mut runs[self.place.index(lane, run)];
                if self.place.halves {
                    run[at] = value & 0xffff;
                    run[at + 1] = value >> 16;
                } else {
                    run[at] = *value;
                }
            }
        }
        let who = begin(cx, "tcgen05.st").tensor;
        let block = cx.block;
        for (i, run) in runs.iter().enumerate() {
            let lane = (i / firsts.len()) as u32;
            cx.m.tmem_write(
                &by(&who, &self.place, lane),
                block,
                start.lane + lane,
                start.column + firsts[i % firsts.len()],
                run,
            )?;
        }
        pend(cx, true, &who, &[]);
        cx.m.count_bytes("tcgen05.st", u64::from(4 * self.place.registers) * LANES as u64);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::TensorMemory
    }
}
