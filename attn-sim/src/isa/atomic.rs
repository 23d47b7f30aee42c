//! `atom` and `red`: indivisible operations on global and shared memory, of one element or a vector.
//!
//! Lanes act in their order. Atomics do not race with each other; what they do to ordinary accesses is not judged.

use super::Decoded;
use super::form::Form;
use super::ldst::advice;
use super::order::{self, Order};
use crate::counters::Class;
use crate::machine::decode::{Addr, Decode, LANES, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::machine::{Context, Location};
use crate::ptx::ScalarType;
use crate::reduction::{self, ReduceOp};
use crate::report::{Stop, Unsupported};

/// What is done to an element.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Reduce {
        op: ReduceOp,
        ftz: bool,
    },
    Exchange,
    /// The new value replaces the old one if that is equal to the first operand.
    CompareAndSwap,
}

#[derive(Debug)]
struct Atomic {
    space: Space,
    order: Order,
    op: Op,
    ty: ScalarType,
    /// None for `red`.
    dests: Vec<Option<Reg>>,
    addr: Addr,
    operands: Vec<Source>,
    /// What `cas` writes.
    new: Option<Source>,
    /// Elements.
    count: usize,
}

/// Decodes `atom` and `red`.
pub fn decode(d: &Decode<'_>) -> Decoded {
    let mut form = Form::new(d);
    let ty = form.ty()?;
    let returns = d.inst.opcode == "atom";
    let orders = [
        ("relaxed", Order::Relaxed),
        ("acquire", Order::Acquire),
        ("release", Order::Release),
        ("acq_rel", Order::AcquireRelease),
    ];
    let order = form.choice(&orders[..]).unwrap_or(Order::Relaxed);
    if !returns && order.acquires() {
        return Err(d.unsupported("an acquiring reduction"));
    }
    order::scope(&mut form);
    let space = form.find(Space::parse).unwrap_or(Space::Generic);
    if !matches!(space, Space::Generic | Space::Global | Space::Shared | Space::SharedCluster) {
        return Err(d.unsupported("its state space"));
    }
    let count = form.choice(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    let policy = advice(&mut form);
    let noftz = form.take("noftz");
    let op = match form.find(ReduceOp::parse) {
        Some(op) => Op::Reduce { op, ftz: op == ReduceOp::Add && ty == ScalarType::F32 && flushes(space) },
        None if !returns => return Err(d.unsupported("its operation")),
        None => form.required("its operation", &[("exch", Op::Exchange), ("cas", Op::CompareAndSwap)])?,
    };
    check(d, op, ty, count, noftz, space)?;
    let operands = usize::from(returns) + 2 + usize::from(op == Op::CompareAndSwap) + usize::from(policy);
    form.done(operands..=operands)?;
    let at = usize::from(returns);
    let dests = if returns { d.dests(0)? } else { vec![None; count] };
    let values = d.sources(at + 1, ty)?;
    if dests.len() != count && !matches!(dests.as_slice(), [None]) || values.len() != count {
        return Err(d.unsupported("operands that do not fit its vector"));
    }
    let new = if op == Op::CompareAndSwap { Some(d.source(at + 2, ty)?) } else { None };
    Ok(Box::new(Atomic { space, order, op, ty, dests, addr: d.address(at)?, operands: values, new, count }))
}

/// f32 additions flush subnormal numbers in global memory, and keep them in shared memory.
fn flushes(space: Space) -> bool {
    matches!(space, Space::Global | Space::Generic)
}

/// Which operation, type and vector go together.
fn check(d: &Decode<'_>, op: Op, ty: ScalarType, count: usize, noftz: bool, space: Space) -> Result<(), Unsupported> {
    use ReduceOp::*;
    use ScalarType::*;
    let halves = matches!(ty, F16 | Bf16 | F16x2 | Bf16x2);
    let fits = match op {
        Op::Exchange => matches!(ty, B32 | B64 | B128 | U32 | U64 | S32 | S64 | F32),
        Op::CompareAndSwap => matches!(ty, B16 | B32 | B64 | B128 | U32 | U64 | S32 | S64),
        Op::Reduce { op: Add, .. } => matches!(ty, U32 | U64 | S32 | S64 | F32 | F64) || halves && noftz,
        Op::Reduce { op: Min | Max, .. } => matches!(ty, U32 | U64 | S32 | S64) || halves && (noftz || count == 1),
        Op::Reduce { op: And | Or | Xor, .. } => matches!(ty, B32 | B64),
        Op::Reduce { op: Inc | Dec, .. } => ty == U32,
    };
    let vector_of = match ty {
        F32 => matches!(op, Op::Reduce { op: Add, .. }) && matches!(count, 2 | 4),
        F16x2 | Bf16x2 => matches!(count, 2 | 4),
        F16 | Bf16 => matches!(count, 2 | 4 | 8),
        _ => false,
    };
    let vector = count == 1 || vector_of && matches!(space, Space::Global | Space::Generic);
    if fits && vector && (!noftz || halves) {
        return Ok(());
    }
    Err(d.unsupported(format!("{count} of the type .{ty} for its operation")))
}

impl Atomic {
    /// The new value of an element.
    fn apply(&self, old: u128, operand: u128, new: u128) -> Option<u128> {
        match self.op {
            Op::Exchange => Some(operand),
            Op::CompareAndSwap => Some(if old == operand { new } else { old }),
            Op::Reduce { op, ftz } => reduction::apply(op, self.ty, ftz, old as u64, operand as u64).map(u128::from),
        }
    }

    /// One lane's operation: the old values go to `old`.
    fn act(
        &self,
        cx: &mut Context<'_>,
        lane: usize,
        at: Location,
        operands: &[u128],
        new: u128,
        old: &mut [u128],
    ) -> Result<(), Stop> {
        let size = self.ty.bytes() as usize;
        let mut buffer = [0u8; 32];
        let bytes = &mut buffer[..size * self.count];
        cx.m.check_aligned(&cx.actor(), at, bytes.len() as u64)?;
        order::peek(cx, at, bytes)?;
        order::acquire(cx, at, self.order);
        for ((element, operand), old) in bytes.chunks_exact_mut(size).zip(operands).zip(old) {
            let mut wide = [0u8; 16];
            wide[..size].copy_from_slice(element);
            *old = u128::from_le_bytes(wide);
            let result = self.apply(*old, *operand, new).ok_or_else(|| cx.unsupported("its operation on its type"))?;
            element.copy_from_slice(&result.to_le_bytes()[..size]);
        }
        order::release(cx, lane, at, self.order);
        order::poke(cx, at, bytes)
    }
}

impl Execute for Atomic {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let addresses = cx.addresses(&self.addr);
        let keep = u128::MAX >> (128 - self.ty.bits());
        let operands: Vec<_> = self.operands.iter().map(|s| cx.u128(s).map(|v| v & keep)).collect();
        let new = self.new.map_or([0; LANES], |s| cx.u128(&s).map(|v| v & keep));
        let mut old = vec![[0u128; LANES]; self.count];
        for lane in cx.lanes() {
            let at = cx.locate(lane, self.space, addresses[lane])?;
            if !matches!(at, Location::Global(_) | Location::Shared { .. }) {
                return Err(cx.fault(crate::report::Kind::Operand, format!("an atomic on {at}")));
            }
            let values: Vec<u128> = operands.iter().map(|v| v[lane]).collect();
            let mut before = [0u128; 8];
            self.act(cx, lane, at, &values, new[lane], &mut before[..self.count])?;
            old.iter_mut().zip(before).for_each(|(lanes, value)| lanes[lane] = value);
        }
        for (dest, lanes) in self.dests.iter().zip(&old) {
            cx.set_u128(*dest, lanes);
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Atomic
    }

    fn communicates(&self) -> bool {
        matches!(self.space, Space::Generic | Space::Global)
    }
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{lanes, refused, try_run, value};
    use crate::report::Kind;

    const COUNTER: &str = ".global .align 16 .b32 g[8] = {10, 0, 0, 0, 0, 0, 0, 0};";

    #[test]
    fn lanes_act_one_after_the_other() {
        let out = lanes(COUNTER, "atom.global.add.u32 %r0, [g], 2; cvt.u64.u32 %out, %r0;", &[]);
        assert_eq!(out, (0..32).map(|i| 10 + 2 * i).collect::<Vec<u64>>());
        let out = lanes(COUNTER, "atom.global.inc.u32 %r0, [g+4], 2; cvt.u64.u32 %out, %r0;", &[]);
        assert_eq!(out[..5], [0, 1, 2, 0, 1]);
        let out = lanes(COUNTER, "atom.global.cas.b32 %r0, [g+4], %lane, 1; cvt.u64.u32 %out, %r0;", &[]);
        assert_eq!(out[..4], [0, 1, 1, 1]);
        let out = lanes(COUNTER, "atom.global.exch.b64 %out, [g+8], 9;", &[]);
        assert_eq!(out[..3], [0, 9, 9]);
    }

    #[test]
    fn shared_memory_and_reductions() {
        let start = "setp.eq.u32 %p0, %lane, 0; @%p0 st.shared.v4.b32 [buf], {0, 0, 0, 0}; bar.warp.sync -1;";
        let sum = format!(
            "{start} red.shared.add.f32 [buf], 0f3F000000; bar.warp.sync -1; ld.relaxed.cta.shared.u32 %r0, [buf]; cvt.u64.u32 %out, %r0;"
        );
        assert_eq!(value(&sum, &[]), u64::from(16f32.to_bits()));
        let most = format!(
            "{start} red.shared.max.s32 [buf+4], %lane; bar.warp.sync -1; ld.volatile.shared.u32 %r0, [buf+4]; cvt.u64.u32 %out, %r0;"
        );
        assert_eq!(value(&most, &[]), 31);
        let bits = format!(
            "{start} mov.u32 %r1, %lanemask_eq; atom.shared.or.b32 %r2, [buf+8], %r1; bar.warp.sync -1; ld.volatile.shared.u32 %r0, [buf+8]; cvt.u64.u32 %out, %r0;"
        );
        assert_eq!(value(&bits, &[]), 0xffff_ffff);
    }

    #[test]
    fn vectors_and_halves() {
        let vector = "red.global.add.v4.f32 [g+16], {0f3F800000, 0f40000000, 0f00000000, 0f40800000}; bar.warp.sync -1;
            ld.relaxed.gpu.global.b64 %out, [g+16];";
        let out = lanes(COUNTER, vector, &[]);
        assert_eq!(out[0], u64::from(64f32.to_bits()) << 32 | u64::from(32f32.to_bits()));
        let pairs = "red.relaxed.gpu.global.add.noftz.bf16x2 [g+4], 0x3f803f80; bar.warp.sync -1; ld.relaxed.gpu.global.b32 %r0, [g+4]; cvt.u64.u32 %out, %r0;";
        assert_eq!(lanes(COUNTER, pairs, &[])[0], 0x4200_4200);
        let wide = "mov.b128 %q0, {%a0, %a1}; atom.global.exch.b128 %q1, [g+16], %q0; mov.b128 {%rd0, %rd1}, %q1; xor.b64 %out, %rd0, %rd1;";
        assert_eq!(lanes(COUNTER, wide, &[5, 9])[..2], [0, 12]);
    }

    #[test]
    fn an_address_must_be_aligned_and_inside() {
        let fault = |body: &str| match try_run(COUNTER, body, &[]) {
            Err(crate::Error::Failed(f)) => match *f.stop {
                crate::report::Stop::Fault(finding) => finding.kind,
                other => panic!("{other}"),
            },
            _ => panic!("{body}: no fault"),
        };
        assert_eq!(fault("atom.global.add.u32 %r0, [g+2], 1;"), Kind::Misaligned);
        assert_eq!(fault("atom.global.add.u32 %r0, [g+4096], 1;"), Kind::OutOfBounds);
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in [
            "atom.global.add.b32 %r0, [%rd0], 1;",
            "atom.global.sub.u32 %r0, [%rd0], 1;",
            "red.global.exch.b32 [%rd0], 1;",
            "atom.shared.add.v4.f32 {%f0, %f1, %f2, %f3}, [%r0], {%f0, %f1, %f2, %f3};",
            "atom.local.add.u32 %r0, [%r1], 1;",
            "atom.global.add.f16 %h0, [%rd0], %h1;",
        ] {
            refused(line);
        }
    }
}
