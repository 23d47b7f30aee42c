//! The list of query tiles for sequences of different lengths: which there are, the longest sequences first.
//!
//! A block has 32 warps, and each of these that is needed neighbouring sequences, up to 8 a lane. Every step is linear in the sequences or the
//! tiles. Long lists are written by several blocks, as one multiprocessor stores no more than an entry a cycle: each sorts
//! everything for itself, and writes its share.
//!
//! | step | what | then a barrier |
//! |---|---|---|
//! | read | lengths to shared memory; a key of 10 bits for each sequence that has queries, less for more work | yes |
//! | sort | by the low 5 bits of the key, then by the high ones; stable, so that equal keys stay in the batch's order | after each |
//! | place | prefix sums of the tiles in this order: where each sequence's entries begin | yes |
//! | write | a warp takes a run of entries, 32 at a time; bits where sequences begin tell each lane its own | |
//!
//! What goes before a pass of the sort has counted the digits of each warp's items for it. A warp then goes through its items in order: lane `d`
//! knows where the next one of digit `d` goes, ballots tell the lanes with the same digit apart. Instructions are what it costs: all
//! of a multiprocessor's time goes into issuing them, and loops are short so that they are fetched but once.

mod block;

use core::mem::offset_of;

use self::block::Block;
use super::ServeParams;
use super::serve::{LIST_ENTRY_WORDS, LIST_HEADER_WORDS};
use crate::attn::divide::Divisor;
use crate::attn::sequence::{Side, UNLIMITED};
use crate::companion::Companion;
use crate::kernel;
use crate::ptx::{barrier, grid};

/// [`schedule`].
pub const SCHEDULE: Companion = Companion::new("schedule", THREADS, shared(MAX_BATCH), &ScheduleParams::LAYOUT);

/// Threads of a block.
pub const THREADS: u32 = 1024;
/// Most sequences of a list.
pub const MAX_BATCH: u32 = PER_THREAD * THREADS;

/// Most sequences of a thread.
const PER_THREAD: u32 = 8;
/// How many of them are read at a time.
const AHEAD: usize = 4;
/// Entries for which a block more pays, and the most blocks.
const ENTRIES_OF_BLOCK: u32 = 1024;
const MAX_BLOCKS: u32 = 16;
/// Warps, lanes of a warp, and values of a digit.
const WARPS: u32 = THREADS / 32;
/// Bits of a digit.
const DIGIT_BITS: u32 = WARPS.trailing_zeros();
/// Digits of a key.
const DIGITS: u32 = 2;
/// Bits of a sequence's number, below its key.
const INDEX_BITS: u32 = MAX_BATCH.trailing_zeros();
/// The key of a sequence without keys: the greatest.
const LAST_KEY: u32 = (1 << (DIGITS * DIGIT_BITS)) - 1;
/// Where sums of tiles stop, so that wrong lengths cannot make them wrap. No list has so many entries.
const MANY: u32 = 1 << 30;

/// Bytes of dynamic shared memory for a launch of `batch` sequences.
pub const fn shared(batch: u32) -> u32 {
    Map::of(rounds_log2(batch)).end
}

/// Blocks of a launch for a list with room for `room` entries: a power of two.
pub const fn blocks(room: u32) -> u32 {
    let mut blocks = 1;
    while blocks < MAX_BLOCKS && blocks * ENTRIES_OF_BLOCK < room {
        blocks *= 2;
    }
    blocks
}

/// Binary logarithm of the sequences of each thread.
const fn rounds_log2(batch: u32) -> u32 {
    let rounds = batch.div_ceil(THREADS);
    if rounds <= 1 { 0 } else { u32::BITS - (rounds - 1).leading_zeros() }
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
    /// Key and number of each sequence with queries: by number, and in the end in order.
    order: u32,
    /// The same in the order of the low digits; in the end, where each one's entries begin, counted from the warp's first.
    other: u32,
    /// For each pass, of each warp, how many items have which digit.
    counters: u32,
    /// For each pass, how many items have which digit; then tiles of each warp.
    totals: u32,
    /// Bytes in all.
    end: u32,
}

impl Map {
    const fn of(rounds_log2: u32) -> Self {
        let items = THREADS << rounds_log2;
        let order = 16 * items;
        let other = order + 4 * items;
        let counters = other + 4 * items;
        let totals = counters + 4 * DIGITS * WARPS * WARPS;
        Map { sequences: 0, order, other, counters, totals, end: totals + 4 * (DIGITS + 1) * WARPS }
    }
}

const _: () = assert!(shared(MAX_BATCH) <= super::plan::SMEM_LIMIT, "the most sequences fit one block");
const _: () = assert!(WARPS == 32, "a lane for each warp and each digit");

/// The arguments of [`schedule`], by value. It is launched as [`blocks`] blocks with [`shared`] bytes each.
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
        // SAFETY: blocks of `THREADS`, with the shared memory that the batch needs, and lengths and a list as the parameters say. Every thread
        // comes to every barrier, and what one step writes the next reads after it.
        unsafe {
            let block = Block::new(params.batch);
            block.clear();
            barrier::sync_all();
            grid::wait();
            block.read(&params);
            barrier::sync_all();
            block.pass(0, MAX_BATCH);
            barrier::sync_all();
            let count = block.pass(1, block.count());
            barrier::sync_all();
            block.place(&params, count);
            barrier::sync_all();
            block.write(&params);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::block::add;
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
        assert!(shared(1024) < 40 * 1024);
        assert_eq!(shared(MAX_BATCH), SCHEDULE.shared);
        assert_eq!([0, 1, 1024, 1025, 2049, 4096, 4097, MAX_BATCH].map(rounds_log2), [0, 0, 0, 1, 2, 2, 3, 3]);
        assert_eq!([0, 1, 1024, 1025, 5000, 1 << 29].map(blocks), [1, 1, 1, 2, 8, 16]);
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
