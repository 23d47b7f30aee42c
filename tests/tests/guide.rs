//! The guide holds together: links lead somewhere, every chapter is in the summary and has its blocks compiled, pictures are there.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use attn_tests::suite;
use clap::Parser as _;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guide/src")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files of the guide that end like this.
fn files(extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(source()).expect("the guide is there").map(|entry| entry.expect("readable").path());
    entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

fn events(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

/// What a text links to, and the pictures that it shows.
fn targets(text: &str) -> Vec<String> {
    let link = |event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.into_string()),
        _ => None,
    };
    events(text).filter_map(link).collect()
}

/// The anchors of a text's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> HashSet<String> {
    let (mut found, mut heading) = (HashSet::new(), None);
    for event in events(text) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                found.extend(heading.take().map(|title: String| slug(&title)));
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some(title) = &mut heading {
                    title.push_str(&part);
                }
            }
            _ => {}
        }
    }
    found
}

fn slug(title: &str) -> String {
    let kept = title.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut links = 0;
    for chapter in files("md") {
        for target in targets(&read(&chapter)).into_iter().filter(|target| !target.starts_with("https://")) {
            links += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { chapter.clone() } else { source().join(path) };
            let there = file.exists() && (anchor.is_empty() || anchors(&read(&file)).contains(anchor));
            if !there {
                broken.push(format!("{}: {target}", chapter.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    assert!(links > 40, "only {links} links were found");
}

#[test]
fn every_chapter_is_in_the_summary_and_compiled() {
    let listed: HashSet<String> = targets(&read(&source().join("SUMMARY.md"))).into_iter().collect();
    let compiled = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide.rs"));
    for chapter in files("md") {
        let name = chapter.file_name().expect("a file").to_string_lossy().into_owned();
        if name == "SUMMARY.md" {
            continue;
        }
        assert!(listed.contains(&name), "{name} is not in the summary");
        let has_rust = read(&chapter).lines().any(|line| line.starts_with("```rust"));
        assert!(!has_rust || compiled.contains(&format!("{name:?}")), "nobody compiles the Rust blocks of {name}");
    }
}

/// Parts of a kernel cannot be compiled by themselves: they are quoted from a file that is.
#[test]
fn quoted_kernels_are_the_source() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../attn-kernel/src/probe/softmax.rs");
    let (kernel, mut quotes) = (read(&file), 0);
    for chapter in files("md") {
        let text = read(&chapter);
        for quote in text.split("\n```rust,ignore\n").skip(1).filter_map(|rest| rest.split("\n```").next()) {
            assert!(kernel.contains(quote), "{}: this is not in {}:\n{quote}", chapter.display(), file.display());
            quotes += 1;
        }
    }
    assert!(quotes > 0, "no quotes were found");
}

/// What the guide says to type for the suite is understood, cases included.
#[test]
fn commands_for_the_suite_are_understood() {
    let mut commands = 0;
    for chapter in files("md") {
        let text = read(&chapter);
        let blocks = text.split("\n```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
        for line in blocks.flat_map(str::lines) {
            let Some((_, words)) = line.split_once("attn-gpu-suite") else { continue };
            // What stands in quotes is one word.
            let parts = words.split('\'').enumerate();
            let words =
                parts.flat_map(|(i, part)| if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() });
            let words: Vec<&str> = words.filter(|word| *word != "--").collect();
            let parsed = suite::Options::try_parse_from(std::iter::once("attn-gpu-suite").chain(words));
            assert!(parsed.is_ok(), "{}: {line}\n{}", chapter.display(), parsed.expect_err("it is an error"));
            commands += 1;
        }
    }
    assert!(commands > 2, "only {commands} commands were found");
}

#[test]
fn anchors_are_made_as_github_makes_them() {
    let text = "# What `attn` is\n\n## Blackwell: roles, rings\n";
    assert_eq!(anchors(text), HashSet::from(["what-attn-is".to_owned(), "blackwell-roles-rings".to_owned()]));
}

/// The pictures' text is text, in colours that a dark page does not swallow, and nothing in them is fetched or run.
#[test]
fn pictures_are_plain_and_are_shown() {
    let shown: HashSet<String> = files("md").iter().flat_map(|chapter| targets(&read(chapter))).collect();
    let pictures = source().join("pictures");
    for picture in fs::read_dir(&pictures).expect("there are pictures").map(|entry| entry.expect("readable").path()) {
        let name = picture.file_name().expect("a file").to_string_lossy().into_owned();
        if !name.ends_with(".svg") {
            continue;
        }
        let text = read(&picture);
        assert!(shown.contains(&format!("pictures/{name}")), "{name} is shown nowhere");
        assert!(text.contains("<title>") && text.contains("viewBox"), "{name} has no title or no viewBox");
        assert!(text.contains("prefers-color-scheme: dark"), "{name} has no colours for dark pages");
        for part in ["<script", "href=", "<image", "<foreignObject"] {
            assert!(!text.contains(part), "{name} has {part}");
        }
    }
}
