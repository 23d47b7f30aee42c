//! The list of query tiles for sequences of different lengths: which there are, the longest sequences first.
//!
//! One block of 32 warps; each thread has up to 8 sequences, a warp's lie together. Every step is linear in the sequences or the tiles.
//!
//! | step | what | barriers |
//! |---|---|---|
//! | read | lengths to shared memory, a key of 10 bits for each sequence that has queries: less for more work | 0 |
//! | sort | by the low 5 bits of the key, then by the high ones; stable, so that equal keys stay in the batch's order | 2 x 3 |
//! | place | prefix sums of the tiles in this order: where each sequence's entries begin | 2 |
//! | write | a warp takes a run of entries, 32 at a time; bits where sequences begin tell each lane its own | 0 |
//!
//! A pass of the sort counts the digits of each warp's items by ballots (lane `d` has the count of digit `d`), takes prefix sums over
//! all warps digit after digit, and so knows where each item goes.

use core::mem::offset_of;

use super::ServeParams;
use super::serve::{LIST_ENTRY_WORDS, LIST_HEADER_WORDS};
use crate::attn::divide::Divisor;
use crate::attn::sequence::{Loaded, Side, UNLIMITED};
use crate::companion::Companion;
use crate::entry::{dynamic_shared, thread_idx_x};
use crate::kernel;
use crate::mem::Smem;
use crate::ptx::{barrier, grid, ldst, warp};

/// [`schedule`].
pub const SCHEDULE: Companion = Companion::new("schedule", THREADS, shared(MAX_BATCH), &ScheduleParams::LAYOUT);

/// Threads of the one block.
pub const THREADS: u32 = 1024;
/// Most sequences of a list.
pub const MAX_BATCH: u32 = PER_THREAD as u32 * THREADS;

/// Most sequences of a thread.
const PER_THREAD: usize = 8;
/// Of these, how many are read at a time.
const AHEAD: usize = 4;
/// Warps, lanes of a warp, and values of a digit.
const WARPS: u32 = THREADS / 32;
/// Bits of a digit.
const DIGIT_BITS: u32 = WARPS.trailing_zeros();
/// Bits of a sequence's number, below its key.
const INDEX_BITS: u32 = MAX_BATCH.trailing_zeros();
/// The key of a sequence without keys: the greatest of two digits.
const LAST_KEY: u32 = (1 << (2 * DIGIT_BITS)) - 1;
/// Where sums of tiles stop, so that wrong lengths cannot make them wrap. No list has so many entries.
const MANY: u32 = 1 << 30;
/// Words from one digit's counters to the next's: a warp reads and writes them along both dimensions without bank conflicts.
const COUNTER_PITCH: u32 = WARPS + 1;

/// Bytes of dynamic shared memory for a launch of `batch` sequences.
pub const fn shared(batch: u32) -> u32 {
    Map::of(rounds(batch)).end
}

/// Sequences of each thread.
const fn rounds(batch: u32) -> u32 {
    if batch == 0 { 1 } else { batch.div_ceil(THREADS) }
}

/// Keys that count as one: whole blocks, and so many that the longest row of blocks still has a key.
const fn unit(span: u32, bn: u32) -> u32 {
    let blocks = span.div_ceil(bn);
    if blocks <= LAST_KEY { bn } else { bn * blocks.div_ceil(LAST_KEY) }
}

/// Byte offsets in shared memory.
struct Map {
    /// [`Sequence`](crate::attn::sequence::Sequence)s, four words each, by number.
    sequences: u32,
    /// Key and number of each sequence with queries, in order.
    order: u32,
    /// First entry of each sequence in order, and the count of entries after the last, 32 times more than there are sequences.
    starts: u32,
    /// Items of each digit and warp.
    counters: u32,
    /// Items of each digit, then tiles of each warp.
    totals: u32,
    /// Bytes in all.
    end: u32,
}

impl Map {
    const fn of(rounds: u32) -> Self {
        let items = rounds * THREADS;
        let order = 16 * items;
        let starts = order + 4 * items;
        let counters = starts + 4 * (items + 32);
        let totals = counters + 4 * WARPS * COUNTER_PITCH;
        Map { sequences: 0, order, starts, counters, totals, end: totals + 4 * WARPS }
    }
}

const _: () = assert!(shared(MAX_BATCH) <= super::plan::SMEM_LIMIT, "the most sequences fit one block");
const _: () = assert!(WARPS == 32, "a lane for each warp and each digit");

/// The arguments of [`schedule`], by value. It is launched as one block with [`shared`] bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ScheduleParams {
    /// The list, [`list_words`] words.
    pub list: *mut u32,
    /// As in [`ServeParams`], like those that follow.
    pub cu_q: *const i32,
    /// Prefix sums of the keys, or null.
    pub cu_k: *const i32,
    /// Queries in use, or null.
    pub used_q: *const i32,
    /// Keys in use, or null.
    pub used_k: *const i32,
    /// Most queries of a sequence.
    pub seqlen_q: u32,
    /// Most keys of a sequence.
    pub seqlen_k: u32,
    /// Rows of Q from one sequence to the next, where they are not packed.
    pub q_room: u32,
    /// Sequences, at most [`MAX_BATCH`].
    pub batch: u32,
    /// Queries of a tile.
    pub queries: Divisor,
    /// Keys that a tile sees at most.
    pub span: u32,
    /// Keys that count as one in the order of sequences.
    pub unit: Divisor,
    /// Entries that the list has room for.
    pub room: u32,
}

/// Words of a list of up to `entries` entries. Queries that take `n` whole tiles take at most `n + batch` with the sequences' last ones.
pub const fn list_words(entries: u32) -> u64 {
    LIST_HEADER_WORDS as u64 + entries as u64 * LIST_ENTRY_WORDS as u64
}

impl ScheduleParams {
    /// What writes the list for a launch with `serve`, whose tiles have `queries` queries and `bn` keys a block.
    pub const fn new(serve: &ServeParams, list: *mut u32, batch: u32, queries: u32, bn: u32, room: u32) -> Self {
        let ServeParams { cu_q, cu_k, used_q, used_k, seqlen_q, seqlen_k, q_room, left, right, .. } = *serve;
        assert!(room < MANY, "a list of more entries than sums of tiles count");
        assert!(batch <= MAX_BATCH, "more sequences than the list's kernel can sort");
        let window = left.saturating_add(right).saturating_add(queries);
        let span = if left >= UNLIMITED || window > seqlen_k { seqlen_k } else { window };
        let unit = Divisor::new(unit(span, bn));
        let queries = Divisor::new(queries);
        ScheduleParams {
            list,
            cu_q,
            cu_k,
            used_q,
            used_k,
            seqlen_q,
            seqlen_k,
            q_room,
            batch,
            queries,
            span,
            unit,
            room,
        }
    }

    /// The side of the queries.
    #[inline(always)]
    fn queries_side(&self) -> Side {
        Side { cumulative: self.cu_q, used: self.used_q, longest: self.seqlen_q, room: self.q_room }
    }

    /// The side of the keys.
    #[inline(always)]
    fn keys_side(&self) -> Side {
        Side { cumulative: self.cu_k, used: self.used_k, longest: self.seqlen_k, room: 0 }
    }

    const LAYOUT: [u32; 14] = [
        size_of::<Self>() as u32,
        offset_of!(Self, list) as u32,
        offset_of!(Self, cu_q) as u32,
        offset_of!(Self, cu_k) as u32,
        offset_of!(Self, used_q) as u32,
        offset_of!(Self, used_k) as u32,
        offset_of!(Self, seqlen_q) as u32,
        offset_of!(Self, seqlen_k) as u32,
        offset_of!(Self, q_room) as u32,
        offset_of!(Self, batch) as u32,
        offset_of!(Self, queries) as u32,
        offset_of!(Self, span) as u32,
        offset_of!(Self, unit) as u32,
        offset_of!(Self, room) as u32,
    ];
}

kernel! {
    threads = THREADS, registers = 64, shared = shared(MAX_BATCH), plan = SCHEDULE.fingerprint;
    /// Writes the list; see [`ScheduleParams`].
    pub unsafe fn schedule(params: ScheduleParams) {
        grid::launch_dependents();
        // SAFETY: one block of `THREADS`, with the shared memory that the batch needs, and lengths and a list as the parameters say.
        unsafe {
            let block = Block::new(params.batch);
            grid::wait();
            let keys = block.read(&params);
            let (count, at) = block.pass(keys, 0);
            block.put_order(keys, at);
            let keys = block.order(count);
            let (_, at) = block.pass(keys, DIGIT_BITS);
            block.put_order(keys, at);
            let entries = block.place(&params, count);
            block.write(&params, entries);
        }
    }
}

/// A thread's items: keys with numbers below them, or [`NONE`].
type Items = [u32; PER_THREAD];

/// The thread has no more, or the sequence has no queries. Greater than every item.
const NONE: u32 = u32::MAX;

/// The block as a thread sees it. Item `round` of the thread is number `32 (warp * rounds + round) + lane`.
#[derive(Clone, Copy)]
struct Block {
    warp: u32,
    lane: u32,
    rounds: u32,
    sequences: Smem<u32>,
    order: Smem<u32>,
    starts: Smem<u32>,
    counters: Smem<u32>,
    totals: Smem<u32>,
}

impl Block {
    #[inline(always)]
    fn new(batch: u32) -> Self {
        let thread = thread_idx_x();
        let rounds = rounds(batch);
        let Map { sequences, order, starts, counters, totals, .. } = Map::of(rounds);
        let at = |offset| Smem::new(dynamic_shared() + offset);
        Block {
            warp: warp::uniform(thread / 32),
            lane: thread % 32,
            rounds,
            sequences: at(sequences),
            order: at(order),
            starts: at(starts),
            counters: at(counters),
            totals: at(totals),
        }
    }

    #[inline(always)]
    fn number(&self, round: usize) -> u32 {
        32 * (self.warp * self.rounds + round as u32) + self.lane
    }

    /// Whether item `round` is one of the first `count`.
    #[inline(always)]
    fn has(&self, round: usize, count: u32) -> bool {
        (round as u32) < self.rounds && self.number(round) < count
    }

    /// Reads the lengths, keeps them in shared memory, and returns the keys.
    #[inline(always)]
    unsafe fn read(&self, params: &ScheduleParams) -> Items {
        let (queries, keys) = (params.queries_side(), params.keys_side());
        let mut items = [NONE; PER_THREAD];
        let mut first = 0;
        while first < PER_THREAD {
            let mut loaded = [(Loaded::default(), Loaded::default()); AHEAD];
            let mut i = 0;
            while i < AHEAD {
                let number = self.number(first + i);
                if self.has(first + i, params.batch) {
                    // SAFETY: the caller's promise.
                    loaded[i] = unsafe { (queries.load(number), keys.load(number)) };
                }
                i += 1;
            }
            let mut i = 0;
            while i < AHEAD {
                let number = self.number(first + i);
                if self.has(first + i, params.batch) {
                    let (q_start, q_len) = queries.rows_of(loaded[i].0);
                    let (k_start, k_len) = keys.rows_of(loaded[i].1);
                    let at = self.sequences.offset(16 * number);
                    // SAFETY: there is room for every number below the batch, and no other thread has this one.
                    unsafe { ldst::st_shared_u32x4(at, [q_start, q_len, k_start, k_len]) };
                    if q_len > 0 {
                        items[first + i] = params.key(k_len) << INDEX_BITS | number;
                    }
                }
                i += 1;
            }
            first += AHEAD;
        }
        items
    }

    /// Where each item goes in the order of the digit `shift` bits above the number, and how many items there are.
    #[inline(always)]
    unsafe fn pass(&self, items: Items, shift: u32) -> (u32, [u32; PER_THREAD]) {
        let digit = |item: u32| item >> (INDEX_BITS + shift) & (WARPS - 1);
        // This warp's items, in order. Lane `d` counts those of digit `d`.
        let (mut counts, mut at) = (0, [0; PER_THREAD]);
        let mut round = 0;
        while round < PER_THREAD {
            if (round as u32) < self.rounds {
                let (there, digit) = (items[round] != NONE, digit(items[round]));
                let (same, own) = alike(there, digit, self.lane);
                at[round] = warp::shfl_idx(counts, digit) + (same & below(self.lane)).count_ones();
                counts += own.count_ones();
            }
            round += 1;
        }
        // SAFETY: every thread of the block comes here; each word of the counters and totals has one writer between two barriers.
        let (count, base) = unsafe {
            ldst::st_shared_u32(self.counter(self.lane, self.warp), counts);
            barrier::sync_all();
            // Warp `d` adds up digit `d` over the warps.
            let counts = ldst::ld_shared_u32(self.counter(self.warp, self.lane));
            let (before, all) = prefix_sums(counts, self.lane);
            ldst::st_shared_u32(self.counter(self.warp, self.lane), before);
            if self.lane == 0 {
                ldst::st_shared_u32(self.totals.offset(4 * self.warp), all);
            }
            barrier::sync_all();
            let (before, all) = prefix_sums(ldst::ld_shared_u32(self.totals.offset(4 * self.lane)), self.lane);
            (all, before + ldst::ld_shared_u32(self.counter(self.lane, self.warp)))
        };
        let mut round = 0;
        while round < PER_THREAD {
            if (round as u32) < self.rounds {
                at[round] += warp::shfl_idx(base, digit(items[round]));
            }
            round += 1;
        }
        (count, at)
    }

    #[inline(always)]
    fn counter(&self, digit: u32, warp: u32) -> Smem<u32> {
        self.counters.offset(4 * (digit * COUNTER_PITCH + warp))
    }

    /// Puts the items at their places.
    #[inline(always)]
    unsafe fn put_order(&self, items: Items, at: [u32; PER_THREAD]) {
        let mut round = 0;
        while round < PER_THREAD {
            if items[round] != NONE {
                // SAFETY: places differ and lie below the count of items. What lay there was read before the pass's barriers.
                unsafe { ldst::st_shared_u32(self.order.offset(4 * at[round]), items[round]) };
            }
            round += 1;
        }
        // SAFETY: every thread of the block comes here.
        unsafe { barrier::sync_all() };
    }

    /// This thread's of the `count` items in order.
    #[inline(always)]
    unsafe fn order(&self, count: u32) -> Items {
        let mut items = [NONE; PER_THREAD];
        let mut round = 0;
        while round < PER_THREAD {
            if self.has(round, count) {
                // SAFETY: written before the last barrier.
                items[round] = unsafe { ldst::ld_shared_u32(self.order.offset(4 * self.number(round))) };
            }
            round += 1;
        }
        items
    }

    /// The sequence of an item: its number and the four words.
    #[inline(always)]
    unsafe fn sequence(&self, item: u32) -> (u32, [u32; 4]) {
        let number = item & (MAX_BATCH - 1);
        // SAFETY: items are made of numbers whose words were written before the first barrier.
        (number, unsafe { ldst::ld_shared_u32x4(self.sequences.offset(16 * number)) })
    }

    /// Writes where each sequence's entries begin, and returns how many there are in all.
    #[inline(always)]
    unsafe fn place(&self, params: &ScheduleParams, count: u32) -> u32 {
        // SAFETY: the passes' barriers lie behind every thread; all of them come here.
        let items = unsafe { self.order(count) };
        let (mut sum, mut starts) = (0, [0; PER_THREAD]);
        let mut round = 0;
        while round < PER_THREAD {
            if (round as u32) < self.rounds {
                let mut tiles = 0;
                if items[round] != NONE {
                    // SAFETY: an item.
                    let (_, [_, q_len, ..]) = unsafe { self.sequence(items[round]) };
                    tiles = params.tiles(q_len);
                }
                let (before, all) = prefix_sums(tiles, self.lane);
                (starts[round], sum) = (add(sum, before), add(sum, all));
            }
            round += 1;
        }
        // SAFETY: as above; the totals of the passes were read before the last barrier, and each word has one writer.
        unsafe {
            if self.lane == 0 {
                ldst::st_shared_u32(self.totals.offset(4 * self.warp), sum);
            }
            barrier::sync_all();
            let (before, all) = prefix_sums(ldst::ld_shared_u32(self.totals.offset(4 * self.lane)), self.lane);
            let base = warp::shfl_idx(before, self.warp);
            let mut round = 0;
            while round < PER_THREAD {
                if (round as u32) < self.rounds {
                    let number = self.number(round);
                    let start = if number < count { add(base, starts[round]) } else { all };
                    ldst::st_shared_u32(self.starts.offset(4 * number), start);
                }
                round += 1;
            }
            if self.warp == 0 {
                ldst::st_shared_u32(self.starts.offset(4 * (self.rounds * THREADS + self.lane)), all);
            }
            barrier::sync_all();
            all
        }
    }

    #[inline(always)]
    unsafe fn start(&self, place: u32) -> u32 {
        // SAFETY: the caller's: a place up to 31 past the last, after the barrier that follows their writes.
        unsafe { ldst::ld_shared_u32(self.starts.offset(4 * place)) }
    }

    /// The last place in order whose entries begin at or before `entry`, which is below their count: 32 places at a time, the steps between
    /// them ever smaller.
    #[inline(always)]
    unsafe fn place_of(&self, entry: u32) -> u32 {
        let (mut place, mut step) = (0, 1024);
        while step > 0 {
            let probe = place + step * self.lane;
            // SAFETY: the probe is a place.
            let before = probe < self.rounds * THREADS && unsafe { self.start(probe) } <= entry;
            place += step * (warp::ballot(before).count_ones() - 1);
            step /= 32;
        }
        place
    }

    /// Writes the header and this warp's share of the entries.
    #[inline(always)]
    unsafe fn write(&self, params: &ScheduleParams, entries: u32) {
        let entries = if entries < params.room { entries } else { params.room };
        let share = 32 * entries.div_ceil(32 * WARPS);
        let first = self.warp * share;
        let end = if first + share < entries { first + share } else { entries };
        // SAFETY: the list has a header and `room` entries; each word has one writer.
        unsafe {
            if self.warp == 0 && self.lane < 2 {
                let count = if self.lane == 0 { entries } else { 0 };
                ldst::st_global_u32x4(params.list.wrapping_add(4 * self.lane as usize), count, 0, 0, 0);
            }
            if first >= end {
                return;
            }
            let (mut from, mut place) = (first, self.place_of(first));
            while from < end {
                // A bit for each of these 32 entries with which a sequence begins; that of `place` begins at the first one or before.
                let ahead = self.start(place + 1 + self.lane) - from;
                let begins = warp::or(if ahead < 32 { 1 << ahead } else { 0 });
                let entry = from + self.lane;
                let own = place + (begins & (below(self.lane) | 1 << self.lane)).count_ones();
                if entry < end {
                    let (number, sequence) = self.sequence(ldst::ld_shared_u32(self.order.offset(4 * own)));
                    let [q_start, q_len, k_start, k_len] = sequence;
                    // The last tile first: under a causal mask it is the longest.
                    let m_block = params.tiles(q_len) - 1 - (entry - self.start(own));
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
const fn add(a: u32, b: u32) -> u32 {
    if a + b < MANY { a + b } else { MANY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fall_with_work_and_fit_two_digits() {
        for (span, bn) in [(0, 128), (1, 16), (1023 * 80, 80), (1023 * 80 + 1, 80), (1 << 20, 64), (UNLIMITED, 16)] {
            let unit = unit(span, bn);
            assert!(unit.is_multiple_of(bn) && span.div_ceil(unit) <= LAST_KEY, "{span} keys in blocks of {bn}");
            // A smaller unit would not do.
            assert!(unit == bn || span.div_ceil(unit - bn) > LAST_KEY, "{span} keys in blocks of {bn}");
        }
    }

    #[test]
    fn the_most_sequences_fit_and_few_take_little() {
        assert_eq!((shared(1), shared(1024)), (shared(0), shared(0)));
        assert!(shared(1024) < 32 * 1024);
        assert_eq!(shared(MAX_BATCH), SCHEDULE.shared);
        assert_eq!(rounds(MAX_BATCH), PER_THREAD as u32);
    }

    #[test]
    fn sums_stop_where_no_list_goes() {
        assert_eq!([add(3, 4), add(MANY - 1, 1), add(MANY, MANY)], [7, MANY, MANY]);
    }

    #[test]
    fn a_list_is_a_header_and_entries() {
        assert_eq!(list_words(0), 8);
        assert_eq!(list_words(u32::MAX), 8 + 8 * u64::from(u32::MAX));
    }
}
