//! The parser takes any text without a panic: random text, and real PTX with pieces removed, repeated, swapped or
//! replaced. `PROPTEST_CASES` sets how many texts are tried.

use attn_sim::ptx::Module;
use proptest::prelude::*;

const SEEDS: &[&str] = &[
    include_str!("ptx/oddities.ptx"),
    include_str!("ptx/triton_matmul_small_sm90.ptx"),
    include_str!("ptx/triton_matmul_tma_sm100.ptx"),
];

/// Pieces that matter to the parser.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "<",
    ">",
    ",",
    ";",
    ":",
    "|",
    "!",
    "@",
    "-",
    "+",
    "~",
    "=",
    ".",
    "_",
    "\"",
    "/*",
    "//",
    "0f",
    "0x",
    "1e9",
    "9999999999999999999",
    "0xffffffffffffffff",
    ".reg",
    ".b32",
    ".v4",
    ".align",
    ".shared",
    ".param",
    ".global",
    ".func",
    ".entry",
    ".branchtargets",
    ".loc",
    ".section",
    ".file",
    "call",
    "bra",
    "%r1",
    "%tid",
    "WARP_SZ",
    "generic",
    "<1000000>",
    "[1099511627776]",
    "é",
];

/// One change to a text, at a place given as a share of its length.
#[derive(Clone, Debug)]
enum Edit {
    Insert(&'static str),
    Delete(usize),
    Repeat(usize),
    Swap(usize, u16),
}

fn edits() -> impl Strategy<Value = Vec<(u16, Edit)>> {
    let edit = prop_oneof![
        prop::sample::select(PIECES).prop_map(Edit::Insert),
        (1usize..40).prop_map(Edit::Delete),
        (1usize..200).prop_map(Edit::Repeat),
        (1usize..12, any::<u16>()).prop_map(|(n, to)| Edit::Swap(n, to)),
    ];
    prop::collection::vec((any::<u16>(), edit), 1..12)
}

/// The character boundary at a share of the text.
fn place(text: &str, share: u16) -> usize {
    let at = text.len() * usize::from(share) / usize::from(u16::MAX);
    (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

fn span(text: &str, from: usize, length: usize) -> usize {
    (from + length..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len())
}

fn apply(text: &mut String, share: u16, edit: &Edit) {
    let from = place(text, share);
    match edit {
        Edit::Insert(piece) => text.insert_str(from, piece),
        Edit::Delete(n) => text.replace_range(from..span(text, from, *n), ""),
        Edit::Repeat(n) => {
            let piece = text[from..span(text, from, *n)].to_string();
            text.insert_str(from, &piece);
        }
        Edit::Swap(n, to) => {
            let piece = text[from..span(text, from, *n)].to_string();
            let to = place(text, *to);
            text.replace_range(to..span(text, to, *n), &piece);
        }
    }
}

/// An error is at a place in the text.
fn check(text: &str) -> Result<(), TestCaseError> {
    if let Err(e) = Module::parse(text) {
        let line = text.split('\n').nth(e.at.line as usize - 1);
        prop_assert!(line.is_some_and(|l| (e.at.column as usize) <= l.len() + 1), "{e} is outside of the text");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn random_pieces(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..200)) {
        check(&pieces.join(" "))?;
        check(&format!(".entry k() {{ .reg .b32 %r<4>; {} }}", pieces.concat()))?;
    }

    #[test]
    fn changed_modules(seed in 0..SEEDS.len(), edits in edits()) {
        let mut text = SEEDS[seed].to_string();
        for (share, edit) in &edits {
            apply(&mut text, *share, edit);
        }
        check(&text)?;
    }
}
