//! `tcgen05.mma`: D = A B^T, plus D, in the tensor memory of one block or of a pair.
//!
//! With `cta_group::2` each block of the pair holds its rows of A and of D, and half of B's columns, at the same offsets.

use super::super::Decoded;
use super::super::operand::{Storage, mask};
use super::copy::forbidden;
use super::operands::{Side, negate, nibbles, read_shared, read_tensor};
use super::scales::{BlockScale, Place};
use super::{Operation, Order, begin, group};
use crate::counters::Class;
use crate::layout::descriptor::Major;
use crate::layout::instruction::Instruction;
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
    /// `mxf4` and `mxf4nvf4`: e2m1, two to a byte.
    Nibbles,
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
    /// Of weight-stationary products: which columns of B count as zeros.
    zero_columns: Option<Source>,
    /// Of the kinds that have block scales.
    block_scale: Option<BlockScale>,
}

/// Decodes `tcgen05.mma{.ws}.cta_group::G.kind::K [d], a, b, idesc, {disabled}?, p{, scale or mask}` and
/// `tcgen05.mma.cta_group::G.kind::K.block_scale{.scale_vec::V} [d], a, b, idesc, [a scales], [b scales], p`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    let (mut types, mut block_scale) = (None, None);
    for modifier in cx.modifiers().skip(1) {
        match modifier {
            "cta_group::1" | "cta_group::2" | "ws" => {}
            "kind::mxf8f6f4" | "kind::mxf4" | "kind::mxf4nvf4" => {
                types = Some(if modifier == "kind::mxf8f6f4" { Types::F8f6f4 } else { Types::Nibbles });
                block_scale = Some(BlockScale::decode(cx, modifier)?);
            }
            "block_scale" | "scale_vec::1X" | "scale_vec::2X" | "scale_vec::4X" | "block16" | "block32"
                if cx.modifiers().any(|m| m.starts_with("kind::mx")) => {}
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
    let next = match (disabled.is_empty(), &block_scale) {
        (_, Some(_)) => 6,
        (empty, None) => 5 - usize::from(empty),
    };
    let group = group(cx)?;
    if !(disabled.is_empty() || disabled.len() as u32 == 4 * group) {
        return Err(cx.unsupported(format!("{} registers of disabled lanes", disabled.len())));
    }
    let stationary = cx.has("ws");
    if stationary && (group != 1 || block_scale.is_some()) {
        return Err(cx.unsupported("weight-stationary products of two blocks or with block scales"));
    }
    let (mut zero_columns, mut scaled) = (None, 0);
    match (cx.operands() > next + 1, stationary) {
        (true, true) => zero_columns = Some(cx.source(next + 1, ScalarType::B64)?),
        (_, false) => scaled = scale(cx, next + 1, types)?,
        _ => {}
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
        scale: scaled,
        zero_columns,
        block_scale,
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
pub(super) struct Request {
    pub(super) instruction: Instruction,
    arithmetic: Arithmetic,
    pub(super) storage: (Storage, Storage),
    pub(super) path: DataPath,
    pub(super) blocks: Vec<usize>,
    pub(super) k: u32,
    d: Cell,
    disabled: [u32; 8],
    accumulate: bool,
    scales: Option<Place>,
}

impl Execute for Multiply {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (d, b, instruction) = (cx.addresses(&self.d), cx.u64(&self.b), cx.u32(&self.instruction));
        let a = match &self.a {
            A::Shared(source) => cx.u64(source),
            A::Tensor(address) => cx.addresses(address),
        };
        let accumulate = cx.pred(&self.accumulate);
        if let Some(source) = &self.zero_columns {
            /// The bit of the descriptor that says that there is a mask at all.
            const MASKED: u64 = 1 << 39;
            let masks = cx.u64(source);
            if cx.lanes().any(|lane| masks[lane] & MASKED != 0) {
                return Err(cx.unsupported("products with columns of B masked as zeros"));
            }
        }
        let disabled: Vec<_> = self.disabled.iter().map(|source| cx.u32(source)).collect();
        let scales = self.block_scale.as_ref().map(|s| (cx.addresses(&s.a), cx.addresses(&s.b)));
        for lane in cx.lanes() {
            let scales = scales.as_ref().map_or((0, 0), |(a, b)| (a[lane] as u32, b[lane] as u32));
            let mut request = self.request(cx, instruction[lane], d[lane] as u32, scales)?;
            request.accumulate = accumulate >> lane & 1 == 1;
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
    fn request(&self, cx: &Context<'_>, bits: u32, d: u32, scales: (u32, u32)) -> Result<Request, Stop> {
        let (i, scales) = match &self.block_scale {
            None => (Instruction::decode(bits), None),
            Some(block_scale) => {
                let (scaled, place) = block_scale.place(cx, bits, scales)?;
                (scaled.instruction, Some(place))
            }
        };
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
        if scales.is_some() && path == DataPath::Pair128 {
            return Err(cx.unsupported("block scales of 64 rows in each of two blocks"));
        }
        if i.n == 0 || i.n > 256 || !i.n.is_multiple_of(8 * self.group) {
            return refuse(&format!("{} columns", i.n));
        }
        let in_tensor = matches!(self.a, A::Tensor(_));
        if in_tensor && i.a_major == Major::Mn {
            return refuse("an MN-major A in tensor memory");
        }
        let packed = self.types == Types::Nibbles;
        if packed && (i.a_major, i.b_major) != (Major::K, Major::K) {
            return refuse("MN-major operands of 4-bit elements, two to a byte");
        }
        if in_tensor && !packed && !matches!(arithmetic.bits().0, 8 | 16 | 32) {
            return Err(cx.unsupported("elements of 4 or 6 bits in tensor memory"));
        }
        let d = Cell::of(d);
        if d.lane != 0 && !(d.lane == 16 && path == DataPath::Rows64) {
            return Err(cx.fault(Kind::TensorMemory, format!("D begins at lane {}", d.lane)));
        }
        let k = 32 / storage.0.bytes;
        let blocks = blocks(cx, self.group)?;
        Ok(Request {
            instruction: i,
            arithmetic,
            storage,
            path,
            blocks,
            k,
            d,
            disabled: [0; 8],
            accumulate: false,
            scales,
        })
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
                (Types::F8f6f4, 5) | (Types::Nibbles, 1) => Format::E2M1,
                _ => return None,
            })
        };
        if self.types == Types::I8 {
            let arithmetic = Arithmetic::Integer { a_signed: i.a == 1, b_signed: i.b == 1, saturate: i.saturate };
            return (i.d == 2 && i.a < 2 && i.b < 2).then_some((arithmetic, (Storage::BYTE, Storage::BYTE)));
        }
        let (x, y) = (format(i.a)?, format(i.b)?);
        if self.types == Types::Nibbles {
            return Some((Arithmetic::Float(x, y, Rule::F32), (Storage::BYTE, Storage::BYTE)));
        }
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
            A::Shared(_) => vec![read_shared(cx, &op, r, a, Side::A)?],
            A::Tensor(_) => read_tensor(cx, &op, r, Cell::of(a as u32))?,
        };
        let mut b = read_shared(cx, &op, r, b, Side::B)?;
        let mut k = r.k as usize;
        if self.types == Types::Nibbles {
            (a, b, k) = (a.iter().map(|a| nibbles(a)).collect(), nibbles(&b), 2 * k);
        }
        let (a_bits, b_bits) = r.arithmetic.bits();
        a.iter_mut().for_each(|a| negate(a, r.instruction.negate_a, a_bits));
        negate(&mut b, r.instruction.negate_b, b_bits);
        let mut d = vec![0; (r.instruction.m * r.instruction.n) as usize];
        if r.accumulate {
            self.read_d(cx, &op, r, &mut d)?;
        }
        match (&self.block_scale, r.scales, r.arithmetic) {
            (Some(block_scale), Some(place), Arithmetic::Float(x, y, _)) => {
                let result = (&mut d[..], r.accumulate);
                block_scale.multiply(cx, &op, (&r.blocks, place), ((x, y), k), (&a[0], &b), result)?;
            }
            _ => products(r, k, a, b, &mut d),
        }
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

/// The product by one A, or by one for each part of D's columns.
fn products(r: &Request, k: usize, mut a: Vec<Vec<u32>>, b: Vec<u32>, d: &mut [u32]) {
    let columns = r.instruction.n as usize;
    let each = columns / a.len();
    if each == columns {
        return r.arithmetic.multiply(k, a.swap_remove(0), b, d, r.accumulate);
    }
    for ((part, a), b) in a.into_iter().enumerate().zip(b.chunks_exact(each * k)) {
        let first = part * each;
        let mut own: Vec<u32> = d.chunks_exact(columns).flat_map(|row| &row[first..first + each]).copied().collect();
        r.arithmetic.multiply(k, a, b.to_vec(), &mut own, r.accumulate);
        for (row, own) in d.chunks_exact_mut(columns).zip(own.chunks_exact(each)) {
            row[first..first + each].copy_from_slice(own);
        }
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
