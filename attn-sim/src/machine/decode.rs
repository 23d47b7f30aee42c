//! What an `isa` module sees of an instruction when it decodes it: operands resolved to registers, constants and addresses.

use super::special::Special;
use crate::ptx::{Address, AddressBase, Function, Instruction, Operand, RegId, ScalarType, Symbol};
use crate::report::Unsupported;

/// Lanes of a warp.
pub const LANES: usize = 32;

/// A register of a program, as execution finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reg {
    /// Index of its status.
    pub id: u32,
    /// Its first row of 32 lanes, among predicates or among 32-bit words.
    pub slot: u32,
    /// Declared width: 1, 8, 16, 32, 64 or 128.
    pub bits: u8,
}

impl Reg {
    /// Whether this is a predicate.
    pub const fn is_pred(self) -> bool {
        self.bits == 1
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// A register.
    Reg(Reg),
    /// A predicate register, negated.
    NotPred(Reg),
    /// A constant: an integer as two's complement, or the bits of a float of the operand's type.
    Imm(u64),
    /// The shared-memory address of an offset in the own block.
    Shared(u32),
    /// A special register.
    Special(Special),
}

/// An address: a value plus a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Addr {
    /// Where it starts. 32-bit registers are zero-extended.
    pub base: Source,
    /// Bytes added.
    pub offset: i64,
}

/// Where each symbol of a kernel lies.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// By index in `Module::variables`: a shared offset, a global address, or an offset in the constant bank.
    pub module: Vec<Place>,
    /// By index in `Function::variables`.
    pub local: Vec<Place>,
    /// By index in `Function::params`: offsets in the parameter buffer.
    pub params: Vec<u64>,
    /// By register id.
    pub registers: Vec<Reg>,
}

/// Where a symbol lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address that is a constant in the symbol's state space.
    At(u64),
    /// An offset in the own block's shared memory.
    Shared(u32),
}

/// An instruction being decoded. Operand indices count from 0, destination first.
#[derive(Clone, Copy, Debug)]
pub struct Decode<'a> {
    /// The instruction.
    pub inst: &'a Instruction,
    /// The function it belongs to.
    pub function: &'a Function,
    /// Where symbols and registers are.
    pub layout: &'a Layout,
    /// `.target`: `sm_90a`.
    pub target: &'a str,
}

impl<'a> Decode<'a> {
    /// The error that says why this instruction is not modelled.
    pub fn unsupported(&self, reason: impl Into<String>) -> Unsupported {
        Unsupported { line: self.inst.line, instruction: self.inst.to_string(), reason: reason.into() }
    }

    /// Modifiers in order, without dots.
    pub fn modifiers(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.inst.modifiers.iter().map(String::as_str)
    }

    /// Whether a modifier is there.
    pub fn has(&self, modifier: &str) -> bool {
        self.inst.modifiers.iter().any(|m| m == modifier)
    }

    /// The last modifier as a type: what most instructions end with.
    pub fn ty(&self) -> Result<ScalarType, Unsupported> {
        let last = self.inst.modifiers.last().and_then(|m| ScalarType::parse(m));
        last.ok_or_else(|| self.unsupported("no type at its end"))
    }

    /// An operand that must be there.
    pub fn operand(&self, i: usize) -> Result<&'a Operand, Unsupported> {
        self.inst.operands.get(i).ok_or_else(|| self.unsupported(format!("operand {i} is missing")))
    }

    /// The number of operands.
    pub fn operands(&self) -> usize {
        self.inst.operands.len()
    }

    /// A register by its id.
    pub fn register(&self, id: RegId) -> Reg {
        self.layout.registers[id.index()]
    }

    /// An operand that is a register.
    pub fn reg(&self, i: usize) -> Result<Reg, Unsupported> {
        self.reg_of(self.operand(i)?)
    }

    /// A register.
    pub fn reg_of(&self, operand: &Operand) -> Result<Reg, Unsupported> {
        match operand {
            Operand::Reg(id) => Ok(self.register(*id)),
            other => Err(self.unsupported(format!("a register was expected, not {other:?}"))),
        }
    }

    /// An operand that is a register or `_`.
    pub fn dest(&self, i: usize) -> Result<Option<Reg>, Unsupported> {
        self.dest_of(self.operand(i)?)
    }

    /// A register, or `_`.
    pub fn dest_of(&self, operand: &Operand) -> Result<Option<Reg>, Unsupported> {
        match operand {
            Operand::Sink => Ok(None),
            other => self.reg_of(other).map(Some),
        }
    }

    /// An operand that is a vector of registers or `_`; one register is a vector of one.
    pub fn dests(&self, i: usize) -> Result<Vec<Option<Reg>>, Unsupported> {
        elements(self.operand(i)?).iter().map(|o| self.dest_of(o)).collect()
    }

    /// An operand that is a value of type `ty`.
    pub fn source(&self, i: usize, ty: ScalarType) -> Result<Source, Unsupported> {
        self.source_of(self.operand(i)?, ty)
    }

    /// An operand that is a vector of values; one value is a vector of one.
    pub fn sources(&self, i: usize, ty: ScalarType) -> Result<Vec<Source>, Unsupported> {
        elements(self.operand(i)?).iter().map(|o| self.source_of(o, ty)).collect()
    }

    /// A value of type `ty`, which says what a written constant means: `0d` constants narrow to f32, `0f` ones widen.
    pub fn source_of(&self, operand: &Operand, ty: ScalarType) -> Result<Source, Unsupported> {
        Ok(match operand {
            Operand::Reg(id) => Source::Reg(self.register(*id)),
            Operand::NotReg(id) => Source::NotPred(self.register(*id)),
            Operand::Int(value) => Source::Imm(*value as u64),
            Operand::Float32(bits) if ty.bits() == 64 => Source::Imm(f64::from(f32::from_bits(*bits)).to_bits()),
            Operand::Float32(bits) => Source::Imm(u64::from(*bits)),
            Operand::Float64(bits) if ty.bits() == 32 => {
                Source::Imm(u64::from((f64::from_bits(*bits) as f32).to_bits()))
            }
            Operand::Float64(bits) => Source::Imm(*bits),
            Operand::Special(name) => {
                let special = Special::parse(name);
                Source::Special(special.ok_or_else(|| self.unsupported(format!("the special register {name}")))?)
            }
            Operand::Symbol { symbol, offset } => self.symbol(*symbol, *offset)?,
            other => return Err(self.unsupported(format!("a value was expected, not {other:?}"))),
        })
    }

    /// A predicate operand, possibly negated, or a constant.
    pub fn pred(&self, i: usize) -> Result<Source, Unsupported> {
        self.source(i, ScalarType::Pred)
    }

    /// An operand that is a constant integer.
    pub fn int(&self, i: usize) -> Result<i64, Unsupported> {
        match self.operand(i)? {
            Operand::Int(value) => Ok(*value),
            other => Err(self.unsupported(format!("operand {i} must be a constant, not {other:?}"))),
        }
    }

    /// An operand that is a label, as an index into the code.
    pub fn label(&self, i: usize) -> Result<usize, Unsupported> {
        match self.operand(i)? {
            Operand::Label(target) => Ok(*target),
            other => Err(self.unsupported(format!("operand {i} must be a label, not {other:?}"))),
        }
    }

    /// An operand `d|p` as its two halves; without a `|`, the second is a sink.
    pub fn pair(&self, i: usize) -> Result<(Option<Reg>, Option<Reg>), Unsupported> {
        match self.operand(i)? {
            Operand::Pair(a, b) => Ok((self.dest_of(a)?, self.dest_of(b)?)),
            other => Ok((self.dest_of(other)?, None)),
        }
    }

    /// An operand in brackets.
    pub fn address(&self, i: usize) -> Result<Addr, Unsupported> {
        match self.operand(i)? {
            Operand::Address(address) => self.address_of(address),
            other => Err(self.unsupported(format!("operand {i} must be an address in brackets, not {other:?}"))),
        }
    }

    /// An address in brackets.
    pub fn address_of(&self, address: &Address) -> Result<Addr, Unsupported> {
        let base = match address.base {
            AddressBase::Reg(id) => Source::Reg(self.register(id)),
            AddressBase::Symbol(symbol) => self.symbol(symbol, 0)?,
            AddressBase::Absolute => Source::Imm(0),
        };
        Ok(Addr { base, offset: address.offset })
    }

    /// The address of a symbol in its state space, plus a constant.
    fn symbol(&self, symbol: Symbol, offset: i64) -> Result<Source, Unsupported> {
        let place = match symbol {
            Symbol::Variable(i) => self.layout.module.get(i).copied(),
            Symbol::Local(i) => self.layout.local.get(i).copied(),
            Symbol::Param(i) => self.layout.params.get(i).map(|&p| Place::At(p)),
            Symbol::Return(_) | Symbol::Function(_) => None,
        };
        match place {
            Some(Place::At(addr)) => Ok(Source::Imm(addr.wrapping_add_signed(offset))),
            Some(Place::Shared(at)) => Ok(Source::Shared(at.wrapping_add(offset as u32))),
            None => Err(self.unsupported("the address of a function, or of a variable defined elsewhere")),
        }
    }
}

/// The elements of a vector, or the operand itself.
pub fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(elements) => elements,
        one => std::slice::from_ref(one),
    }
}
