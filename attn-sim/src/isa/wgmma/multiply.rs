//! `wgmma.mma_async`: D[64, N] = A[64, K] B[N, K]^T, plus D, by a warpgroup.

use super::super::Decoded;
use super::super::operand::{self, Storage, format, invalid, registers};
use super::{Multiplies, Multiply, in_step};
use crate::counters::Class;
use crate::layout::descriptor::{Major, Matrix};
use crate::layout::fragment;
use crate::machine::clock::{Actor, Proxy};
use crate::machine::decode::{Decode, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::registers::{Hold, Status};
use crate::machine::{Context, Stream};
use crate::num::Format;
use crate::num::dot::Rule;
use crate::num::product::Arithmetic;
use crate::ptx::{Operand, ScalarType};
use crate::report::{Kind, Stop, Unsupported};
use std::sync::Arc;

/// Rows of a warp.
const ROWS: u32 = 16;

/// Where A comes from.
#[derive(Debug)]
enum A {
    Shared(Source, Major),
    Registers,
}

#[derive(Debug)]
struct MultiplyOp {
    n: u32,
    k: u32,
    arithmetic: Arithmetic,
    storage: (Storage, Storage),
    d: Arc<[Reg]>,
    a: A,
    fragments: Arc<[Reg]>,
    b: Source,
    b_major: Major,
    scale_d: Source,
    /// Sign bits to flip in A's and B's elements.
    signs: (u32, u32),
}

/// Types as the instruction names them: D, A, B.
fn arithmetic(cx: &Decode<'_>, d: &str, a: &str, b: &str) -> Result<Arithmetic, Unsupported> {
    if let (Some(x), Some(y)) = (format(a), format(b)) {
        let eight = x.bits() == 8;
        let rule = match (d, eight) {
            ("f32", false) => Rule::F32,
            ("f16", false) if x == Format::F16 => Rule::F16,
            ("f32", true) => Rule::HOPPER_F8,
            ("f16", true) => Rule::HOPPER_F8_F16,
            _ => return Err(cx.unsupported(format!("products of {a} and {b} in {d}"))),
        };
        let same = x == y || (eight && y.bits() == 8);
        return if same { Ok(Arithmetic::Float(x, y, rule)) } else { Err(cx.unsupported(format!("{a} times {b}"))) };
    }
    match (d, a, b) {
        ("s32", "s8" | "u8", "s8" | "u8") => {
            Ok(Arithmetic::Integer { a_signed: a == "s8", b_signed: b == "s8", saturate: cx.has("satfinite") })
        }
        _ => Err(cx.unsupported(format!("products of {a} and {b} in {d}"))),
    }
}

/// `m64nNkK`
fn shape(name: &str) -> Option<(u32, u32)> {
    let (n, k) = name.strip_prefix("m64n")?.split_once('k')?;
    Some((n.parse().ok()?, k.parse().ok()?))
}

/// Decodes `wgmma.mma_async.sync.aligned.SHAPE.D.A.B`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    let parts: Vec<&str> =
        cx.modifiers().filter(|m| !matches!(*m, "mma_async" | "sync" | "aligned" | "satfinite")).collect();
    let [shape_name, d, a, b] = parts[..] else {
        return Err(cx.unsupported("other modifiers than a shape and three types"));
    };
    let arithmetic = arithmetic(cx, d, a, b)?;
    let integer = matches!(arithmetic, Arithmetic::Integer { .. });
    let bits = arithmetic.bits().0;
    let Some((n, k)) = shape(shape_name).filter(|&(n, k)| n % 8 == 0 && (8..=256).contains(&n) && k == 256 / bits)
    else {
        return Err(cx.unsupported(format!("the shape {shape_name}")));
    };
    let d: Arc<[Reg]> = registers(cx, 0)?;
    if d.len() as u32 != n * arithmetic.result_bits() / 64 {
        return Err(cx.unsupported(format!("{} registers for D", d.len())));
    }
    let in_registers = matches!(cx.operand(1)?, Operand::Vector(_));
    let fragments: Arc<[Reg]> = if in_registers { registers(cx, 1)? } else { Arc::new([]) };
    if in_registers && fragments.len() != 4 {
        return Err(cx.unsupported(format!("{} registers for A", fragments.len())));
    }
    let majors =
        if bits == 16 { if in_registers { [None, Some(6)] } else { [Some(6), Some(7)] } } else { [None, None] };
    let [a_major, b_major] = majors.map(|at| major(cx, at));
    let (a_major, b_major) = (a_major?, b_major?);
    let sign = |at: usize, format_sign: u64| match if integer { 1 } else { cx.int(at)? } {
        1 => Ok(0),
        -1 => Ok(format_sign as u32),
        other => Err(cx.unsupported(format!("{other} as a factor of an operand"))),
    };
    let (sign_a, sign_b, storage) = match arithmetic {
        Arithmetic::Float(x, y, _) => (x.sign(), y.sign(), (Storage::of(x), Storage::of(y))),
        Arithmetic::Integer { .. } => (0, 0, (Storage::BYTE, Storage::BYTE)),
    };
    Ok(Box::new(MultiplyOp {
        n,
        k,
        arithmetic,
        storage,
        d,
        a: if in_registers { A::Registers } else { A::Shared(cx.source(1, ScalarType::B64)?, a_major) },
        fragments,
        b: cx.source(2, ScalarType::B64)?,
        b_major,
        scale_d: cx.pred(3)?,
        signs: (sign(4, sign_a)?, sign(5, sign_b)?),
    }))
}

fn major(cx: &Decode<'_>, at: Option<usize>) -> Result<Major, Unsupported> {
    match at.map(|i| cx.int(i)).transpose()? {
        None | Some(0) => Ok(Major::K),
        Some(1) => Ok(Major::Mn),
        Some(other) => Err(cx.unsupported(format!("{other} as the transposition of an operand"))),
    }
}

impl Execute for MultiplyOp {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let b = cx.uniform(&self.b, "B's descriptor")?;
        let a = match &self.a {
            A::Shared(source, _) => cx.uniform(source, "A's descriptor")?,
            A::Registers => 0,
        };
        let accumulate = match cx.pred(&self.scale_d) {
            0 => false,
            bits if bits == cx.mask => true,
            bits => return Err(cx.fault(Kind::Operand, format!("scale-d is true in lanes {bits:#010x} only"))),
        };
        in_step(cx, [a, b])?;
        self.check_registers(cx, accumulate);
        let who = cx.begin(Stream::Warp(cx.warp, "wgmma"), Proxy::Async, true);
        let a = self.read_a(cx, &who, a)?;
        let b = self.read_b(cx, &who, b)?;
        self.multiply(cx, a, b, accumulate);
        self.keep(cx, &who);
        cx.m.count_bytes("wgmma", u64::from(self.n * self.k * self.storage.1.bytes));
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Matrix
    }
}

impl MultiplyOp {
    /// The rules about D's and A's registers: written before, not in use by an earlier multiply in another way, and fenced where
    /// ordinary instructions have used them.
    fn check_registers(&self, cx: &mut Context<'_>, accumulate: bool) {
        let state = cx.warp_state::<Multiplies>();
        let fenced = state.fenced;
        let chained = state.under_way().any(|m| m.accumulators == self.d);
        let status = |cx: &Context<'_>, reg: Reg| -> Status { cx.m.warps[cx.warp].regs.status(reg) };
        let find = |regs: &[Reg], bad: &dyn Fn(Status) -> bool| regs.iter().copied().find(|&r| bad(status(cx, r)));
        let in_use = find(&self.d, &|s| matches!(s.hold, Some((Hold::Writing, _))) && !chained)
            .or(find(&self.d, &|s| matches!(s.hold, Some((Hold::Reading, _)))))
            .or(find(&self.fragments, &|s| matches!(s.hold, Some((Hold::Writing, _)))));
        let unwritten = |s: Status| s.written != u32::MAX;
        let never = find(&self.fragments, &unwritten).or(if accumulate { find(&self.d, &unwritten) } else { None });
        let unfenced = |s: Status| fenced.is_none_or(|at| s.touched > at);
        let missing = find(&self.d, &unfenced).or(find(&self.fragments, &unfenced));
        if let Some(reg) = in_use {
            let message = format!("register {} is still used by an earlier wgmma, which no wait covers", cx.name(reg));
            cx.report(Kind::RegisterInFlight, message);
        }
        if let Some(reg) = never {
            let message = format!("register {} was never written in some lane", cx.name(reg));
            cx.report(Kind::Uninitialised, message);
        }
        if let Some(reg) = missing {
            let message = match fenced {
                None => "no wgmma.fence was executed before the first multiply".to_owned(),
                Some(_) => format!("register {} was accessed since the last wgmma.fence", cx.name(reg)),
            };
            cx.report(Kind::MissingFence, message);
        }
    }

    fn matrix(&self, cx: &Context<'_>, who: &Actor, bits: u64, major: Major) -> Result<Matrix, Stop> {
        let matrix = Matrix::wgmma(bits).and_then(|m| m.check(major).map(|()| m));
        matrix.map_err(|e| invalid(cx.m, who, bits, e))
    }

    /// The warp's rows of A. PTX does not say that a warp reads those alone: the others are noted as read too.
    fn read_a(&self, cx: &mut Context<'_>, who: &Actor, descriptor: u64) -> Result<Vec<u32>, Stop> {
        let (block, sign) = (cx.block, self.signs.0);
        let mut a = match self.a {
            A::Shared(_, major) => {
                let matrix = self.matrix(cx, who, descriptor, major)?;
                let first = ROWS * (cx.m.warps[cx.warp].index % super::WARPS);
                let own = first..first + ROWS;
                for others in [0..own.start, own.end..ROWS * super::WARPS] {
                    operand::note_others(cx.m, who, block, (matrix, major), self.storage.0, others, self.k)?;
                }
                operand::read(cx.m, who, block, (matrix, major), self.storage.0, own, self.k)?
            }
            A::Registers => self.gather_a(cx),
        };
        a.iter_mut().for_each(|x| *x ^= sign);
        Ok(a)
    }

    fn gather_a(&self, cx: &Context<'_>) -> Vec<u32> {
        let bits = self.storage.0.bits;
        let regs = &cx.m.warps[cx.warp].regs;
        let rows = self.fragments.iter().map(|reg| regs.row(*reg, 0));
        operand::gather(rows, bits, (ROWS, self.k), |lane, i| fragment::a(bits, lane, i))
    }

    fn read_b(&self, cx: &mut Context<'_>, who: &Actor, descriptor: u64) -> Result<Vec<u32>, Stop> {
        let matrix = self.matrix(cx, who, descriptor, self.b_major)?;
        let block = cx.block;
        let mut b = operand::read(cx.m, who, block, (matrix, self.b_major), self.storage.1, 0..self.n, self.k)?;
        b.iter_mut().for_each(|x| *x ^= self.signs.1);
        Ok(b)
    }

    /// Multiplies and writes the accumulators.
    fn multiply(&self, cx: &mut Context<'_>, a: Vec<u32>, b: Vec<u32>, accumulate: bool) {
        let bits = self.arithmetic.result_bits();
        let place = if bits == 16 { fragment::d16 } else { fragment::d32 };
        let regs = &mut cx.m.warps[cx.warp].regs;
        let rows = self.d.iter().take(if accumulate { self.d.len() } else { 0 });
        let mut d = operand::gather(rows.map(|reg| regs.row(*reg, 0)), bits, (ROWS, self.n), place);
        self.arithmetic.multiply(self.k as usize, a, b, &mut d, accumulate);
        for (i, reg) in self.d.iter().enumerate() {
            *regs.row_mut(*reg, 0) = operand::scatter(&d, bits, self.n, i as u32, place);
            regs.set_written(*reg, u32::MAX);
        }
    }

    /// Holds the registers until a wait.
    fn keep(&self, cx: &mut Context<'_>, who: &Actor) {
        let op = cx.op;
        let regs = &mut cx.m.warps[cx.warp].regs;
        self.d.iter().for_each(|reg| regs.hold(*reg, Hold::Writing, op));
        self.fragments.iter().for_each(|reg| regs.hold(*reg, Hold::Reading, op));
        let (accumulators, fragments) = (Arc::clone(&self.d), Arc::clone(&self.fragments));
        let multiply = Multiply { accumulators, fragments, op, agent: who.agent, clock: who.clock };
        cx.warp_state::<Multiplies>().open.push(multiply);
    }
}
