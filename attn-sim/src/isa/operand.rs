//! Operands of matrix units, in shared memory and in the registers of a warp.

use crate::layout::descriptor::{Invalid, Major, Matrix};
use crate::layout::fragment::{Place, per_register};
use crate::machine::clock::{Actor, Lane};
use crate::machine::decode::{Decode, LANES, Reg};
use crate::machine::registers::Lanes;
use crate::machine::{Location, Machine};
use crate::num::Format;
use crate::report::{Kind, Stop, Unsupported};
use std::ops::Range;
use std::sync::Arc;

/// How elements lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Bits of an element.
    pub bits: u32,
    /// Bytes that an element takes of a tile; narrow elements lie together at the start of each 16 bytes.
    pub bytes: u32,
}

impl Storage {
    /// Of a format: 4- and 6-bit elements are sixteen to 16 bytes.
    pub fn of(format: Format) -> Self {
        Storage { bits: format.bits(), bytes: format.bits().div_ceil(8) }
    }

    /// 8-bit integers.
    pub const BYTE: Storage = Storage { bits: 8, bytes: 1 };

    /// Elements in 16 bytes of a tile.
    fn per_piece(self) -> u32 {
        16 / self.bytes
    }

    /// Element `i` of 16 bytes.
    fn element(self, piece: u128, i: u32) -> u32 {
        (piece >> (i * self.bits)) as u32 & mask(self.bits)
    }
}

/// Reads elements of an operand, as the unit reads them: `(line - lines.start) * k + i` of the result is element `i` of a line.
pub fn read(
    machine: &mut Machine,
    who: &Actor,
    block: usize,
    (matrix, major): (Matrix, Major),
    storage: Storage,
    lines: Range<u32>,
    k: u32,
) -> Result<Vec<u32>, Stop> {
    let mut elements = vec![0; lines.len() * k as usize];
    let first_line = lines.start;
    for piece in matrix.pieces(major, lines, k, storage.bytes) {
        let mut bytes = [0; 16];
        machine.read(who, Location::Shared { block, offset: piece.offset }, &mut bytes)?;
        let bits = u128::from_le_bytes(bytes);
        let at = ((piece.line - first_line) * k + piece.k) as usize;
        let step = if major == Major::K { 1 } else { k as usize };
        for i in 0..storage.per_piece() {
            elements[at + i as usize * step] = storage.element(bits, i);
        }
    }
    Ok(elements)
}

/// Notes reads of an operand's lines that the actor's unit does not need itself: see [`Lane::OthersRows`].
pub fn note_others(
    machine: &mut Machine,
    who: &Actor,
    block: usize,
    (matrix, major): (Matrix, Major),
    storage: Storage,
    lines: Range<u32>,
    k: u32,
) -> Result<(), Stop> {
    let who = Actor { lane: Lane::OthersRows, ..who.clone() };
    for piece in matrix.pieces(major, lines, k, storage.bytes) {
        machine.check_bounds(&who, Location::Shared { block, offset: piece.offset }, 16)?;
        machine.note_shared_read(&who, block, piece.offset, 16);
    }
    Ok(())
}

/// The fault of a descriptor that says nothing the unit could do.
pub fn invalid(machine: &Machine, who: &Actor, descriptor: u64, invalid: Invalid) -> Stop {
    machine.fault(who, Kind::Operand, format!("matrix descriptor {descriptor:#018x}: {invalid}"))
}

/// The bits of an element.
pub const fn mask(bits: u32) -> u32 {
    u32::MAX >> (32 - bits)
}

/// A matrix of `lines` times `columns` elements of `bits` bits from a warp's registers, each of which begins at `place(lane, register)`.
pub fn gather<'a>(
    registers: impl IntoIterator<Item = &'a Lanes<u32>>,
    bits: u32,
    (lines, columns): (u32, u32),
    place: impl Fn(u32, u32) -> Place,
) -> Vec<u32> {
    let mut elements = vec![0; (lines * columns) as usize];
    for (i, row) in registers.into_iter().enumerate() {
        for (lane, value) in row.iter().enumerate() {
            let to = place(lane as u32, i as u32);
            let at = (to.line * columns + to.column) as usize;
            for e in 0..per_register(bits) {
                elements[at + e as usize] = (value >> (e * bits)) & mask(bits);
            }
        }
    }
    elements
}

/// Register `register` of a warp, from a matrix of `columns` columns: what [`gather`] takes apart.
pub fn scatter(
    elements: &[u32],
    bits: u32,
    columns: u32,
    register: u32,
    place: impl Fn(u32, u32) -> Place,
) -> Lanes<u32> {
    let mut row = [0; LANES];
    for (lane, value) in row.iter_mut().enumerate() {
        let from = place(lane as u32, register);
        let at = (from.line * columns + from.column) as usize;
        *value = (0..per_register(bits)).fold(0, |v, e| v | elements[at + e as usize] << (e * bits));
    }
    row
}

/// A vector of registers, without sinks.
pub fn registers(cx: &Decode<'_>, i: usize) -> Result<Arc<[Reg]>, Unsupported> {
    let all = cx.dests(i)?;
    let missing = || cx.unsupported("a sink among the registers of a matrix");
    all.into_iter().map(|r| r.ok_or_else(missing)).collect()
}

/// Element format by its name in an instruction.
pub fn format(name: &str) -> Option<Format> {
    Some(match name {
        "f16" => Format::F16,
        "bf16" => Format::BF16,
        "tf32" => Format::TF32,
        "e4m3" => Format::E4M3,
        "e5m2" => Format::E5M2,
        _ => return None,
    })
}
