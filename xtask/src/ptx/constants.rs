//! Names of the constants that have none in the source.
//!
//! rustc calls them `@anon.MODULE.N`, where the module's hash and the number depend on all that the crate has: a kernel's own
//! module would change with every constant that comes or goes elsewhere. Here they are named by what they hold.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};

use super::scan::{Token, tokens};
use crate::hash::sha256;

/// How rustc's names of them begin, and the new ones.
const ANONYMOUS: &str = "@anon.";

/// New names of the nameless constants among the symbols of a module, which are texts by name.
pub fn names(symbols: &BTreeMap<&str, &str>) -> Result<HashMap<String, String>> {
    let mut names = HashMap::new();
    for name in symbols.keys().filter(|name| name.starts_with(ANONYMOUS)) {
        find(name, symbols, &mut names)?;
    }
    Ok(names)
}

/// Finds a constant's name, those of the constants that it refers to first: there are no cycles.
fn find(name: &str, symbols: &BTreeMap<&str, &str>, names: &mut HashMap<String, String>) -> Result<()> {
    if names.contains_key(name) {
        return Ok(());
    }
    let text = symbols.get(name).with_context(|| format!("{name} is used but not defined"))?;
    let content = text.strip_prefix(name).with_context(|| format!("`{text}` does not define {name}"))?;
    for (range, token) in tokens(content) {
        if token == Token::Symbol && content[range.clone()].starts_with(ANONYMOUS) {
            find(&content[range], symbols, names)?;
        }
    }
    let hash = sha256(rename(content, names).as_bytes());
    names.insert(name.to_owned(), format!("{ANONYMOUS}{}", &hash[..16]));
    Ok(())
}

/// `text` with other names for some symbols.
pub fn rename(text: &str, names: &HashMap<String, String>) -> String {
    if !text.contains(ANONYMOUS) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (range, token) in tokens(text) {
        if let Some(name) = names.get(&text[range.clone()]).filter(|_| token == Token::Symbol) {
            out.push_str(&text[copied..range.start]);
            out.push_str(name);
            copied = range.end;
        }
    }
    out.push_str(&text[copied..]);
    out
}
