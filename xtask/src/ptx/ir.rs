//! LLVM IR as text, cut into its top-level items, so that each kernel can become a module of its own.
//!
//! A kernel's module holds what the kernel reaches and nothing else, in an order and numbering of its own. Its text
//! therefore changes exactly when the kernel does, which is what makes caching by content work.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use anyhow::{Context, Result, bail};

use super::constants;
use super::scan::{Token, rewrite, strip_comment, tokens};

/// An LLVM module in text form.
#[derive(Debug, Default)]
pub struct Module {
    /// `target ...` lines and named types: every kernel needs them.
    header: Vec<String>,
    /// The lines of the module-level assembly, unquoted.
    pub assembly: Vec<String>,
    /// Globals, declarations and definitions by name, `@` included.
    symbols: BTreeMap<String, Symbol>,
    /// `attributes #N = { ... }`: the braces' content by `N`.
    attributes: BTreeMap<u32, String>,
    /// `!N = ...`: the right side by `N`.
    metadata: BTreeMap<u32, String>,
    /// `!name = !{...}`.
    named_metadata: BTreeMap<String, String>,
}

/// A global variable or function.
#[derive(Debug)]
pub struct Symbol {
    /// What it is.
    pub kind: Kind,
    /// Its whole text without comments.
    pub text: String,
}

/// Kinds of [`Symbol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A variable.
    Global,
    /// A function with a body elsewhere.
    Declaration,
    /// A function with a body.
    Function,
    /// A function that the launcher starts.
    Kernel,
}

impl Module {
    /// Cuts `text` into its items.
    pub fn parse(text: &str) -> Result<Module> {
        let mut module = Module::default();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let line = strip_comment(line);
            if line.starts_with("define ") {
                let mut body = line.to_owned();
                for line in lines.by_ref() {
                    let line = strip_comment(line);
                    if !line.is_empty() {
                        body.push('\n');
                        body.push_str(line);
                    }
                    if line == "}" {
                        break;
                    }
                }
                module.add_function(body)?;
            } else if !line.is_empty() {
                module.add_line(line).with_context(|| format!("in the IR line `{line}`"))?;
            }
        }
        module.name_constants()?;
        Ok(module)
    }

    /// Gives constants without a name in the source one that depends on nothing but their content.
    fn name_constants(&mut self) -> Result<()> {
        let texts = self.symbols.iter().map(|(name, symbol)| (name.as_str(), symbol.text.as_str()));
        let names = constants::names(&texts.collect())?;
        let symbols = std::mem::take(&mut self.symbols).into_iter();
        let renamed = symbols.map(|(name, Symbol { kind, text })| {
            let text = constants::rename(&text, &names);
            (names.get(&name).cloned().unwrap_or(name), Symbol { kind, text })
        });
        self.symbols = renamed.collect();
        Ok(())
    }

    fn add_function(&mut self, text: String) -> Result<()> {
        let head = text.lines().next().unwrap_or_default();
        let kind = if head.contains(" ptx_kernel ") { Kind::Kernel } else { Kind::Function };
        let name = first_symbol(head).with_context(|| format!("a definition without a name: `{head}`"))?;
        self.symbols.insert(name, Symbol { kind, text: drop_source_locations(&text) });
        Ok(())
    }

    fn add_line(&mut self, line: &str) -> Result<()> {
        if line.starts_with("source_filename") {
            return Ok(());
        }
        if line.starts_with("target ") || line.starts_with('%') {
            self.header.push(line.to_owned());
        } else if let Some(quoted) = line.strip_prefix("module asm ") {
            self.assembly.push(unquote(quoted)?);
        } else if line.starts_with("declare ") {
            let name = first_symbol(line).context("a declaration without a name")?;
            self.symbols.insert(name, Symbol { kind: Kind::Declaration, text: line.to_owned() });
        } else if line.starts_with('@') {
            let name = first_symbol(line).context("a global without a name")?;
            self.symbols.insert(name, Symbol { kind: Kind::Global, text: line.to_owned() });
        } else if let Some(rest) = line.strip_prefix("attributes #") {
            let (number, body) = rest.split_once(" = { ").context("not an attribute group")?;
            self.attributes.insert(number.parse()?, body.trim_end_matches('}').trim_end().to_owned());
        } else if let Some(rest) = line.strip_prefix('!') {
            let (name, body) = rest.split_once(" = ").context("not metadata")?;
            match name.parse() {
                Ok(number) => self.metadata.insert(number, body.to_owned()),
                // The compiler's name would make equal code differ.
                Err(_) if name == "llvm.ident" => None,
                Err(_) => self.named_metadata.insert(name.to_owned(), body.to_owned()),
            };
        } else {
            bail!("this kind of line is not known");
        }
        Ok(())
    }

    /// The functions that have a body, for a pass to change.
    pub fn functions_mut(&mut self) -> impl Iterator<Item = (&str, &mut Symbol)> {
        let functions = self.symbols.iter_mut();
        functions
            .filter(|(_, symbol)| matches!(symbol.kind, Kind::Function | Kind::Kernel))
            .map(|(name, symbol)| (name.trim_start_matches('@'), symbol))
    }

    /// Numbers of the attribute groups.
    pub fn attribute_groups(&self) -> impl Iterator<Item = u32> {
        self.attributes.keys().copied()
    }

    /// The attributes of group `number`.
    pub fn attributes(&self, number: u32) -> &str {
        self.attributes.get(&number).map_or("", String::as_str)
    }

    /// The text of a module with one kernel and all that it reaches. Of the module-level assembly, the lines for which
    /// `keep` says so come along.
    pub fn extract(&self, kernel: &str, keep: impl Fn(&str) -> bool) -> Result<String> {
        let reached = self.reach(&format!("@{kernel}"))?;
        let mut text = String::new();
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        self.header.iter().for_each(|header| line(header));
        for assembly in self.assembly.iter().filter(|line| keep(line)) {
            line(&format!("module asm \"{}\"", quote(assembly)));
        }
        let mut numbers = Numbers::default();
        for name in &reached {
            line(&numbers.renumber(&self.symbols[name].text));
        }
        for (name, body) in &self.named_metadata {
            line(&numbers.renumber(&format!("!{name} = {body}")));
        }
        // Metadata may name more metadata, which then queues behind it.
        let mut next = 0;
        while let Some(&old) = numbers.metadata.order.get(next) {
            let body = self.metadata.get(&old).with_context(|| format!("metadata !{old} is missing"))?;
            let body = numbers.renumber(body);
            line(&format!("!{next} = {body}"));
            next += 1;
        }
        for (new, old) in numbers.attributes.order.iter().enumerate() {
            line(&format!("attributes #{new} = {{ {} }}", self.attributes(*old)));
        }
        Ok(text)
    }

    /// Names of everything that `root` needs, itself included.
    fn reach(&self, root: &str) -> Result<BTreeSet<String>> {
        let mut reached = BTreeSet::from([root.to_owned()]);
        let mut queue = vec![root.to_owned()];
        while let Some(name) = queue.pop() {
            let symbol = self.symbols.get(&name).with_context(|| format!("{name} is used but not defined"))?;
            for (range, token) in tokens(&symbol.text) {
                if token == Token::Symbol && reached.insert(symbol.text[range.clone()].to_owned()) {
                    queue.push(symbol.text[range].to_owned());
                }
            }
        }
        Ok(reached)
    }
}

/// New numbers for attribute groups and metadata, given in the order of their first use.
#[derive(Default)]
struct Numbers {
    attributes: Numbering,
    metadata: Numbering,
}

/// Old numbers in their new order.
#[derive(Default)]
struct Numbering {
    order: Vec<u32>,
    new: HashMap<u32, usize>,
}

impl Numbering {
    fn of(&mut self, old: u32) -> usize {
        *self.new.entry(old).or_insert_with(|| {
            self.order.push(old);
            self.order.len() - 1
        })
    }
}

impl Numbers {
    fn renumber(&mut self, text: &str) -> String {
        rewrite(text, |token| match token {
            Token::Attributes(old) => Some(format!("#{}", self.attributes.of(old))),
            Token::Metadata(old) => Some(format!("!{}", self.metadata.of(old))),
            Token::Symbol => None,
        })
    }
}

fn first_symbol(text: &str) -> Option<String> {
    let (range, _): (Range<usize>, _) = tokens(text).into_iter().find(|(_, token)| *token == Token::Symbol)?;
    Some(text[range].to_owned())
}

/// Removes `, !srcloc !N`: positions in the source, which only error messages of the assembler would use.
fn drop_source_locations(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(", !srcloc !") {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        rest = found[", !srcloc !".len()..].trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out + rest
}

/// The content of an IR string literal.
fn unquote(literal: &str) -> Result<String> {
    let inner = literal.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).context("not a string")?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex)?, 16)?);
            }
            byte => bytes.push(byte),
        }
    }
    Ok(String::from_utf8(bytes)?)
}

fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.push_str(&format!("\\{:02X}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\{:02X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}
