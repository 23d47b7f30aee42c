//! A place in a list of tokens, and the small steps every part of the parser takes.

use super::error::{ParseError, ParseErrorKind, Position};
use super::lexer::{Spanned, Token};

/// How deep brackets of all kinds may nest together.
pub(super) const MAX_DEPTH: usize = 64;

/// Reads tokens one after the other.
pub(super) struct Cursor<'a> {
    tokens: Vec<Spanned<'a>>,
    at: usize,
    depth: usize,
}

impl<'a> Cursor<'a> {
    /// At the first of `tokens`, whose last one is [`Token::End`].
    pub(super) fn new(tokens: Vec<Spanned<'a>>) -> Self {
        Cursor { tokens, at: 0, depth: 0 }
    }

    /// The token `ahead` of the next one; [`Token::End`] past the end.
    pub(super) fn peek_at(&self, ahead: usize) -> Token<'a> {
        self.tokens.get(self.at + ahead).map_or(Token::End, |t| t.0)
    }

    /// The next token.
    pub(super) fn peek(&self) -> Token<'a> {
        self.peek_at(0)
    }

    /// Where the next token is.
    pub(super) fn position(&self) -> Position {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(Position { line: 1, column: 1 }, |t| t.1)
    }

    /// Takes the next token. The end stays.
    pub(super) fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    /// An error at the next token.
    pub(super) fn error(&self, kind: ParseErrorKind) -> ParseError {
        ParseError { at: self.position(), kind }
    }

    /// The error that the next token is not `expected`.
    pub(super) fn expected(&self, expected: &'static str) -> ParseError {
        self.error(ParseErrorKind::Expected { expected, found: self.peek().describe() })
    }

    /// Whether the next token is this sign.
    pub(super) fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if s == sign)
    }

    /// Takes the next token if it is this sign.
    pub(super) fn eat(&mut self, sign: &str) -> bool {
        let is = self.is(sign);
        self.at += is as usize;
        is
    }

    /// Takes the next token if it is this directive or modifier.
    pub(super) fn eat_dot(&mut self, name: &str) -> bool {
        let is = matches!(self.peek(), Token::Dot(d) if d == name);
        self.at += is as usize;
        is
    }

    /// Takes this sign.
    pub(super) fn expect(&mut self, sign: &'static str) -> Result<(), ParseError> {
        if self.eat(sign) { Ok(()) } else { Err(self.expected(sign)) }
    }

    /// Takes an identifier.
    pub(super) fn word(&mut self, what: &'static str) -> Result<&'a str, ParseError> {
        match self.peek() {
            Token::Word(w) => {
                self.at += 1;
                Ok(w)
            }
            _ => Err(self.expected(what)),
        }
    }

    /// Runs `inner` one level deeper.
    pub(super) fn nested<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        self.enter()?;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Goes one level deeper; [`leave`](Self::leave) comes back.
    pub(super) fn enter(&mut self) -> Result<(), ParseError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(ParseErrorKind::TooDeep(MAX_DEPTH)));
        }
        self.depth += 1;
        Ok(())
    }

    /// Comes back from [`enter`](Self::enter).
    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Skips all tokens up to and with the sign that closes the bracket `open`, which is the next token.
    pub(super) fn skip_group(&mut self, open: &'static str, close: &'static str) -> Result<(), ParseError> {
        self.expect(open)?;
        let mut depth = 1;
        while depth > 0 {
            if self.peek() == Token::End {
                return Err(self.expected(close));
            }
            depth += self.is(open) as usize;
            depth -= self.is(close) as usize;
            self.at += 1;
        }
        Ok(())
    }

    /// Skips all tokens up to and with the next `;`.
    pub(super) fn skip_statement(&mut self) -> Result<(), ParseError> {
        while !self.is(";") {
            if self.next() == Token::End {
                return Err(self.expected(";"));
            }
        }
        self.expect(";")
    }
}
