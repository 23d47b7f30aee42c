//! Which sequence a row of a packed tensor belongs to.

use crate::ptx::{ldst, warp};

/// The last of `batch` sequences that begins at `row` or before it, by the prefix sums; the first one where none does. A warp looks at 32
/// sequences at a time, the steps between them ever smaller: three loads one after the other for up to 32768 sequences.
///
/// Sequences without rows begin where the next one does, so the one found has the row, unless it lies before the first or past the last.
///
/// # Safety
/// `cumulative` is device memory with an entry for each sequence. All 32 lanes call it together, with the same arguments.
#[inline(always)]
pub unsafe fn owner(cumulative: *const i32, batch: u32, row: u32, lane: u32) -> u32 {
    let mut step = 1;
    while step < batch.div_ceil(32) {
        step *= 32;
    }
    let mut found = 0;
    while step > 0 {
        let probe = found + step * lane;
        // SAFETY: the caller's promise.
        let before =
            probe < batch && unsafe { ldst::ld_global_u32(cumulative.wrapping_add(probe as usize).cast()) } <= row;
        found += step * last(warp::ballot(before));
        step /= 32;
    }
    found
}

/// How many lanes from the first on have their bit set, less one.
#[inline(always)]
const fn last(before: u32) -> u32 {
    before.count_ones().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The search with the lanes one after the other.
    fn owner_of(cumulative: &[u32], row: u32) -> u32 {
        let batch = cumulative.len() as u32 - 1;
        let mut step = 1;
        while step < batch.div_ceil(32) {
            step *= 32;
        }
        let mut found = 0;
        while step > 0 {
            let before = |lane: u32| found + step * lane < batch && cumulative[(found + step * lane) as usize] <= row;
            found += step * last((0..32).filter(|&lane| before(lane)).fold(0, |bits, lane| bits | 1 << lane));
            step /= 32;
        }
        found
    }

    #[test]
    fn every_row_is_found() {
        for batch in [1, 2, 31, 32, 33, 1000, 1024, 1025, 5000] {
            let lengths = (0..batch).map(|b: u32| b.wrapping_mul(2_654_435_761) >> 30);
            let mut cumulative = Vec::from([0]);
            cumulative.extend(lengths.scan(0, |sum, length| {
                *sum += length;
                Some(*sum)
            }));
            for row in 0..cumulative[batch as usize] {
                let owner = owner_of(&cumulative, row) as usize;
                assert!(cumulative[owner] <= row && row < cumulative[owner + 1], "row {row} of {batch} sequences");
            }
        }
    }
}
