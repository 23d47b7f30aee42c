//! Why a text is not a module.

use thiserror::Error;

/// A place in a text, both counted from 1; columns count bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column in bytes.
    pub column: u32,
}

/// Text that is not PTX, or PTX that this front end does not take.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {}, column {}: {kind}", at.line, at.column)]
pub struct ParseError {
    /// Where.
    pub at: Position,
    /// What.
    pub kind: ParseErrorKind,
}

/// What is wrong with a text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseErrorKind {
    /// A character that no token starts with.
    #[error("unexpected character {0:?}")]
    Character(char),
    /// A string or a comment runs to the end of the text.
    #[error("{0} is not closed")]
    Unclosed(&'static str),
    /// A number that does not fit 64 bits, or with digits outside its base.
    #[error("`{0}` is not a number")]
    Number(String),
    /// Something else had to come here.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What had to come.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// A name that nothing in scope declares.
    #[error("`{0}` is not declared")]
    Unknown(String),
    /// A name declared twice in one scope.
    #[error("`{0}` is declared twice")]
    Duplicate(String),
    /// A directive or a form of PTX that is not supported.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A number outside of what its place allows.
    #[error("{what} is {value}, allowed is {allowed}")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: i64,
        /// The values allowed.
        allowed: &'static str,
    },
    /// Brackets, braces or parentheses nest deeper than the parser follows.
    #[error("nested more than {0} deep")]
    TooDeep(usize),
    /// A division by zero in a constant expression.
    #[error("division by zero in a constant expression")]
    DivisionByZero,
}
