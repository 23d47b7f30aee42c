//! What is remembered beside memory: which bytes were written, and by whom each word was last written and read.

use super::clock::{Actor, Epoch, Proxy};

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

/// Last accesses of one word.
#[derive(Clone, Debug, Default)]
struct Cell {
    write: Epoch,
    /// Bytes of the word that the last write wrote.
    bytes: u8,
    read: Epoch,
    /// Further reads that are unordered with `read` and with each other.
    /// Mostly none, so a pointer's room and no more.
    #[allow(clippy::box_collection)]
    reads: Option<Box<Vec<Epoch>>>,
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
            let write = cell.write;
            if write != passed && write.exists() && cell.bytes & bytes_of(word, start, end) != 0 {
                let ordered = who.follows(write);
                if ordered && who.sees(write) {
                    passed = write;
                } else if conflict.is_none() {
                    let offset = (word * GRAIN).max(start);
                    conflict = Some(Conflict { offset, earlier: write, wrote: true, unfenced: ordered });
                }
            }
            if cell.read != epoch {
                cell.note_read(who, epoch);
            }
        }
        conflict
    }

    /// Notes a write and returns the first conflict with an earlier access.
    pub fn write(&mut self, who: &Actor, start: usize, len: usize) -> Option<Conflict> {
        let (end, epoch) = (start + len, who.epoch());
        let mut conflict = None;
        let (mut passed, mut passed_read) = (Epoch::default(), Epoch::default());
        for word in start / GRAIN..end.div_ceil(GRAIN) {
            let cell = &mut self.cells[word];
            let bytes = bytes_of(word, start, end);
            let mut check = |earlier: Epoch, wrote: bool| {
                let ordered = !earlier.exists() || who.follows(earlier);
                // What a write replaces needs no proxy fence, but tensor memory's fences order every access.
                let fenced = who.proxy != Proxy::Tensor || !earlier.exists() || who.sees(earlier);
                if !(ordered && fenced) && conflict.is_none() {
                    conflict = Some(Conflict { offset: (word * GRAIN).max(start), earlier, wrote, unfenced: ordered });
                }
            };
            if cell.write != passed && cell.bytes & bytes != 0 {
                check(cell.write, true);
                passed = cell.write;
            }
            if cell.read != passed_read {
                check(cell.read, false);
                passed_read = cell.read;
            }
            if let Some(reads) = cell.reads.take() {
                reads.iter().for_each(|&read| check(read, false));
            }
            cell.read = Epoch::default();
            // A partial write by the same agent moment joins the bytes; another agent's takes the word over.
            cell.bytes = if cell.write == epoch { cell.bytes | bytes } else { bytes };
            cell.write = epoch;
        }
        conflict
    }

    /// The last write of the word at an offset.
    pub fn last_write(&self, offset: usize) -> Option<Epoch> {
        let write = self.cells[offset / GRAIN].write;
        write.exists().then_some(write)
    }
}

impl Cell {
    fn note_read(&mut self, who: &Actor, epoch: Epoch) {
        // A read that happens before this one says nothing more.
        if !self.read.exists() || self.read.agent == epoch.agent || who.follows(self.read) {
            self.read = epoch;
            return;
        }
        let reads = self.reads.get_or_insert_with(Box::default);
        match reads.iter_mut().find(|r| r.agent == epoch.agent || who.follows(**r)) {
            Some(slot) => *slot = epoch,
            None => reads.push(epoch),
        }
    }
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
        Actor { agent, clock, known: Rc::new(known), proxy: Proxy::Generic, op: agent, warp: agent }
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
}
