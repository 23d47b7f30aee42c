//! A warp's registers, with what is known about each: which lanes were written, and whether a matrix unit still uses it.

use super::decode::{LANES, Layout, Reg};
use std::collections::HashMap;

/// A value in every lane.
pub type Lanes<T> = [T; LANES];

/// What an asynchronous unit still does with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It will write it: neither to be read nor written.
    Writing,
    /// It still reads it: not to be written.
    Reading,
    /// A load of tensor memory writes it: hardware waits for the value where it is used.
    Loading,
}

/// What is known about one register.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// Lanes that were written.
    pub written: u32,
    /// Those of them in which some bits have no value: see [`Registers::holes`].
    pub partial: u32,
    /// A unit that uses the register, and the instruction that gave it the register.
    pub hold: Option<(Hold, u32)>,
    /// Time of the last access by an ordinary instruction, which wgmma's fence must follow.
    pub touched: u64,
}

/// The registers of one warp.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    words: Vec<Lanes<u32>>,
    preds: Vec<u32>,
    status: Vec<Status>,
    /// Bits without a value by register, of lanes that are partial.
    holes: HashMap<u32, Box<Lanes<u128>>>,
}

impl Registers {
    /// As many as a layout has, none written.
    pub fn new(layout: &Layout) -> Self {
        let words = layout.registers.iter().filter(|r| !r.is_pred()).map(|r| r.slot + words(r.bits)).max();
        let preds = layout.registers.iter().filter(|r| r.is_pred()).map(|r| r.slot + 1).max();
        Registers {
            words: vec![[0; LANES]; words.unwrap_or(0) as usize],
            preds: vec![0; preds.unwrap_or(0) as usize],
            status: vec![Status::default(); layout.registers.len()],
            holes: HashMap::new(),
        }
    }

    /// What is known about a register.
    #[inline]
    pub fn status(&self, reg: Reg) -> Status {
        self.status[reg.id as usize]
    }

    /// Counts lanes as written.
    #[inline]
    pub fn set_written(&mut self, reg: Reg, lanes: u32) {
        let status = &mut self.status[reg.id as usize];
        status.written |= lanes;
        status.partial &= !lanes;
    }

    /// Bits of each lane that have no value: those that a packing took from registers that were never written.
    pub fn holes(&self, reg: Reg) -> Lanes<u128> {
        let Status { written, partial, .. } = self.status(reg);
        let known = self.holes.get(&reg.id);
        std::array::from_fn(|lane| match (written >> lane & 1, partial >> lane & 1, known) {
            (0, ..) => u128::MAX,
            (_, 1, Some(known)) => known[lane],
            _ => 0,
        })
    }

    /// Says which bits of lanes that were just written have no value.
    pub fn set_holes(&mut self, reg: Reg, lanes: u32, holes: &Lanes<u128>) {
        let known = self.holes.entry(reg.id).or_insert_with(|| Box::new([0; LANES]));
        for lane in (0..LANES).filter(|lane| lanes >> lane & 1 == 1) {
            known[lane] = holes[lane];
        }
        self.status[reg.id as usize].partial |= lanes;
    }

    /// Notes an access by an ordinary instruction.
    #[inline]
    pub fn touch(&mut self, reg: Reg, now: u64) {
        self.status[reg.id as usize].touched = now;
    }

    /// Counts lanes as unwritten.
    pub fn clear_written(&mut self, reg: Reg, lanes: u32) {
        self.status[reg.id as usize].written &= !lanes;
    }

    /// Gives a register to an asynchronous unit.
    pub fn hold(&mut self, reg: Reg, hold: Hold, op: u32) {
        let status = &mut self.status[reg.id as usize];
        // A unit that writes the register holds it more firmly than one that reads it.
        if !matches!(status.hold, Some((Hold::Writing, _))) || hold == Hold::Writing {
            status.hold = Some((hold, op));
        }
    }

    /// Takes a register back from the units.
    pub fn release(&mut self, reg: Reg) {
        self.status[reg.id as usize].hold = None;
    }

    /// Takes back all registers that an instruction loads.
    pub fn end_load(&mut self, op: u32) {
        self.status.iter_mut().filter(|s| s.hold == Some((Hold::Loading, op))).for_each(|s| s.hold = None);
    }

    /// A row of 32-bit words, without any check: `row` 0 is the least significant. Not for predicates.
    #[inline]
    pub fn row(&self, reg: Reg, row: u32) -> &Lanes<u32> {
        &self.words[(reg.slot + row) as usize]
    }

    /// A row of 32-bit words to change, without any check.
    #[inline]
    pub fn row_mut(&mut self, reg: Reg, row: u32) -> &mut Lanes<u32> {
        &mut self.words[(reg.slot + row) as usize]
    }

    /// A predicate's lanes, without any check.
    #[inline]
    pub fn pred(&self, reg: Reg) -> u32 {
        self.preds[reg.slot as usize]
    }

    /// A predicate's lanes to change, without any check.
    #[inline]
    pub fn pred_mut(&mut self, reg: Reg) -> &mut u32 {
        &mut self.preds[reg.slot as usize]
    }
}

/// Rows of 32-bit words that a register of this width takes.
pub const fn words(bits: u8) -> u32 {
    match bits {
        128 => 4,
        64 => 2,
        _ => 1,
    }
}
