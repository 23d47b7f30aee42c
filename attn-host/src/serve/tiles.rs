//! How a problem is cut into tiles: heads packed into a tile's rows, tiles of a sequence, sections of heads, splits.

use attn_kernel::forward::{Family, Kernel, schedule};

use super::splits;
use crate::device::DeviceInfo;
use crate::error::Error;
use crate::problem::{Problem, Splits};
use crate::select;

/// Heads are packed into a tile's rows where that leaves at most so many of the tiles.
const PACKING_PAYS: f64 = 0.95;

/// The query tiles of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Query heads that are packed into a tile's rows.
    pub(crate) pack: u32,
    /// Queries of one copy of Q.
    pub(crate) queries: u32,
    /// Queries of a tile.
    pub(crate) of_tile: u32,
    /// Tiles of the longest sequence.
    pub(crate) m_blocks: u64,
    /// Tiles of all sequences, at most.
    pub(crate) entries: u64,
    /// Heads, or packs of them.
    pub(crate) heads: u64,
}

impl Cut {
    /// The cut with the heads of a group packed where tiles would be emptier without.
    pub(crate) fn of(kernel: &Kernel, problem: &Problem) -> Self {
        let alone = Cut::packed(kernel, problem, 1);
        let together = Cut::packed(kernel, problem, most_packed(kernel, problem));
        let longest = problem.shape.seqlen_q as f64;
        let average =
            problem.serving.packed_q.map_or(longest, |total| total as f64 / problem.shape.batch as f64).min(longest);
        // Where lengths differ, half of a sequence's last tile is in use on average.
        let of_sequence = |cut: &Cut| {
            let tiles = average / f64::from(cut.of_tile);
            if average < longest { (tiles + 0.5).max(1.0) } else { tiles.ceil() }
        };
        let tiles = |cut: &Cut| of_sequence(cut) * cut.heads as f64;
        if tiles(&together) < PACKING_PAYS * tiles(&alone) { together } else { alone }
    }

    fn packed(kernel: &Kernel, problem: &Problem, pack: u32) -> Self {
        let (rows, shape) = (kernel.launch.q_box.1, &problem.shape);
        let queries = rows / pack;
        let of_tile = kernel.launch.bm / rows * queries;
        let m_blocks = shape.seqlen_q.div_ceil(u64::from(of_tile));
        let all = m_blocks.saturating_mul(shape.batch);
        let entries = problem.serving.packed_q.map_or(all, |total| {
            // Whole tiles, and a last one of each sequence that has queries.
            all.min(total / u64::from(of_tile) + shape.batch.min(total))
        });
        Cut { pack, queries, of_tile, m_blocks, entries, heads: shape.heads / u64::from(pack) }
    }
}

/// The most query heads of a group that fit the rows of a copy: the largest divisor of the group that does.
fn most_packed(kernel: &Kernel, problem: &Problem) -> u32 {
    let group = problem.shape.heads / problem.shape.kv_heads;
    (1..=kernel.launch.q_box.1).rev().find(|&pack| group.is_multiple_of(u64::from(pack))).unwrap_or(1)
}

/// The units of work of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    pub(crate) cut: Cut,
    /// Heads, or packs of them, of a section.
    pub(crate) section: u32,
    pub(crate) splits: u32,
    /// Units in all, at most.
    pub(crate) units: u32,
}

impl Tiles {
    pub(crate) fn of(kernel: &Kernel, problem: &Problem, device: &DeviceInfo) -> Result<Self, Error> {
        let (cut, batch) = (Cut::of(kernel, problem), problem.shape.batch);
        if problem.serving.packed_q.is_some() && batch > u64::from(schedule::MAX_BATCH) {
            return Err(Error::Size { argument: "batch", value: batch, allowed: "1 to 8192 with packed queries" });
        }
        let unsplit = matches!(kernel.family, Family::Prompt | Family::Short);
        let splits = if unsplit { 1 } else { splits_of(kernel, problem, &cut, device) };
        if splits > 1 && rows_of_heads(problem) > i32::MAX as u64 {
            return Err(Error::Overflow {
                argument: "heads * queries of all sequences",
                what: "the count of rows",
                allowed: "at most 2^31 - 1 where keys are split",
            });
        }
        let units = cut
            .entries
            .checked_mul(cut.heads)
            .and_then(|units| units.checked_mul(u64::from(splits)))
            .filter(|&units| units <= MOST_UNITS)
            .ok_or(Error::Overflow {
                argument: "batch * heads * query tiles * splits",
                what: "the count of tiles",
                allowed: "below 2^30 tiles",
            })?;
        Ok(Tiles { cut, section: section(problem, &cut, device), splits, units: units as u32 })
    }
}

/// Splits of a problem's keys, where the kernel has any.
pub(crate) fn splits_of(kernel: &Kernel, problem: &Problem, cut: &Cut, device: &DeviceInfo) -> u32 {
    match problem.serving.splits.unwrap_or_default() {
        Splits::Exactly(splits) => splits,
        Splits::Auto if rows_of_heads(problem) > i32::MAX as u64 => 1,
        Splits::Auto => splits::choose(kernel, problem, cut, device),
    }
}

/// A list has fewer entries than 2^30, and a unit's number fits 31 bits.
const MOST_UNITS: u64 = (1 << 30) - 1;

/// Rows of all heads.
fn rows_of_heads(problem: &Problem) -> u64 {
    rows(problem).saturating_mul(problem.shape.heads)
}

/// Queries of all sequences.
pub(crate) fn rows(problem: &Problem) -> u64 {
    let [(entries, queries), _] = problem.entries();
    entries.saturating_mul(queries)
}

/// Heads, or packs of them, of a section, a divisor of their count: as many as share so many key/value heads as fit the L2 cache, where several
/// tiles of a sequence read the same ones; else all.
fn section(problem: &Problem, cut: &Cut, device: &DeviceInfo) -> u32 {
    let kv_heads = problem.shape.kv_heads;
    let fit = if cut.m_blocks == 1 { kv_heads } else { select::kv_heads_in_l2(problem, device).min(kv_heads) };
    let kv_heads_of_section = (1..=fit).rev().find(|&fit| kv_heads.is_multiple_of(fit)).unwrap_or(1);
    // At most the heads, which fit 31 bits.
    (kv_heads_of_section * (cut.heads / kv_heads)) as u32
}
