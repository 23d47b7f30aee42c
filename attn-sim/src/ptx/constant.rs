//! Constant expressions: 64-bit integers with C's operators, signed unless an operand is unsigned.

use super::cursor::Cursor;
use super::error::{ParseError, ParseErrorKind};
use super::lexer::Token;

/// A constant, as 64 bits with their reading.
#[derive(Clone, Copy)]
struct Constant {
    bits: i64,
    unsigned: bool,
}

/// Binary operators by precedence, the loosest first.
const LEVELS: &[&[&str]] = &[
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<=", ">=", "<", ">"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

/// Whether a constant integer expression starts here.
pub(super) fn starts(c: &Cursor<'_>) -> bool {
    match c.peek() {
        Token::Int(_) | Token::Word("WARP_SZ") => true,
        Token::Sign(s) => matches!(s, "-" | "+" | "~" | "("),
        _ => false,
    }
}

/// An integer constant expression.
pub(super) fn integer(c: &mut Cursor<'_>) -> Result<i64, ParseError> {
    conditional(c).map(|k| k.bits)
}

/// A constant between `low` and `high`, both allowed.
pub(super) fn integer_in(
    c: &mut Cursor<'_>,
    what: &'static str,
    low: i64,
    high: i64,
    allowed: &'static str,
) -> Result<i64, ParseError> {
    let before = c.position();
    let value = integer(c)?;
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(ParseError { at: before, kind: ParseErrorKind::Range { what, value, allowed } })
}

fn conditional(c: &mut Cursor<'_>) -> Result<Constant, ParseError> {
    c.nested(|c| {
        let condition = binary(c, 0)?;
        if !c.eat("?") {
            return Ok(condition);
        }
        let yes = conditional(c)?;
        c.expect(":")?;
        let no = conditional(c)?;
        Ok(if condition.bits != 0 { yes } else { no })
    })
}

fn binary(c: &mut Cursor<'_>, level: usize) -> Result<Constant, ParseError> {
    let Some(operators) = LEVELS.get(level) else { return unary(c) };
    let mut left = binary(c, level + 1)?;
    while let Some(operator) = operators.iter().find(|o| c.is(o)) {
        let at = c.position();
        c.next();
        let right = binary(c, level + 1)?;
        left = apply(operator, left, right).ok_or(ParseError { at, kind: ParseErrorKind::DivisionByZero })?;
    }
    Ok(left)
}

/// `None` for a division by zero.
fn apply(operator: &str, a: Constant, b: Constant) -> Option<Constant> {
    let unsigned = a.unsigned || b.unsigned;
    let (ua, ub) = (a.bits as u64, b.bits as u64);
    let order = if unsigned { ua.cmp(&ub) } else { a.bits.cmp(&b.bits) };
    let truth = |t: bool| Constant { bits: t as i64, unsigned: false };
    let shift = ub.min(64) as u32;
    let bits = match operator {
        "||" => return Some(truth(a.bits != 0 || b.bits != 0)),
        "&&" => return Some(truth(a.bits != 0 && b.bits != 0)),
        "==" => return Some(truth(order.is_eq())),
        "!=" => return Some(truth(order.is_ne())),
        "<=" => return Some(truth(order.is_le())),
        ">=" => return Some(truth(order.is_ge())),
        "<" => return Some(truth(order.is_lt())),
        ">" => return Some(truth(order.is_gt())),
        "|" => a.bits | b.bits,
        "^" => a.bits ^ b.bits,
        "&" => a.bits & b.bits,
        "<<" => ua.checked_shl(shift).unwrap_or(0) as i64,
        ">>" if a.unsigned => ua.checked_shr(shift).unwrap_or(0) as i64,
        ">>" => a.bits >> shift.min(63),
        "+" => a.bits.wrapping_add(b.bits),
        "-" => a.bits.wrapping_sub(b.bits),
        "*" => a.bits.wrapping_mul(b.bits),
        _ if b.bits == 0 => return None,
        "/" if unsigned => (ua / ub) as i64,
        "/" => a.bits.wrapping_div(b.bits),
        _ if unsigned => (ua % ub) as i64,
        _ => a.bits.wrapping_rem(b.bits),
    };
    Some(Constant { bits, unsigned })
}

fn unary(c: &mut Cursor<'_>) -> Result<Constant, ParseError> {
    c.nested(|c| {
        if c.eat("-") {
            return unary(c).map(|k| Constant { bits: k.bits.wrapping_neg(), ..k });
        }
        if c.eat("+") {
            return unary(c);
        }
        if c.eat("~") {
            return unary(c).map(|k| Constant { bits: !k.bits, ..k });
        }
        if c.eat("!") {
            return unary(c).map(|k| Constant { bits: (k.bits == 0) as i64, unsigned: false });
        }
        primary(c)
    })
}

fn primary(c: &mut Cursor<'_>) -> Result<Constant, ParseError> {
    match c.peek() {
        Token::Int(bits) => {
            c.next();
            Ok(Constant { bits, unsigned: bits < 0 })
        }
        Token::Word("WARP_SZ") => {
            c.next();
            Ok(Constant { bits: 32, unsigned: false })
        }
        Token::Sign("(") => {
            c.next();
            let cast = if c.eat_dot("u64") {
                Some(true)
            } else if c.eat_dot("s64") {
                Some(false)
            } else {
                None
            };
            if let Some(unsigned) = cast {
                c.expect(")")?;
                return unary(c).map(|k| Constant { unsigned, ..k });
            }
            let inner = conditional(c)?;
            c.expect(")")?;
            Ok(inner)
        }
        _ => Err(c.expected("an integer constant")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::lexer::tokens;

    fn value(text: &str) -> Result<i64, ParseErrorKind> {
        integer(&mut Cursor::new(tokens(text).unwrap())).map_err(|e| e.kind)
    }

    #[test]
    fn operators_bind_as_in_c() {
        assert_eq!(value("1 + 2 * 3"), Ok(7));
        assert_eq!(value("(1 + 2) * 3"), Ok(9));
        assert_eq!(value("-8 >> 1"), Ok(-4));
        assert_eq!(value("0xffffffffffffffff >> 60"), Ok(15));
        assert_eq!(value("1 << 3 | 1"), Ok(9));
        assert_eq!(value("~0 == -1 ? 5 : 6"), Ok(5));
        assert_eq!(value("(.u64)-1 > 1"), Ok(1));
        assert_eq!(value("-1 > 1"), Ok(0));
        assert_eq!(value("!WARP_SZ"), Ok(0));
        assert_eq!(value("7 % 4 - 5 / 2"), Ok(1));
        assert_eq!(value("1 << 64"), Ok(0));
    }

    #[test]
    fn what_has_no_value_is_an_error() {
        assert_eq!(value("1 / 0"), Err(ParseErrorKind::DivisionByZero));
        assert_eq!(value(&"(".repeat(1000)), Err(ParseErrorKind::TooDeep(crate::ptx::cursor::MAX_DEPTH)));
        assert_eq!(value("0x8000000000000000 / -1"), Ok(0));
        assert!(matches!(value("a"), Err(ParseErrorKind::Expected { .. })));
    }
}
