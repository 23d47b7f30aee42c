//! Matrices of one warp: `ldmatrix`, `stmatrix`, `movmatrix`, `mma.sync`.

use super::Decoded;
use super::operand::{self, format, mask, registers};
use crate::counters::Class;
use crate::layout::fragment;
use crate::machine::Context;
use crate::machine::clock::Lane;
use crate::machine::decode::{Addr, Decode, LANES, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::machine::registers::Lanes;
use crate::num::dot::Rule;
use crate::num::product::Arithmetic;
use crate::ptx::ScalarType;
use crate::report::{Stop, Unsupported};
use std::sync::Arc;

/// Rows of an 8x8 matrix, each of 16 bytes.
const ROWS: usize = 8;

mod bytes;
mod double;
mod float8;

/// Decodes the opcodes of this module.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    match cx.inst.opcode.as_str() {
        "ldmatrix" if cx.has("m8n16") || cx.has("m16n16") => bytes::load(cx),
        "stmatrix" if cx.has("m16n8") => bytes::store(cx),
        "ldmatrix" => {
            let moved = Move::decode(cx, 1)?;
            let dests = registers(cx, 0)?;
            moved.check(cx, dests.len())?;
            Ok(Box::new(Load { moved, dests }))
        }
        "stmatrix" => {
            let moved = Move::decode(cx, 0)?;
            let sources = cx.sources(1, ScalarType::B32)?;
            moved.check(cx, sources.len())?;
            Ok(Box::new(Store { moved, sources }))
        }
        "movmatrix" if cx.inst.modifiers == ["sync", "aligned", "m8n8", "trans", "b16"] => {
            Ok(Box::new(Transpose { dest: cx.dest(0)?, source: cx.source(1, ScalarType::B32)? }))
        }
        "mma" if cx.has("f64") => double::decode(cx),
        "mma" => Multiply::decode(cx),
        _ => Err(cx.unsupported("no such form")),
    }
}

/// Matrices of 16-bit elements between shared memory and registers.
#[derive(Debug)]
struct Move {
    count: usize,
    trans: bool,
    space: Space,
    address: Addr,
}

impl Move {
    fn decode(cx: &Decode<'_>, address: usize) -> Result<Self, Unsupported> {
        let mut moved = Move { count: 0, trans: false, space: Space::Generic, address: cx.address(address)? };
        for modifier in cx.modifiers() {
            match modifier {
                "sync" | "aligned" | "m8n8" | "b16" => {}
                "x1" => moved.count = 1,
                "x2" => moved.count = 2,
                "x4" => moved.count = 4,
                "trans" => moved.trans = true,
                "shared" | "shared::cta" => moved.space = Space::Shared,
                other => return Err(cx.unsupported(format!("the modifier .{other}; modelled are 8x8 matrices of b16"))),
            }
        }
        Ok(moved)
    }

    fn check(&self, cx: &Decode<'_>, registers: usize) -> Result<(), Unsupported> {
        if registers == self.count {
            return Ok(());
        }
        Err(cx.unsupported(format!("{registers} registers for {} matrices", self.count)))
    }

    /// Addresses of the rows of all matrices, from as many lanes.
    fn rows(&self, cx: &mut Context<'_>) -> Result<Lanes<u64>, Stop> {
        cx.aligned()?;
        let all = cx.mask;
        // Lanes beyond the matrices' rows need no address.
        cx.mask = all & mask((self.count * ROWS) as u32);
        let addresses = cx.addresses(&self.address);
        cx.mask = all;
        Ok(addresses)
    }
}

/// An 8x8 matrix as its rows' bytes.
type Rows = [[u8; 16]; ROWS];

fn element(rows: &Rows, (row, column): (u32, u32)) -> u32 {
    let bytes = &rows[row as usize][2 * column as usize..];
    u32::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// A lane's register of a matrix.
fn to_register(rows: &Rows, trans: bool) -> Lanes<u32> {
    std::array::from_fn(|lane| {
        let [low, high] = fragment::matrix8x8(lane as u32, trans);
        element(rows, low) | element(rows, high) << 16
    })
}

/// The matrix of which lanes hold parts.
fn from_register(values: &Lanes<u32>, trans: bool) -> Rows {
    let mut rows = [[0; 16]; ROWS];
    for (lane, value) in values.iter().enumerate() {
        for (i, (row, column)) in fragment::matrix8x8(lane as u32, trans).into_iter().enumerate() {
            let bytes = ((value >> (16 * i)) as u16).to_le_bytes();
            rows[row as usize][2 * column as usize..][..2].copy_from_slice(&bytes);
        }
    }
    rows
}

/// `ldmatrix`
#[derive(Debug)]
struct Load {
    moved: Move,
    dests: Arc<[Reg]>,
}

impl Execute for Load {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addresses = self.moved.rows(cx)?;
        // All matrices are read before a register changes: an address register may be a destination.
        let mut matrices = vec![[[0; 16]; ROWS]; self.dests.len()];
        for (i, row) in matrices.iter_mut().flatten().enumerate() {
            cx.load_as(Lane::Several, i, self.moved.space, addresses[i], 16, row)?;
        }
        for (rows, dest) in matrices.iter().zip(&*self.dests) {
            cx.set_u32(Some(*dest), &to_register(rows, self.moved.trans));
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Memory
    }
}

/// `stmatrix`
#[derive(Debug)]
struct Store {
    moved: Move,
    sources: Vec<Source>,
}

impl Execute for Store {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addresses = self.moved.rows(cx)?;
        for (m, source) in self.sources.iter().enumerate() {
            let rows = from_register(&cx.u32(source), self.moved.trans);
            for (r, row) in rows.iter().enumerate() {
                let lane = m * ROWS + r;
                cx.store_as(Lane::Several, lane, self.moved.space, addresses[lane], 16, row)?;
            }
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Memory
    }
}

/// `movmatrix.sync.aligned.m8n8.trans.b16`
#[derive(Debug)]
struct Transpose {
    dest: Option<Reg>,
    source: Source,
}

impl Execute for Transpose {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        cx.aligned()?;
        let rows = from_register(&cx.u32(&self.source), false);
        cx.set_u32(self.dest, &to_register(&rows, true));
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Warp
    }
}

/// `mma.sync.aligned.mMn8kK.row.col.D.A.B.C`
#[derive(Debug)]
struct Multiply {
    rows: u32,
    k: u32,
    /// Bits of an element in registers: integers of 4 become bytes.
    bits: u32,
    arithmetic: Arithmetic,
    d: Vec<Option<Reg>>,
    a: Vec<Source>,
    b: Vec<Source>,
    c: Vec<Source>,
}

/// Columns of D.
const COLUMNS: u32 = 8;

/// Bits and sign of an integer type.
fn integer(name: &str) -> Option<(u32, bool)> {
    Some(match name {
        "s8" => (8, true),
        "u8" => (8, false),
        "s4" => (4, true),
        "u4" => (4, false),
        _ => return None,
    })
}

impl Multiply {
    fn decode(cx: &Decode<'_>) -> Decoded {
        let fixed = ["sync", "aligned", "row", "col", "satfinite"];
        let parts: Vec<&str> = cx.modifiers().filter(|m| !fixed.contains(m)).collect();
        let [shape, d, a, b, c] = parts[..] else {
            return Err(cx.unsupported("other modifiers than a shape and four types"));
        };
        let (arithmetic, bits) = match (format(a), format(b), integer(a), integer(b)) {
            (Some(x), Some(y), ..) if d == c && (x == y || (x.bits() == 8 && y.bits() == 8)) => match d {
                "f32" => (Arithmetic::Float(x, y, Rule::F32), x.bits()),
                "f16" if x.bits() == 8 || a == "f16" => (Arithmetic::Float(x, y, Rule::F16), x.bits()),
                _ => return Err(cx.unsupported(format!("products of {a} and {b} in {d}"))),
            },
            (_, _, Some((bits, a_signed)), Some((same, b_signed))) if bits == same && (d, c) == ("s32", "s32") => {
                (Arithmetic::Integer { a_signed, b_signed, saturate: cx.has("satfinite") }, bits)
            }
            _ => return Err(cx.unsupported(format!("products of {a} and {b} plus {c} in {d}"))),
        };
        let is_integer = matches!(arithmetic, Arithmetic::Integer { .. });
        let (rows, k) = match (shape.strip_prefix("m16n8k"), shape.strip_prefix("m8n8k")) {
            (Some(k), _) => (16, k.parse().ok().filter(|&k: &u32| k == 128 / bits || k == 256 / bits)),
            (_, Some(k)) => (8, k.parse().ok().filter(|&k| is_integer && k == 128 / bits)),
            _ => (0, None),
        };
        let k: u32 = k.ok_or_else(|| cx.unsupported(format!("the shape {shape}")))?;
        let (d, c) = (cx.dests(0)?, cx.sources(3, ScalarType::B32)?);
        let (a, b) = (cx.sources(1, ScalarType::B32)?, cx.sources(2, ScalarType::B32)?);
        // Each register is 32 lanes of 32 bits.
        let registers = |lines: u32, columns: u32, bits: u32| (lines * columns * bits / 1024) as usize;
        let results = registers(rows, COLUMNS, arithmetic.result_bits());
        let counts = [d.len(), a.len(), b.len(), c.len()];
        if counts != [results, registers(rows, k, bits), registers(COLUMNS, k, bits), results] {
            return Err(cx.unsupported(format!("{counts:?} registers for D, A, B and C")));
        }
        Ok(Box::new(Multiply { rows, k, bits, arithmetic, d, a, b, c }))
    }
}

/// Integers of 4 bits as those of 8.
fn widen(elements: &mut [u32], signed: bool) {
    let negative = |x: u32| signed && x & 8 != 0;
    elements.iter_mut().for_each(|x| *x |= if negative(*x) { 0xf0 } else { 0 });
}

fn values(cx: &mut Context<'_>, sources: &[Source]) -> Vec<[u32; LANES]> {
    sources.iter().map(|s| cx.u32(s)).collect()
}

impl Execute for Multiply {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        cx.aligned()?;
        let (bits, results) = (self.bits, self.arithmetic.result_bits());
        let place = if results == 16 { fragment::d16 } else { fragment::d32 };
        let mut a = operand::gather(&values(cx, &self.a), bits, (self.rows, self.k), |l, r| fragment::a(bits, l, r));
        let mut b = operand::gather(&values(cx, &self.b), bits, (COLUMNS, self.k), |l, r| fragment::b(bits, l, r));
        let mut d = operand::gather(&values(cx, &self.c), results, (self.rows, COLUMNS), place);
        match self.arithmetic {
            Arithmetic::Float(x, y, rule) if bits == 8 => {
                float8::multiply((x, y), rule, self.k as usize, &a, &b, &mut d)
            }
            Arithmetic::Integer { a_signed, b_signed, .. } if bits == 4 => {
                widen(&mut a, a_signed);
                widen(&mut b, b_signed);
                self.arithmetic.multiply(self.k as usize, a, b, &mut d, true);
            }
            arithmetic => arithmetic.multiply(self.k as usize, a, b, &mut d, true),
        }
        for (i, reg) in self.d.iter().enumerate() {
            cx.set_u32(*reg, &operand::scatter(&d, results, COLUMNS, i as u32, place));
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Matrix
    }
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{lanes, refused};

    /// Row `r` of A is full of `r + a`, column `c` of B of `c + b`, C of ones.
    fn integers(shape: &str, types: &str, bits: u32, (rows, k): (i64, i64), (a, b): (i64, i64)) {
        let copies = if bits == 4 { 0x1111_1111u32 } else { 0x0101_0101 };
        let registers = |lines: i64, columns: i64, bits: i64| (lines * columns * bits / 1024) as usize;
        let list = |p: &str, n: usize| (0..n).map(|i| format!("{p}{i}")).collect::<Vec<_>>().join(", ");
        let mut body = ".reg .b32 a<4>, b<2>, d<4>, g; shr.u32 g, %lane, 2;\n".to_owned();
        let mut fill = |register: String, first: i64| {
            let mask = (1 << bits) - 1;
            body += &format!(
                "add.s32 {register}, g, {first}; and.b32 {register}, {register}, {mask}; mul.lo.u32 {register}, {register}, {copies};\n"
            );
        };
        let counts = [registers(rows, k, bits.into()), registers(8, k, bits.into()), registers(rows, 8, 32)];
        (0..counts[0]).for_each(|i| fill(format!("a{i}"), a + 8 * (i as i64 % 2)));
        (0..counts[1]).for_each(|i| fill(format!("b{i}"), b));
        (0..counts[2]).for_each(|i| body += &format!("mov.u32 d{i}, 1;\n"));
        let d = list("d", counts[2]);
        body += &format!(
            "mma.sync.aligned.{shape}.row.col.{types} {{{d}}}, {{{}}}, {{{}}}, {{{d}}};\n",
            list("a", counts[0]),
            list("b", counts[1])
        );
        for i in 0..counts[2] {
            let out = lanes("", &format!("{body} cvt.s64.s32 %out, d{i};"), &[]);
            for (lane, value) in out.into_iter().enumerate() {
                let (row, column) = ((lane / 4 + i / 2 * 8) as i64, (lane % 4 * 2 + i % 2) as i64);
                assert_eq!(value as i64, 1 + k * (row + a) * (column + b), "{shape} {types} {row} {column}");
            }
        }
    }

    #[test]
    fn integers_of_four_bits_and_of_eight_rows() {
        integers("m8n8k16", "s32.s8.u8.s32", 8, (8, 16), (-100, 200));
        integers("m8n8k32", "s32.s4.u4.s32", 4, (8, 32), (-8, 8));
        integers("m16n8k32", "s32.u4.s4.s32", 4, (16, 32), (0, -4));
        integers("m16n8k64", "s32.s4.s4.s32", 4, (16, 64), (-8, -8));
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "mma.sync.aligned.m8n8k32.row.col.s32.s8.s8.s32 {%r0, %r1}, {%r2}, {%r3}, {%r0, %r1};",
            "mma.sync.aligned.m8n8k16.row.col.f32.e4m3.e4m3.f32 {%r0, %r1}, {%r2}, {%r3}, {%r0, %r1};",
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.s4.s32 {%r0, %r1, %r2, %r3}, {%r4, %r5, %r6, %r7}, {%r8, %r9}, {%r0, %r1, %r2, %r3};",
        ] {
            refused(line);
        }
    }
}
