//! What is remembered beside memory: which bytes were written, and by whom each word was last written and read.

use super::clock::{Actor, Epoch, Lane, Proxy};

/// Bytes of memory that share a [`Cell`].
pub const GRAIN: usize = 4;

/// A set of bytes.
#[derive(Clone, Debug, Default)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// None of `len` bytes.
    pub fn new(len: usize) -> Self {
        Bits(vec![0; len.div_ceil(64)])
    }

    /// Words and the bits of each that a range covers.
    fn words(start: usize, len: usize) -> impl Iterator<Item = (usize, u64)> {
        let end = start + len;
        (start / 64..end.div_ceil(64)).map(move |w| {
            let (from, to) = (start.max(w * 64) - w * 64, end.min(w * 64 + 64) - w * 64);
            (w, (u64::MAX >> (64 - (to - from))) << from)
        })
    }

    /// Adds a range.
    pub fn set(&mut self, start: usize, len: usize) {
        if len > 0 {
            Self::words(start, len).for_each(|(w, mask)| self.0[w] |= mask);
        }
    }

    /// Removes a range.
    pub fn clear(&mut self, start: usize, len: usize) {
        if len > 0 {
            Self::words(start, len).for_each(|(w, mask)| self.0[w] &= !mask);
        }
    }

    /// The first byte of a range that is not in the set.
    pub fn first_missing(&self, start: usize, len: usize) -> Option<usize> {
        if len == 0 {
            return None;
        }
        Self::words(start, len).find_map(|(w, mask)| {
            let missing = mask & !self.0[w];
            (missing != 0).then(|| w * 64 + missing.trailing_zeros() as usize)
        })
    }

    /// The first byte that is in both sets.
    pub fn first_common(&self, other: &Bits) -> Option<usize> {
        let both = self.0.iter().zip(&other.0).map(|(a, b)| a & b).enumerate().find(|(_, both)| *both != 0);
        both.map(|(w, both)| w * 64 + both.trailing_zeros() as usize)
    }

    /// Adds the other set's bytes.
    pub fn union(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    /// Whether a byte is in the set.
    pub fn contains(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 != 0
    }
}

/// An access of some bytes of a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Touch {
    epoch: Epoch,
    /// Those bytes, a bit each.
    bytes: u8,
}

/// Last accesses of one word. Mostly all of it was written and read together.
#[derive(Clone, Debug, Default)]
struct Cell {
    write: Epoch,
    read: Epoch,
    /// Bytes of `write` and of `read`.
    written: u8,
    seen: u8,
    more: Option<Box<More>>,
}

/// Accesses of a word that the last ones do not stand for.
#[derive(Clone, Debug, Default)]
struct More {
    /// Writes of other bytes than the last one's.
    writes: Vec<Touch>,
    /// Reads that are unordered with the last one, or of other bytes.
    reads: Vec<Touch>,
}

/// Two accesses that nothing orders, or a write that a fence should have made visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Offset of the word in its memory.
    pub offset: usize,
    /// The earlier access.
    pub earlier: Epoch,
    /// Whether the earlier access wrote.
    pub wrote: bool,
    /// Ordered, but a generic write that is not fenced for the asynchronous proxy.
    pub unfenced: bool,
}

/// Last accesses of a memory, in words of [`GRAIN`] bytes.
#[derive(Clone, Debug)]
pub struct Shadow {
    cells: Vec<Cell>,
}

/// Bytes of word `word` that `start .. end` covers.
#[inline]
fn bytes_of(word: usize, start: usize, end: usize) -> u8 {
    let from = start.saturating_sub(word * GRAIN).min(GRAIN);
    let to = end.saturating_sub(word * GRAIN).min(GRAIN);
    ((1u32 << to) - (1u32 << from)) as u8
}

impl Shadow {
    /// For `len` bytes, not accessed yet.
    pub fn new(len: usize) -> Self {
        Shadow { cells: vec![Cell::default(); len.div_ceil(GRAIN)] }
    }

    /// Notes a read and returns the first conflict with an earlier write.
    pub fn read(&mut self, who: &Actor, start: usize, len: usize) -> Option<Conflict> {
        let (end, epoch) = (start + len, who.epoch());
        let mut conflict = None;
        // Neighbouring words were mostly written together.
        let mut passed = Epoch::default();
        for word in start / GRAIN..end.div_ceil(GRAIN) {
            let cell = &mut self.cells[word];
            let bytes = bytes_of(word, start, end);
            let mut check = |write: Epoch, written: u8| {
                if write == passed || !write.exists() || written & bytes == 0 {
                    return;
                }
                let ordered = who.follows(write);
                if ordered && who.sees(write) {
                    passed = write;
                } else if conflict.is_none() {
                    let offset = (word * GRAIN).max(start);
                    conflict = Some(Conflict { offset, earlier: write, wrote: true, unfenced: ordered });
                }
            };
            check(cell.write, cell.written);
            if let Some(more) = &cell.more {
                more.writes.iter().for_each(|w| check(w.epoch, w.bytes));
            }
            if cell.read != epoch || cell.seen != bytes {
                cell.note_read(who, epoch, bytes);
            }
        }
        conflict
    }

    /// Notes a write and returns the first conflict with an earlier access.
    pub fn write(&mut self, who: &Actor, start: usize, len: usize) -> Option<Conflict> {
        let (end, epoch) = (start + len, who.epoch());
        let mut conflict: Option<Conflict> = None;
        let (mut passed, mut passed_read) = (Epoch::default(), Epoch::default());
        for word in start / GRAIN..end.div_ceil(GRAIN) {
            let cell = &mut self.cells[word];
            let bytes = bytes_of(word, start, end);
            let mut check = |earlier: Epoch, wrote: bool| {
                let ordered = !earlier.exists() || who.follows(earlier);
                // What a write replaces needs no proxy fence, but tensor memory's fences order every access.
                let fenced = who.proxy != Proxy::Tensor || !earlier.exists() || who.sees(earlier);
                // A read that the instruction's own warp may not even make says less than any other.
                if !(ordered && fenced) && conflict.is_none_or(|c| c.earlier.lane() == Lane::OthersRows) {
                    conflict = Some(Conflict { offset: (word * GRAIN).max(start), earlier, wrote, unfenced: ordered });
                }
            };
            if cell.write != passed && cell.written & bytes != 0 {
                check(cell.write, true);
                passed = cell.write;
            }
            if cell.read != passed_read && cell.seen & bytes != 0 {
                check(cell.read, false);
                passed_read = cell.read;
            }
            if let Some(more) = &cell.more {
                more.writes.iter().filter(|w| w.bytes & bytes != 0).for_each(|w| check(w.epoch, true));
                more.reads.iter().filter(|r| r.bytes & bytes != 0).for_each(|r| check(r.epoch, false));
            }
            cell.note_write(epoch, bytes);
        }
        conflict
    }

    /// The last write of the byte at an offset.
    pub fn last_write(&self, offset: usize) -> Option<Epoch> {
        let (cell, byte) = (&self.cells[offset / GRAIN], 1 << (offset % GRAIN));
        let others = cell.more.iter().flat_map(|more| &more.writes);
        let mut all = others.copied().chain([Touch { epoch: cell.write, bytes: cell.written }]);
        all.find(|w| w.bytes & byte != 0).map(|w| w.epoch)
    }

    /// A last read of the byte at an offset.
    pub fn last_read(&self, offset: usize) -> Option<Epoch> {
        let (cell, byte) = (&self.cells[offset / GRAIN], 1 << (offset % GRAIN));
        let others = cell.more.iter().flat_map(|more| &more.reads);
        let mut all = others.copied().chain([Touch { epoch: cell.read, bytes: cell.seen }]);
        all.find(|r| r.bytes & byte != 0).map(|r| r.epoch)
    }
}

impl Cell {
    /// A read; those that happen before it and are of its bytes say nothing more.
    fn note_read(&mut self, who: &Actor, epoch: Epoch, bytes: u8) {
        let last = Touch { epoch: self.read, bytes: self.seen };
        let mut read = Touch { epoch, bytes };
        if !last.epoch.exists() || stands_for(who, &mut read, last) {
            (self.read, self.seen) = (read.epoch, read.bytes);
            return;
        }
        let reads = &mut self.more.get_or_insert_with(Box::default).reads;
        reads.retain(|&r| !stands_for(who, &mut read, r));
        reads.push(read);
    }

    /// A write: what it overwrites is gone, and reads of its bytes with it.
    fn note_write(&mut self, mut epoch: Epoch, bytes: u8) {
        // Lanes that write a byte by one instruction have all written it, with whichever value.
        if self.written & bytes != 0 && self.write.by(Lane::Any) == epoch.by(Lane::Any) {
            epoch = epoch.by(Lane::Any);
        }
        let left = Touch { epoch: self.write, bytes: self.written & !bytes };
        self.seen &= !bytes;
        if self.seen == 0 {
            self.read = Epoch::default();
        }
        if let Some(more) = &mut self.more {
            for list in [&mut more.writes, &mut more.reads] {
                list.iter_mut().for_each(|t| t.bytes &= !bytes);
                list.retain(|t| t.bytes != 0);
            }
            if more.writes.is_empty() && more.reads.is_empty() {
                self.more = None;
            }
        }
        if left.bytes == 0 {
            (self.write, self.written) = (epoch, bytes);
        } else if left.epoch == epoch {
            self.written |= bytes;
        } else {
            (self.write, self.written) = (epoch, bytes);
            self.more.get_or_insert_with(Box::default).writes.push(left);
        }
    }
}

/// Whether `read` may take the place of `earlier`; where that was another lane of the same warp, as a read by several.
fn stands_for(who: &Actor, read: &mut Touch, earlier: Touch) -> bool {
    if earlier.bytes & !read.bytes != 0 {
        return false;
    }
    let own = earlier.epoch.agent == read.epoch.agent;
    // Of its streams a warp does not keep when its lanes last met.
    let met = who.agent == who.issuer && earlier.epoch.clock <= who.synced;
    if own && !met && earlier.epoch.lane().differs(read.epoch.lane()) {
        read.epoch = read.epoch.by(Lane::Several);
    }
    own || who.follows(earlier.epoch)
}

#[cfg(test)]
mod tests {
    use super::super::clock::Knowledge;
    use super::*;
    use std::rc::Rc;

    fn actor(agent: u32, clock: u32, seen: &[(u32, u32)]) -> Actor {
        let mut known = Knowledge::default();
        seen.iter().for_each(|&(a, c)| known.observe(a, c));
        known.observe(agent, clock);
        let (known, proxy, lane) = (Rc::new(known), Proxy::Generic, Lane::Any);
        Actor { agent, clock, known, proxy, op: agent, warp: agent, lane, issuer: agent, synced: 0, returned: None }
    }

    #[test]
    fn ranges_of_bits() {
        let mut bits = Bits::new(300);
        bits.set(60, 130);
        assert_eq!(bits.first_missing(60, 130), None);
        assert_eq!(bits.first_missing(59, 2), Some(59));
        assert_eq!(bits.first_missing(100, 100), Some(190));
        bits.clear(64, 1);
        assert_eq!(bits.first_missing(60, 130), Some(64));
        bits.set(0, 300);
        assert_eq!(bits.first_missing(0, 300), None);
        bits.set(0, 0);
    }

    #[test]
    fn unordered_accesses_conflict_and_ordered_ones_do_not() {
        let mut shadow = Shadow::new(64);
        assert_eq!(shadow.write(&actor(0, 1, &[]), 0, 16), None);
        let conflict = shadow.read(&actor(1, 1, &[]), 8, 4).expect("nothing orders the two");
        assert_eq!((conflict.offset, conflict.earlier.agent, conflict.wrote), (8, 0, true));
        assert_eq!(shadow.read(&actor(2, 1, &[(0, 1)]), 8, 4), None);
        // Agent 3 follows the writer and agent 2, not agent 1's read.
        let conflict = shadow.write(&actor(3, 1, &[(0, 1), (2, 1)]), 8, 4).expect("agent 1 may still read");
        assert_eq!((conflict.earlier.agent, conflict.wrote), (1, false));
    }

    #[test]
    fn neighbouring_bytes_of_a_word_do_not_conflict() {
        let mut shadow = Shadow::new(8);
        assert_eq!(shadow.write(&actor(0, 1, &[]), 0, 2), None);
        assert_eq!(shadow.write(&actor(1, 1, &[]), 2, 2), None);
        assert!(shadow.write(&actor(0, 1, &[]), 3, 1).is_some());
    }

    #[test]
    fn every_byte_of_a_word_has_its_own_last_accesses() {
        let mut shadow = Shadow::new(8);
        assert_eq!(shadow.write(&actor(0, 1, &[]), 0, 2), None);
        assert_eq!(shadow.write(&actor(1, 1, &[]), 2, 2), None);
        assert_eq!(shadow.last_write(1).map(|e| e.agent), Some(0));
        let conflict = shadow.read(&actor(2, 1, &[(1, 1)]), 0, 4).expect("agent 0 may still write the first two");
        assert_eq!(conflict.earlier.agent, 0);
        assert_eq!(shadow.write(&actor(3, 1, &[(0, 1), (2, 1)]), 0, 2), None);
        let conflict = shadow.write(&actor(3, 1, &[(0, 1), (1, 1)]), 2, 2).expect("agent 2 may still read the others");
        assert_eq!((conflict.earlier.agent, conflict.wrote), (2, false));
    }

    #[test]
    fn a_read_by_two_lanes_is_in_the_way_of_both() {
        let by = |lane, op| Actor { lane: Lane::One(lane), op, ..actor(0, 1, &[]) };
        let mut shadow = Shadow::new(8);
        assert_eq!(shadow.read(&by(3, 1), 0, 4), None);
        assert_eq!(shadow.read(&by(4, 1), 0, 4), None);
        assert_eq!(shadow.read(&by(5, 1), 4, 4), None);
        assert!(shadow.write(&by(4, 2), 0, 4).is_some());
        assert_eq!(shadow.write(&by(5, 2), 4, 4), None);
    }

    #[test]
    fn a_byte_that_lanes_write_together_is_each_ones_own() {
        let by = |lane, op| Actor { lane: Lane::One(lane), op, ..actor(0, 1, &[]) };
        let mut shadow = Shadow::new(8);
        assert_eq!(shadow.write(&by(3, 1), 0, 4), None);
        assert_eq!(shadow.write(&by(4, 1), 0, 4), None);
        assert_eq!(shadow.read(&by(3, 2), 0, 4), None);
        assert_eq!(shadow.write(&by(3, 1), 4, 4), None);
        assert!(shadow.read(&by(4, 2), 4, 4).is_some());
    }
}
