//! Tiles of 8-bit K and V on their way to the tensor cores, in shared memory: widened to 16 bits for a multiply with 16-bit factors, or
//! transposed, because a multiply of 8-bit factors reads V along the keys only.
//!
//! Whole warps work on a tile together, each on every n-th part of it. What they write is ordinary writes: a proxy fence and an arrival come
//! after it before the tensor cores read.

use super::plan::panel;
use crate::entry::thread_idx_x;
use crate::mem::{Element, Layout, Smem, Swizzle};
use crate::ptx::{ldst, math, matrix};

/// A tile of `rows` keys of `d` elements as TMA writes it: panels of one swizzle span. Rows come in 32, or in 16 where `d` is a multiple of 64 and
/// the tile is not transposed; elements in 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// Keys.
    pub rows: u32,
    /// Elements of a key.
    pub d: u32,
}

/// Bytes of a panel's row of a tile whose rows are `bytes` long.
pub const fn span(bytes: u32) -> u32 {
    if bytes.is_multiple_of(128) {
        128
    } else if bytes.is_multiple_of(64) {
        64
    } else {
        32
    }
}

/// Which key lies at place `place` of a transposed tile's row: within each 32 the order in which a thread's probabilities, two of every eight
/// columns, are four neighbours of an 8-bit A fragment, the later two first.
pub const fn key_at(place: u32) -> u32 {
    let (quad, i) = (place % 16 / 4, place % 4);
    place / 16 * 16 + (1 - i / 2) * 8 + 2 * quad + i % 2
}

/// The warps that work on a tile together.
#[derive(Clone, Copy, Debug)]
pub struct Crew {
    /// The calling warp's number among them.
    pub warp: u32,
    /// How many there are.
    pub warps: u32,
}

impl Narrow {
    /// Where its elements lie, two taken for one of 16 bits.
    pub const fn layout(&self) -> Layout {
        Layout { swizzle: Swizzle::of_span(span(self.d)), mn_major: false, mn: self.rows, k: self.d / 2 }
    }

    /// Where those of the widened tile lie.
    pub const fn widened(&self) -> Layout {
        Layout { swizzle: Swizzle::of_span(panel(self.d) * 2), mn_major: false, mn: self.rows, k: self.d }
    }

    /// Where those of the transposed tile lie, two taken for one of 16 bits: row `c`, place `p` is element `c` of key [`key_at`]`(p)`.
    pub const fn transposed(&self) -> Layout {
        Layout { swizzle: Swizzle::of_span(span(self.rows)), mn_major: false, mn: self.d, k: self.rows / 2 }
    }

    /// Widens the tile at `from` to the 16-bit tile at `to`, as TMA would have written it.
    ///
    /// A warp's part is 1 KiB, 32 bytes a lane: the lanes of a quarter of the warp have eight rows of one column, which no two of lie in
    /// the same banks, neither on the narrow side nor on the wide one.
    ///
    /// # Safety
    /// All lanes of all warps of `crew` call it; the tiles are shared memory of theirs, on 1024 bytes, and nobody else accesses `to`.
    #[inline(always)]
    pub unsafe fn widen<E: Element>(self, from: Smem<()>, to: Smem<()>, crew: Crew) {
        let (narrow, wide) = (self.layout(), self.widened());
        let chunks = narrow.swizzle.span() / 16;
        // A step is a warp's 512 bytes: 8 rows of 4 chunks, or 16 rows of 2.
        let (across, down) = if chunks >= 4 { (4, 8) } else { (2, 16) };
        let lane = thread_idx_x() % 32;
        let (lane_row, lane_chunk) = (lane % 8 + lane / 8 / across * 8, lane / 8 % across);
        let steps_of_rows = self.rows / down;
        let place = |step: u32| {
            let (column, rows) = (step / steps_of_rows, step % steps_of_rows);
            (rows * down + lane_row, (column * across + lane_chunk) * 16)
        };
        let steps = steps_of_rows * (self.d / 16 / across);
        let mut step = 2 * crew.warp;
        while step < steps {
            let places = [place(step), place(step + 1)];
            // SAFETY: `steps` is even, so both steps are within the tiles; each 16 bytes are one lane's.
            unsafe {
                let read = places.map(|(row, c)| ldst::ld_shared_u32x4(from.offset(narrow.offset(row, c / 2)).cast()));
                let mut i = 0;
                while i < 2 {
                    let (row, c) = places[i];
                    let [a, b, c4, d4] = read[i].map(E::widen);
                    ldst::st_shared_u32x4(to.offset(wide.offset(row, c)).cast(), [a[0], a[1], b[0], b[1]]);
                    ldst::st_shared_u32x4(to.offset(wide.offset(row, c + 8)).cast(), [c4[0], c4[1], d4[0], d4[1]]);
                    i += 1;
                }
            }
            step += 2 * crew.warps;
        }
    }

    /// Transposes the tile at `from` to the one at `to`: a row for each element, of keys in the order of [`key_at`].
    ///
    /// `ldmatrix` transposes pairs of bytes: it leaves two neighbours of each of two keys to a thread, and of two other keys eight further with
    /// the next matrix. A selection of bytes puts the four keys of one element side by side. Which element of the pair goes first
    /// differs between the halves of a warp, so that the eight rows of each stored matrix lie in different banks.
    ///
    /// # Safety
    /// As [`widen`](Self::widen).
    #[inline(always)]
    pub unsafe fn transpose(self, from: Smem<()>, to: Smem<()>, crew: Crew) {
        let (narrow, wide) = (self.layout(), self.transposed());
        let lane = thread_idx_x() % 32;
        let (first, second) = if lane < 16 { (0x2064, 0x3175) } else { (0x3175, 0x2064) };
        // Lane `8 m + r` names row `r` of stored matrix `m`: 16 keys, and an element of each pair.
        let (matrix, row) = (lane / 8, lane % 8);
        let (to_row, to_place) = (2 * row + ((matrix / 2) ^ (row / 4)), matrix % 2 * 16);
        let columns = self.d / 16;
        let parts = self.rows / 32 * columns;
        let mut part = 2 * crew.warp;
        while part < parts {
            let (keys, column) = (part / columns * 32, part % columns * 16);
            // SAFETY: `columns` is even, so both columns are within the tiles; each 16 bytes are one lane's.
            unsafe {
                let read = [0, 16].map(|next| {
                    matrix::ldmatrix_x4_trans(from.offset(narrow.offset(keys + lane, (column + next) / 2)).addr())
                });
                let mut i = 0;
                while i < 2 {
                    let [a, b, c, d] = read[i];
                    let at = wide.offset(column + 16 * i as u32 + to_row, (keys + to_place) / 2);
                    let pairs = [(a, b, first), (c, d, first), (a, b, second), (c, d, second)];
                    matrix::stmatrix_x4(to.offset(at).addr(), pairs.map(|(x, y, which)| math::prmt(x, y, which)));
                    i += 1;
                }
            }
            part += 2 * crew.warps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn places_are_a_permutation_of_each_32_keys() {
        let mut keys: Vec<u32> = (0..64).map(key_at).collect();
        assert_eq!(keys[..8], [8, 9, 0, 1, 10, 11, 2, 3]);
        assert!(keys[..32].iter().all(|key| *key < 32));
        keys.sort_unstable();
        assert_eq!(keys, (0..64).collect::<Vec<_>>());
    }

    /// The places of a fragment's four neighbours hold the keys of the thread's columns in the accumulator.
    #[test]
    fn a_fragment_has_the_columns_that_a_thread_has() {
        for (q, half) in (0..4).flat_map(|q| (0..2).map(move |half| (q, half))) {
            let places = [0, 1, 2, 3].map(|i| key_at(16 * half + 4 * q + i));
            let register = |i: u32| 8 * (i >> 2) + 2 * q + (i & 1);
            // Registers of the thread's first row: those of two column groups.
            assert_eq!(places, [4, 5, 0, 1].map(|i| register(8 * half + i)));
        }
    }

    #[test]
    fn a_tile_takes_as_many_bytes_as_it_has() {
        for d in [32, 64, 96, 128, 192, 256] {
            for rows in [32, 64, 96, 128, 192] {
                let tile = Narrow { rows, d };
                assert_eq!(tile.layout().bytes(), rows * d);
                assert_eq!(tile.transposed().bytes(), rows * d);
                assert_eq!(tile.widened().bytes(), 2 * rows * d);
            }
        }
    }
}
