//! The lists of serving cases.
//!
//! | list | what it holds |
//! |---|---|
//! | `varlen` | packed sequences and rows in use: empty ones, gaps, NaN neighbours, batches up to 66,000 |
//! | `window` | windows to the left, to the right and to both sides |
//! | `softcap`, `alibi`, `sinks` | changed scores, each with the others |
//! | `paged` | page sizes from 16, shared pages, pages beyond 32-bit offsets; the same bits as without pages |
//! | `decode` | few queries: groups of every size, splits, the same bits as in a prefill |
//! | `float8` | K and V, or Q too, of 8 bits, with factors and everything else |
//! | `rescaled` | maxima that grow from block to block |
//! | `invariance` | each sequence has the same bits without its neighbours |
//! | `long` | up to a million keys |
//! | `random` | seeded combinations of everything |
//!
//! Most lines say nothing of format and head dimensions: they go round the kernels.

use crate::precision::Precision;
use crate::serve::case::ServeCase;
use crate::serve::random::{self, Size};

mod lines;

/// A case and the list that it is on.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The list's name.
    pub list: &'static str,
    /// The case.
    pub case: ServeCase,
}

/// Formats and head dimensions of the kernels.
const PAIRS: [(Precision, usize, usize); 12] = [
    (Precision::Bf16, 128, 128),
    (Precision::F16, 64, 64),
    (Precision::Bf16, 192, 128),
    (Precision::F16, 256, 256),
    (Precision::Bf16, 96, 96),
    (Precision::F16, 128, 128),
    (Precision::Bf16, 64, 64),
    (Precision::F16, 192, 128),
    (Precision::Bf16, 256, 256),
    (Precision::F16, 96, 96),
    (Precision::Bf16, 32, 32),
    (Precision::F16, 32, 32),
];

/// Others, which kernels for more fill up with zeros.
const NARROW: [(Precision, usize, usize); 6] = [
    (Precision::Bf16, 80, 80),
    (Precision::F16, 24, 24),
    (Precision::F16, 40, 64),
    (Precision::Bf16, 128, 64),
    (Precision::Bf16, 8, 8),
    (Precision::F16, 160, 120),
];

/// Kernels that a line is run with on a GPU.
const TURNS: usize = 4;

/// Problems of the list `random` on a GPU; the suite makes any number of others.
const RANDOM: usize = 300;

/// Everything for a GPU.
pub fn checked() -> Vec<Entry> {
    let mut entries = Vec::new();
    for (list, lines) in lines::SMALL.iter().chain(&lines::LARGE) {
        for (i, line) in lines.lines().enumerate() {
            let turns = PAIRS.iter().chain(&NARROW).cycle().skip(3 * i).take(TURNS);
            entries.extend(turns.filter_map(|pair| entry(list, line, pair)));
        }
    }
    entries.extend(lines::FLOAT8.lines().map(|line| parsed("float8", line)));
    entries.extend(lines::SHORT.lines().chain(lines::PROMPT.lines()).map(|line| parsed("varlen", line)));
    entries.extend(lines::RESCALED.lines().map(|line| parsed("rescaled", line)));
    entries.extend(lines::OWN.iter().flat_map(|(list, lines)| lines.lines().map(|line| parsed(list, line))));
    entries.extend(random::cases(RANDOM, 1, Size::GPU).into_iter().map(|case| Entry { list: "random", case }));
    entries
}

/// Small cases for the simulator: every line with one kernel, in turn, wide heads of 8 bits, and random ones.
pub fn simulator() -> Vec<Entry> {
    let mut entries = sanitizer();
    entries.extend(random::cases(8, 2, Size::SIMULATOR).into_iter().map(|case| Entry { list: "random", case }));
    entries
}

/// The simulator's cases without the random ones.
pub fn sanitizer() -> Vec<Entry> {
    let mut entries = Vec::new();
    for (list, lines) in lines::SMALL {
        let mut pairs = PAIRS.iter().cycle();
        for line in lines.lines() {
            // Some layouts do not go with some head dimensions.
            entries.extend(pairs.by_ref().take(PAIRS.len()).find_map(|pair| entry(list, line, pair)));
        }
    }
    entries.extend(lines::FLOAT8.lines().map(|line| parsed("float8", line)));
    entries.extend(lines::SHORT.lines().chain(lines::PROMPT.lines()).map(|line| parsed("varlen", line)));
    entries.extend(lines::RESCALED.lines().map(|line| parsed("rescaled", line)));
    entries
}

/// A line with a kernel's format and head dimensions, where both go together.
fn entry(list: &'static str, line: &str, (precision, d, dv): &(Precision, usize, usize)) -> Option<Entry> {
    let case: ServeCase = format!("{precision} d={d} dv={dv} lse {line}").parse().ok()?;
    Some(Entry { list, case })
}

fn parsed(list: &'static str, line: &str) -> Entry {
    Entry { list, case: line.parse().unwrap_or_else(|error| panic!("{line}: {error}")) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::layout::Layout;
    use crate::serve::case::{Keys, Narrow, Relation, Splits};

    #[test]
    fn every_line_is_possible_and_none_is_there_twice() {
        for (list, lines) in lines::SMALL.iter().chain(&lines::LARGE) {
            for line in lines.lines() {
                assert!(PAIRS.iter().any(|pair| entry(list, line, pair).is_some()), "{list}: {line}");
            }
        }
        for list in [checked(), sanitizer()] {
            let lines: HashSet<String> = list.iter().map(|entry| entry.case.to_string()).collect();
            assert_eq!(lines.len(), list.len());
            assert!(list.iter().all(|entry| entry.case.to_string().parse().as_ref() == Ok(&entry.case)));
        }
    }

    #[test]
    fn the_simulators_cases_are_small() {
        for Entry { case, .. } in sanitizer() {
            assert!(case.scores() <= 70_000, "{case}: {} scores", case.scores());
        }
        assert!(sanitizer().len() <= 90, "{}", sanitizer().len());
    }

    #[test]
    fn both_lists_meet_every_feature() {
        for list in [checked(), sanitizer()] {
            let met = |what: &str, test: &dyn Fn(&ServeCase) -> bool| {
                assert!(list.iter().any(|entry| test(&entry.case)), "no case has {what}");
            };
            let groups = [1, 2, 4, 7, 8, 12];
            for group in groups {
                met(&format!("a group of {group}"), &|c| {
                    c.base.heads == group * c.base.kv_heads && c.base.seqlen_q == 1
                });
            }
            for relation in Relation::ALL {
                met(&format!("equals={relation}"), &|c| c.equals == Some(*relation));
            }
            for splits in [Splits::Auto, Splits::Exactly(1), Splits::Exactly(3)] {
                met(&format!("{splits:?}"), &|c| c.splits == splits);
            }
            met("empty sequences", &|c| (0..c.base.batch).any(|b| c.queries(b) == 0));
            met("sequences without keys", &|c| (0..c.base.batch).any(|b| c.queries(b) > 0 && c.keys(b) == 0));
            met("gaps", &|c| c.packed_q.is_some() && c.used_q.is_some() && c.used_k.is_some());
            met("a NaN neighbour", &|c| c.poisoned.is_some() && matches!(c.keys, Keys::Packed(_)));
            met("a NaN neighbour in pages", &|c| c.poisoned.is_some() && c.paging().is_some());
            met("shared pages", &|c| c.paging().is_some_and(|p| p.shared > 0));
            met("pages smaller than a tile", &|c| c.paging().is_some_and(|p| p.page_size == 16));
            met("missing pages", &|c| c.paging().is_some_and(|p| p.missing > 0));
            met("large pages", &|c| c.paging().is_some_and(|p| p.page_size >= 256));
            met("softcap with ALiBi", &|c| c.softcap.is_some() && c.alibi.is_some());
            met("sinks of splits", &|c| c.sinks && c.splits == Splits::Exactly(3));
            for narrow in Narrow::ALL {
                let is = |c: &ServeCase| c.float8 == Some(*narrow);
                met(&format!("float8={narrow} with factors"), &|c| is(c) && c.factors.is_some());
                met(&format!("float8={narrow} in pages"), &|c| is(c) && c.paging().is_some());
                met(&format!("float8={narrow} up to 448"), &|c| is(c) && c.saturated);
                met(&format!("float8={narrow} and a NaN neighbour"), &|c| is(c) && c.poisoned.is_some());
            }
            met("interleaved tensors", &|c| c.base.layout == Layout::Packed);
        }
    }
}
