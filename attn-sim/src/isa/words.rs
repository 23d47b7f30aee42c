//! Modifiers of an instruction, taken one by one: what is left over is not modelled.

use crate::machine::decode::Decode;
use crate::machine::memory::Space;
use crate::report::Unsupported;

/// Modifiers that were not taken yet.
pub struct Words<'a, 'd> {
    d: &'d Decode<'a>,
    left: Vec<&'a str>,
}

impl<'a, 'd> Words<'a, 'd> {
    /// All of an instruction's.
    pub fn new(d: &'d Decode<'a>) -> Self {
        Words { d, left: d.modifiers().collect() }
    }

    /// Takes a modifier, if it is there.
    pub fn take(&mut self, word: &str) -> bool {
        let at = self.left.iter().position(|w| *w == word);
        at.map(|at| self.left.remove(at)).is_some()
    }

    /// Takes a modifier that must be there.
    pub fn expect(&mut self, word: &str) -> Result<(), Unsupported> {
        if self.take(word) { Ok(()) } else { Err(self.d.unsupported(format!("without `.{word}`"))) }
    }

    /// Takes the first modifier that means something to `parse`.
    pub fn parse<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, value) = self.left.iter().enumerate().find_map(|(at, word)| Some((at, parse(word)?)))?;
        self.left.remove(at);
        Some(value)
    }

    /// Takes a modifier that must mean something to `parse`; `what` says what is missing.
    pub fn one<T>(&mut self, what: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, Unsupported> {
        self.parse(parse).ok_or_else(|| self.d.unsupported(format!("{what} is missing")))
    }

    /// Takes a shared state space; an address of none is generic.
    pub fn shared_space(&mut self) -> Space {
        let shared = |word: &str| Space::parse(word).filter(|s| matches!(s, Space::Shared | Space::SharedCluster));
        self.parse(shared).unwrap_or(Space::Generic)
    }

    /// Takes memory ordering and scope, and says whether the order is relaxed; `strict` is the other one there may be.
    pub fn relaxed(&mut self, strict: &str) -> bool {
        let relaxed = self.take("relaxed");
        if !relaxed {
            self.take(strict);
        }
        let _ = ["cta", "cluster", "gpu", "sys"].into_iter().any(|scope| self.take(scope));
        relaxed
    }

    /// Takes modifiers that change nothing here: cache hints and their kin.
    pub fn skip(&mut self, words: &[&str]) {
        self.left.retain(|word| !words.contains(word) && !word.starts_with("L2::"));
    }

    /// The first modifier that is left.
    pub fn end(self) -> Result<(), Unsupported> {
        match self.left.first() {
            None => Ok(()),
            Some(word) => Err(self.d.unsupported(format!("with `.{word}`"))),
        }
    }
}
