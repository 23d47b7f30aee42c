//! The kernel that lists query tiles, in the simulator or on a GPU, against the definition: which tiles there are, and in what order.

use std::ptr;

use attn_kernel::attn::sequence::UNLIMITED;
use attn_kernel::forward::schedule::{self, SCHEDULE, ScheduleParams};
use attn_kernel::forward::serve::{LIST_ENTRY_WORDS, LIST_HEADER_WORDS, ServeParams};
use attn_tests::companion::{Machine, arches, nothing};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What the lengths of the sequences are, and how they are cut.
#[derive(Clone, Debug, Default)]
struct Case {
    /// Rows of each sequence in packed Q, and in packed K.
    q: Vec<i32>,
    k: Vec<i32>,
    /// Whether Q, and K, is packed; else each sequence has the longest's room.
    packed: [bool; 2],
    used_q: Option<Vec<i32>>,
    used_k: Option<Vec<i32>>,
    queries: u32,
    bn: u32,
    left: u32,
    right: u32,
    /// Entries less than there are tiles.
    short: u32,
}

impl Case {
    fn longest(lengths: &[i32]) -> i32 {
        lengths.iter().copied().max().unwrap_or(0).max(1)
    }

    /// Start and length of a sequence on one side.
    fn rows(&self, side: usize, batch: usize) -> (u32, u32) {
        let (lengths, used) = if side == 0 { (&self.q, &self.used_q) } else { (&self.k, &self.used_k) };
        let longest = Self::longest(lengths);
        let own = if self.packed[side] { lengths[batch] } else { longest };
        let length = used.as_ref().map_or(own, |used| used[batch]).clamp(0, longest);
        let start = match (self.packed[side], side) {
            (true, _) => lengths[..batch].iter().sum(),
            (false, 0) => longest * batch as i32,
            (false, _) => 0,
        };
        (start as u32, length as u32)
    }

    /// Header and entries by the definition.
    fn expected(&self) -> Vec<u32> {
        let blocks = |keys: u32| {
            let window = u64::from(self.left) + u64::from(self.right) + u64::from(self.queries);
            let seen = if self.left == UNLIMITED { keys } else { u64::from(keys).min(window) as u32 };
            seen.div_ceil(self.bn)
        };
        // More blocks than the sort tells apart count together.
        let unit = blocks(Self::longest(&self.k) as u32).div_ceil(1023).max(1);
        let mut order: Vec<usize> = (0..self.q.len()).filter(|&b| self.rows(0, b).1 > 0).collect();
        order.sort_by_key(|&b| std::cmp::Reverse(blocks(self.rows(1, b).1).div_ceil(unit)));
        let mut entries = Vec::new();
        for b in order {
            let ((q_start, q_len), (k_start, k_len)) = (self.rows(0, b), self.rows(1, b));
            for m_block in (0..q_len.div_ceil(self.queries)).rev() {
                entries.push([m_block, b as u32, q_start, q_len, k_start, k_len, 0, 0]);
            }
        }
        entries.truncate(entries.len() - self.short as usize);
        let mut words = vec![entries.len() as u32, 0, 0, 0, 0, 0, 0, 0];
        words.extend(entries.iter().flatten());
        words
    }

    /// What the kernel writes.
    fn run(&self, arch: attn_kernel::forward::Arch, seed: u64) -> Result<Vec<u32>, String> {
        let batch = self.q.len() as u32;
        let expected = self.expected();
        let room = expected.len() as u32 / LIST_ENTRY_WORDS - LIST_HEADER_WORDS / LIST_ENTRY_WORDS;
        let mut machine = Machine::new(seed);
        let list = machine.alloc(4 * schedule::list_words(room) as usize);
        let mut sums = |lengths: &[i32], packed: bool| -> *const i32 {
            if !packed {
                return ptr::null();
            }
            let sums = lengths.iter().scan(0, |sum, length| {
                *sum += length;
                Some(*sum)
            });
            machine.upload(&[0].into_iter().chain(sums).collect::<Vec<_>>()) as *const i32
        };
        let (cu_q, cu_k) = (sums(&self.q, self.packed[0]), sums(&self.k, self.packed[1]));
        let mut used = |used: &Option<Vec<i32>>| -> *const i32 {
            used.as_ref().map_or(ptr::null(), |used| machine.upload(used) as *const i32)
        };
        let (used_q, used_k) = (used(&self.used_q), used(&self.used_k));
        let serve = ServeParams {
            cu_q,
            cu_k,
            used_q,
            used_k,
            seqlen_q: Self::longest(&self.q) as u32,
            seqlen_k: Self::longest(&self.k) as u32,
            q_room: Self::longest(&self.q) as u32,
            left: self.left,
            right: self.right,
            ..nothing()
        };
        let params = ScheduleParams::new(&serve, list as *mut u32, batch, self.queries, self.bn, room);
        // SAFETY: the struct's fields fill it.
        unsafe { machine.run(&SCHEDULE, arch, schedule::blocks(room), schedule::shared(batch), &params)? };
        Ok(machine.words(list, expected.len()))
    }

    fn check(&self, seed: u64) {
        let expected = self.expected();
        for arch in arches() {
            let found = self.run(arch, seed).unwrap_or_else(|error| panic!("{self:?}: {error}"));
            let differs = (0..expected.len()).find(|&at| found[at] != expected[at]);
            if let Some(at) = differs {
                let entry = |words: &[u32]| words[at / 8 * 8..at / 8 * 8 + 8].to_vec();
                panic!("{self:?}\nentry {}: {:?}, not {:?}", at / 8, entry(&found), entry(&expected));
            }
        }
    }
}

fn packed(q: Vec<i32>, k: Vec<i32>) -> Case {
    Case { q, k, packed: [true; 2], queries: 128, bn: 128, left: UNLIMITED, ..Case::default() }
}

#[test]
fn sequences_of_one_batch_are_sorted_and_cut() {
    packed(vec![1], vec![1]).check(0);
    packed(vec![0], vec![5]).check(0);
    packed(vec![0; 40], vec![0; 40]).check(1);
    packed(vec![300, 1, 0, 128, 129], vec![300, 1000, 77, 0, 5]).check(2);
    packed(vec![1; 64], (0..64).map(|i| 700 * (i % 7)).collect()).check(3);
}

#[test]
fn few_long_sequences_take_many_entries() {
    packed(vec![20_000, 9000], vec![64_000, 9000]).check(4);
    Case { queries: 3, bn: 80, ..packed(vec![7000, 0, 2], vec![1, 2, 300_000]) }.check(5);
}

#[test]
fn every_size_of_batch_goes() {
    for (seed, batch) in [31, 32, 33, 1023, 1024, 1025, 2500, 4096].into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let mut lengths = |most: i32| (0..batch).map(|_| rng.random_range(0..=most)).collect();
        let (q, k) = (lengths(150), lengths(200_000));
        packed(q, k).check(seed as u64);
    }
    packed(vec![1; schedule::MAX_BATCH as usize], (0..schedule::MAX_BATCH as i32).rev().collect()).check(9);
}

#[test]
fn lengths_in_use_count_and_wrong_ones_are_bounded() {
    let dense = Case {
        q: vec![200; 6],
        k: vec![512; 6],
        used_q: Some(vec![1, 200, 0, -5, 300, 129]),
        used_k: Some(vec![512, 0, 7, 7, i32::MAX, i32::MIN]),
        ..packed(vec![], vec![])
    };
    dense.check(0);
    Case { packed: [false, false], ..dense.clone() }.check(1);
    Case { packed: [true, false], used_q: None, ..dense }.check(2);
}

#[test]
fn a_window_bounds_the_work() {
    let lengths = vec![100, 5000, 900, 901, 0, 4096];
    Case { left: 511, right: 0, bn: 176, queries: 64, ..packed(vec![10; 6], lengths.clone()) }.check(0);
    Case { left: 0, right: UNLIMITED, ..packed(vec![10; 6], lengths) }.check(1);
}

#[test]
fn a_list_that_is_too_small_ends_where_it_does() {
    Case { short: 70, ..packed(vec![128 * 40; 3], vec![500, 600, 700]) }.check(0);
}

#[test]
fn prefix_sums_that_fall_write_nothing_past_the_list() {
    // What such a batch means is undefined, but the simulator reports accesses outside the list.
    let mut machine = Machine::new(0);
    let cu_q = machine.upload(&[0, 5_000_000, -7, i32::MAX, i32::MIN, 99, 3]) as *const i32;
    let list = machine.alloc(4 * schedule::list_words(100) as usize);
    let serve =
        ServeParams { cu_q, cu_k: cu_q, seqlen_q: UNLIMITED, seqlen_k: UNLIMITED, left: UNLIMITED, ..nothing() };
    let params = ScheduleParams::new(&serve, list as *mut u32, 6, 1, 16, 100);
    // SAFETY: the struct's fields fill it.
    unsafe { machine.run(&SCHEDULE, arches()[0], 1, schedule::shared(6), &params) }.expect("no finding");
    assert_eq!(machine.words(list, 1), [100]);
}
