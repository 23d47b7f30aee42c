//! Every knob of a Hopper plan as a word with a value, and plans as lines of them:
//! `bm=192 bn=128 stages=2 regs=160/32 exp2=0/1 turns=1 wait=2 schedule=paired`.
//!
//! The table of tuned plans, the tuner's grids and its results are written so. A line is read when the crate is compiled as well
//! as at run time, by the same functions; a new knob is one line of `knobs!` below.

use core::fmt;

use super::plan::{Cost, Exp2, Plan, Registers, Schedule};

/// Where reading a line stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Byte at which the word or value begins.
    pub at: usize,
    /// What is wrong there.
    pub why: &'static str,
}

/// A knob: its word, and the values that it takes where they are a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knob {
    /// The word before the `=`.
    pub word: &'static str,
    /// What it turns.
    pub about: &'static str,
    /// The values, when they are words; empty for numbers and pairs of numbers.
    pub values: &'static [&'static str],
}

/// Largest number of a value, so that no size computed from it overflows.
const MAX: u32 = 4096;

/// Declares the knobs. Three kinds: a number, `a/b`, and one of several words.
macro_rules! knobs {
    ($($word:literal, $about:literal: $kind:tt $part:tt;)*) => {
        /// The knobs, in the order of a line.
        pub const KNOBS: &[Knob] = &[$(Knob { word: $word, about: $about, values: knobs!(@values $kind $part) }),*];

        impl Plan {
            /// Sets one knob to the value that is written in `value`.
            const fn set(&mut self, word: &[u8], value: &[u8]) -> Result<(), &'static str> {
                $(if equal(word, $word.as_bytes()) {
                    return knobs!(@set $kind $part, self, value, concat!("the value of ", $word));
                })*
                Err("there is no such knob")
            }
        }

        impl fmt::Display for Value<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Value { plan, word } = self;
                $(if *word == $word {
                    return knobs!(@show $kind $part, plan, f);
                })*
                Ok(())
            }
        }
    };

    (@values words { $field:ident; $($text:literal => $value:expr),* }) => { &[$($text),*] };
    (@values $kind:tt $part:tt) => { &[] };

    (@set number { $field:ident }, $plan:ident, $value:ident, $what:expr) => {
        match number($value) {
            Some(number) => { $plan.$field = number; Ok(()) }
            None => Err(concat!($what, " is a whole number up to 4096")),
        }
    };
    (@set pair { $field:ident: $type:ident; $a:ident / $b:ident }, $plan:ident, $value:ident, $what:expr) => {
        match pair($value) {
            Some(($a, $b)) => { $plan.$field = $type { $a, $b }; Ok(()) }
            None => Err(concat!($what, " is two whole numbers with a / between them")),
        }
    };
    (@set words { $field:ident; $($text:literal => $value:expr),* }, $plan:ident, $given:ident, $what:expr) => {{
        $(if equal($given, $text.as_bytes()) { $plan.$field = $value; return Ok(()); })*
        Err(concat!($what, " is one of" $(, " ", $text)*))
    }};

    (@show number { $field:ident }, $plan:ident, $f:ident) => { write!($f, "{}", $plan.$field) };
    (@show pair { $field:ident: $type:ident; $a:ident / $b:ident }, $plan:ident, $f:ident) => {
        write!($f, "{}/{}", $plan.$field.$a, $plan.$field.$b)
    };
    (@show words { $field:ident; $($text:literal => $value:expr),* }, $plan:ident, $f:ident) => {{
        $(if $plan.$field == $value { $f.write_str($text) } else)* { Ok(()) }
    }};
}

knobs! {
    "bm", "query rows of a tile": number { bm };
    "bn", "keys of a K or V tile": number { bn };
    "split", "consumer warpgroups that have the same rows and split the keys": number { split };
    "stages", "stages of the K ring and of the V ring": number { stages };
    "raw", "stages of the ring of 8-bit tiles": number { raw };
    "q", "stages of the Q ring": number { q_stages };
    "blocks", "blocks of a multiprocessor": number { per_sm };
    "regs", "registers of consumers/producer": pair { regs: Registers; consumer / producer };
    "exp2", "share of the exponentials on the FMA units": pair { exp2: Exp2; emulated / period };
    "turns", "whether warpgroups take turns on the tensor cores": words { ping_pong; "0" => false, "1" => true };
    "wait", "eighths of the exponentials before a warpgroup waits for its P V": number { exp_under_output };
    "schedule", "how tiles are dealt to blocks": words {
        schedule;
        "persistent" => Schedule::Persistent, "longest" => Schedule::LongestFirst, "paired" => Schedule::Paired
    };
    "cost", "measured nanoseconds of a tile and of a key block, for the choice between classes": pair { cost: Cost; tile / block };
}

impl fmt::Display for Plan {
    /// All knobs. Head dimensions are not among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Knob { word, .. }) in KNOBS.iter().enumerate() {
            write!(f, "{}{word}={}", if i > 0 { " " } else { "" }, self.value(word))?;
        }
        Ok(())
    }
}

/// The value of a plan's knob, as a line has it.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    plan: &'a Plan,
    word: &'a str,
}

impl Plan {
    /// The value of the knob `word`; nothing when there is no such knob.
    pub const fn value<'a>(&'a self, word: &'a str) -> Value<'a> {
        Value { plan: self, word }
    }

    /// The plan with the knobs of `line`, the others as they are.
    ///
    /// # Errors
    /// A word that is no knob, or a value that the knob does not take. Whether the hardware can run the plan is
    /// [`refusal`](Plan::refusal)'s to say.
    pub const fn with(mut self, line: &str) -> Result<Plan, Unreadable> {
        let line = line.as_bytes();
        let mut at = 0;
        while at < line.len() {
            if line[at] == b' ' {
                at += 1;
                continue;
            }
            let end = find(line, at, b' ');
            let equals = find(line, at, b'=');
            if equals >= end {
                return Err(Unreadable { at, why: "a knob is WORD=VALUE" });
            }
            if let Err(why) = self.set(part(line, at, equals), part(line, equals + 1, end)) {
                return Err(Unreadable { at, why });
            }
            at = end;
        }
        Ok(self)
    }
}

/// The place of the first `wanted` from `at` on, or the end.
const fn find(line: &[u8], mut at: usize, wanted: u8) -> usize {
    while at < line.len() && line[at] != wanted {
        at += 1;
    }
    at
}

const fn part(line: &[u8], from: usize, to: usize) -> &[u8] {
    line.split_at(to).0.split_at(from).1
}

pub(super) const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

const fn number(text: &[u8]) -> Option<u32> {
    let (mut value, mut i) = (0, 0);
    while i < text.len() {
        if !text[i].is_ascii_digit() {
            return None;
        }
        value = value * 10 + (text[i] - b'0') as u32;
        if value > MAX {
            return None;
        }
        i += 1;
    }
    if i == 0 { None } else { Some(value) }
}

const fn pair(text: &[u8]) -> Option<(u32, u32)> {
    let slash = find(text, 0, b'/');
    if slash == text.len() {
        return None;
    }
    match (number(part(text, 0, slash)), number(part(text, slash + 1, text.len()))) {
        (Some(a), Some(b)) => Some((a, b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::tune::{self, TABLE};
    use std::string::ToString;
    use std::{format, vec::Vec};

    fn base() -> Plan {
        tune::plan(64, 64, true)
    }

    fn error(line: &str) -> Unreadable {
        base().with(line).expect_err(line)
    }

    #[test]
    fn every_plan_prints_and_reads_back() {
        for line in TABLE {
            let plan = tune::plan_of(line.d, line.dv, line.causal, line.class);
            let other = Plan { d: plan.d, dv: plan.dv, ..tune::BASE };
            assert_eq!(other.with(&plan.to_string()), Ok(plan));
        }
    }

    #[test]
    fn every_word_of_a_list_reads_back_as_itself() {
        for Knob { word, values, .. } in KNOBS {
            for value in *values {
                let plan = base().with(&format!("{word}={value}")).expect("one of its values");
                assert_eq!(plan.value(word).to_string(), *value);
            }
        }
    }

    #[test]
    fn knobs_that_a_line_does_not_name_stay() {
        let plan = base().with(" bn=48  regs=168/40 ").expect("two knobs");
        assert_eq!(plan, Plan { bn: 48, regs: Registers { consumer: 168, producer: 40 }, ..base() });
        assert_eq!(base().with(""), Ok(base()));
    }

    #[test]
    fn what_is_not_readable_is_pointed_at() {
        assert_eq!(error("bm=128 bx=3"), Unreadable { at: 7, why: "there is no such knob" });
        assert_eq!(error("bm"), Unreadable { at: 0, why: "a knob is WORD=VALUE" });
        for line in ["bm=", "bm=x", "bm=4097", "bm=99999999999999999999", "bm=-64", "regs=24", "regs=24/", "regs=/8"] {
            assert!(error(line).why.contains("whole number"), "{line}");
        }
        assert_eq!(error("turns=2").why, "the value of turns is one of 0 1");
        let words: Vec<&str> = error("schedule=").why.split(' ').skip(7).collect();
        assert_eq!(words, ["persistent", "longest", "paired"]);
    }
}
