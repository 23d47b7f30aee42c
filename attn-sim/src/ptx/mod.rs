//! The front end: PTX text of versions 8.0 to 9.5 to a [`Module`].
//!
//! Instructions keep one generic shape (opcode, modifiers, operands), so that text with an instruction the machine does
//! not know still parses; it is refused, with its line, when the function that holds it is decoded.

mod ast;
mod body;
mod constant;
mod cursor;
mod error;
mod lexer;
mod operand;
mod parser;
mod scope;
mod variable;

pub use ast::*;
pub use error::{ParseError, ParseErrorKind, Position};
