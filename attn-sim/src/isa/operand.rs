//! Operands of matrix units in shared memory.

use crate::layout::descriptor::{Invalid, Major, Matrix};
use crate::machine::clock::Actor;
use crate::machine::{Location, Machine};
use crate::num::Format;
use crate::report::{Kind, Stop};
use std::ops::Range;

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
        (piece >> (i * self.bits)) as u32 & (u32::MAX >> (32 - self.bits))
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

/// The fault of a descriptor that says nothing the unit could do.
pub fn invalid(machine: &Machine, who: &Actor, descriptor: u64, invalid: Invalid) -> Stop {
    machine.fault(who, Kind::Operand, format!("matrix descriptor {descriptor:#018x}: {invalid}"))
}
