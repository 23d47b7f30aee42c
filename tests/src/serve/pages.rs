//! Page tables that no allocator would write, but every kernel has to read.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::serve::case::{Paging, ServeCase};

/// Pages of a cache that no sequence owns.
const SPARE: usize = 3;

/// The pages of every sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTable {
    /// Pages of the cache.
    pub pages: usize,
    /// Entries of a sequence, more than it can fill.
    pub stride: usize,
    /// `stride` entries for each sequence: its pages in random order, pages of others among them where they share and numbers of none where
    /// pages are missing, then numbers that must not be followed.
    pub entries: Vec<i32>,
}

impl PageTable {
    /// The table of a case with pages.
    pub fn of(case: &ServeCase, paging: Paging) -> Self {
        let Paging { page_size, shared, .. } = paging;
        let filled: Vec<usize> = (0..case.base.batch).map(|b| case.keys(b).div_ceil(page_size)).collect();
        // Whole pages only: another sequence would not have the same rows in the rest of one.
        let sharing: Vec<bool> =
            (0..case.base.batch).map(|b| shared > 0 && case.keys(b) >= shared * page_size).collect();
        let sharers = sharing.iter().filter(|sharing| **sharing).count();
        let pages = filled.iter().sum::<usize>() - shared * sharers.saturating_sub(1) + SPARE;
        let mut numbers: Vec<i32> = (0..pages as i32).collect();
        numbers.shuffle(&mut ChaCha8Rng::seed_from_u64(case.base.seed));
        let spare = numbers.split_off(pages - SPARE);
        let common = if sharers > 0 { numbers.split_off(numbers.len() - shared) } else { Vec::new() };
        // Spare pages hold NaN; the others are no pages at all.
        let garbage = [-1, spare[0], i32::MAX, pages as i32, i32::MIN, spare[1]];
        let stride = case.base.seqlen_k.div_ceil(page_size) + 1;
        let mut own = numbers.into_iter();
        let mut entries = Vec::with_capacity(stride * filled.len());
        for (b, (filled, sharing)) in filled.into_iter().zip(sharing).enumerate() {
            let first = if sharing { common.as_slice() } else { &[] };
            entries.extend_from_slice(first);
            entries.extend(own.by_ref().take(filled - first.len()));
            entries.extend((filled..stride).map(|i| garbage[(i + b) % garbage.len()]));
        }
        let nowhere = [-1, pages as i32, i32::MAX, i32::MIN];
        for (i, entry) in entries.iter_mut().enumerate() {
            if paging.misses(i % stride) {
                *entry = nowhere[i % nowhere.len()];
            }
        }
        PageTable { pages, stride, entries }
    }

    /// The page that holds a sequence's page `index`, or a number that is none.
    pub fn page(&self, sequence: usize, index: usize) -> usize {
        self.entries[sequence * self.stride + index] as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn pages_have_one_owner_unless_they_are_shared() {
        for (line, sharers) in [("usedk=100,0,16,33 page=16", 0), ("usedk=100,31,32,33 page=16:2", 3)] {
            let case: ServeCase = format!("bf16 h=1 hk=1 d=8 dv=8 {line}").parse().expect(line);
            let paging = case.paging().expect("paged");
            let table = PageTable::of(&case, paging);
            assert_eq!((table.stride, table.entries.len()), (8, 32));
            let (mut owners, mut unused) = (HashMap::<usize, usize>::new(), Vec::new());
            for b in 0..4 {
                let filled = case.keys(b).div_ceil(16);
                (0..filled).for_each(|i| *owners.entry(table.page(b, i)).or_default() += 1);
                unused.extend_from_slice(&table.entries[b * 8 + filled..(b + 1) * 8]);
            }
            assert!(unused.iter().all(|e| !owners.contains_key(&(*e as usize))), "{line}: {unused:?}");
            assert!([-1, i32::MAX, i32::MIN, table.pages as i32].iter().all(|e| unused.contains(e)), "{line}");
            assert!(owners.keys().all(|page| *page < table.pages));
            assert_eq!(table.pages, owners.len() + SPARE, "{line}");
            assert_eq!(owners.values().filter(|n| **n == sharers).count(), if sharers > 0 { 2 } else { 0 });
            assert!(owners.values().all(|n| *n == 1 || *n == sharers), "{line}");
        }
    }

    #[test]
    fn missing_pages_have_numbers_of_none() {
        let case: ServeCase = "bf16 h=1 hk=1 d=8 dv=8 usedk=160,160 page=16:0:4".parse().expect("valid");
        let table = PageTable::of(&case, case.paging().expect("paged"));
        let missing = |b| (0..10).filter(|i| table.page(b, *i) >= table.pages).collect::<Vec<_>>();
        assert_eq!((missing(0), missing(1)), (vec![3, 7], vec![3, 7]));
    }

    #[test]
    fn pages_are_not_in_order() {
        let case: ServeCase = "bf16 h=1 hk=1 d=8 dv=8 usedk=640 page=16".parse().expect("valid");
        let table = PageTable::of(&case, case.paging().expect("paged"));
        assert!((1..40).any(|i| table.page(0, i) != table.page(0, i - 1) + 1));
    }
}
