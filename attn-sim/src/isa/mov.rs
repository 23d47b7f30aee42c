//! `mov`: registers, constants, special registers and addresses; packing and unpacking of vectors.

use super::Decoded;
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::context::lanes;
use crate::machine::decode::{Decode, Reg, Source};
use crate::machine::execute::{Execute, Step};
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

/// `mov d, a`: a register that was never written is copied as such, which is no read of it.
#[derive(Debug)]
struct Move {
    dest: Option<Reg>,
    source: Source,
}

impl Execute for Move {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let all = cx.mask;
        let written = cx.written(&self.source) & all;
        if let Some(dest) = self.dest
            && written != all
        {
            cx.m.warps[cx.warp].regs.clear_written(dest, all);
            cx.mask = written;
        }
        if written != 0 {
            match self.dest {
                Some(dest) if dest.is_pred() => {
                    let value = cx.pred(&self.source);
                    cx.set_pred(self.dest, value);
                }
                Some(dest) if dest.bits == 128 => {
                    let value = cx.u128(&self.source);
                    cx.set_u128(self.dest, &value);
                }
                Some(dest) if dest.bits == 64 => {
                    let value = cx.u64(&self.source);
                    cx.set_u64(self.dest, &value);
                }
                _ => {
                    let value = cx.u32(&self.source);
                    cx.set_u32(self.dest, &value);
                }
            }
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Move
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
        let mut packed = [0u128; 32];
        for (i, source) in self.sources.iter().enumerate() {
            let values = cx.u64(source);
            let keep = u128::MAX >> (128 - self.bits);
            lanes(cx.mask).for_each(|lane| packed[lane] |= (u128::from(values[lane]) & keep) << (i as u32 * self.bits));
        }
        cx.set_u128(self.dest, &packed);
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
        let values = cx.u128(&self.source);
        for (i, dest) in self.dests.iter().enumerate() {
            cx.set_u64(*dest, &values.map(|v| (v >> (i as u32 * self.bits)) as u64));
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Move
    }
}
