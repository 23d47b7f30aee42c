//! Tiles of 8-bit K and V on their way to the tensor cores, in shared memory: widened to 16 bits for a multiply with 16-bit factors, or
//! transposed, because a multiply of 8-bit factors reads V along the keys only.
//!
//! Whole warps work on a tile together, each on every n-th part of it. What they write is ordinary writes: a proxy fence and an arrival come
//! after it before the tensor cores read.

use super::plan::panel;
use crate::entry::thread_idx_x;
use crate::mem::{Element, Layout, Smem, Swizzle};
use crate::ptx::{ldst, math, matrix, warp};

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
    /// The calling lane.
    pub lane: u32,
}

impl Crew {
    /// The calling thread's place among `warps` warps, of which its own is number `warp`.
    ///
    /// All lanes of a warp call it together.
    #[inline(always)]
    pub fn of(warp: u32, warps: u32) -> Self {
        let lane = thread_idx_x() % 32;
        // What a shuffle brings stays in a register, while a special register would be read anew for every tile, which takes long.
        Crew { warp, warps, lane: warp::shfl_idx(lane, lane) }
    }

    /// Does the warp's share of `steps` steps, every n-th. A step is read so many steps before it is written: shared memory takes as long to
    /// answer as a step or two to be done, and nothing else is there to fill the time.
    #[inline(always)]
    fn each(self, steps: u32, ahead: u32, read: impl Fn(u32) -> [u32; 4], write: impl Fn(u32, [u32; 4])) {
        let whole = steps / self.warps;
        let rounds = steps.div_ceil(self.warps);
        let has = |round: u32| round < whole || round < rounds && self.warp + self.warps * round < steps;
        let mut held = [[0; 4]; MOST_AHEAD];
        let mut round = 0;
        while round < rounds + ahead {
            let words = &mut held[(round % ahead) as usize];
            let next = if has(round) { read(round) } else { [0; 4] };
            if round >= ahead && has(round - ahead) {
                write(round - ahead, *words);
            }
            *words = next;
            round += 1;
        }
    }
}

/// Most steps that are read before the first one is written.
const MOST_AHEAD: usize = 4;

/// Columns of steps of the widest tile.
const MOST_COLUMNS: usize = 8;

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
    /// A step is a warp's 512 bytes, 16 a lane, as wide as a panel of the other side: the lanes of a quarter of the warp have eight rows of one
    /// column, which no two of lie in the same banks, neither on the narrow side nor on the wide one.
    ///
    /// # Safety
    /// All lanes of all warps of `crew` call it; the tiles are shared memory of theirs, on 1024 bytes, and nobody else accesses `to`.
    #[inline(always)]
    pub unsafe fn widen<E: Element>(self, from: Smem<()>, to: Smem<()>, crew: Crew) {
        let (narrow, wide) = (self.layout(), self.widened());
        let across = wide.swizzle.span() / 32;
        let down = 32 / across;
        let columns = self.d / (16 * across);
        let (lane_row, lane_chunk) = (crew.lane % 8 + crew.lane / 8 / across * 8, crew.lane / 8 % across);
        // Where the first step of each column lies, of those that the warp has; its next one there is so many groups of rows below as there are
        // warps, which is a constant number of bytes.
        let mut places = [(from, to); MOST_COLUMNS];
        let mut i = 0;
        while i < columns {
            let step = crew.warp + crew.warps * i;
            let (row, c) = (step / columns * down + lane_row, (step % columns * across + lane_chunk) * 16);
            places[i as usize] = (from.offset(narrow.offset(row, c / 2)), to.offset(wide.offset(row, c)));
            i += 1;
        }
        let place = |round: u32| places[(round % columns) as usize];
        let below = |round: u32| round / columns * crew.warps * down;
        let read = |round: u32| {
            let at = place(round).0.offset(below(round) * narrow.swizzle.span());
            // SAFETY: the step is within the tile, and 16 bytes of it are the lane's.
            unsafe { ldst::ld_shared_u32x4(at.cast()) }
        };
        let write = |round: u32, words: [u32; 4]| {
            let [a, b, c, d] = words.map(E::widen);
            let at = place(round).1;
            // Two chunks that are neighbours on 32 bytes are so in a swizzled tile too.
            let other = Smem::<()>::new(at.addr() ^ 16);
            let further = below(round) * wide.swizzle.span();
            // SAFETY: as above, for the 32 bytes that the 16 become.
            unsafe {
                ldst::st_shared_u32x4(at.offset(further).cast(), [a[0], a[1], b[0], b[1]]);
                ldst::st_shared_u32x4(other.offset(further).cast(), [c[0], c[1], d[0], d[1]]);
            }
        };
        // By measured times: at head_dim 256 four are slower than two.
        let ahead = if self.d > 128 { 2 } else { 4 };
        crew.each(columns * (self.rows / down), ahead, read, write);
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
        let (first, second) = if crew.lane < 16 { (0x2064, 0x3175) } else { (0x3175, 0x2064) };
        let columns = self.d / 16;
        // Keys and elements of a part: 32, and 16.
        let place = |round: u32| {
            let part = crew.warp + crew.warps * round;
            (part / columns * 32, part % columns * 16)
        };
        // Lane `8 m + r` names row `r` of stored matrix `m`: 16 keys, and an element of each pair.
        let (matrix, row) = (crew.lane / 8, crew.lane % 8);
        let (to_row, to_place) = (2 * row + ((matrix / 2) ^ (row / 4)), matrix % 2 * 16);
        let read = |round: u32| {
            let (keys, column) = place(round);
            // SAFETY: the part is within the tile, and 16 bytes of it are the lane's.
            unsafe { matrix::ldmatrix_x4_trans(from.offset(narrow.offset(keys + crew.lane, column / 2)).addr()) }
        };
        let write = |round: u32, [a, b, c, d]: [u32; 4]| {
            let (keys, column) = place(round);
            let at = wide.offset(column + to_row, (keys + to_place) / 2);
            let pairs = [(a, b, first), (c, d, first), (a, b, second), (c, d, second)];
            // SAFETY: as above.
            unsafe { matrix::stmatrix_x4(to.offset(at).addr(), pairs.map(|(x, y, which)| math::prmt(x, y, which))) }
        };
        // The places of a large tile's parts take most of the registers.
        let ahead = if self.d > 128 { 1 } else { 2 };
        crew.each(columns * (self.rows / 32), ahead, read, write);
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
