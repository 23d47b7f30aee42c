//! The table of plans as text: `attn-kernel/src/forward/tune.rs`.
//!
//! A line is `D DV MASK: "KNOBS"; // why`. Only what stands between the quotes is ever replaced.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use attn_tune::Class;

use crate::workspace;

/// Where the table is.
pub fn path() -> PathBuf {
    workspace::root().join("attn-kernel/src/forward/tune.rs")
}

/// The text with other knobs in the line of a class.
pub fn replace(text: &str, class: Class, knobs: &str) -> Result<String> {
    let place = find(text, class)?;
    let new = format!("{}{knobs}{}", &text[..place.start], &text[place.end..]);
    let written = find(&new, class)?;
    ensure!(&new[written] == knobs, "the line of {class} would not read back");
    Ok(new)
}

/// Where a class's knobs are.
fn find(text: &str, class: Class) -> Result<Range<usize>> {
    let head = format!("{}: \"", class.head());
    let mut places = text.match_indices(&head).filter(|(at, _)| {
        let line = text[..*at].rfind('\n').map_or(0, |end| end + 1);
        text[line..*at].trim().is_empty()
    });
    let (at, _) = places.next().with_context(|| format!("no line begins with `{head}`"))?;
    ensure!(places.next().is_none(), "two lines begin with `{head}`");
    let start = at + head.len();
    let length = text[start..].find('"').context("the line's knobs do not end")?;
    Ok(start..start + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_tune::Element;
    use std::fs;

    fn class(name: &str) -> Class {
        Class::try_from(name.to_owned()).expect("a class")
    }

    #[test]
    fn every_line_of_the_table_is_found_with_its_knobs() {
        let text = fs::read_to_string(path()).expect("the table");
        for class in Class::all(Element::Bf16) {
            assert_eq!(&text[find(&text, class).expect("a line")], class.line.knobs);
        }
    }

    #[test]
    fn a_line_takes_what_was_asked_and_the_rest_stays() {
        let text = "use x;\ntable! {\n    // hand-written\n    64 64 full: \"bm=128\"; // why\n    64 64 causal: \"bm=192 bn=112\"; // so\n    \
                    164 64 full: \"bm=64\";\n}\n";
        let new = replace(text, class("bf16_d64_causal"), "bm=128 bn=96").expect("a line");
        assert_eq!(new, text.replace("bm=192 bn=112", "bm=128 bn=96"));
        let new = replace(&new, class("f16_d64"), "").expect("a line");
        assert_eq!(new, text.replace("bm=192 bn=112", "bm=128 bn=96").replace("\"bm=128\"", "\"\""));
        assert_eq!(replace(text, class("f16_d64"), "bm=128").expect("a line"), text);
    }

    #[test]
    fn a_line_that_is_missing_or_twice_there_is_an_error() {
        let error =
            |text: &str| replace(text, class("bf16_d32_causal"), "bm=64").expect_err("no such line").to_string();
        assert!(error("table! {}").contains("no line begins with `32 32 causal: \"`"));
        assert!(error("// 32 32 causal: \"bm=1\"").contains("no line"), "a comment is none");
        assert!(error("32 32 causal: \"a\";\n32 32 causal: \"b\";").contains("two lines"));
        assert!(error("32 32 causal: \"a;\n").contains("do not end"));
        let split = replace("32 32 causal: \"a\";", class("bf16_d32_causal"), "a\"b").expect_err("a quote").to_string();
        assert!(split.contains("would not read back"), "{split}");
    }
}
