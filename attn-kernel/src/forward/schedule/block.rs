//! The list's steps, as a thread of the block takes part in them.

use super::{
    AHEAD, DIGIT_BITS, DIGITS, INDEX_BITS, LAST_KEY, MANY, MAX_BATCH, Map, ScheduleParams, WARPS, rounds_log2,
};
use crate::attn::sequence::Loaded;
use crate::entry::{block_idx_x, dynamic_shared, grid_dim_x, thread_idx_x};
use crate::forward::serve::{LIST_ENTRY_WORDS, LIST_HEADER_WORDS};
use crate::mem::Smem;
use crate::ptx::{ldst, warp};

/// In place of an item: the sequence has no queries, or there is none. Greater than every item.
const NONE: u32 = u32::MAX;

/// The block as a thread sees it. A warp has the items from `warp << items_log2` on, 32 in each of its rounds.
#[derive(Clone, Copy)]
pub(super) struct Block {
    warp: u32,
    lane: u32,
    /// Of this warp: 0 where the others have everything.
    rounds: u32,
    /// Binary logarithm of a warp's items.
    items_log2: u32,
    /// Items of all warps that have any.
    items: u32,
    sequences: Smem<u32>,
    order: Smem<u32>,
    other: Smem<u32>,
    counters: Smem<u32>,
    totals: Smem<u32>,
}

impl Block {
    #[inline(always)]
    pub(super) fn new(batch: u32) -> Self {
        let (warp, lane) = (warp::uniform(thread_idx_x() / 32), thread_idx_x() % 32);
        let rounds_log2 = rounds_log2(batch);
        let items_log2 = 5 + rounds_log2;
        let items = batch.div_ceil(1 << items_log2) << items_log2;
        let Map { sequences, order, other, counters, totals, .. } = Map::of(rounds_log2);
        let at = |offset| Smem::new(dynamic_shared() + offset);
        Block {
            warp,
            lane,
            rounds: if warp << items_log2 < items { 1 << rounds_log2 } else { 0 },
            items_log2,
            items,
            sequences: at(sequences),
            order: at(order),
            other: at(other),
            counters: at(counters),
            totals: at(totals),
        }
    }

    /// The number of this lane's item in a round.
    #[inline(always)]
    fn number(&self, round: u32) -> u32 {
        (self.warp << self.items_log2) + 32 * round + self.lane
    }

    /// Where a warp counts the items of a digit for a pass.
    #[inline(always)]
    fn counter(&self, pass: u32, warp: u32, digit: u32) -> Smem<u32> {
        self.counters.offset(4 * ((pass * WARPS + warp) * WARPS + digit))
    }

    /// Where all count them. Behind those of the passes lie the tiles of each warp.
    #[inline(always)]
    fn total(&self, pass: u32, digit: u32) -> Smem<u32> {
        self.totals.offset(4 * (pass * WARPS + digit))
    }

    /// Begins all counts with 0.
    #[inline(always)]
    pub(super) unsafe fn clear(&self) {
        let mut pass = 0;
        while pass < DIGITS {
            // SAFETY: a word for each thread.
            unsafe { ldst::st_shared_u32(self.counter(pass, self.warp, self.lane), 0) };
            pass += 1;
        }
        if self.warp <= DIGITS {
            // SAFETY: a word for each thread of these warps.
            unsafe { ldst::st_shared_u32(self.total(self.warp, self.lane), 0) };
        }
    }

    /// Counts an item of the warp that will have it in a pass.
    #[inline(always)]
    unsafe fn count_for(&self, pass: u32, warp: u32, item: u32) {
        // SAFETY: counters, which all warps add to.
        unsafe {
            ldst::red_shared_add_u32(self.counter(pass, warp, digit(item, pass)), 1);
            ldst::red_shared_add_u32(self.total(pass, digit(item, pass)), 1);
        }
    }

    /// Reads the lengths, keeps them in shared memory, and makes the items.
    #[inline(always)]
    pub(super) unsafe fn read(&self, params: &ScheduleParams) {
        let (queries, keys) = (params.queries_side(), params.keys_side());
        let mut first = 0;
        while first < self.rounds {
            let mut loaded = [(Loaded::default(), Loaded::default()); AHEAD];
            let mut i = 0;
            while i < AHEAD {
                let number = self.number(first + i as u32);
                if first + (i as u32) < self.rounds && number < params.batch {
                    // SAFETY: the caller's promise.
                    loaded[i] = unsafe { (queries.load(number), keys.load(number)) };
                }
                i += 1;
            }
            let mut i = 0;
            while i < AHEAD {
                let number = self.number(first + i as u32);
                if first + (i as u32) < self.rounds {
                    let mut item = NONE;
                    // SAFETY: there is room for every number of the warp's, and no other thread has this one.
                    unsafe {
                        if number < params.batch {
                            let (q_start, q_len) = queries.rows_of(loaded[i].0);
                            let (k_start, k_len) = keys.rows_of(loaded[i].1);
                            let words = [q_start, q_len, k_start, k_len];
                            ldst::st_shared_u32x4(self.sequences.offset(16 * number), words);
                            if q_len > 0 {
                                item = params.key(k_len) << INDEX_BITS | number;
                                self.count_for(0, self.warp, item);
                            }
                        }
                        ldst::st_shared_u32(self.order.offset(4 * number), item);
                    }
                }
                i += 1;
            }
            first += AHEAD as u32;
        }
    }

    /// How many items there are.
    #[inline(always)]
    pub(super) unsafe fn count(&self) -> u32 {
        // SAFETY: counted before the last barrier.
        prefix_sums(unsafe { ldst::ld_shared_u32(self.total(0, self.lane)) }, self.lane).1
    }

    /// Where this warp's first item of digit `lane` goes in a pass: behind all with lesser digits, and those of this one in warps before.
    #[inline(always)]
    unsafe fn first_places(&self, pass: u32) -> u32 {
        // SAFETY: counted before the last barrier.
        unsafe {
            let (mut place, _) = prefix_sums(ldst::ld_shared_u32(self.total(pass, self.lane)), self.lane);
            let mut warp = 0;
            while warp < self.warp {
                let mut i = 0;
                while i < 4 {
                    let count = ldst::ld_shared_u32(self.counter(pass, warp + i, self.lane));
                    place += if warp + i < self.warp { count } else { 0 };
                    i += 1;
                }
                warp += 4;
            }
            place
        }
    }

    /// Puts the first `count` items where the order of a digit wants them.
    #[inline(always)]
    pub(super) unsafe fn pass(&self, pass: u32, count: u32) -> u32 {
        let (from, to) = if pass == 0 { (self.order, self.other) } else { (self.other, self.order) };
        if self.rounds == 0 {
            return count;
        }
        // SAFETY: places differ and lie below the count of items. What is read was written before the last barrier.
        unsafe {
            let mut places = self.first_places(pass);
            let mut round = 0;
            while round < self.rounds {
                let number = self.number(round);
                let item = if number < count { ldst::ld_shared_u32(from.offset(4 * number)) } else { NONE };
                let (same, own) = alike(item != NONE, digit(item, pass), self.lane);
                let place = warp::shfl_idx(places, digit(item, pass)) + (same & below(self.lane)).count_ones();
                places += own.count_ones();
                if item != NONE {
                    ldst::st_shared_u32(to.offset(4 * place), item);
                    if pass + 1 < DIGITS {
                        self.count_for(pass + 1, place >> self.items_log2, item);
                    }
                }
                round += 1;
            }
        }
        count
    }

    /// The sequence of an item: its number and the four words.
    #[inline(always)]
    unsafe fn sequence(&self, item: u32) -> (u32, [u32; 4]) {
        let number = item & (MAX_BATCH - 1);
        // SAFETY: items are made of numbers whose words were written before the first barrier.
        (number, unsafe { ldst::ld_shared_u32x4(self.sequences.offset(16 * number)) })
    }

    /// Adds up the tiles of the `count` sequences in order: where the entries of each begin, counted from the first of its warp, and how many
    /// each warp has. A thread has neighbours.
    #[inline(always)]
    pub(super) unsafe fn place(&self, params: &ScheduleParams, count: u32) {
        let first = (self.warp << self.items_log2) + self.lane * self.rounds;
        // SAFETY: what is read was written before the last barrier, and each word has one writer.
        unsafe {
            let (mut sum, mut round) = (0, 0);
            while round < self.rounds {
                ldst::st_shared_u32(self.other.offset(4 * (first + round)), sum);
                if first + round < count {
                    let item = ldst::ld_shared_u32(self.order.offset(4 * (first + round)));
                    let (_, [_, q_len, ..]) = self.sequence(item);
                    sum = add(sum, params.tiles(q_len));
                }
                round += 1;
            }
            let (before, all) = prefix_sums(sum, self.lane);
            let mut round = 0;
            while round < self.rounds {
                let at = self.other.offset(4 * (first + round));
                ldst::st_shared_u32(at, add(before, ldst::ld_shared_u32(at)));
                round += 1;
            }
            if self.lane == 0 {
                ldst::st_shared_u32(self.total(DIGITS, self.warp), all);
            }
        }
    }

    /// Writes the header and this warp's share of the entries.
    #[inline(always)]
    pub(super) unsafe fn write(&self, params: &ScheduleParams) {
        // SAFETY: what is read was written before the last barrier. The list has a header and `room` entries; each word has one writer.
        unsafe {
            let tiles = ldst::ld_shared_u32(self.total(DIGITS, self.lane));
            let (bases, all) = prefix_sums(tiles, self.lane);
            let starts = Starts { block: self, bases };
            let entries = if all < params.room { all } else { params.room };
            let warp = block_idx_x() * WARPS + self.warp;
            if warp == 0 && self.lane < 2 {
                let count = if self.lane == 0 { entries } else { 0 };
                ldst::st_global_u32x4(params.list.wrapping_add(4 * self.lane as usize), count, 0, 0, 0);
            }
            // Blocks are a power of two.
            let shift = (32 * WARPS).trailing_zeros() + grid_dim_x().trailing_zeros();
            let share = 32 * ((entries + (1 << shift) - 1) >> shift);
            let mut from = warp * share;
            let end = if from + share < entries { from + share } else { entries };
            if from >= end {
                return;
            }
            let mut place = starts.place_of(from);
            while from < end {
                // A bit for each of these 32 entries with which a sequence begins; that of `place` begins at the first one or before.
                let ahead = starts.of(place + 1 + self.lane) - from;
                let begins = warp::or(if ahead < 32 { 1 << ahead } else { 0 });
                let entry = from + self.lane;
                let own = place + (begins & (below(self.lane) | 1 << self.lane)).count_ones();
                let start = starts.of(own);
                if entry < end {
                    let item = ldst::ld_shared_u32(self.order.offset(4 * own));
                    let (number, [q_start, q_len, k_start, k_len]) = self.sequence(item);
                    // The last tile first: under a causal mask it is the longest.
                    let m_block = params.tiles(q_len) - 1 - (entry - start);
                    let at = params.list.wrapping_add((LIST_HEADER_WORDS + entry * LIST_ENTRY_WORDS) as usize);
                    ldst::st_global_u32x4(at, m_block, number, q_start, q_len);
                    ldst::st_global_u32x4(at.wrapping_add(4), k_start, k_len, 0, 0);
                }
                place = warp::shfl_idx(own, 31);
                from += 32;
            }
        }
    }
}

/// Where the sequences' entries begin, in order.
#[derive(Clone, Copy)]
struct Starts<'a> {
    block: &'a Block,
    /// Lane `w` has where those of warp `w`'s sequences do.
    bases: u32,
}

impl Starts<'_> {
    /// Where those of the sequence at `place` begin, or past all entries. All lanes ask together.
    #[inline(always)]
    unsafe fn of(&self, place: u32) -> u32 {
        let base = warp::shfl_idx(self.bases, place >> self.block.items_log2);
        if place >= self.block.items {
            return MANY;
        }
        // SAFETY: written before the last barrier.
        add(base, unsafe { ldst::ld_shared_u32(self.block.other.offset(4 * place)) })
    }

    /// The last place whose entries begin at or before `entry`, which is below their count: 32 places at a time, the steps between
    /// them ever smaller.
    #[inline(always)]
    unsafe fn place_of(&self, entry: u32) -> u32 {
        let (mut place, mut step) = (0, 1);
        while 32 * step < self.block.items {
            step *= 32;
        }
        while step > 0 {
            // SAFETY: the caller's promise.
            let before = unsafe { self.of(place + step * self.block.lane) } <= entry;
            place += step * (warp::ballot(before).count_ones() - 1);
            step /= 32;
        }
        place
    }
}

/// The digit of an item that a pass sorts by.
#[inline(always)]
const fn digit(item: u32, pass: u32) -> u32 {
    item >> (INDEX_BITS + pass * DIGIT_BITS) & (WARPS - 1)
}

impl ScheduleParams {
    /// Less for more work: key blocks of the sequence's longest tile, together with others where there are too many.
    #[inline(always)]
    const fn key(&self, k_len: u32) -> u32 {
        let keys = if k_len < self.span { k_len } else { self.span };
        LAST_KEY - self.unit.div_rem(keys + self.unit.get() - 1).0
    }

    /// Query tiles of a sequence.
    #[inline(always)]
    const fn tiles(&self, q_len: u32) -> u32 {
        self.queries.div_rem(q_len + self.queries.get() - 1).0
    }
}

/// The lanes below `lane`.
#[inline(always)]
const fn below(lane: u32) -> u32 {
    (1 << lane) - 1
}

/// The lanes that are there and have the same digit as this one, and those whose digit is this lane's number.
#[inline(always)]
fn alike(there: bool, digit: u32, lane: u32) -> (u32, u32) {
    let there = warp::ballot(there);
    let (mut same, mut own) = (there, there);
    let mut bit = 0;
    while bit < DIGIT_BITS {
        let set = warp::ballot(digit >> bit & 1 == 1);
        same &= if digit >> bit & 1 == 1 { set } else { !set };
        own &= if lane >> bit & 1 == 1 { set } else { !set };
        bit += 1;
    }
    (same, own)
}

/// Sum of the lanes below this one, and of all.
#[inline(always)]
fn prefix_sums(x: u32, lane: u32) -> (u32, u32) {
    let (mut upto, mut step) = (x, 1);
    while step < 32 {
        let below = warp::shfl_up(upto, step);
        if lane >= step {
            upto = add(upto, below);
        }
        step *= 2;
    }
    // Not a difference, which would be wrong where the sum has stopped.
    let below = warp::shfl_up(upto, 1);
    (if lane == 0 { 0 } else { below }, warp::shfl_idx(upto, 31))
}

/// A sum that stops at [`MANY`].
#[inline(always)]
pub(super) const fn add(a: u32, b: u32) -> u32 {
    if a + b < MANY { a + b } else { MANY }
}
