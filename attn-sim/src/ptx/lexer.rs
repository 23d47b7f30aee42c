//! PTX text to tokens.

use super::error::{ParseError, ParseErrorKind, Position};

/// A token; text is borrowed from the source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// An identifier, with a leading `%`, `$` or `_` if it has one.
    Word(&'a str),
    /// A directive, modifier or vector component, without its dot: `global`, `shared::cta`, `4d`.
    Dot(&'a str),
    /// An integer constant.
    Int(i64),
    /// `0fXXXXXXXX`
    Float32(u32),
    /// `0dXXXXXXXXXXXXXXXX`, or a decimal fraction
    Float64(u64),
    /// What stands between quotes.
    Text(&'a str),
    /// Punctuation; operators of two characters are their first character here with the second in the same token.
    Sign(&'a str),
    /// The end of the text.
    End,
}

impl Token<'_> {
    /// How an error names this token.
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Word(w) => format!("`{w}`"),
            Token::Dot(d) => format!("`.{d}`"),
            Token::Int(i) => format!("`{i}`"),
            Token::Float32(_) | Token::Float64(_) => "a floating-point constant".into(),
            Token::Text(_) => "a string".into(),
            Token::Sign(s) => format!("`{s}`"),
            Token::End => "the end of the text".into(),
        }
    }
}

/// A token and where it starts.
pub(super) type Spanned<'a> = (Token<'a>, Position);

/// Operators of two characters.
const PAIRS: &[&str] = &["<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "@@"];

/// Splits a text into tokens; the last one is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Spanned<'_>>, ParseError> {
    let mut lexer = Lexer { text, at: 0, line: 1, line_start: 0 };
    let mut out = Vec::with_capacity(text.len() / 4);
    loop {
        lexer.skip_blank()?;
        let position = lexer.position();
        let token = lexer.token().map_err(|kind| ParseError { at: position, kind })?;
        out.push((token, position));
        if token == Token::End {
            return Ok(out);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    /// Byte offset of the next character.
    at: usize,
    line: u32,
    /// Byte offset where the current line starts.
    line_start: usize,
}

/// Characters inside of an identifier.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$'
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn position(&self) -> Position {
        Position { line: self.line, column: (self.at - self.line_start + 1) as u32 }
    }

    /// Moves on by `bytes`, counting the lines passed.
    fn advance(&mut self, bytes: usize) {
        for (i, b) in self.rest().bytes().take(bytes).enumerate() {
            if b == b'\n' {
                self.line += 1;
                self.line_start = self.at + i + 1;
            }
        }
        self.at += bytes;
    }

    /// Skips white space, both kinds of comments, and the preprocessor's line markers (`# 1 "file"`).
    fn skip_blank(&mut self) -> Result<(), ParseError> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            let line_end = rest.find('\n').unwrap_or(rest.len());
            if blank > 0 {
                self.advance(blank);
            } else if rest.starts_with("//") || rest.starts_with('#') {
                self.advance(line_end);
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let at = self.position();
                let Some(end) = comment.find("*/") else {
                    return Err(ParseError { at, kind: ParseErrorKind::Unclosed("a comment") });
                };
                self.advance(end + 4);
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token<'a>, ParseErrorKind> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        match first {
            '0'..='9' => self.number(),
            '"' => self.string(),
            '.' => self.dot(),
            'a'..='z' | 'A'..='Z' | '_' | '$' | '%' => Ok(self.word()),
            _ => self.sign(first),
        }
    }

    /// Takes the next `bytes` as a slice.
    fn take(&mut self, bytes: usize) -> &'a str {
        let taken = &self.rest()[..bytes];
        self.advance(bytes);
        taken
    }

    fn word(&mut self) -> Token<'a> {
        let rest = self.rest();
        let tail = rest[1..].find(|c| !is_word(c)).unwrap_or(rest.len() - 1);
        // A lone `%` is the remainder operator.
        if rest.starts_with('%') && tail == 0 {
            return Token::Sign(self.take(1));
        }
        Token::Word(self.take(1 + tail))
    }

    /// `.name`, where the name may have parts joined by `::` and may start with a digit (`.4d`).
    fn dot(&mut self) -> Result<Token<'a>, ParseErrorKind> {
        let rest = &self.rest()[1..];
        let part = |s: &str| s.find(|c| !is_word(c)).unwrap_or(s.len());
        let mut length = part(rest);
        if length == 0 {
            return Err(ParseErrorKind::Character('.'));
        }
        while let Some(tail) = rest[length..].strip_prefix("::") {
            match part(tail) {
                0 => break,
                n => length += 2 + n,
            }
        }
        Ok(Token::Dot(&self.take(1 + length)[1..]))
    }

    fn string(&mut self) -> Result<Token<'a>, ParseErrorKind> {
        let bytes = self.rest().as_bytes();
        let mut end = 1;
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        if end >= bytes.len() {
            return Err(ParseErrorKind::Unclosed("a string"));
        }
        let taken = self.take(end + 1);
        Ok(Token::Text(&taken[1..end]))
    }

    fn sign(&mut self, first: char) -> Result<Token<'a>, ParseErrorKind> {
        if let Some(pair) = PAIRS.iter().find(|p| self.rest().starts_with(**p)) {
            return Ok(Token::Sign(self.take(pair.len())));
        }
        if !"{}[]()<>,;:@!|+-*/&^~?=".contains(first) {
            return Err(ParseErrorKind::Character(first));
        }
        Ok(Token::Sign(self.take(1)))
    }

    fn number(&mut self) -> Result<Token<'a>, ParseErrorKind> {
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let literal = &rest[..length];
        let bad = || ParseErrorKind::Number(literal.into());
        // Float literals by their bits, of exactly the width's digits.
        for (prefix, digits) in [("0f", 8), ("0F", 8), ("0d", 16), ("0D", 16)] {
            if let Some(hex) = literal.strip_prefix(prefix) {
                let bits =
                    (hex.len() == digits).then(|| u64::from_str_radix(hex, 16).ok()).flatten().ok_or_else(bad)?;
                self.advance(length);
                return Ok(if digits == 8 { Token::Float32(bits as u32) } else { Token::Float64(bits) });
            }
        }
        if let Some(length) = decimal_fraction(rest) {
            let literal = &rest[..length];
            let value: f64 = literal.parse().map_err(|_| ParseErrorKind::Number(literal.into()))?;
            self.advance(length);
            return Ok(Token::Float64(value.to_bits()));
        }
        let digits = literal.trim_end_matches('U');
        let (digits, base) = match digits.get(..2) {
            Some("0x" | "0X") => (&digits[2..], 16),
            Some("0b" | "0B") => (&digits[2..], 2),
            _ if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
            _ => (digits, 10),
        };
        let value = u64::from_str_radix(digits, base).map_err(|_| bad())?;
        self.advance(length);
        Ok(Token::Int(value as i64))
    }
}

/// Length of a decimal number that has a fraction or an exponent; `None` for an integer.
fn decimal_fraction(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut length = digits(0);
    let fraction = bytes.get(length) == Some(&b'.')
        && bytes.get(length + 1).is_none_or(|b| !is_word(*b as char) || b.is_ascii_digit());
    if fraction {
        length += 1;
        length += digits(length);
    }
    let exponent = matches!(bytes.get(length), Some(b'e' | b'E')) && {
        let signed = matches!(bytes.get(length + 1), Some(b'+' | b'-')) as usize;
        let n = digits((length + 1 + signed).min(bytes.len()));
        length += if n > 0 { 1 + signed + n } else { 0 };
        n > 0
    };
    (fraction || exponent).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lex(text: &str) -> Vec<Token<'_>> {
        let mut all: Vec<_> = tokens(text).unwrap().into_iter().map(|(t, _)| t).collect();
        assert_eq!(all.pop(), Some(Token::End));
        all
    }

    #[test]
    fn modifiers_with_digits_and_parts_are_one_token() {
        use Token::*;
        assert_eq!(
            lex("cp.async.bulk.tensor.4d.shared::cta.L2::cache_hint %tid.x"),
            [
                Word("cp"),
                Dot("async"),
                Dot("bulk"),
                Dot("tensor"),
                Dot("4d"),
                Dot("shared::cta"),
                Dot("L2::cache_hint"),
                Word("%tid"),
                Dot("x")
            ]
        );
    }

    #[test]
    fn numbers_of_every_base() {
        use Token::*;
        assert_eq!(
            lex("10 0x1F 017 0b101 0U 0f3F800000 0d3FF0000000000000 1.5 2e3 0xffffffffffffffff"),
            [
                Int(10),
                Int(31),
                Int(15),
                Int(5),
                Int(0),
                Float32(0x3F80_0000),
                Float64(0x3FF0_0000_0000_0000),
                Float64(1.5f64.to_bits()),
                Float64(2e3f64.to_bits()),
                Int(-1)
            ]
        );
    }

    #[test]
    fn errors_carry_line_and_column() {
        let at = |text: &str| tokens(text).unwrap_err().at;
        assert_eq!(at("a\n  `"), Position { line: 2, column: 3 });
        assert_eq!(at("/* x\n y"), Position { line: 1, column: 1 });
        assert_eq!(at("x 08"), Position { line: 1, column: 3 });
        assert_eq!(at("0f3F"), Position { line: 1, column: 1 });
        assert_eq!(at("\"abc\\\""), Position { line: 1, column: 1 });
    }

    #[test]
    fn comments_and_line_markers_are_blank() {
        assert_eq!(lex("# 1 \"x.cu\"\na // b\n/* c\n */ d"), [Token::Word("a"), Token::Word("d")]);
    }
}
