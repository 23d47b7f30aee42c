//! How many parts the keys of a tile are split into where the caller leaves it open.
//!
//! Few tiles leave multiprocessors without work, and a split of the keys gives them some. Each part costs a tile's start and end again, and
//! the parts must be combined; so the count is the smallest whose expected time is near the best one's. Time is counted in key blocks of
//! one multiprocessor: what keeps decoding busy is memory, which a block's keys take nearly all of.

use attn_kernel::forward::Kernel;

use super::tiles::Cut;
use crate::device::DeviceInfo;
use crate::problem::{Problem, Splits};

/// What a part of a tile takes beside its key blocks: Q, the first keys' way, and its results.
const PART: u64 = 1;
/// What combining takes, a launch above all.
const COMBINING: u64 = 2;
/// Key blocks of a part, at least.
const LEAST_BLOCKS: u64 = 2;
/// Percent of the best time that a count with fewer parts may take.
const NEAR: u64 = 105;

/// The count for sequences that are as long as they may be.
pub(super) fn choose(kernel: &Kernel, problem: &Problem, cut: &Cut, device: &DeviceInfo) -> u32 {
    let slots = u64::from(device.sm_count.max(1)) * u64::from(kernel.launch.per_sm);
    best(cut.entries.saturating_mul(cut.heads), slots, blocks(kernel, problem, cut))
}

/// Key blocks of the longest tile.
fn blocks(kernel: &Kernel, problem: &Problem, cut: &Cut) -> u64 {
    let keys = match problem.mask.reach() {
        (Some(left), Some(right)) => left.saturating_add(right).saturating_add(u64::from(cut.of_tile)),
        _ => u64::MAX,
    };
    keys.min(problem.shape.seqlen_k).div_ceil(u64::from(kernel.launch.bn))
}

/// The smallest count of parts that is nearly as fast as the best one, for so many tiles of so many key blocks on so many multiprocessors.
fn best(tiles: u64, slots: u64, blocks: u64) -> u32 {
    let time = |splits: u64| {
        let combining = if splits > 1 { COMBINING } else { 0 };
        (tiles * splits).div_ceil(slots) * (PART + blocks.div_ceil(splits)) + combining
    };
    let most = (blocks / LEAST_BLOCKS).clamp(1, u64::from(Splits::MOST));
    if tiles >= slots * u64::from(Splits::MOST) {
        return 1; // rounds are so many that the last one does not matter
    }
    let least = (1..=most).map(time).min().unwrap_or(0);
    let near = (1..=most).find(|&splits| 100 * time(splits) <= NEAR * least);
    near.unwrap_or(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiprocessors of an H100.
    const SLOTS: u64 = 132;

    #[test]
    fn many_tiles_are_not_split() {
        for tiles in [132, 264, 512, 1000, 1 << 20, 1 << 40] {
            assert_eq!(best(tiles, SLOTS, 64), 1, "{tiles}");
        }
    }

    #[test]
    fn short_keys_are_not_split() {
        for blocks in [0, 1, 2, 3] {
            assert_eq!(best(1, SLOTS, blocks), 1, "{blocks}");
        }
    }

    #[test]
    fn few_tiles_fill_one_round_of_the_multiprocessors() {
        // One sequence of 8 key/value heads: 8 * 16 = 128 of 132.
        assert_eq!(best(8, SLOTS, 512), 16);
        // 8 sequences of 8: 64 tiles.
        assert_eq!(best(64, SLOTS, 64), 2);
        assert!((120..=128).contains(&best(1, SLOTS, 8192)));
    }

    #[test]
    fn a_round_and_a_bit_is_evened_out() {
        // 160 tiles would take two rounds, the second nearly empty.
        let splits = best(160, SLOTS, 512);
        let rounds = (160 * u64::from(splits)) as f64 / SLOTS as f64;
        assert!(rounds / rounds.ceil() > 0.95, "{splits} splits are {rounds} rounds");
    }

    #[test]
    fn multiprocessors_are_busy_whatever_there_is() {
        for tiles in 1..400 {
            for blocks in [64, 100, 512, 8192] {
                let splits = u64::from(best(tiles, SLOTS, blocks));
                assert!((1..=128).contains(&splits) && blocks / splits >= 2, "{tiles} tiles of {blocks}: {splits}");
                let busy = (tiles * blocks) as f64;
                let time = ((tiles * splits).div_ceil(SLOTS) * blocks.div_ceil(splits) * SLOTS) as f64;
                let limited = splits == 128 || blocks / (splits + 1) < 2;
                assert!(
                    busy / time > 0.7 || limited,
                    "{tiles} tiles of {blocks} blocks, {splits} splits: {}",
                    busy / time
                );
            }
        }
    }
}
