//! Operands of instructions.

use super::ast::{Address, AddressBase, Call, CallTarget, Operand, Symbol};
use super::body::Body;
use super::constant;
use super::error::{ParseError, ParseErrorKind};
use super::lexer::Token;
use super::scope::Name;

/// Special registers; those with components are used as `%tid.x`.
const SPECIAL: &[&str] = &[
    "%tid",
    "%ntid",
    "%ctaid",
    "%nctaid",
    "%laneid",
    "%warpid",
    "%nwarpid",
    "%smid",
    "%nsmid",
    "%gridid",
    "%is_explicit_cluster",
    "%clusterid",
    "%nclusterid",
    "%cluster_ctaid",
    "%cluster_nctaid",
    "%cluster_ctarank",
    "%cluster_nctarank",
    "%lanemask_eq",
    "%lanemask_le",
    "%lanemask_lt",
    "%lanemask_ge",
    "%lanemask_gt",
    "%clock",
    "%clock_hi",
    "%clock64",
    "%globaltimer",
    "%globaltimer_lo",
    "%globaltimer_hi",
    "%reserved_smem_offset_begin",
    "%reserved_smem_offset_end",
    "%reserved_smem_offset_cap",
    "%total_smem_size",
    "%aggr_smem_size",
    "%dynamic_smem_size",
    "%current_graph_exec",
];

/// Special registers with a number: `%pm0`, `%envreg31`.
const NUMBERED: &[&str] = &["%pm", "%envreg", "%reserved_smem_offset_"];

fn is_special(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    SPECIAL.contains(&name)
        || (stem != name && NUMBERED.contains(&stem))
        || name.starts_with("%pm") && name.ends_with("_64")
}

impl<'a> Body<'_, 'a> {
    /// An operand of `opcode`.
    pub(super) fn operand(&mut self, opcode: &str) -> Result<Operand, ParseError> {
        let first = self.simple_operand(opcode)?;
        if !self.p.c.eat("|") {
            return Ok(first);
        }
        let second = self.simple_operand(opcode)?;
        Ok(Operand::Pair(Box::new(first), Box::new(second)))
    }

    fn simple_operand(&mut self, opcode: &str) -> Result<Operand, ParseError> {
        match self.p.c.peek() {
            Token::Sign("[") => self.address_operand(opcode),
            Token::Sign("{") => self.vector(opcode).map(Operand::Vector),
            Token::Sign("!") if matches!(self.p.c.peek_at(1), Token::Word(w) if w != "WARP_SZ") => {
                self.p.c.next();
                self.register().map(Operand::NotReg)
            }
            Token::Sign("-") if matches!(self.p.c.peek_at(1), Token::Float32(_) | Token::Float64(_)) => {
                self.p.c.next();
                Ok(match self.p.c.next() {
                    Token::Float32(bits) => Operand::Float32(bits ^ (1 << 31)),
                    Token::Float64(bits) => Operand::Float64(bits ^ (1 << 63)),
                    _ => return Err(self.p.c.expected("a floating-point constant")),
                })
            }
            Token::Sign("-") if matches!(self.p.c.peek_at(1), Token::Word(w) if self.is_register(w)) => {
                self.p.c.next();
                let of = Box::new(self.simple_operand(opcode)?);
                Ok(Operand::Modified { of, by: "-".into() })
            }
            Token::Float32(bits) => {
                self.p.c.next();
                Ok(Operand::Float32(bits))
            }
            Token::Float64(bits) => {
                self.p.c.next();
                Ok(Operand::Float64(bits))
            }
            _ if constant::starts(&self.p.c) || self.p.c.is("!") => constant::integer(&mut self.p.c).map(Operand::Int),
            Token::Word(name) => self.named(opcode, name),
            _ => Err(self.p.c.expected("an operand")),
        }
    }

    /// `{a, b}`
    fn vector(&mut self, opcode: &str) -> Result<Vec<Operand>, ParseError> {
        self.p.c.expect("{")?;
        self.p.c.enter()?;
        let mut parts = Vec::new();
        while !self.p.c.is("}") {
            parts.push(self.operand(opcode)?);
            if !self.p.c.eat(",") {
                break;
            }
        }
        self.p.c.leave();
        self.p.c.expect("}")?;
        Ok(parts)
    }

    fn named(&mut self, opcode: &str, name: &'a str) -> Result<Operand, ParseError> {
        let at = self.p.c.position();
        self.p.c.next();
        if name == "_" {
            return Ok(Operand::Sink);
        }
        // The names that a branch uses are labels, whatever else they name.
        if matches!(opcode, "bra" | "brx") {
            match self.scopes.find(name) {
                Some(Name::Reg(reg)) => return Ok(Operand::Reg(reg)),
                _ => return Ok(Operand::Label(self.use_label(name, at))),
            }
        }
        match self.scopes.find(name) {
            Some(Name::Reg(reg)) => return Ok(self.selected(Operand::Reg(reg))),
            Some(Name::Vector(parts)) => return self.component(&parts),
            Some(Name::Symbol(symbol)) => return self.symbol(opcode, symbol),
            Some(Name::CallTargets(_) | Name::Prototype) => return Err(ParseError { at, kind: unknown(name) }),
            None => {}
        }
        if let Some(symbol) = self.p.globals.get(name).copied() {
            return self.symbol(opcode, symbol);
        }
        if is_special(name) {
            return Ok(Operand::Special(match self.p.c.peek() {
                Token::Dot(component) => {
                    self.p.c.next();
                    format!("{name}.{component}")
                }
                _ => name.into(),
            }));
        }
        Err(ParseError { at, kind: unknown(name) })
    }

    fn is_register(&mut self, name: &'a str) -> bool {
        matches!(self.scopes.find(name), Some(Name::Reg(_)))
    }

    /// A register, and the bytes or halves of it that a selector behind it names.
    fn selected(&mut self, register: Operand) -> Operand {
        match self.p.c.peek() {
            Token::Dot(part) if part.starts_with(['b', 'h']) && part[1..].bytes().all(|b| b.is_ascii_digit()) => {
                self.p.c.next();
                Operand::Modified { of: Box::new(register), by: part.into() }
            }
            _ => register,
        }
    }

    /// A vector register: all of it, or the component that follows.
    fn component(&mut self, parts: &[super::ast::RegId]) -> Result<Operand, ParseError> {
        let Token::Dot(letter) = self.p.c.peek() else {
            return Ok(Operand::Vector(parts.iter().map(|r| Operand::Reg(*r)).collect()));
        };
        let index = match letter {
            "x" | "r" => 0,
            "y" | "g" => 1,
            "z" | "b" => 2,
            "w" | "a" => 3,
            _ => usize::MAX,
        };
        let part = parts.get(index).ok_or_else(|| self.p.c.expected("a component of the vector"))?;
        self.p.c.next();
        Ok(Operand::Reg(*part))
    }

    /// `x`, `x+4`, `x[3]`. An element is an address to read from or write to, except to `mov`.
    fn symbol(&mut self, opcode: &str, symbol: Symbol) -> Result<Operand, ParseError> {
        if !self.p.c.eat("[") {
            let offset = self.offset()?;
            return Ok(Operand::Symbol { symbol, offset });
        }
        let index = constant::integer(&mut self.p.c)?;
        self.p.c.expect("]")?;
        let offset = index.wrapping_mul(self.element_bytes(symbol));
        if opcode == "mov" {
            return Ok(Operand::Symbol { symbol, offset });
        }
        Ok(Operand::Address(Address { base: AddressBase::Symbol(symbol), offset }))
    }

    fn element_bytes(&self, symbol: Symbol) -> i64 {
        let ty = match symbol {
            Symbol::Variable(i) => self.p.module.variables[i].ty,
            Symbol::Local(i) => self.function.variables[i].ty,
            Symbol::Param(i) => self.function.params[i].ty,
            Symbol::Return(i) => self.function.returns[i].ty,
            Symbol::Function(_) => return 1,
        };
        ty.bytes() as i64
    }

    /// `+8`, `-8`, `+-8` or nothing.
    fn offset(&mut self) -> Result<i64, ParseError> {
        if self.p.c.is("+") || self.p.c.is("-") { constant::integer(&mut self.p.c) } else { Ok(0) }
    }

    /// `[address]` or `[map, {coordinates}]`
    fn address_operand(&mut self, opcode: &str) -> Result<Operand, ParseError> {
        self.p.c.expect("[")?;
        let map = self.address()?;
        if !self.p.c.eat(",") {
            self.p.c.expect("]")?;
            return Ok(Operand::Address(map));
        }
        let coords = self.vector(opcode)?;
        self.p.c.expect("]")?;
        Ok(Operand::Tensor { map, coords })
    }

    fn address(&mut self) -> Result<Address, ParseError> {
        let Token::Word(name) = self.p.c.peek() else {
            let offset = constant::integer(&mut self.p.c)?;
            return Ok(Address { base: AddressBase::Absolute, offset });
        };
        let found = self.scopes.find(name).or_else(|| self.p.globals.get(name).copied().map(Name::Symbol));
        let (base, symbol) = match found {
            Some(Name::Reg(reg)) => (AddressBase::Reg(reg), None),
            Some(Name::Symbol(symbol)) => (AddressBase::Symbol(symbol), Some(symbol)),
            // A component of a vector register.
            Some(Name::Vector(parts)) => {
                self.p.c.next();
                let Operand::Reg(reg) = self.component(&parts)? else { return Err(self.p.c.expected("a component")) };
                return Ok(Address { base: AddressBase::Reg(reg), offset: self.offset()? });
            }
            Some(_) => return Err(self.p.c.expected("an address")),
            None => return Err(self.p.c.error(unknown(name))),
        };
        self.p.c.next();
        // `[x[3]]`
        let mut element = 0;
        if let Some(symbol) = symbol
            && self.p.c.eat("[")
        {
            element = constant::integer(&mut self.p.c)?.wrapping_mul(self.element_bytes(symbol));
            self.p.c.expect("]")?;
        }
        Ok(Address { base, offset: element.wrapping_add(self.offset()?) })
    }

    /// `(results), target, (arguments), candidates`, all but the target optional.
    pub(super) fn call(&mut self) -> Result<Operand, ParseError> {
        let mut returns = Vec::new();
        if self.p.c.is("(") {
            returns = self.call_list()?;
            self.p.c.expect(",")?;
        }
        let target = self.call_target()?;
        let mut args = Vec::new();
        let mut candidates = None;
        while self.p.c.eat(",") {
            if self.p.c.is("(") {
                args = self.call_list()?;
                continue;
            }
            let Token::Word(name) = self.p.c.peek() else { return Err(self.p.c.expected("a list of targets")) };
            match self.scopes.find(name) {
                Some(Name::CallTargets(list)) => candidates = Some(list),
                Some(Name::Prototype) => {}
                _ => return Err(self.p.c.expected("a .calltargets list or a .callprototype")),
            }
            self.p.c.next();
        }
        Ok(Operand::Call(Call { returns, target, args, candidates }))
    }

    fn call_target(&mut self) -> Result<CallTarget, ParseError> {
        let Token::Word(name) = self.p.c.peek() else { return Err(self.p.c.expected("a function")) };
        let target = match (self.scopes.find(name), self.p.globals.get(name).copied()) {
            (Some(Name::Reg(reg)), _) => CallTarget::Reg(reg),
            (_, Some(Symbol::Function(index))) => CallTarget::Function(index),
            _ => return Err(self.p.c.error(unknown(name))),
        };
        self.p.c.next();
        Ok(target)
    }

    /// `(a, b)`; `.param` variables in it are named without brackets.
    fn call_list(&mut self) -> Result<Vec<Operand>, ParseError> {
        self.p.c.expect("(")?;
        let mut all = Vec::new();
        while !self.p.c.is(")") {
            all.push(self.operand("call")?);
            if !self.p.c.eat(",") {
                break;
            }
        }
        self.p.c.expect(")")?;
        Ok(all)
    }
}

fn unknown(name: &str) -> ParseErrorKind {
    ParseErrorKind::Unknown(name.into())
}
