//! Additions and products with a carry: `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`.

use super::form::{Form, integer, mask, signed};
use crate::counters::Class;
use crate::machine::decode::{Decode, LANES, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::{Context, UnitState};
use crate::report::{Stop, Unsupported};

/// The carry flag of a warp's lanes.
#[derive(Debug, Default)]
struct Carry {
    lanes: u32,
}

impl UnitState for Carry {}

/// What is computed before the carry.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Add,
    Subtract,
    /// The product's bits from this one on are added.
    MultiplyAdd {
        shift: u32,
        is_signed: bool,
    },
}

#[derive(Debug)]
struct WithCarry {
    kind: Kind,
    bits: u32,
    /// Whether the flag is added (or subtracted, as a borrow).
    takes: bool,
    /// Whether the flag is set.
    gives: bool,
    dest: Option<Reg>,
    sources: Vec<Source>,
}

/// Decodes all of them.
pub(super) fn decode(d: &Decode<'_>) -> Result<Box<dyn Execute>, Unsupported> {
    let mut form = Form::new(d);
    let ty = form.ty()?;
    let Some((bits @ (32 | 64), is_signed)) = integer(ty) else {
        return Err(d.unsupported(format!("the type .{ty}")));
    };
    let gives = form.take("cc");
    let (kind, takes, operands) = match d.inst.opcode.as_str() {
        "add" => (Kind::Add, false, 2),
        "addc" => (Kind::Add, true, 2),
        "sub" => (Kind::Subtract, false, 2),
        "subc" => (Kind::Subtract, true, 2),
        opcode => {
            let shift = form.required("which half", &[("lo", 0), ("hi", bits)])?;
            (Kind::MultiplyAdd { shift, is_signed }, opcode == "madc", 3)
        }
    };
    form.done(operands + 1..=operands + 1)?;
    let sources = (1..=operands).map(|i| d.source(i, ty)).collect::<Result<_, _>>()?;
    Ok(Box::new(WithCarry { kind, bits, takes, gives, dest: d.dest(0)?, sources }))
}

impl WithCarry {
    /// The result of a lane, and its carry or borrow.
    fn compute(&self, v: &[u64], carry: bool) -> (u64, bool) {
        let wide = |x: u64| u128::from(x & mask(self.bits));
        let carry = u128::from(carry);
        let (a, b) = match self.kind {
            Kind::Add => (wide(v[0]), wide(v[1])),
            Kind::Subtract => {
                let (a, b) = (wide(v[0]), wide(v[1]) + carry);
                return (a.wrapping_sub(b) as u64 & mask(self.bits), a < b);
            }
            Kind::MultiplyAdd { shift, is_signed } => {
                let product = if is_signed {
                    i128::from(signed(v[0], self.bits)) * i128::from(signed(v[1], self.bits))
                } else {
                    (wide(v[0]) * wide(v[1])) as i128
                };
                (wide((product >> shift) as u64), wide(v[2]))
            }
        };
        let sum = a + b + carry;
        (sum as u64 & mask(self.bits), sum >> self.bits != 0)
    }
}

impl Execute for WithCarry {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let values: Vec<_> = self.sources.iter().map(|s| cx.u64(s)).collect();
        let before = if self.takes { cx.warp_state::<Carry>().lanes } else { 0 };
        let (mut results, mut after) = ([0; LANES], 0u32);
        for (lane, result) in results.iter_mut().enumerate() {
            let operands: Vec<u64> = values.iter().map(|v| v[lane]).collect();
            let (value, carry) = self.compute(&operands, before >> lane & 1 != 0);
            *result = value;
            after |= u32::from(carry) << lane;
        }
        if self.gives {
            let active = cx.mask;
            let flag = &mut cx.warp_state::<Carry>().lanes;
            *flag = *flag & !active | after & active;
        }
        cx.set_u64(self.dest, &results);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Integer
    }
}
