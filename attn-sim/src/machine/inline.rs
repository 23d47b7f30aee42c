//! Calls of device functions: their bodies are put in place of the calls before a kernel is decoded, so that the machine
//! itself knows no stack. Recursion and calls through registers are therefore not modelled.

use crate::isa::is_system;
use crate::ptx::{
    Address, AddressBase, Call, CallTarget, Function, Guard, Instruction, Module, Operand, RegId, Register, ScalarType,
    Space, Symbol, Variable,
};
use crate::report::Unsupported;
use std::borrow::Cow;

/// Greatest depth of calls.
const DEPTH: usize = 32;

/// A function without calls: itself, or a copy with the bodies of what it calls in place.
pub fn inline<'a>(module: &'a Module, function: &'a Function) -> Result<Cow<'a, Function>, Unsupported> {
    let calls = |i: &Instruction| i.operands.iter().any(|o| matches!(o, Operand::Call(_)));
    if !function.code.iter().any(calls) && !function.variables.iter().any(|v| v.space == Space::Param) {
        return Ok(Cow::Borrowed(function));
    }
    let mut out = function.clone();
    out.code.clear();
    let mut inliner = Inliner { module, out };
    inliner.body(function, &Frame { registers: 0, variables: 0, bindings: None }, 0)?;
    Ok(Cow::Owned(inliner.out))
}

/// Where a copy's names lead.
struct Frame {
    /// Added to register ids.
    registers: u32,
    /// Added to variable indices.
    variables: usize,
    /// For a callee, the variables of the result that its parameters and results are.
    bindings: Option<Bindings>,
}

/// The variables that a callee's parameters and results in memory are.
struct Bindings {
    params: Vec<Option<usize>>,
    returns: Vec<Option<usize>>,
}

struct Inliner<'a> {
    module: &'a Module,
    out: Function,
}

impl Frame {
    fn reg(&self, id: RegId) -> RegId {
        RegId(id.0 + self.registers)
    }

    fn symbol(&self, symbol: Symbol) -> Symbol {
        match (symbol, &self.bindings) {
            (Symbol::Local(i), _) => Symbol::Local(i + self.variables),
            (Symbol::Param(i), Some(bound)) => bound.params[i].map_or(symbol, Symbol::Local),
            (Symbol::Return(i), Some(bound)) => bound.returns[i].map_or(symbol, Symbol::Local),
            _ => symbol,
        }
    }

    fn address(&self, address: Address) -> Address {
        let base = match address.base {
            AddressBase::Reg(id) => AddressBase::Reg(self.reg(id)),
            AddressBase::Symbol(symbol) => AddressBase::Symbol(self.symbol(symbol)),
            AddressBase::Absolute => AddressBase::Absolute,
        };
        Address { base, ..address }
    }

    fn operand(&self, operand: &Operand) -> Operand {
        let all = |list: &[Operand]| list.iter().map(|o| self.operand(o)).collect();
        match operand {
            Operand::Reg(id) => Operand::Reg(self.reg(*id)),
            Operand::NotReg(id) => Operand::NotReg(self.reg(*id)),
            Operand::Symbol { symbol, offset } => Operand::Symbol { symbol: self.symbol(*symbol), offset: *offset },
            Operand::Address(address) => Operand::Address(self.address(*address)),
            Operand::Vector(list) => Operand::Vector(all(list)),
            Operand::Modified { of, by } => Operand::Modified { of: Box::new(self.operand(of)), by: by.clone() },
            Operand::Pair(a, b) => Operand::Pair(Box::new(self.operand(a)), Box::new(self.operand(b))),
            Operand::Tensor { map, coords } => Operand::Tensor { map: self.address(*map), coords: all(coords) },
            other => other.clone(),
        }
    }

    fn guard(&self, guard: Option<Guard>) -> Option<Guard> {
        guard.map(|g| Guard { reg: self.reg(g.reg), ..g })
    }
}

/// An instruction made here.
fn made(line: u32, guard: Option<Guard>, opcode: &str, modifiers: &[&str], operands: Vec<Operand>) -> Instruction {
    let modifiers = modifiers.iter().map(|&m| m.to_owned()).collect();
    Instruction { line, guard, opcode: opcode.to_owned(), modifiers, operands }
}

impl Inliner<'_> {
    /// Appends a function's body. Labels lead to where its instructions are now.
    fn body(&mut self, function: &Function, frame: &Frame, depth: usize) -> Result<(), Unsupported> {
        let mut starts = Vec::with_capacity(function.code.len() + 1);
        let mut own = Vec::with_capacity(function.code.len());
        for inst in &function.code {
            starts.push(self.out.code.len());
            if let Some(Operand::Call(call)) = inst.operands.iter().find(|o| matches!(o, Operand::Call(_))) {
                self.call(inst, call, frame, depth)?;
                continue;
            }
            own.push(self.out.code.len());
            let mut copy = inst.clone();
            copy.guard = frame.guard(inst.guard);
            copy.operands = inst.operands.iter().map(|o| frame.operand(o)).collect();
            if depth > 0 && inst.opcode == "ret" {
                copy = made(inst.line, copy.guard, "bra", &[], vec![Operand::Label(function.code.len())]);
            }
            self.local_params(&mut copy);
            self.out.code.push(copy);
        }
        starts.push(self.out.code.len());
        for i in own {
            for operand in &mut self.out.code[i].operands {
                match operand {
                    Operand::Label(target) => *target = starts[*target],
                    Operand::Targets(targets) => targets.iter_mut().for_each(|t| *t = starts[*t]),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// `.param` variables of bodies are memory of the thread, as `.local` is.
    fn local_params(&self, inst: &mut Instruction) {
        let local = inst.operands.iter().any(|o| {
            matches!(o, Operand::Address(Address { base: AddressBase::Symbol(Symbol::Local(i)), .. })
                if self.out.variables[*i].space == Space::Param)
        });
        if local {
            let params = inst.modifiers.iter_mut().filter(|m| *m == "param" || *m == "param::func");
            params.for_each(|m| *m = "local".to_owned());
        }
    }

    /// Puts a callee's body in place of a call.
    fn call(&mut self, inst: &Instruction, call: &Call, caller: &Frame, depth: usize) -> Result<(), Unsupported> {
        let unsupported = |reason: String| Unsupported { line: inst.line, instruction: inst.to_string(), reason };
        let CallTarget::Function(target) = call.target else {
            return Err(unsupported("a call through a register".into()));
        };
        let callee = &self.module.functions[target];
        if callee.declared_only && is_system(&callee.name) {
            self.system(inst, call, callee, caller);
            return Ok(());
        }
        if callee.declared_only {
            return Err(unsupported(format!("`{}` is defined in no module at hand", callee.name)));
        }
        if depth == DEPTH {
            return Err(unsupported(format!("calls deeper than {DEPTH}, or recursion, of `{}`", callee.name)));
        }
        if call.args.len() != callee.params.len() || call.returns.len() != callee.returns.len() {
            return Err(unsupported(format!("`{}` has other numbers of parameters or results", callee.name)));
        }
        let guard = caller.guard(inst.guard);
        let skip = guard.map(|g| {
            let around = Some(Guard { negated: !g.negated, ..g });
            self.out.code.push(made(inst.line, around, "bra", &[], vec![Operand::Label(usize::MAX)]));
            self.out.code.len() - 1
        });
        let registers = self.out.registers.len() as u32;
        self.out.registers.extend(callee.registers.iter().cloned());
        let variables = self.out.variables.len();
        self.out.variables.extend(callee.variables.iter().cloned());
        let mut frame = Frame { registers, variables, bindings: None };
        let args: Vec<Operand> = call.args.iter().map(|o| caller.operand(o)).collect();
        let returns: Vec<Operand> = call.returns.iter().map(|o| caller.operand(o)).collect();
        let mut params = Vec::new();
        for (param, arg) in callee.params.iter().zip(args) {
            let ty = format!("b{}", param.ty.bits());
            params.push(match (param.register, &arg) {
                (Some(reg), _) => {
                    let reg = Operand::Reg(frame.reg(reg));
                    self.out.code.push(made(inst.line, None, "mov", &[&ty], vec![reg, arg]));
                    None
                }
                (None, Operand::Symbol { symbol: Symbol::Local(i), .. }) => Some(*i),
                (None, _) => {
                    let at = self.variable(param);
                    let address = Address { base: AddressBase::Symbol(Symbol::Local(at)), offset: 0 };
                    self.out.code.push(made(
                        inst.line,
                        None,
                        "st",
                        &["local", &ty],
                        vec![Operand::Address(address), arg],
                    ));
                    Some(at)
                }
            });
        }
        let bound = callee.returns.iter().zip(&returns).map(|(result, operand)| match (result.register, operand) {
            (None, Operand::Symbol { symbol: Symbol::Local(i), .. }) => Some(*i),
            (None, _) => Some(usize::MAX),
            _ => None,
        });
        let mut bound: Vec<_> = bound.collect();
        for (slot, result) in bound.iter_mut().zip(&callee.returns).filter(|(s, _)| **s == Some(usize::MAX)) {
            *slot = Some(self.variable(result));
        }
        frame.bindings = Some(Bindings { params, returns: bound.clone() });
        self.body(callee, &frame, depth + 1)?;
        for ((result, operand), slot) in callee.returns.iter().zip(returns).zip(bound) {
            let ty = format!("b{}", result.ty.bits());
            match (result.register, slot, &operand) {
                (Some(reg), ..) => {
                    let value = Operand::Reg(frame.reg(reg));
                    self.out.code.push(made(inst.line, None, "mov", &[&ty], vec![operand, value]));
                }
                (None, Some(at), Operand::Reg(_)) => {
                    let address = Address { base: AddressBase::Symbol(Symbol::Local(at)), offset: 0 };
                    let operands = vec![operand, Operand::Address(address)];
                    self.out.code.push(made(inst.line, None, "ld", &["local", &ty], operands));
                }
                _ => {}
            }
        }
        if let Some(skip) = skip {
            let end = self.out.code.len();
            self.out.code[skip].operands = vec![Operand::Label(end)];
        }
        Ok(())
    }

    /// Makes one instruction of the call of a function that the machine itself has.
    fn system(&mut self, inst: &Instruction, call: &Call, callee: &Function, caller: &Frame) {
        let guard = caller.guard(inst.guard);
        let mut operands = Vec::new();
        let mut results = Vec::new();
        for (result, operand) in callee.returns.iter().zip(&call.returns) {
            operands.push(match caller.operand(operand) {
                Operand::Symbol { symbol, offset } => {
                    let place = Operand::Address(Address { base: AddressBase::Symbol(symbol), offset });
                    let value = self.register(result.ty);
                    results.push((result.ty, place, value.clone()));
                    value
                }
                register => register,
            });
        }
        for (param, operand) in callee.params.iter().zip(&call.args) {
            operands.push(match caller.operand(operand) {
                Operand::Symbol { symbol: symbol @ Symbol::Local(_), offset } => {
                    let place = Operand::Address(Address { base: AddressBase::Symbol(symbol), offset });
                    let value = self.register(param.ty);
                    let ty = format!("b{}", param.ty.bits());
                    self.out.code.push(made(inst.line, guard, "ld", &["local", &ty], vec![value.clone(), place]));
                    value
                }
                other => other,
            });
        }
        self.out.code.push(made(inst.line, guard, "call", &[&callee.name], operands));
        for (ty, place, value) in results {
            let ty = format!("b{}", ty.bits());
            self.out.code.push(made(inst.line, guard, "st", &["local", &ty], vec![place, value]));
        }
    }

    /// A new register.
    fn register(&mut self, ty: ScalarType) -> Operand {
        self.out.registers.push(Register { name: "%system".into(), ty });
        Operand::Reg(RegId(self.out.registers.len() as u32 - 1))
    }

    /// A variable for a parameter or result that the caller keeps in a register.
    fn variable(&mut self, param: &crate::ptx::Param) -> usize {
        self.out.variables.push(Variable {
            name: param.name.clone(),
            space: Space::Param,
            align: param.align,
            ty: param.ty,
            elements: Some(param.bytes / param.ty.bytes()),
            is_extern: false,
            init: None,
            line: self.out.line,
        });
        self.out.variables.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
.version 8.0
.target sm_90a
.address_size 64
.func (.param .b32 r) twice(.param .b32 x) {
    .reg .b32 %a<3>;
    .reg .pred %p<2>;
    ld.param.b32 %a1, [x];
    setp.eq.s32 %p1, %a1, 0;
    @%p1 bra $end;
    add.s32 %a1, %a1, %a1;
$end:
    st.param.b32 [r], %a1;
    ret;
}
.visible .entry k() {
    .reg .b32 %r<3>;
    .reg .pred %p<2>;
    mov.b32 %r1, 5;
    setp.eq.s32 %p1, %r1, 5;
    { .param .b32 p0; .param .b32 q0;
    st.param.b32 [p0], %r1;
    @%p1 call (q0), twice, (p0);
    ld.param.b32 %r2, [q0]; }
    ret;
}";

    #[test]
    fn a_call_becomes_the_body_and_goes_on_behind_it() {
        let module = Module::parse(TEXT).expect("the text is PTX");
        let kernel = module.kernel("k").expect("the kernel is there");
        let flat = inline(&module, kernel).expect("one plain call");
        let opcodes: Vec<&str> = flat.code.iter().map(|i| i.opcode.as_str()).collect();
        assert_eq!(opcodes, ["mov", "setp", "st", "bra", "ld", "setp", "bra", "add", "st", "bra", "ld", "ret"]);
        let label = |i: usize| flat.code[i].operands.iter().find(|o| matches!(o, Operand::Label(_)));
        assert_eq!(label(3), Some(&Operand::Label(10)), "the guard skips the body");
        assert_eq!(label(6), Some(&Operand::Label(8)), "a label inside of the body");
        assert_eq!(label(9), Some(&Operand::Label(10)), "a return goes on behind the call");
        for i in [2, 4, 8, 10] {
            assert_eq!(flat.code[i].modifiers[0], "local", "call frames are the thread's memory");
        }
        let space = |i: usize| match &flat.code[i].operands[..] {
            [Operand::Address(Address { base: AddressBase::Symbol(s), .. }), _]
            | [_, Operand::Address(Address { base: AddressBase::Symbol(s), .. })] => Some(*s),
            _ => None,
        };
        assert_eq!(space(2), space(4), "the parameter is the caller's variable");
        assert_eq!(space(8), space(10), "and so is the result");
    }
}
