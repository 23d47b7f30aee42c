//! Declarations of variables, and what initialisers put into them.

use super::ast::{Fixup, Initial, ScalarType, Space, Symbol, Variable};
use super::constant;
use super::cursor::Cursor;
use super::error::{ParseError, ParseErrorKind};
use super::lexer::Token;

/// Largest initialiser taken, in bytes.
const MAX_INITIAL: u64 = 1 << 26;

/// Type and alignment, which the names of a declaration share.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) ty: ScalarType,
    /// Components of a vector type; 1 for a scalar.
    pub(super) components: u64,
    /// As declared.
    align: Option<u64>,
}

impl Shape {
    /// Alignment in bytes.
    pub(super) fn align(&self) -> u64 {
        self.align.unwrap_or(self.ty.bytes() * self.components)
    }
}

/// `.align N`, `.v4`, `.u32`, `.attribute(..)` in any order; the type ends it.
pub(super) fn shape(c: &mut Cursor<'_>) -> Result<Shape, ParseError> {
    let (mut align, mut components) = (None, 1);
    loop {
        let Token::Dot(word) = c.peek() else { return Err(c.expected("a type")) };
        if let Some(ty) = ScalarType::parse(word) {
            c.next();
            return Ok(Shape { ty, components, align });
        }
        match word {
            "align" => {
                c.next();
                align = Some(alignment(c)?);
            }
            "v2" | "v4" | "v8" => {
                c.next();
                components = u64::from(word.as_bytes()[1] - b'0');
            }
            "attribute" => {
                c.next();
                c.skip_group("(", ")")?;
            }
            "texref" | "samplerref" | "surfref" => return Err(c.error(ParseErrorKind::Unsupported(format!(".{word}")))),
            _ => return Err(c.expected("a type")),
        }
    }
}

/// The number after `.align`.
pub(super) fn alignment(c: &mut Cursor<'_>) -> Result<u64, ParseError> {
    let (what, allowed, at) = (".align", "a power of two up to 65536", c.position());
    let value = constant::integer_in(c, what, 1, 65536, allowed)?;
    if !(value as u64).is_power_of_two() {
        return Err(ParseError { at, kind: ParseErrorKind::Range { what, value, allowed } });
    }
    Ok(value as u64)
}

/// `[4][8]`, as sizes; a first one of `[]` is `None`.
pub(super) fn dimensions(c: &mut Cursor<'_>) -> Result<Vec<Option<u64>>, ParseError> {
    let mut dims = Vec::new();
    while c.eat("[") {
        if dims.is_empty() && c.eat("]") {
            dims.push(None);
            continue;
        }
        let n = constant::integer_in(c, "an array's size", 0, 1 << 40, "0 to 2^40")?;
        c.expect("]")?;
        dims.push(Some(n as u64));
    }
    Ok(dims)
}

/// Elements of an array of these sizes; `None` for one without a size.
pub(super) fn count(c: &Cursor<'_>, dims: &[Option<u64>]) -> Result<Option<u64>, ParseError> {
    let mut total = Some(1u64);
    for dim in dims {
        total = match (total, dim) {
            (Some(t), Some(d)) => Some(t.checked_mul(*d).filter(|n| *n <= 1 << 40).ok_or_else(|| too_large(c))?),
            _ => None,
        };
    }
    Ok(total)
}

fn too_large(c: &Cursor<'_>) -> ParseError {
    let kind = ParseErrorKind::Range { what: "an array's size", value: i64::MAX, allowed: "0 to 2^40" };
    c.error(kind)
}

/// One name of a declaration with its sizes and initialiser, whose names `find` looks up.
pub(super) fn declarator<'a>(
    c: &mut Cursor<'a>,
    space: Space,
    shape: Shape,
    is_extern: bool,
    find: &mut dyn FnMut(&'a str) -> Option<Symbol>,
) -> Result<(&'a str, Variable), ParseError> {
    let line = c.position().line;
    let name = c.word("a variable's name")?;
    let mut dims = dimensions(c)?;
    if shape.components > 1 {
        dims.push(Some(shape.components));
    }
    let mut elements = count(c, &dims)?;
    let init = if c.eat("=") {
        let mut filler = Filler { ty: shape.ty, dims: &dims, initial: Initial::default(), find };
        filler.value(c, 0, 0)?;
        let initial = filler.initial;
        elements = elements.or(Some(initial.bytes.len() as u64 / shape.ty.bytes()));
        Some(initial)
    } else {
        None
    };
    let name_text = name.to_string();
    let variable =
        Variable { name: name_text, space, align: shape.align(), ty: shape.ty, elements, is_extern, init, line };
    Ok((name, variable))
}

/// Puts the values of an initialiser in place.
struct Filler<'f, 'a> {
    ty: ScalarType,
    dims: &'f [Option<u64>],
    initial: Initial,
    find: &'f mut dyn FnMut(&'a str) -> Option<Symbol>,
}

impl<'a> Filler<'_, 'a> {
    /// A brace list for dimension `level` or a scalar, at element `at`.
    fn value(&mut self, c: &mut Cursor<'a>, level: usize, at: u64) -> Result<(), ParseError> {
        if !c.is("{") {
            return self.scalar(c, at);
        }
        c.enter()?;
        c.expect("{")?;
        // Elements of one entry at this level: rows of nested lists start at multiples of it.
        let row: u64 = self.dims.iter().skip(level + 1).flatten().fold(1u64, |n, d| n.saturating_mul(*d)).max(1);
        let room = match self.dims.get(level) {
            Some(Some(n)) => n.saturating_mul(row),
            Some(None) => u64::MAX,
            None => 1,
        };
        let mut next = 0u64;
        while !c.is("}") {
            let step = if c.is("{") { row } else { 1 };
            next = next.div_ceil(step).saturating_mul(step);
            if next.saturating_add(step) > room {
                let value = i64::try_from(next).unwrap_or(i64::MAX).saturating_add(1);
                let what = "the number of initial values";
                return Err(c.error(ParseErrorKind::Range { what, value, allowed: "the size of the array" }));
            }
            self.value(c, level + 1, at.saturating_add(next))?;
            next += step;
            if !c.eat(",") {
                break;
            }
        }
        c.expect("}")?;
        c.leave();
        Ok(())
    }

    fn scalar(&mut self, c: &mut Cursor<'a>, at: u64) -> Result<(), ParseError> {
        let width = self.ty.bytes();
        let start = at.saturating_mul(width);
        if start > MAX_INITIAL {
            let value = i64::try_from(start).unwrap_or(i64::MAX);
            return Err(c.error(ParseErrorKind::Range {
                what: "an initialiser's size",
                value,
                allowed: "at most 64 MiB",
            }));
        }
        let (start, end) = (start as usize, (start + width) as usize);
        if self.initial.bytes.len() < end {
            self.initial.bytes.resize(end, 0);
        }
        let bits = match self.address(c, start)? {
            true => return Ok(()),
            false => self.number(c)?,
        };
        self.initial.bytes[start..end].copy_from_slice(&bits.to_le_bytes()[..end - start]);
        Ok(())
    }

    /// A number, as its bits in the type of the variable.
    fn number(&mut self, c: &mut Cursor<'a>) -> Result<u128, ParseError> {
        let negative = matches!(c.peek_at(1), Token::Float32(_) | Token::Float64(_)) && c.eat("-");
        let sign = if negative { -1.0 } else { 1.0 };
        let ty = self.ty;
        let bits = match c.peek() {
            Token::Float32(bits) if ty == ScalarType::F64 => (f64::from(f32::from_bits(bits)) * sign).to_bits(),
            Token::Float32(bits) => u64::from(bits ^ ((negative as u32) << 31)),
            Token::Float64(bits) if ty == ScalarType::F32 => {
                u64::from(((f64::from_bits(bits) * sign) as f32).to_bits())
            }
            Token::Float64(bits) => bits ^ ((negative as u64) << 63),
            _ => {
                let value = constant::integer(c)?;
                return Ok(match ty {
                    ScalarType::F32 => u128::from((value as f32).to_bits()),
                    ScalarType::F64 => u128::from((value as f64).to_bits()),
                    _ => value as u64 as u128,
                });
            }
        };
        c.next();
        Ok(u128::from(bits))
    }

    /// `x`, `x+4`, `generic(x)+4` or `0xff00(x)`, written at byte `at`; false if none of them comes here.
    fn address(&mut self, c: &mut Cursor<'a>, at: usize) -> Result<bool, ParseError> {
        let mask = match (c.peek(), c.peek_at(1)) {
            (Token::Int(mask), Token::Sign("(")) => Some(mask as u64),
            (Token::Word("WARP_SZ"), _) => return Ok(false),
            (Token::Word(_), _) => None,
            _ => return Ok(false),
        };
        let shift = mask.map_or(0, u64::trailing_zeros);
        if mask.is_some_and(|m| m == 0 || m >> shift != 0xff) || mask.is_some() && self.ty.bytes() != 1 {
            return Err(c.expected("a mask of one byte, for an element of one byte"));
        }
        if mask.is_some() {
            c.next();
            c.expect("(")?;
        }
        let generic = matches!((c.peek(), c.peek_at(1)), (Token::Word("generic"), Token::Sign("(")));
        if generic {
            c.next();
            c.expect("(")?;
        }
        let name_at = c.position();
        let name = c.word("a variable's name")?;
        let unknown = || ParseError { at: name_at, kind: ParseErrorKind::Unknown(name.into()) };
        let symbol = (self.find)(name).ok_or_else(unknown)?;
        let mut offset = if c.is("+") || c.is("-") { constant::integer(c)? } else { 0 };
        if generic {
            c.expect(")")?;
            offset = offset.wrapping_add(if c.is("+") || c.is("-") { constant::integer(c)? } else { 0 });
        }
        if mask.is_some() {
            c.expect(")")?;
        }
        let width = self.ty.bytes().min(8);
        self.initial.fixups.push(Fixup { at, width, symbol, offset, generic, shift });
        Ok(true)
    }
}
