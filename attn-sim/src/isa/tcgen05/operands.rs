//! Operands of `tcgen05.mma`, read from shared and from tensor memory.

use super::Operation;
use super::copy::forbidden;
use super::multiply::Request;
use crate::isa::operand::{self, invalid, mask};
use crate::layout::descriptor::{Major, Matrix};
use crate::layout::swizzle::Swizzle;
use crate::layout::tmem::Cell;
use crate::machine::Context;
use crate::report::Stop;

/// Changes the sign of elements of `bits` bits, if asked to.
pub(super) fn negate(elements: &mut [u32], negate: bool, bits: u32) {
    if negate {
        elements.iter_mut().for_each(|x| *x ^= 1 << (bits - 1));
    }
}

/// Bytes as their halves, the lower first.
pub(super) fn nibbles(bytes: &[u32]) -> Vec<u32> {
    bytes.iter().flat_map(|byte| [byte & 0xf, byte >> 4]).collect()
}

/// Which operand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

/// An operand in shared memory: each block's part, the leader's first.
pub(super) fn read_shared(
    cx: &mut Context<'_>,
    op: &Operation,
    r: &Request,
    descriptor: u64,
    side: Side,
) -> Result<Vec<u32>, Stop> {
    let i = &r.instruction;
    let (lines, major, storage) = match side {
        Side::A => (i.m, i.a_major, r.storage.0),
        Side::B => (i.n, i.b_major, r.storage.1),
    };
    let matrix = Matrix::tcgen05(descriptor).and_then(|m| m.check(major).map(|()| m));
    let matrix = matrix.map_err(|e| invalid(cx.m, &op.shared, descriptor, e))?;
    if storage.bits == 32 && major == Major::Mn && matrix.swizzle != Swizzle::B128Atom32 {
        return Err(forbidden(cx, "an MN-major operand of tf32 without the swizzle of 32-byte atoms".into()));
    }
    let mut elements = Vec::with_capacity((lines * r.k) as usize);
    for &block in &r.blocks {
        let part = 0..lines / r.blocks.len() as u32;
        elements.extend(operand::read(cx.m, &op.shared, block, (matrix, major), storage, part, r.k)?);
    }
    Ok(elements)
}

/// A in tensor memory: elements that follow each other along K share a column, lowest first. Where D's columns are spread over
/// several groups of lanes, each group multiplies by the A of its own lanes: one A if they all hold the same, as PTX asks
/// for, and otherwise that of each group (kernels make two products of one instruction so).
pub(super) fn read_tensor(
    cx: &mut Context<'_>,
    op: &Operation,
    r: &Request,
    start: Cell,
) -> Result<Vec<Vec<u32>>, Stop> {
    let bits = r.storage.0.bits;
    let (per, columns) = (32 / bits, r.k * bits / 32);
    let columns = start.column..start.column + columns;
    let groups = r.path.a_lanes(0).1.len();
    let mut all = vec![Vec::with_capacity((r.instruction.m * r.k) as usize); groups];
    for row in 0..r.instruction.m {
        let (block, lanes) = r.path.a_lanes(row);
        for (elements, lane) in all.iter_mut().zip(lanes) {
            let words = cx.m.tmem_read(&op.tensor, r.blocks[block as usize], start.lane + lane, columns.clone())?;
            elements.extend(words.iter().flat_map(|word| (0..per).map(move |i| word >> (i * bits) & mask(bits))));
        }
    }
    if all.iter().all(|elements| *elements == all[0]) {
        all.truncate(1);
    }
    Ok(all)
}
