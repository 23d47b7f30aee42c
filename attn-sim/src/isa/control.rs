//! Branches, returns, the end of threads, and pauses.

use super::Decoded;
use super::form::Form;
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::decode::{Decode, Source};
use crate::machine::execute::{Execute, Flow, Step};
use crate::ptx::{Operand, ScalarType};
use crate::report::{Kind, Stop};

/// Decodes `bra`, `brx`, `ret`, `exit`, `trap`, `nanosleep`, `pmevent` and `brkpt`.
pub fn decode(cx: &Decode<'_>) -> Decoded {
    let mut form = Form::new(cx);
    let opcode = cx.inst.opcode.as_str();
    match opcode {
        // `.uni` promises that all lanes go the same way; nothing goes wrong here if they do not.
        "bra" | "ret" => drop(form.take("uni")),
        "brx" => {
            form.required(".idx", &[("idx", ())])?;
            form.take("uni");
        }
        "nanosleep" => form.required("its type", &[("u32", ())])?,
        "pmevent" => drop(form.take("mask")),
        _ => {}
    }
    let operands = match opcode {
        "bra" | "nanosleep" | "pmevent" => 1,
        "brx" => 2,
        _ => 0,
    };
    form.done(operands..=operands)?;
    match opcode {
        "bra" => Ok(Box::new(Branch { target: cx.label(0)? })),
        "brx" => indexed(cx),
        // Calls are inlined: what is left returns from the kernel.
        "ret" | "exit" => Ok(Box::new(Exit)),
        "trap" => Ok(Box::new(Trap)),
        "nanosleep" => Ok(Box::new(Pause(Some(cx.source(0, ScalarType::U32)?)))),
        "pmevent" | "brkpt" => Ok(Box::new(Pause(None))),
        _ => Err(cx.unsupported("no control instruction of this name")),
    }
}

/// `brx.idx i, table`: each lane goes to the label of its index.
fn indexed(cx: &Decode<'_>) -> Decoded {
    let Operand::Targets(targets) = cx.operand(1)? else { return Err(cx.unsupported("no table of labels")) };
    Ok(Box::new(Indexed { index: cx.source(0, ScalarType::U32)?, targets: targets.clone() }))
}

#[derive(Debug)]
struct Indexed {
    index: Source,
    targets: Vec<usize>,
}

impl Execute for Indexed {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let indices = cx.u32(&self.index);
        let mut ways: Vec<(usize, u32)> = self.targets.iter().map(|&target| (target, 0)).collect();
        for lane in cx.lanes() {
            let index = indices[lane];
            let Some(way) = ways.get_mut(index as usize) else {
                let message = format!("index {index} in lane {lane}; the table has {} labels", self.targets.len());
                return Err(cx.fault(Kind::Operand, message));
            };
            way.1 |= 1 << lane;
        }
        ways.retain(|(_, lanes)| *lanes != 0);
        Ok(Step::Scatter(ways))
    }

    fn class(&self) -> Class {
        Class::Control
    }

    fn flow(&self) -> Flow {
        Flow::Jump(self.targets.clone())
    }
}

/// What takes time and has no effect: `nanosleep`, `pmevent`, `brkpt` without a debugger.
#[derive(Debug)]
struct Pause(Option<Source>);

impl Execute for Pause {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        if let Some(time) = &self.0 {
            // For the checks of a register's use.
            cx.u32(time);
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Control
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

#[cfg(test)]
mod tests {
    use crate::isa::testing::{lanes, refused, try_run};
    use crate::report::{Kind, Stop};

    fn stop(body: &str) -> Stop {
        match try_run("", body, &[]) {
            Err(crate::Error::Failed(f)) => *f.stop,
            _ => panic!("{body}: did not stop"),
        }
    }

    #[test]
    fn lanes_go_their_ways_and_meet() {
        let table = "and.b32 %r0, %lane, 3; TABLE: .branchtargets A, B, A, C; brx.idx %r0, TABLE;
            A: mov.b64 %out, 1; bra END; B: mov.b64 %out, 2; bra.uni END; C: mov.b64 %out, 3; END: nanosleep.u32 100;
            activemask.b32 %r1; setp.ne.u32 %p0, %r1, -1; @%p0 mov.b64 %out, 9;";
        assert_eq!(lanes("", table, &[])[..4], [1, 2, 1, 3]);
        let steps = "mov.u32 %r0, 0; LOOP: setp.ge.u32 %p0, %r0, %lane; @%p0 bra END; add.u32 %r0, %r0, 2; bra LOOP; END: cvt.u64.u32 %out, %r0;";
        assert_eq!(lanes("", steps, &[])[..6], [0, 2, 2, 4, 4, 6]);
    }

    #[test]
    fn lanes_may_end_early() {
        let ran = try_run("", "setp.ge.u32 %p0, %lane, 16; @%p0 exit; mov.b64 %out, 5;", &[]).unwrap();
        assert_eq!((ran.out[15], ran.out[16]), (5, 0));
    }

    #[test]
    fn functions_are_called() {
        let head = ".func (.param .b32 r) twice (.param .b32 x) { .reg .b32 %r<3>; .reg .pred %p;
            ld.param.b32 %r0, [x]; setp.gt.u32 %p, %r0, 10; @%p bra BIG; add.u32 %r1, %r0, %r0; st.param.b32 [r], %r1; ret;
            BIG: st.param.b32 [r], 0; ret; }
            .func (.reg .u32 s) sum (.reg .u32 a, .reg .u32 b) { add.u32 s, a, b; ret; }";
        let body = "{ .param .b32 p0; .param .b32 q0; st.param.b32 [p0], %lane; call.uni (q0), twice, (p0); ld.param.b32 %r5, [q0]; }
            call (%r6), sum, (%r5, 100); cvt.u64.u32 %out, %r6;";
        assert_eq!(lanes(head, body, &[])[..12], [100, 102, 104, 106, 108, 110, 112, 114, 116, 118, 120, 100]);
    }

    #[test]
    fn traps_and_wrong_indices_stop() {
        assert!(matches!(stop("trap;"), Stop::Trap { .. }));
        assert!(matches!(stop("T: .branchtargets A; brx.idx 1, T; A:"), Stop::Fault(f) if f.kind == Kind::Operand));
    }

    #[test]
    fn forms_that_do_not_exist_are_refused() {
        for line in ["bra.div A; A:", "nanosleep.u64 %rd0;", "ret.foo;", "brx %r0, T; T: .branchtargets A; A:"] {
            refused(line);
        }
    }
}
