//! The commands of the guide and of the README are commands: every `cargo xtask` line of their shell blocks is parsed.

use std::fs;

use clap::Parser;

use crate::{Cli, workspace};

/// The `cargo xtask` lines of a text's shell blocks, as words, lines that go on joined and comments left out. Words in quotes come apart, which
/// only `sim` has, whose words are its program's.
fn commands(text: &str) -> Vec<Vec<String>> {
    let blocks = text.split("\n```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let lines = blocks.flat_map(|block| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>());
    lines
        .filter_map(|line| {
            let (_, command) = line.split_once("cargo xtask ")?;
            let command = command.split(" # ").next()?;
            Some(command.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn what_the_guide_says_to_type_is_understood() {
    let root = workspace::root();
    let mut files = vec![root.join("README.md")];
    let chapters = fs::read_dir(root.join("guide/src")).unwrap().map(|entry| entry.unwrap().path());
    files.extend(chapters.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let mut seen = 0;
    for file in files {
        for words in commands(&fs::read_to_string(&file).unwrap()) {
            seen += 1;
            if let Err(error) = Cli::try_parse_from(["xtask"].into_iter().chain(words.iter().map(String::as_str))) {
                assert!(!error.use_stderr(), "{}: cargo xtask {}\n{error}", file.display(), words.join(" "));
            }
        }
    }
    assert!(seen > 25, "only {seen} commands were found");
}

#[test]
fn commands_are_found_in_shell_blocks() {
    let text = "cargo xtask no\n\n```sh\nA=b cargo xtask demo \\\n  --simulate   # why\nls\n```\n\n```text\ncargo xtask no\n```\n";
    assert_eq!(commands(text), [["demo", "--simulate"]]);
}
