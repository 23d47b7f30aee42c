//! How many parts the keys of a sequence are split into where the caller leaves it open.
//!
//! Few tiles leave multiprocessors without work, and a split of the keys gives them some. Each part costs a tile's start and end again, and
//! the parts must be combined; so the count is the smallest whose expected time is that of the best one, or nearly.
//!
//! Time is counted in what a key block takes where memory is idle, 0.86 us for 128 keys of 128 elements on an H100. Memory gives a third of
//! the multiprocessors as many blocks as they can take, so that all of them together take 3.25 times as long for one each. The numbers are
//! from decoding there, with 4 and 8 key/value heads, 1 to 64 sequences of 1024 to 65,536 keys, and 1 to 128 splits: times were 7 us to 2.9 ms,
//! and the count chosen was at most 5 % slower than the fastest one.

use attn_kernel::forward::Kernel;

use super::tiles::Cut;
use crate::device::DeviceInfo;
use crate::problem::{Problem, Splits};

/// What a part of a tile takes beside its key blocks.
const PART: f64 = 1.0;
/// A key block of every multiprocessor, where nobody else reads the same keys.
const FULL_MEMORY: f64 = 3.25;
/// What combining takes ...
const COMBINING: f64 = 2.1;
/// ... and for each part.
const COMBINING_PART: f64 = 0.08;
/// What a count with fewer parts may take of the best one's time.
const NEAR: f64 = 1.01;

/// The count for sequences that are as long as they may be.
pub(super) fn choose(kernel: &Kernel, problem: &Problem, cut: &Cut, device: &DeviceInfo) -> u32 {
    let work = Work {
        tiles: cut.entries.saturating_mul(cut.heads),
        blocks: blocks(kernel, problem, cut.of_tile.into()),
        span: blocks(kernel, problem, problem.shape.seqlen_q),
        readers: cut.m_blocks.saturating_mul(cut.heads / problem.shape.kv_heads),
    };
    work.best(u64::from(device.sm_count.max(1)) * u64::from(kernel.launch.per_sm))
}

/// Key blocks that so many queries need, at most.
fn blocks(kernel: &Kernel, problem: &Problem, queries: u64) -> u64 {
    let keys = match problem.mask.reach() {
        (Some(left), Some(right)) => left.saturating_add(right).saturating_add(queries),
        _ => u64::MAX,
    };
    keys.min(problem.shape.seqlen_k).div_ceil(u64::from(kernel.launch.bn))
}

/// What there is to do.
#[derive(Clone, Copy)]
struct Work {
    /// Tiles.
    tiles: u64,
    /// Key blocks of each.
    blocks: u64,
    /// Key blocks of a sequence, which are what is split: those of all its tiles.
    span: u64,
    /// Tiles that read the same keys.
    readers: u64,
}

impl Work {
    /// The smallest count of parts that is nearly as fast as the best one on so many multiprocessors.
    fn best(&self, slots: u64) -> u32 {
        if self.tiles >= slots * u64::from(Splits::MOST) {
            return 1; // rounds are so many that the last one does not matter
        }
        let most = self.blocks.clamp(1, u64::from(Splits::MOST));
        let least = (1..=most).map(|splits| self.time(splits, slots)).fold(f64::INFINITY, f64::min);
        let near = (1..=most).find(|&splits| self.time(splits, slots) <= NEAR * least);
        near.unwrap_or(1) as u32
    }

    /// The expected time with so many parts: rounds in which every multiprocessor has one, a last round of those that remain, and combining.
    fn time(&self, splits: u64, slots: u64) -> f64 {
        let (parts, blocks) = (self.tiles * splits, self.span.div_ceil(splits).min(self.blocks) as f64);
        let round = |parts: u64| {
            let memory = FULL_MEMORY * parts as f64 / (slots * self.readers.max(1)) as f64;
            // The longer of both, and somewhat more where they are alike.
            PART + blocks * (1.0 + memory.powi(3)).cbrt()
        };
        let last = if parts.is_multiple_of(slots) { 0.0 } else { round(parts % slots) };
        let combining = if splits > 1 { COMBINING + COMBINING_PART * splits as f64 } else { 0.0 };
        (parts / slots) as f64 * round(slots) + last + combining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiprocessors of an H100.
    const SLOTS: u64 = 132;

    fn best(tiles: u64, blocks: u64) -> u32 {
        Work { tiles, blocks, span: blocks, readers: 1 }.best(SLOTS)
    }

    /// Microseconds of decoding on an H100, 128 keys a block, for each count of splits.
    #[allow(clippy::type_complexity, reason = "a table")]
    const MEASURED: [((u64, u64), &[(u32, f64)]); 12] = [
        ((4, 8), &[(1, 11.2), (2, 9.5), (3, 8.6), (4, 7.8), (5, 7.8), (6, 7.8), (8, 7.0)]),
        ((4, 64), &[(4, 21.2), (8, 14.0), (11, 12.6), (16, 12.4), (22, 11.9), (33, 13.3), (44, 15.9)]),
        ((4, 512), &[(8, 64.9), (11, 50.2), (16, 55.8), (22, 52.3), (33, 52.1), (44, 55.2), (128, 59.7)]),
        ((8, 8), &[(1, 11.1), (2, 9.4), (4, 7.9), (8, 7.6)]),
        ((8, 64), &[(4, 21.4), (6, 17.4), (8, 19.3), (11, 17.6), (16, 18.0), (33, 19.7)]),
        ((8, 512), &[(6, 94.5), (8, 107.1), (11, 97.9), (16, 93.2), (22, 97.4), (128, 108.2)]),
        ((32, 8), &[(1, 11.6), (2, 12.1), (3, 11.5), (4, 11.9), (8, 12.8)]),
        ((32, 64), &[(1, 62.9), (2, 55.0), (3, 51.4), (4, 51.3), (5, 56.4), (8, 52.3), (44, 60.4)]),
        ((32, 512), &[(1, 470.9), (2, 384.9), (3, 362.6), (4, 351.7), (5, 388.2), (8, 354.9), (128, 388.1)]),
        ((64, 8), &[(1, 15.4), (2, 17.4), (3, 19.4), (8, 18.9)]),
        ((64, 64), &[(1, 100.5), (2, 93.1), (3, 97.5), (8, 98.0), (44, 115.0)]),
        ((256, 64), &[(1, 347.8), (2, 358.5), (3, 363.1), (16, 388.0)]),
    ];

    #[test]
    fn the_count_is_near_the_fastest_of_those_that_were_measured() {
        for ((tiles, blocks), times) in MEASURED {
            let chosen = best(tiles, blocks);
            let fastest = times.iter().map(|&(_, us)| us).fold(f64::INFINITY, f64::min);
            // Between two counts that were measured it takes as long as the slower one, at most.
            let after = times.iter().position(|&(splits, _)| splits >= chosen).unwrap_or(times.len() - 1);
            let us = times[after].1.max(if times[after].0 == chosen { 0.0 } else { times[after - 1].1 });
            assert!(us <= 1.06 * fastest, "{tiles} tiles of {blocks} blocks, {chosen} splits: {us} us, not {fastest}");
        }
    }

    #[test]
    fn many_tiles_are_not_split() {
        for tiles in [132, 256, 264, 512, 1000, 1 << 20, 1 << 40] {
            assert_eq!(best(tiles, 64), 1, "{tiles}");
        }
    }

    #[test]
    fn short_keys_are_not_split() {
        for blocks in [0, 1, 2, 3] {
            assert_eq!(best(1, blocks), 1, "{blocks}");
        }
    }

    #[test]
    fn tiles_that_share_keys_are_not_slowed_by_memory() {
        // 32 query tiles of one head: as many parts as fill the multiprocessors.
        let shared = Work { tiles: 32, blocks: 512, span: 512, readers: 32 };
        assert_eq!(shared.best(SLOTS), 4);
    }

    #[test]
    fn windows_of_a_long_sequence_are_not_split() {
        // Parts of the sequence's 512 blocks would have to be more than 56 to be shorter than a window.
        assert_eq!(Work { tiles: 64, blocks: 9, span: 512, readers: 1 }.best(SLOTS), 1);
        // Those of a chunk whose queries see nearly the same keys are.
        assert_eq!(Work { tiles: 8, blocks: 64, span: 66, readers: 1 }.best(SLOTS), 11);
    }

    #[test]
    fn no_part_is_without_a_block_and_no_more_parts_than_allowed_are_made() {
        for tiles in (1..400).step_by(7) {
            for blocks in [1, 5, 64, 100, 512, 8192] {
                let splits = u64::from(best(tiles, blocks));
                assert!((1..=128.min(blocks)).contains(&splits), "{tiles} tiles of {blocks}: {splits}");
            }
        }
    }
}
