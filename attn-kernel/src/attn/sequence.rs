//! Sequences of different lengths in one problem: where each one's rows lie, and how a tensor map cuts off what follows them.

use crate::ptx::ldst;

/// Longest sequence that a ragged problem may have, and what stands for a window without an end: sums of a position, a length and a
/// window stay inside `i32`.
pub const UNLIMITED: u32 = 1 << 29;

/// The rows of one sequence in tensors of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// First row in Q and O.
    pub q_start: u32,
    /// Queries.
    pub q_len: u32,
    /// First row in K and V, or in their pages.
    pub k_start: u32,
    /// Keys.
    pub k_len: u32,
}

/// One side of the sequences, queries or keys: where row counts come from.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// Prefix sums of the lengths, `i32[batch + 1]`; null where every sequence has the same room.
    pub cumulative: *const i32,
    /// Rows in use, `i32[batch]`; null where all are.
    pub used: *const i32,
    /// Rows of the longest sequence, or of each where there are no prefix sums. No length is taken for larger.
    pub longest: u32,
    /// Rows from one sequence to the next where there are no prefix sums.
    pub room: u32,
}

impl Side {
    /// First row and length of sequence `batch`.
    ///
    /// # Safety
    /// The arrays are null or device memory as long as they say, with an entry for `batch`.
    #[inline(always)]
    pub unsafe fn rows(&self, batch: u32) -> (u32, u32) {
        // SAFETY: the caller's promise.
        self.rows_of(unsafe { self.load(batch) })
    }

    /// What memory says of sequence `batch`. Nothing waits for it, so that loads for several sequences are under way together.
    ///
    /// # Safety
    /// As [`rows`](Self::rows).
    #[inline(always)]
    pub unsafe fn load(&self, batch: u32) -> Loaded {
        let at = |array: *const i32| array.wrapping_add(batch as usize).cast::<u32>();
        let mut loaded = Loaded { start: batch * self.room, limit: self.longest };
        // SAFETY: the caller's promise.
        unsafe {
            if !self.cumulative.is_null() {
                loaded.start = ldst::ld_global_u32(at(self.cumulative));
            }
            if !self.used.is_null() {
                loaded.limit = ldst::ld_global_u32(at(self.used));
            } else if !self.cumulative.is_null() {
                loaded.limit = ldst::ld_global_u32(at(self.cumulative).wrapping_add(1));
            }
        }
        loaded
    }

    /// First row and length by what memory says.
    #[inline(always)]
    pub fn rows_of(&self, Loaded { start, limit }: Loaded) -> (u32, u32) {
        let ends = self.used.is_null() && !self.cumulative.is_null();
        (start, within(if ends { limit.wrapping_sub(start) } else { limit }, self.longest))
    }
}

/// What memory says of a sequence's rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loaded {
    /// The first.
    start: u32,
    /// One past the last, by the prefix sums; else how many there are.
    limit: u32,
}

/// A length that device memory gives, as far as it is allowed: a negative one is none.
#[inline(always)]
pub const fn within(length: u32, longest: u32) -> u32 {
    if length as i32 <= 0 {
        0
    } else if length > longest {
        longest
    } else {
        length
    }
}

/// Where the bounded dimension of a map of K or V ends.
pub const BOUND: u32 = 1 << 30;

/// Coordinates of a load of a box of `rows` rows that begins at row `start` of a tensor and of which the first `left` (or all, where there are
/// more) belong to the sequence: along the bounded dimension, [`BOUND`] long, and along the one that has the whole tensor's length.
///
/// Both step by a row, so that rows past the sequence's end are past the bound, and are filled with zeros. A third dimension, at coordinate
/// `BOUND`, takes away what the bounded one has too much: its stride is 2^34 bytes less a row, and 2^30 times 2^34 is nothing in 64 bits. The
/// map's address is thus the tensor's. It must be: a load that has anything to fill touches it.
#[inline(always)]
pub const fn bounded(start: u32, left: u32, rows: u32) -> [i32; 2] {
    let kept = if left < rows { left } else { rows };
    [(BOUND - kept) as i32, (start + kept) as i32]
}

/// Coordinates of a store of such a box: along the bounded dimension, `rows` long, and along the one that has the whole tensor's length.
///
/// The map's address lies `rows` rows before the tensor's, so that the sum of both is at least `rows`: nothing there is touched by a store,
/// which drops what is out of bounds. That takes a dimension less than [`bounded`].
#[inline(always)]
pub const fn ragged(start: u32, left: u32, rows: u32) -> [i32; 2] {
    let kept = if left < rows { left } else { rows };
    [(rows - kept) as i32, (start + kept) as i32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_touches_the_sequence_and_nothing_else() {
        let rows = 8;
        for (start, left) in [(0, 0), (0, 1), (5, 8), (5, 7), (3, 100), (0, 3)] {
            let [a, c] = ragged(start, left, rows);
            for row in 0..rows as i32 {
                // The address counts from `rows` rows before the tensor.
                let (inside, at) = (a + row < rows as i32, a + c + row - rows as i32);
                assert_eq!(inside, row < left as i32, "start {start}, left {left}, row {row}");
                assert_eq!(at, start as i32 + row, "start {start}, left {left}");
            }
        }
    }

    #[test]
    fn a_load_reaches_the_same_rows_from_the_tensor_itself() {
        let (rows, row_bytes) = (8, 4096u64);
        let around = (1u64 << 34) - row_bytes;
        for (start, left) in [(0, 0), (0, 1), (5, 8), (5, 7), (3, 100), (0, 3), (1 << 30, 8)] {
            let [a, c] = bounded(start, left, rows).map(|x| x as u64);
            for row in 0..u64::from(rows) {
                let inside = a + row < u64::from(BOUND);
                assert_eq!(inside, row < u64::from(left), "start {start}, left {left}, row {row}");
                let offset = ((a + row).wrapping_mul(row_bytes))
                    .wrapping_add(u64::from(BOUND).wrapping_mul(around))
                    .wrapping_add(c.wrapping_mul(row_bytes));
                assert_eq!(offset, (u64::from(start) + row) * row_bytes, "start {start}, left {left}");
            }
        }
    }

    #[test]
    fn lengths_from_device_memory_are_bounded() {
        assert_eq!([0, 5, 9, 10, 11, u32::MAX, 1 << 31].map(|l| within(l, 10)), [0, 5, 9, 10, 10, 0, 0]);
    }
}
