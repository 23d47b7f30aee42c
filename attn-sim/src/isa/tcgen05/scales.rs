//! Block scales of `tcgen05.mma`: where they lie in tensor memory, and the products that they scale.
//!
//! The scales of line `r` of an operand (row of A, column of B) are bytes of the cell at lane `r % 32` and column `r / 32` behind the
//! address; the same lie in each of the four quarters of the lanes. One scale is any byte of the cell, two are its lower or upper
//! half, four are all of it: the instruction descriptor says which. A pair's blocks hold the scales of their own rows of A and of all
//! columns of B.

use super::Operation;
use super::copy::forbidden;
use crate::layout::instruction::Scaled;
use crate::layout::tmem::{Cell, LANES};
use crate::machine::Context;
use crate::machine::decode::{Addr, Decode};
use crate::num::Format;
use crate::num::scaled::{self, ScaleFormat, Scales};
use crate::report::{Kind, Stop, Unsupported};

/// Lanes of a quarter, each of which has all scales.
const QUARTER: u32 = 32;

/// The scale operands of an instruction.
#[derive(Debug)]
pub(super) struct BlockScale {
    /// Scales of a line.
    count: u32,
    /// All elements have 4 bits.
    nibbles: bool,
    pub(super) a: Addr,
    pub(super) b: Addr,
}

/// What a descriptor says of the scales, and where they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    format: ScaleFormat,
    /// Cell and byte of the first line's.
    a: (Cell, u32),
    b: (Cell, u32),
}

impl BlockScale {
    /// Reads the modifiers and the operands of an instruction of a kind with scales.
    pub(super) fn decode(cx: &Decode<'_>, kind: &str) -> Result<Self, Unsupported> {
        if !cx.has("block_scale") {
            return Err(cx.unsupported("without .block_scale"));
        }
        let size = cx.modifiers().find(|m| m.starts_with("scale_vec::") || m.starts_with("block1") || *m == "block32");
        let count = match (kind, size) {
            ("kind::mxf8f6f4", None | Some("scale_vec::1X" | "block32")) => 1,
            ("kind::mxf4", None | Some("scale_vec::2X" | "block32")) => 2,
            ("kind::mxf4nvf4", Some("scale_vec::2X" | "block32")) => 2,
            ("kind::mxf4nvf4", Some("scale_vec::4X" | "block16")) => 4,
            _ => return Err(cx.unsupported(format!("{} for the kind", size.unwrap_or("no size of blocks")))),
        };
        if cx.operands() != 7 {
            return Err(cx.unsupported(format!("{} operands", cx.operands())));
        }
        Ok(BlockScale { count, nibbles: kind != "kind::mxf8f6f4", a: cx.address(4)?, b: cx.address(5)? })
    }

    /// Checks what a descriptor says.
    pub(super) fn place(&self, cx: &Context<'_>, bits: u32, (a, b): (u32, u32)) -> Result<(Scaled, Place), Stop> {
        let scaled = Scaled::decode(bits, self.nibbles);
        let refuse = |what: String| Err(forbidden(cx, format!("instruction descriptor {bits:#010x}: {what}")));
        if scaled.long {
            return Err(cx.unsupported("a K of 96"));
        }
        for byte in [scaled.a_byte, scaled.b_byte] {
            if !byte.is_multiple_of(self.count) {
                return refuse(format!("{} scales of a line from byte {byte}", self.count));
            }
        }
        if !scaled.powers && self.count != 4 {
            return refuse(format!("ue4m3 scales, {} to a line", self.count));
        }
        let (a, b) = (Cell::of(a), Cell::of(b));
        if let Some(cell) = [a, b].into_iter().find(|cell| cell.lane != 0) {
            return Err(cx.fault(Kind::TensorMemory, format!("scales begin at lane {}", cell.lane)));
        }
        let format = if scaled.powers { ScaleFormat::Power } else { ScaleFormat::Number };
        Ok((scaled, Place { format, a: (a, scaled.a_byte), b: (b, scaled.b_byte) }))
    }

    /// `D = A B^T`, plus D where `accumulate`: rows of A and of D are shared evenly among the blocks.
    pub(super) fn multiply(
        &self,
        cx: &mut Context<'_>,
        op: &Operation,
        (blocks, place): (&[usize], Place),
        (formats, k): ((Format, Format), usize),
        (a, b): (&[u32], &[u32]),
        (d, accumulate): (&mut [u32], bool),
    ) -> Result<(), Stop> {
        let (rows, columns) = (a.len() / k / blocks.len(), b.len() / k);
        for (i, &block) in blocks.iter().enumerate() {
            let x = self.read(cx, op, block, place.a, rows as u32)?;
            let y = self.read(cx, op, block, place.b, columns as u32)?;
            let scales = (Scales { format: place.format, bytes: &x }, Scales { format: place.format, bytes: &y });
            let operands = (&a[i * rows * k..][..rows * k], b);
            let d = &mut d[i * rows * columns..][..rows * columns];
            if self.nibbles {
                scaled::multiply_nibbles(k, operands, scales, d, accumulate);
            } else {
                scaled::multiply_bytes(formats, k, operands, scales, d, accumulate);
            }
        }
        Ok(())
    }

    /// The scales of so many lines, those of a line together.
    fn read(
        &self,
        cx: &mut Context<'_>,
        op: &Operation,
        block: usize,
        (start, byte): (Cell, u32),
        lines: u32,
    ) -> Result<Vec<u8>, Stop> {
        let (first, count) = (byte as usize, self.count as usize);
        let mut scales = vec![0; lines as usize * count];
        let columns = start.column..start.column + lines.div_ceil(QUARTER);
        for lane in 0..LANES {
            let words = cx.m.tmem_read(&op.tensor, block, lane, columns.clone())?.to_vec();
            for (line, word) in (lane % QUARTER..lines).step_by(QUARTER as usize).zip(words) {
                let bytes = &word.to_le_bytes()[first..first + count];
                let here = &mut scales[line as usize * count..][..count];
                if lane >= QUARTER && here != bytes {
                    let message =
                        format!("the scales of line {line} differ between lanes {} and {lane}", lane % QUARTER);
                    return Err(cx.fault(Kind::TensorMemory, message));
                }
                here.copy_from_slice(bytes);
            }
        }
        Ok(scales)
    }
}
