//! Branches, returns and the end of threads.

use super::Decoded;
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::decode::Decode;
use crate::machine::execute::{Execute, Flow, Step};
use crate::report::Stop;

/// Decodes `bra`, `ret`, `exit`, `trap`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    match cx.inst.opcode.as_str() {
        "bra" => Ok(Box::new(Branch { target: cx.label(0)? })),
        // Calls are inlined: what is left returns from the kernel.
        "ret" | "exit" => Ok(Box::new(Exit)),
        "trap" => Ok(Box::new(Trap)),
        _ => Err(cx.unsupported("no control instruction of this name")),
    }
}

/// `bra`, `bra.uni`: the lanes that the guard lets through jump.
#[derive(Debug)]
struct Branch {
    target: usize,
}

impl Execute for Branch {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        Ok(Step::Jump { target: self.target, taken: cx.mask })
    }

    fn class(&self) -> Class {
        Class::Control
    }

    fn flow(&self) -> Flow {
        Flow::Jump(vec![self.target])
    }
}

/// `ret` of a kernel, `exit`, and the end of the code.
#[derive(Debug)]
pub struct Exit;

impl Execute for Exit {
    fn execute(&self, _: &mut Context<'_>) -> Result<Step, Stop> {
        Ok(Step::Exit)
    }

    fn class(&self) -> Class {
        Class::Control
    }

    fn flow(&self) -> Flow {
        Flow::End
    }
}

/// `trap`.
#[derive(Debug)]
struct Trap;

impl Execute for Trap {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let at = cx.m.site(cx.warp, cx.op);
        Err(Stop::Trap { kernel: cx.m.program.name.clone(), at })
    }

    fn class(&self) -> Class {
        Class::Control
    }

    fn flow(&self) -> Flow {
        Flow::End
    }
}
