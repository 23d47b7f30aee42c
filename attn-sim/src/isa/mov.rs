//! `mov`: registers, constants, special registers and addresses; packing and unpacking of vectors.
//!
//! Compilers pack registers that were never written where nobody wants their half, and move such values about: a copy of bits
//! without a value is no use of them, and the copy has none either.

use super::Decoded;
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::context::lanes;
use crate::machine::decode::{Decode, LANES, Reg, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::registers::Status;
use crate::ptx::Operand;
use crate::report::Stop;

/// Decodes `mov.TYPE d, a`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    let ty = cx.ty()?;
    match (cx.operand(0)?, cx.operand(1)?) {
        (Operand::Vector(_), _) => {
            let dests = cx.dests(0)?;
            Ok(Box::new(Unpack { bits: ty.bits() / dests.len() as u32, dests, source: cx.source(1, ty)? }))
        }
        (_, Operand::Vector(_)) => {
            let sources = cx.sources(1, ty)?;
            Ok(Box::new(Pack { bits: ty.bits() / sources.len() as u32, dest: cx.dest(0)?, sources }))
        }
        _ => Ok(Box::new(Move { dest: cx.dest(0)?, source: cx.source(1, ty)? })),
    }
}

/// `mov d, a`.
#[derive(Debug)]
struct Move {
    dest: Option<Reg>,
    source: Source,
}

impl Execute for Move {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        match self.dest {
            Some(dest) if dest.is_pred() => {
                let all = cx.mask;
                cx.mask = cx.written(&self.source) & all;
                cx.m.warps[cx.warp].regs.clear_written(dest, all & !cx.mask);
                if cx.mask != 0 {
                    let value = cx.pred(&self.source);
                    cx.set_pred(self.dest, value);
                }
            }
            Some(dest) => self.copy(cx, dest),
            // The value is read, and goes nowhere.
            None => drop(cx.copied(&self.source)),
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Move
    }
}

impl Move {
    fn copy(&self, cx: &mut Context<'_>, dest: Reg) {
        let whole = match &self.source {
            Source::Reg(reg) => cx.m.warps[cx.warp].regs.status(*reg),
            _ => Status { written: u32::MAX, ..Status::default() },
        };
        if whole.written & !whole.partial & cx.mask != cx.mask {
            let (values, holes) = cx.copied(&self.source);
            cx.set_copied(self.dest, dest.bits.into(), &values, &holes);
        } else if dest.bits == 128 {
            let value = cx.u128(&self.source);
            cx.set_u128(self.dest, &value);
        } else if dest.bits == 64 {
            let value = cx.u64(&self.source);
            cx.set_u64(self.dest, &value);
        } else {
            let value = cx.u32(&self.source);
            cx.set_u32(self.dest, &value);
        }
    }
}

/// `mov d, {a, b, ..}`: the first element is the lowest.
#[derive(Debug)]
struct Pack {
    dest: Option<Reg>,
    sources: Vec<Source>,
    bits: u32,
}

impl Execute for Pack {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (mut packed, mut holes) = ([0u128; LANES], [0u128; LANES]);
        let keep = u128::MAX >> (128 - self.bits);
        for (i, source) in self.sources.iter().enumerate() {
            let (values, missing) = cx.copied(source);
            for lane in lanes(cx.mask) {
                packed[lane] |= (values[lane] & keep) << (i as u32 * self.bits);
                holes[lane] |= (missing[lane] & keep) << (i as u32 * self.bits);
            }
        }
        cx.set_copied(self.dest, self.bits * self.sources.len() as u32, &packed, &holes);
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Move
    }
}

/// `mov {a, b, ..}, s`: the first element is the lowest.
#[derive(Debug)]
struct Unpack {
    dests: Vec<Option<Reg>>,
    source: Source,
    bits: u32,
}

impl Execute for Unpack {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (values, holes) = cx.copied(&self.source);
        for (i, dest) in self.dests.iter().enumerate() {
            let shift = i as u32 * self.bits;
            cx.set_copied(*dest, self.bits, &values.map(|v| v >> shift), &holes.map(|h| h >> shift));
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Move
    }
}

#[cfg(test)]
mod tests {
    use crate::isa::testing::{lanes, try_run};

    const PACK: &str = "mov.b64 %rd0, {%lane, %r7}; mov.b64 %rd1, %rd0;";

    #[test]
    fn a_half_that_nobody_wants_may_have_no_value() {
        let out = lanes("", &format!("{PACK} mov.b64 {{%r1, _}}, %rd1; cvt.u64.u32 %out, %r1;"), &[]);
        assert!((0..32).all(|lane| out[lane] == lane as u64));
        // Both halves: the one without a value gets another.
        let both = "mov.b64 {%r1, %r2}, %rd1; mov.u32 %r2, 5; mov.b64 %out, {%r2, %r1};";
        assert_eq!(lanes("", &format!("{PACK} {both}"), &[])[3], 3 << 32 | 5);
    }

    #[test]
    fn a_half_without_a_value_is_not_to_be_used() {
        for used in ["add.u64 %out, %rd1, 1;", "mov.b64 {%r1, %r2}, %rd1; add.u32 %r2, %r2, 1;"] {
            let findings = try_run("", &format!("{PACK} {used}"), &[]).expect("it runs").run.findings;
            assert!(findings.iter().any(|f| f.message.contains("never written")), "{used}: {findings:?}");
        }
    }
}
