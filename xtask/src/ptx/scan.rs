//! Finding names and numbers in a piece of LLVM IR without being fooled by string literals.

use std::ops::Range;

/// What a piece of IR text refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// `@name` or `@"name"`: a global.
    Symbol,
    /// `#N`: an attribute group.
    Attributes(u32),
    /// `!N`: a metadata node.
    Metadata(u32),
}

/// Every reference in `text`, with its place. Literals (`"..."`) are skipped.
pub fn tokens(text: &str) -> Vec<(Range<usize>, Token)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'"' => literal_end(bytes, at),
            b'@' => {
                let end = symbol_end(bytes, at + 1);
                found.push((at..end, Token::Symbol));
                end
            }
            sigil @ (b'#' | b'!') => {
                let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let end = at + 1 + digits;
                if let Ok(number) = text[at + 1..end].parse() {
                    let token = if sigil == b'#' { Token::Attributes(number) } else { Token::Metadata(number) };
                    found.push((at..end, token));
                }
                end
            }
            _ => at + 1,
        };
        at = end;
    }
    found
}

/// `text` with references replaced where `replace` gives something else.
pub fn rewrite(text: &str, mut replace: impl FnMut(Token) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (range, token) in tokens(text) {
        if let Some(new) = replace(token) {
            out.push_str(&text[copied..range.start]);
            out.push_str(&new);
            copied = range.end;
        }
    }
    out.push_str(&text[copied..]);
    out
}

/// A line without its `; comment` and trailing blanks.
pub fn strip_comment(line: &str) -> &str {
    let bytes = line.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        at = match bytes[at] {
            b'"' => literal_end(bytes, at),
            b';' => return line[..at].trim_end(),
            _ => at + 1,
        };
    }
    line.trim_end()
}

/// The place after the bracket that closes the one at `open`.
pub fn closing(text: &str, open: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (open, 0usize);
    while at < bytes.len() {
        at = match bytes[at] {
            b'"' => literal_end(bytes, at),
            b'(' | b'[' | b'{' | b'<' => {
                depth += 1;
                at + 1
            }
            b')' | b']' | b'}' | b'>' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
                at + 1
            }
            _ => at + 1,
        };
    }
    None
}

/// The place after the literal that starts at `at`. IR writes a quote inside a literal as `\22`.
pub fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes[at + 1..].iter().position(|&byte| byte == b'"');
    rest.map_or(bytes.len(), |offset| at + 1 + offset + 1)
}

fn symbol_end(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at) == Some(&b'"') {
        return literal_end(bytes, at);
    }
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-$._".contains(byte);
    at + bytes[at..].iter().take_while(|byte| name(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_in_literals_are_not_references() {
        let text = r#"call void asm "mov #1 @x !2", "r"(ptr @"a b") #3, !range !4"#;
        let found: Vec<_> = tokens(text).into_iter().map(|(range, token)| (&text[range], token)).collect();
        let want = [(r#"@"a b""#, Token::Symbol), ("#3", Token::Attributes(3)), ("!4", Token::Metadata(4))];
        assert_eq!(found, want);
    }

    #[test]
    fn comments_end_a_line_but_not_a_literal() {
        assert_eq!(strip_comment("br label %bb1   ; preds = %start"), "br label %bb1");
        assert_eq!(strip_comment(r#"asm "bar.sync 0;", "~{memory}"()"#), r#"asm "bar.sync 0;", "~{memory}"()"#);
    }

    #[test]
    fn brackets_close_around_nested_ones_and_literals() {
        let text = r#"(ptr noundef align 8 dereferenceable(24) %a, [2 x i8] c")(") tail"#;
        assert_eq!(&text[closing(text, 0).unwrap()..], " tail");
    }
}
