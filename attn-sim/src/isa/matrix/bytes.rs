//! `ldmatrix` and `stmatrix` of 8-bit elements (sm_100a), some of which lie in memory with 4 or 6 bits.
//!
//! Rows are 16 bytes at the address that a lane gives. Lane `4 g + q` holds of them:
//!
//! | form | register | its bytes, the lowest first: (row, byte of the row) |
//! |---|---|---|
//! | `ldmatrix.m8n16` | one of each 8 rows | `(g, 4q)`, `(g, 4q+1)`, `(g, 4q+2)`, `(g, 4q+3)` |
//! | `ldmatrix.m16n16.trans` | `j` of two of each 16 rows | `(4q+2j, g)`, `(4q+2j+1, g)`, `(4q+2j, g+8)`, `(4q+2j+1, g+8)` |
//! | `stmatrix.m16n8.trans` | one of each 8 rows | `(2q, g)`, `(2q+1, g)`, `(2q, g+8)`, `(2q+1, g+8)` |
//!
//! 16 elements of 4 or 6 bits lie at the start of a row; each becomes a byte whose upper bits are zero.

use super::super::Decoded;
use super::super::form::Form;
use super::super::operand::{mask, registers};
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::clock::Lane;
use crate::machine::decode::{Addr, Decode, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::machine::registers::Lanes;
use crate::ptx::ScalarType;
use crate::report::{Stop, Unsupported};
use std::sync::Arc;

/// Which bytes of the rows a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// `m8n16`
    Rows8,
    /// `m16n16.trans`
    Rows16,
    /// `m16n8.trans`
    Columns8,
}

impl Shape {
    /// Rows, and registers, of a matrix.
    fn extents(self) -> (usize, usize) {
        if self == Shape::Rows16 { (16, 2) } else { (8, 1) }
    }

    /// Byte `i` of a lane's register: row and byte of the row.
    fn place(self, lane: usize, register: usize, i: usize) -> (usize, usize) {
        let (g, q) = (lane / 4, lane % 4);
        match self {
            Shape::Rows8 => (g, 4 * q + i),
            Shape::Rows16 => (4 * q + 2 * register + i % 2, g + i / 2 * 8),
            Shape::Columns8 => (2 * q + i % 2, g + i / 2 * 8),
        }
    }
}

/// What both instructions say.
#[derive(Debug)]
struct Move {
    shape: Shape,
    matrices: usize,
    /// Bits of an element in memory.
    bits: u32,
    space: Space,
    address: Addr,
}

impl Move {
    fn decode(cx: &Decode<'_>, address: usize, shapes: &[(&str, Shape)], narrow: bool) -> Result<Self, Unsupported> {
        let mut form = Form::new(cx);
        form.expect("sync")?;
        form.expect("aligned")?;
        let shape = form.required("the shape", shapes)?;
        let matrices = form.required("the number of matrices", &[("x1", 1), ("x2", 2), ("x4", 4)])?;
        if shape != Shape::Rows8 {
            form.expect("trans")?;
        }
        let space = form.find(Space::parse).unwrap_or(Space::Generic);
        let bits = if narrow && form.take("b8x16") {
            form.required("the source format", &[("b4x16_p64", 4), ("b6x16_p32", 6)])?
        } else {
            form.expect("b8")?;
            8
        };
        form.done(2..=2)?;
        if (shape == Shape::Rows8 && bits == 8) || (shape == Shape::Rows16 && matrices == 4) {
            return Err(cx.unsupported("the shape with this type or number"));
        }
        Ok(Move { shape, matrices, bits, space, address: cx.address(address)? })
    }

    /// Registers of a lane.
    fn registers(&self) -> usize {
        self.matrices * self.shape.extents().1
    }

    /// Addresses of the rows of all matrices, from as many lanes.
    fn rows(&self, cx: &mut Context<'_>) -> Result<Lanes<u64>, Stop> {
        cx.aligned()?;
        let all = cx.mask;
        cx.mask = all & mask((self.matrices * self.shape.extents().0) as u32);
        let addresses = cx.addresses(&self.address);
        cx.mask = all;
        Ok(addresses)
    }

    /// Matrix and register in it, and the bytes of a lane's register: (row among all, byte).
    fn places(&self, lane: usize, register: usize) -> [(usize, usize); 4] {
        let (rows, registers) = self.shape.extents();
        std::array::from_fn(|i| {
            let (row, byte) = self.shape.place(lane, register % registers, i);
            (register / registers * rows + row, byte)
        })
    }
}

/// A row's elements as bytes.
fn expand(row: [u8; 16], bits: u32) -> [u8; 16] {
    let packed = u128::from_le_bytes(row);
    std::array::from_fn(|i| (packed >> (i as u32 * bits)) as u8 & mask(bits) as u8)
}

/// Decodes `ldmatrix.m8n16` and `ldmatrix.m16n16`.
pub(super) fn load(cx: &Decode<'_>) -> Decoded {
    let shapes = [("m8n16", Shape::Rows8), ("m16n16", Shape::Rows16)];
    let moved = Move::decode(cx, 1, &shapes, true)?;
    let dests = registers(cx, 0)?;
    if dests.len() != moved.registers() {
        return Err(cx.unsupported(format!("{} registers for {}", dests.len(), moved.registers())));
    }
    Ok(Box::new(Load { moved, dests }))
}

/// Decodes `stmatrix.m16n8`.
pub(super) fn store(cx: &Decode<'_>) -> Decoded {
    let moved = Move::decode(cx, 0, &[("m16n8", Shape::Columns8)], false)?;
    let sources = cx.sources(1, ScalarType::B32)?;
    if sources.len() != moved.registers() {
        return Err(cx.unsupported(format!("{} registers for {}", sources.len(), moved.registers())));
    }
    Ok(Box::new(Store { moved, sources }))
}

#[derive(Debug)]
struct Load {
    moved: Move,
    dests: Arc<[Reg]>,
}

impl Execute for Load {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addresses = self.moved.rows(cx)?;
        // All rows are read before a register changes: an address register may be a destination.
        let mut rows = vec![[0; 16]; self.moved.matrices * self.moved.shape.extents().0];
        for (lane, row) in rows.iter_mut().enumerate() {
            cx.load_as(Lane::Several, lane, self.moved.space, addresses[lane], 16, row)?;
            *row = expand(*row, self.moved.bits);
        }
        for (register, dest) in self.dests.iter().enumerate() {
            let words: Lanes<u32> = std::array::from_fn(|lane| {
                u32::from_le_bytes(self.moved.places(lane, register).map(|(row, byte)| rows[row][byte]))
            });
            cx.set_u32(Some(*dest), &words);
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Memory
    }
}

#[derive(Debug)]
struct Store {
    moved: Move,
    sources: Vec<Source>,
}

impl Execute for Store {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addresses = self.moved.rows(cx)?;
        let mut rows = vec![[0; 16]; self.moved.matrices * self.moved.shape.extents().0];
        for (register, source) in self.sources.iter().enumerate() {
            for (lane, word) in cx.u32(source).iter().enumerate() {
                for ((row, byte), value) in self.moved.places(lane, register).into_iter().zip(word.to_le_bytes()) {
                    rows[row][byte] = value;
                }
            }
        }
        for (lane, row) in rows.iter().enumerate() {
            cx.store_as(Lane::Several, lane, self.moved.space, addresses[lane], 16, row)?;
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::testing::{lanes, refused};
    use std::collections::HashSet;

    #[test]
    fn registers_cover_their_rows() {
        for shape in [Shape::Rows8, Shape::Rows16, Shape::Columns8] {
            let (rows, registers) = shape.extents();
            let places: HashSet<_> = (0..32)
                .flat_map(|lane| (0..registers).flat_map(move |r| (0..4).map(move |i| shape.place(lane, r, i))))
                .collect();
            assert_eq!(places.len(), rows * 16, "{shape:?}");
            assert!(places.iter().all(|(row, byte)| *row < rows && *byte < 16));
        }
    }

    /// Byte `i` of the buffer is `i`, row `r` begins at `16 r`; a lane's register as the rows and bytes it came from.
    fn loaded(form: &str, registers: &str, result: &str, lane: usize) -> [(usize, usize); 4] {
        let body = format!(
            ".reg .b32 at, v<4>; .reg .b8 b<4>; mov.u32 at, buf; shl.b32 %r0, %lane, 3; add.u32 %r1, at, %r0;
             mad.lo.u32 %r2, %lane, 8, 0x03020100; mad.lo.u32 %r2, %lane, 0x08080800, %r2;
             add.u32 %r3, %r2, 0x04040404; st.shared.v2.b32 [%r1], {{%r2, %r3}}; bar.warp.sync -1;
             and.b32 %r4, %lane, 15; mad.lo.u32 %r4, %r4, 16, at; {form} {{{registers}}}, [%r4]; cvt.u64.u32 %out, {result};"
        );
        let word = lanes("", &body, &[])[lane] as u32;
        word.to_le_bytes().map(|b| (usize::from(b) / 16, usize::from(b) % 16))
    }

    #[test]
    fn sixteen_by_sixteen_bytes_are_transposed() {
        let form = "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8";
        // Lane 6 is g = 1, q = 2.
        assert_eq!(loaded(form, "v0, v1", "v0", 6), [(8, 1), (9, 1), (8, 9), (9, 9)]);
        assert_eq!(loaded(form, "v0, v1", "v1", 6), [(10, 1), (11, 1), (10, 9), (11, 9)]);
    }

    #[test]
    fn narrow_elements_become_bytes() {
        let mut row = [0xff; 16];
        row[..3].copy_from_slice(&[0x21, 0x43, 0x65]);
        assert_eq!(expand(row, 4)[..6], [1, 2, 3, 4, 5, 6]);
        assert_eq!(expand(row, 4)[15], 15);
        row[..3].copy_from_slice(&[0x41, 0x20, 0xfc]);
        assert_eq!(expand(row, 6)[..4], [1, 1, 2, 63]);
        // Two rows of 4-bit elements, the second one's byte 2 from nibbles 4 and 5: bytes 0x12 and 0x13 are read as nibbles.
        let body = ".reg .b32 at, v; mov.u32 at, buf; mad.lo.u32 %r1, %lane, 8, at; mul.lo.u32 %r2, %lane, 0x11111111;
             st.shared.v2.b32 [%r1], {%r2, %r2}; bar.warp.sync -1; and.b32 %r4, %lane, 7; mad.lo.u32 %r4, %r4, 16, at;
             ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b4x16_p64 {v}, [%r4]; cvt.u64.u32 %out, v;";
        for (lane, word) in lanes("", body, &[]).into_iter().enumerate() {
            // Row g begins at lane 2g's words, and its upper half is padding.
            let nibble = (2 * (lane / 4) as u64) & 15;
            assert_eq!(word, 0x0101_0101 * nibble, "{lane}");
        }
    }

    #[test]
    fn columns_are_stored_as_rows() {
        let body = ".reg .b32 at; mov.u32 at, buf; shl.b32 %r0, %lane, 2; mul.lo.u32 %r0, %r0, 0x01010101;
             add.u32 %r0, %r0, 0x03020100; and.b32 %r1, %lane, 7; mad.lo.u32 %r1, %r1, 16, at;
             stmatrix.sync.aligned.m16n8.x1.trans.shared.b8 [%r1], {%r0}; bar.warp.sync -1;
             and.b32 %r2, %lane, 15; mad.lo.u32 %r2, %r2, 8, at; ld.shared.b64 %out, [%r2];";
        let rows: Vec<u8> = lanes("", body, &[])[..16].iter().flat_map(|v| v.to_le_bytes()).collect();
        for lane in 0..32 {
            for i in 0..4 {
                let (row, byte) = Shape::Columns8.place(lane, 0, i);
                assert_eq!(usize::from(rows[16 * row + byte]), 4 * lane + i, "{lane} {i}");
            }
        }
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "ldmatrix.sync.aligned.m16n16.x4.trans.shared.b8 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%r8];",
            "ldmatrix.sync.aligned.m16n16.x1.shared.b8 {%r0, %r1}, [%r8];",
            "ldmatrix.sync.aligned.m8n16.x1.shared.b8 {%r0}, [%r8];",
            "stmatrix.sync.aligned.m16n8.x1.shared.b8 [%r8], {%r0};",
            "stmatrix.sync.aligned.m16n8.x2.trans.shared.b8 [%r8], {%r0};",
        ] {
            refused(line);
        }
    }
}
