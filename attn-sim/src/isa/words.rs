//! Modifiers that the asynchronous instructions share: spaces, orders, hints.

use super::form::Form;
use crate::machine::memory::Space;
use crate::report::Unsupported;

impl Form<'_, '_> {
    /// Takes a modifier that must be there.
    pub(super) fn expect(&mut self, word: &str) -> Result<(), Unsupported> {
        if self.take(word) { Ok(()) } else { Err(self.d.unsupported(format!("without `.{word}`"))) }
    }

    /// Takes a modifier that must mean something to `read`; `what` says what is missing.
    pub(super) fn one<T>(&mut self, what: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, Unsupported> {
        self.find(read).ok_or_else(|| self.d.unsupported(format!("{what} is missing or unknown")))
    }

    /// Takes a shared state space; an address of none is generic.
    pub(super) fn shared_space(&mut self) -> Space {
        let shared = |word: &str| Space::parse(word).filter(|s| matches!(s, Space::Shared | Space::SharedCluster));
        self.find(shared).unwrap_or(Space::Generic)
    }

    /// Takes memory order and scope, and says whether the order is relaxed; `strict` is the other one there may be.
    pub(super) fn relaxed(&mut self, strict: &str) -> bool {
        let relaxed = self.take("relaxed");
        if !relaxed {
            self.take(strict);
        }
        let _ = ["cta", "cluster", "gpu", "sys"].into_iter().any(|scope| self.take(scope));
        relaxed
    }

    /// Takes modifiers that change nothing here, cache hints among them.
    pub(super) fn skip(&mut self, words: &[&str]) {
        self.left.retain(|word| !words.contains(word) && !word.starts_with("L2::"));
    }

    /// All modifiers have been understood.
    pub(super) fn end(self) -> Result<(), Unsupported> {
        match self.left.first() {
            None => Ok(()),
            Some(word) => Err(self.d.unsupported(format!("the modifier .{word} in this place"))),
        }
    }
}
