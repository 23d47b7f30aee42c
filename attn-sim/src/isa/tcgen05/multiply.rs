//! `tcgen05.mma`: D = A B^T, plus D, in the tensor memory of one block or of a pair.
//!
//! With `cta_group::2` each block of the pair holds its rows of A and of D, and half of B's columns, at the same offsets.

use super::super::Decoded;
use super::super::operand::{self, Storage, invalid, mask};
use super::copy::forbidden;
use super::{Operation, Order, begin, group};
use crate::counters::Class;
use crate::layout::descriptor::{Major, Matrix};
use crate::layout::instruction::Instruction;
use crate::layout::swizzle::Swizzle;
use crate::layout::tmem::{Cell, DataPath};
use crate::machine::Context;
use crate::machine::decode::{Addr, Decode, LANES, Source};
use crate::machine::execute::{Execute, Step};
use crate::num::Format;
use crate::num::dot::Rule;
use crate::num::float::{Mode, mul_f32};
use crate::num::product::Arithmetic;
use crate::ptx::{Operand, ScalarType};
use crate::report::{Kind, Stop, Unsupported};

/// What the elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Types {
    F16,
    Tf32,
    F8f6f4,
    I8,
}

/// Where A comes from.
#[derive(Debug)]
enum A {
    Shared(Source),
    Tensor(Addr),
}

#[derive(Debug)]
struct Multiply {
    group: u32,
    types: Types,
    stationary: bool,
    d: Addr,
    a: A,
    b: Source,
    instruction: Source,
    /// Lanes that are not written, 32 in each value.
    disabled: Vec<Source>,
    accumulate: Source,
    /// D counts 2^-scale times.
    scale: u32,
}

/// Decodes `tcgen05.mma{.ws}.cta_group::G.kind::K [d], a, b, idesc, {disabled}?, p{, scale}`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    let mut types = None;
    for modifier in cx.modifiers().skip(1) {
        match modifier {
            "cta_group::1" | "cta_group::2" | "ws" => {}
            "kind::f16" => types = Some(Types::F16),
            "kind::tf32" => types = Some(Types::Tf32),
            "kind::f8f6f4" => types = Some(Types::F8f6f4),
            "kind::i8" => types = Some(Types::I8),
            // Where A is kept between multiplies changes no result.
            collector if collector.starts_with("collector::") => {}
            other => return Err(cx.unsupported(format!("the modifier .{other}"))),
        }
    }
    let types = types.ok_or_else(|| cx.unsupported("no kind"))?;
    let disabled =
        if matches!(cx.operand(4)?, Operand::Vector(_)) { cx.sources(4, ScalarType::B32)? } else { Vec::new() };
    let next = if disabled.is_empty() { 4 } else { 5 };
    let group = group(cx)?;
    if !(disabled.is_empty() || disabled.len() as u32 == 4 * group) {
        return Err(cx.unsupported(format!("{} registers of disabled lanes", disabled.len())));
    }
    let stationary = cx.has("ws");
    if stationary && (group != 1 || cx.operands() > next + 1) {
        return Err(cx.unsupported("weight-stationary products of two blocks, or with masked columns"));
    }
    Ok(Box::new(Multiply {
        group,
        types,
        stationary,
        d: cx.address(0)?,
        a: match cx.operand(1)? {
            Operand::Address(_) => A::Tensor(cx.address(1)?),
            _ => A::Shared(cx.source(1, ScalarType::B64)?),
        },
        b: cx.source(2, ScalarType::B64)?,
        instruction: cx.source(3, ScalarType::B32)?,
        disabled,
        accumulate: cx.pred(next)?,
        scale: scale(cx, next + 1, types)?,
    }))
}

fn scale(cx: &Decode<'_>, at: usize, types: Types) -> Result<u32, Unsupported> {
    if cx.operands() <= at {
        return Ok(0);
    }
    match cx.int(at)? {
        scale @ 0..16 if matches!(types, Types::F16 | Types::Tf32) => Ok(scale as u32),
        other => Err(cx.unsupported(format!("{other} as the scale of D"))),
    }
}

/// The blocks that work together, the leader first; indices in the machine.
pub(super) fn blocks(cx: &Context<'_>, group: u32) -> Result<Vec<usize>, Stop> {
    if group == 1 {
        return Ok(vec![cx.block]);
    }
    let leader = cx.m.blocks[cx.block].rank & !1;
    let pair: Option<Vec<usize>> = [leader, leader + 1].into_iter().map(|rank| cx.m.peer(cx.block, rank)).collect();
    pair.ok_or_else(|| forbidden(cx, "cta_group::2 in a cluster without a block of the other rank".into()))
}

/// What one thread asks for.
struct Request {
    instruction: Instruction,
    arithmetic: Arithmetic,
    storage: (Storage, Storage),
    path: DataPath,
    blocks: Vec<usize>,
    k: u32,
    d: Cell,
    disabled: [u32; 8],
    accumulate: bool,
}

impl Execute for Multiply {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (d, b, instruction) = (cx.addresses(&self.d), cx.u64(&self.b), cx.u32(&self.instruction));
        let a = match &self.a {
            A::Shared(source) => cx.u64(source),
            A::Tensor(address) => cx.addresses(address),
        };
        let accumulate = cx.pred(&self.accumulate);
        let disabled: Vec<_> = self.disabled.iter().map(|source| cx.u32(source)).collect();
        for lane in cx.lanes() {
            let mut request = self.request(cx, instruction[lane], d[lane] as u32, accumulate >> lane & 1 == 1)?;
            for (mine, values) in request.disabled.iter_mut().zip(&disabled) {
                *mine = values[lane];
            }
            self.multiply(cx, &request, a[lane], b[lane])?;
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Matrix
    }
}

impl Multiply {
    fn request(&self, cx: &Context<'_>, bits: u32, d: u32, accumulate: bool) -> Result<Request, Stop> {
        let i = Instruction::decode(bits);
        let refuse = |what: &str| Err(forbidden(cx, format!("instruction descriptor {bits:#010x}: {what}")));
        if i.sparse {
            return Err(cx.unsupported("sparse products"));
        }
        let Some((arithmetic, storage)) = self.arithmetic(&i) else {
            return refuse(&format!("types {}, {} and {} do not go with the kind", i.d, i.a, i.b));
        };
        let Some(path) = DataPath::of(i.m, self.group, self.stationary) else {
            return refuse(&format!("{} rows in {} blocks", i.m, self.group));
        };
        if i.n == 0 || i.n > 256 || !i.n.is_multiple_of(8 * self.group) {
            return refuse(&format!("{} columns", i.n));
        }
        let in_tensor = matches!(self.a, A::Tensor(_));
        if in_tensor && i.a_major == Major::Mn {
            return refuse("an MN-major A in tensor memory");
        }
        if in_tensor && !matches!(arithmetic.bits().0, 8 | 16 | 32) {
            return Err(cx.unsupported("elements of 4 or 6 bits in tensor memory"));
        }
        let d = Cell::of(d);
        if d.lane != 0 && !(d.lane == 16 && path == DataPath::Rows64) {
            return Err(cx.fault(Kind::TensorMemory, format!("D begins at lane {}", d.lane)));
        }
        let k = 32 / storage.0.bytes;
        let blocks = blocks(cx, self.group)?;
        Ok(Request { instruction: i, arithmetic, storage, path, blocks, k, d, disabled: [0; 8], accumulate })
    }

    /// Types by the descriptor's codes.
    fn arithmetic(&self, i: &Instruction) -> Option<(Arithmetic, (Storage, Storage))> {
        let format = |code: u32| {
            Some(match (self.types, code) {
                (Types::F16, 0) => Format::F16,
                (Types::F16, 1) => Format::BF16,
                (Types::Tf32, 2) => Format::TF32,
                (Types::F8f6f4, 0) => Format::E4M3,
                (Types::F8f6f4, 1) => Format::E5M2,
                (Types::F8f6f4, 3) => Format::E2M3,
                (Types::F8f6f4, 4) => Format::E3M2,
                (Types::F8f6f4, 5) => Format::E2M1,
                _ => return None,
            })
        };
        if self.types == Types::I8 {
            let arithmetic = Arithmetic::Integer { a_signed: i.a == 1, b_signed: i.b == 1, saturate: i.saturate };
            return (i.d == 2 && i.a < 2 && i.b < 2).then_some((arithmetic, (Storage::BYTE, Storage::BYTE)));
        }
        let (x, y) = (format(i.a)?, format(i.b)?);
        let rule = match i.d {
            1 => Rule::F32,
            0 if self.types == Types::F8f6f4 || (x, y) == (Format::F16, Format::F16) => Rule::F16,
            _ => return None,
        };
        (self.types == Types::F8f6f4 || x == y)
            .then_some((Arithmetic::Float(x, y, rule), (Storage::of(x), Storage::of(y))))
    }

    fn multiply(&self, cx: &mut Context<'_>, r: &Request, a: u64, b: u64) -> Result<(), Stop> {
        let op = begin(cx, "tcgen05");
        let mut a = match self.a {
            A::Shared(_) => read_shared(cx, &op, r, a, Side::A)?,
            A::Tensor(_) => read_tensor(cx, &op, r, Cell::of(a as u32))?,
        };
        let mut b = read_shared(cx, &op, r, b, Side::B)?;
        negate(&mut a, r.instruction.negate_a, r.storage.0);
        negate(&mut b, r.instruction.negate_b, r.storage.1);
        let mut d = vec![0; (r.instruction.m * r.instruction.n) as usize];
        if r.accumulate {
            self.read_d(cx, &op, r, &mut d)?;
        }
        r.arithmetic.multiply(r.k as usize, a, b, &mut d, r.accumulate);
        write_d(cx, &op, r, &d)?;
        cx.warp_state::<Order>().uncommitted += 1;
        cx.m.count_bytes("tcgen05.mma", u64::from((r.instruction.m + r.instruction.n) * 32));
        Ok(())
    }

    fn read_d(&self, cx: &mut Context<'_>, op: &Operation, r: &Request, d: &mut [u32]) -> Result<(), Stop> {
        for (at, length, block, cell) in runs(r) {
            let row = cx.m.tmem_read(&op.tensor, block, cell.lane, cell.column..cell.column + length)?;
            d[at..at + row.len()].copy_from_slice(row);
        }
        let result = r.arithmetic.result_bits();
        for x in d.iter_mut() {
            *x &= mask(result);
            if self.scale > 0 {
                *x = scaled(*x, result, self.scale);
            }
        }
        Ok(())
    }
}

/// `x * 2^-scale`, in f32 or f16.
fn scaled(x: u32, bits: u32, scale: u32) -> u32 {
    let factor = f32::from_bits((127 - scale) << 23);
    if bits == 32 {
        return mul_f32(f32::from_bits(x), factor, Mode::NEAREST).to_bits();
    }
    let wide = Format::F32.encode(Format::F16.decode(x.into()), crate::num::Rounding::Nearest) as u32;
    let product = mul_f32(f32::from_bits(wide), factor, Mode::NEAREST);
    Format::F16.encode(Format::F32.decode(product.to_bits().into()), crate::num::Rounding::Nearest) as u32
}

fn negate(elements: &mut [u32], negate: bool, storage: Storage) {
    if negate {
        elements.iter_mut().for_each(|x| *x ^= 1 << (storage.bits - 1));
    }
}

/// Which operand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    A,
    B,
}

/// An operand in shared memory: each block's part, the leader's first.
fn read_shared(
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

/// A in tensor memory: elements that follow each other along K share a column, lowest first.
fn read_tensor(cx: &mut Context<'_>, op: &Operation, r: &Request, start: Cell) -> Result<Vec<u32>, Stop> {
    let bits = r.storage.0.bits;
    let (per, columns) = (32 / bits, r.k * bits / 32);
    let mut elements = Vec::with_capacity((r.instruction.m * r.k) as usize);
    for row in 0..r.instruction.m {
        let (block, lanes) = r.path.a_lanes(row);
        let columns = start.column..start.column + columns;
        let mut words = Vec::new();
        // The copies for other columns of D must be there too; the first one is what counts.
        for lane in lanes.into_iter().rev() {
            words = cx.m.tmem_read(&op.tensor, r.blocks[block as usize], start.lane + lane, columns.clone())?.to_vec();
        }
        elements.extend(words.iter().flat_map(|word| (0..per).map(move |i| word >> (i * bits) & mask(bits))));
    }
    Ok(elements)
}

/// The runs of columns that D's rows are in: index of the first element, length, block and first cell. Disabled lanes have none.
fn runs(r: &Request) -> Vec<(usize, u32, usize, Cell)> {
    let n = r.instruction.n;
    let length = n / match r.path {
        DataPath::Pair128 | DataPath::Stationary64 => 2,
        DataPath::Stationary32 => 4,
        _ => 1,
    };
    let mut runs = Vec::new();
    for row in 0..r.instruction.m {
        for first in (0..n).step_by(length as usize) {
            let (block, cell) = r.path.cell(row, first, n);
            let lane = r.d.lane + cell.lane;
            let bit = (block * 4 * LANES as u32 + lane) as usize;
            if r.disabled[bit / LANES] >> (bit % LANES) & 1 == 0 {
                let cell = Cell { lane, column: r.d.column + cell.column };
                runs.push(((row * n + first) as usize, length, r.blocks[block as usize], cell));
            }
        }
    }
    runs
}

fn write_d(cx: &mut Context<'_>, op: &Operation, r: &Request, d: &[u32]) -> Result<(), Stop> {
    for (at, length, block, cell) in runs(r) {
        cx.m.tmem_write(&op.tensor, block, cell.lane, cell.column, &d[at..at + length as usize])?;
    }
    Ok(())
}
