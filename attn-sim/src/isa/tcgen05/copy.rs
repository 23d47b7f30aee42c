//! `tcgen05.cp`: rows of shared memory to lanes of tensor memory.

use super::super::Decoded;
use super::super::operand::invalid;
use super::{Order, begin, group};
use crate::counters::Class;
use crate::layout::descriptor::Matrix;
use crate::layout::tmem::Cell;
use crate::machine::decode::{Addr, Decode, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::{Context, Location};
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop};

/// Decodes `tcgen05.cp.cta_group::G.SHAPE{.MULTICAST} [taddr], sdesc`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    let known = ["cp", "cta_group::1", "cta_group::2"];
    let shape: Vec<&str> = cx.modifiers().filter(|m| !known.contains(m)).collect();
    let (rows, bytes, lanes) = match shape[..] {
        ["128x256b"] => (128, 32, Lanes::Once),
        ["128x128b"] => (128, 16, Lanes::Once),
        ["4x256b"] => (4, 32, Lanes::Once),
        ["64x128b", "warpx2::02_13"] => (64, 16, Lanes::Pairs02),
        ["64x128b", "warpx2::01_23"] => (64, 16, Lanes::Pairs01),
        ["32x128b", "warpx4"] => (32, 16, Lanes::Quarters),
        _ => return Err(cx.unsupported(format!("the shape .{}", shape.join(".")))),
    };
    let (to, from) = (cx.address(0)?, cx.source(1, ScalarType::B64)?);
    Ok(Box::new(Copy { group: group(cx)?, rows, bytes, lanes, to, from }))
}

/// To which lanes a row goes.
#[derive(Clone, Copy, Debug)]
enum Lanes {
    Once,
    /// Quarters 0 and 2 get the first half, 1 and 3 the second.
    Pairs02,
    /// Quarters 0 and 1 get the first half, 2 and 3 the second.
    Pairs01,
    /// Every quarter gets all.
    Quarters,
}

impl Lanes {
    fn of(self, row: u32) -> Vec<u32> {
        let (half, r) = (row / 32, row % 32);
        match self {
            Lanes::Once => vec![row],
            Lanes::Pairs02 => vec![32 * half + r, 32 * (half + 2) + r],
            Lanes::Pairs01 => vec![64 * half + r, 64 * half + 32 + r],
            Lanes::Quarters => (0..4).map(|q| 32 * q + r).collect(),
        }
    }
}

#[derive(Debug)]
struct Copy {
    group: u32,
    rows: u32,
    bytes: u32,
    lanes: Lanes,
    to: Addr,
    from: Source,
}

impl Execute for Copy {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (to, from) = (cx.addresses(&self.to), cx.u64(&self.from));
        for lane in cx.lanes() {
            let (start, descriptor) = (Cell::of(to[lane] as u32), from[lane]);
            let matrix = Matrix::tcgen05(descriptor).map_err(|e| invalid(cx.m, &cx.actor(), descriptor, e))?;
            let who = begin(cx, "tcgen05");
            for block in super::multiply::blocks(cx, self.group)? {
                for row in 0..self.rows {
                    let words = self.row(cx, &who.shared, block, &matrix, row)?;
                    for to in self.lanes.of(row) {
                        cx.m.tmem_write(&who.tensor, block, start.lane + to, start.column, &words)?;
                    }
                }
            }
            cx.warp_state::<Order>().uncommitted += 1;
            cx.m.count_bytes("tcgen05.cp", u64::from(self.rows * self.bytes));
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::TensorMemory
    }
}

impl Copy {
    /// A row's words, read from shared memory as the rows of a K-major operand.
    fn row(
        &self,
        cx: &mut Context<'_>,
        who: &crate::machine::clock::Actor,
        block: usize,
        matrix: &Matrix,
        row: u32,
    ) -> Result<Vec<u32>, Stop> {
        let mut words = Vec::with_capacity(8);
        for first in (0..self.bytes).step_by(16) {
            let mut bytes = [0; 16];
            let offset = matrix.k_major(row, first);
            cx.m.read(who, Location::Shared { block, offset }, &mut bytes)?;
            words.extend(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])));
        }
        Ok(words)
    }
}

/// The fault of an operand that the instruction forbids.
pub(super) fn forbidden(cx: &Context<'_>, message: String) -> Stop {
    cx.fault(Kind::Operand, message)
}

#[cfg(test)]
mod tests {
    use super::Lanes;

    #[test]
    fn rows_go_to_their_quarters() {
        assert_eq!(Lanes::Pairs02.of(33), [33, 97]);
        assert_eq!(Lanes::Pairs01.of(33), [65, 97]);
        assert_eq!(Lanes::Quarters.of(5), [5, 37, 69, 101]);
        assert_eq!(Lanes::Once.of(100), [100]);
    }
}
