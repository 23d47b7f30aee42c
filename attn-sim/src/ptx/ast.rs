//! What a PTX module says, with names resolved: registers, symbols and labels are indices, `{ }` scopes are gone.

use std::fmt;

/// A parsed PTX module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// `.version`, as (major, minor).
    pub version: (u32, u32),
    /// `.target`: the architecture first (`sm_90a`), then options such as `debug`.
    pub target: Vec<String>,
    /// Variables of module scope, and `.global` and `.const` variables declared in functions.
    pub variables: Vec<Variable>,
    /// Kernels and device functions; one that is declared first and defined later appears once.
    pub functions: Vec<Function>,
}

impl Module {
    /// The kernel (`.entry`) of this name.
    pub fn kernel(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.entry && f.name == name)
    }
}

/// A state space that variables live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.global`
    Global,
    /// `.const`
    Const,
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// `.param`: call frames, when declared in a function body
    Param,
}

/// A fundamental type of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the PTX type of its name
pub enum ScalarType {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F32x2,
    F64,
    Tf32,
    E4m3,
    E5m2,
    E4m3x2,
    E5m2x2,
}

impl ScalarType {
    /// Every type with its PTX name, without the dot.
    const NAMES: &[(&str, ScalarType)] = &[
        ("pred", ScalarType::Pred),
        ("b8", ScalarType::B8),
        ("b16", ScalarType::B16),
        ("b32", ScalarType::B32),
        ("b64", ScalarType::B64),
        ("b128", ScalarType::B128),
        ("u8", ScalarType::U8),
        ("u16", ScalarType::U16),
        ("u32", ScalarType::U32),
        ("u64", ScalarType::U64),
        ("s8", ScalarType::S8),
        ("s16", ScalarType::S16),
        ("s32", ScalarType::S32),
        ("s64", ScalarType::S64),
        ("f16", ScalarType::F16),
        ("f16x2", ScalarType::F16x2),
        ("bf16", ScalarType::Bf16),
        ("bf16x2", ScalarType::Bf16x2),
        ("f32", ScalarType::F32),
        ("f32x2", ScalarType::F32x2),
        ("f64", ScalarType::F64),
        ("tf32", ScalarType::Tf32),
        ("e4m3", ScalarType::E4m3),
        ("e5m2", ScalarType::E5m2),
        ("e4m3x2", ScalarType::E4m3x2),
        ("e5m2x2", ScalarType::E5m2x2),
    ];

    /// The type of a PTX name without its dot (`"u32"`).
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, ty)| *ty)
    }

    /// The PTX name, without the dot.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, ty)| *ty == self).map_or("", |(n, _)| n)
    }

    /// Width in bits; 1 for a predicate.
    pub const fn bits(self) -> u32 {
        use ScalarType::*;
        match self {
            Pred => 1,
            B8 | U8 | S8 | E4m3 | E5m2 => 8,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 16,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 | Tf32 => 32,
            B64 | U64 | S64 | F64 | F32x2 => 64,
            B128 => 128,
        }
    }

    /// Size in memory in bytes; 1 for a predicate.
    pub const fn bytes(self) -> u64 {
        self.bits().div_ceil(8) as u64
    }

    /// Whether this is a signed integer.
    pub const fn is_signed(self) -> bool {
        matches!(self, ScalarType::S8 | ScalarType::S16 | ScalarType::S32 | ScalarType::S64)
    }
}

impl fmt::Display for ScalarType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A variable in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// The name in the text; names of different scopes may coincide.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Alignment in bytes, a power of two: as declared, or that of the type.
    pub align: u64,
    /// The element type.
    pub ty: ScalarType,
    /// Number of elements; 1 for a scalar, the product of the dimensions of an array. `None` for an array without a
    /// size (`x[]`), which is dynamic shared memory or defined elsewhere.
    pub elements: Option<u64>,
    /// Declared `.extern`.
    pub is_extern: bool,
    /// What it holds at the start; memory without an initialiser is zero in `.global` and `.const`, undefined elsewhere.
    pub init: Option<Initial>,
    /// The line of its declaration.
    pub line: u32,
}

impl Variable {
    /// Size in bytes; 0 for an array without a size.
    pub fn bytes(&self) -> u64 {
        self.elements.unwrap_or(0).saturating_mul(self.ty.bytes())
    }
}

/// An initialiser: bytes, and the places where addresses are filled in once they are known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Initial {
    /// Leading bytes of the variable, little endian; what follows them is zero.
    pub bytes: Vec<u8>,
    /// Addresses to be written over `bytes`.
    pub fixups: Vec<Fixup>,
}

/// An address within an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixup {
    /// Byte offset in [`Initial::bytes`].
    pub at: usize,
    /// Bytes written, least significant first.
    pub width: u64,
    /// Whose address.
    pub symbol: Symbol,
    /// Added to the address.
    pub offset: i64,
    /// A generic address (`generic(x)`) rather than one in the variable's state space.
    pub generic: bool,
    /// Right shift of the address in bits: `0xff00(x)` selects one byte of it.
    pub shift: u32,
}

/// Index into [`Function::registers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);

impl RegId {
    /// The index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A register of a function. Registers of a `name<N>` declaration appear when the text names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// The name in the text, with its `%` if it has one; names of different scopes may coincide.
    pub name: String,
    /// Declared type. Untyped and typed registers of one width mix freely.
    pub ty: ScalarType,
}

/// A parameter of a function, or a value it returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// The name in the text.
    pub name: String,
    /// The (element) type.
    pub ty: ScalarType,
    /// Alignment in bytes.
    pub align: u64,
    /// Size in bytes; that of the whole array for `.b8 p[128]`.
    pub bytes: u64,
    /// The register that a device function's `.reg` parameter is; `None` for `.param`.
    pub register: Option<RegId>,
}

/// Performance directives of a kernel, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// `.maxntid`
    pub maxntid: Option<[u32; 3]>,
    /// `.reqntid`
    pub reqntid: Option<[u32; 3]>,
    /// `.minnctapersm`
    pub minnctapersm: Option<u32>,
    /// `.maxnctapersm`
    pub maxnctapersm: Option<u32>,
    /// `.maxnreg`
    pub maxnreg: Option<u32>,
    /// `.reqnctapercluster`
    pub reqnctapercluster: Option<[u32; 3]>,
    /// `.maxclusterrank`
    pub maxclusterrank: Option<u32>,
    /// `.explicitcluster`
    pub explicit_cluster: bool,
    /// `.blocksareclusters`
    pub blocks_are_clusters: bool,
}

/// A kernel or a device function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Function {
    /// The name in the text.
    pub name: String,
    /// `.entry`, not `.func`.
    pub entry: bool,
    /// Parameters, in order.
    pub params: Vec<Param>,
    /// Values returned, in order.
    pub returns: Vec<Param>,
    /// Launch bounds.
    pub bounds: Bounds,
    /// Registers of all scopes.
    pub registers: Vec<Register>,
    /// `.shared`, `.local` and `.param` variables of the body, of all scopes.
    pub variables: Vec<Variable>,
    /// Instructions in order. Running past the last one returns.
    pub code: Vec<Instruction>,
    /// Declared, and defined in another module.
    pub declared_only: bool,
    /// The line of the name.
    pub line: u32,
}

/// An instruction, in the shape all share.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Line in the text.
    pub line: u32,
    /// `@p` or `@!p`.
    pub guard: Option<Guard>,
    /// The first word: `mbarrier`.
    pub opcode: String,
    /// What follows it, without dots: `try_wait`, `parity`, `shared::cta`, `b64`.
    pub modifiers: Vec<String>,
    /// Operands, in order.
    pub operands: Vec<Operand>,
}

impl fmt::Display for Instruction {
    /// Opcode with its modifiers, as in the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.opcode)?;
        self.modifiers.iter().try_for_each(|m| write!(f, ".{m}"))
    }
}

/// A guard predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The predicate register.
    pub reg: RegId,
    /// `@!p`
    pub negated: bool,
}

/// What a name that is neither register nor label refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// [`Module::variables`]
    Variable(usize),
    /// [`Function::variables`] of the function that names it
    Local(usize),
    /// [`Function::params`]
    Param(usize),
    /// [`Function::returns`]
    Return(usize),
    /// [`Module::functions`]
    Function(usize),
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register.
    Reg(RegId),
    /// A negated predicate, `!p`.
    NotReg(RegId),
    /// `_`: a result that is dropped.
    Sink,
    /// An integer constant; unsigned 64-bit ones wrap.
    Int(i64),
    /// `0fXXXXXXXX`: the bits.
    Float32(u32),
    /// `0dXXXXXXXXXXXXXXXX` or a decimal fraction: the bits of an f64.
    Float64(u64),
    /// A special register, with its component: `%tid.x`.
    Special(String),
    /// The address of a variable or function, plus a constant.
    Symbol {
        /// Whose address.
        symbol: Symbol,
        /// Bytes added.
        offset: i64,
    },
    /// A label, as an index into [`Function::code`]; its length where the label ends the function.
    Label(usize),
    /// A `.branchtargets` table, as indices into [`Function::code`].
    Targets(Vec<usize>),
    /// `[a+8]`
    Address(Address),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// A register of which a part is selected (`r.b3`, `r.h10`) or that is negated (`-r`), as video instructions have them.
    Modified {
        /// The register.
        of: Box<Operand>,
        /// `b3`, `h10` or `-`.
        by: String,
    },
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `[map, {c0, c1}]`
    Tensor {
        /// The tensor map's address.
        map: Address,
        /// Coordinates, innermost first.
        coords: Vec<Operand>,
    },
    /// All of a `call`.
    Call(Call),
}

/// An address in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where it starts.
    pub base: AddressBase,
    /// Bytes added.
    pub offset: i64,
}

/// What an address starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressBase {
    /// The value of a register.
    Reg(RegId),
    /// The address of a variable.
    Symbol(Symbol),
    /// A constant, which is in the offset.
    Absolute,
}

/// What a `call` names.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Where results go: [`Operand::Symbol`] of `.param` variables, or registers.
    pub returns: Vec<Operand>,
    /// Who is called.
    pub target: CallTarget,
    /// What is passed: `.param` variables, registers or constants.
    pub args: Vec<Operand>,
    /// The functions of a `.calltargets` list, where the call names one.
    pub candidates: Option<Vec<usize>>,
}

/// Who is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallTarget {
    /// [`Module::functions`]
    Function(usize),
    /// A function's address in a register.
    Reg(RegId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_round_trip_and_have_their_width() {
        for &(name, ty) in ScalarType::NAMES {
            assert_eq!(ScalarType::parse(name), Some(ty));
            assert_eq!(ty.name(), name);
            let digits: String =
                name.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
            if let (Ok(n), "b" | "u" | "s" | "f") =
                (digits.parse::<u32>(), name.trim_end_matches(|c: char| c.is_ascii_digit()))
            {
                assert_eq!(ty.bits(), n, "{name}");
            }
        }
        assert_eq!(ScalarType::parse("u4"), None);
    }
}
