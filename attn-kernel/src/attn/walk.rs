//! The order in which a persistent block walks the tiles of a problem.

use core::num::NonZeroU32;

/// One unit of work: a query tile of one head of one batch entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Query tile of the head, counted from the first rows.
    pub m_block: u32,
    /// Query head.
    pub head: u32,
    /// Batch entry.
    pub batch: u32,
}

/// Sizes that fix the order of the tiles.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Query tiles of a head.
    pub m_blocks: u32,
    /// Query heads.
    pub heads: u32,
    /// All tiles: `m_blocks * heads * batch`.
    pub tiles: u32,
    /// Query heads (of any batch entries, in order) whose K and V share the L2 cache.
    pub section: u32,
}

/// `a / b` and `a % b` without the panic that a zero divisor needs: the caller's sizes are at least 1.
#[inline(always)]
pub fn div_rem(a: u32, b: u32) -> (u32, u32) {
    // SAFETY: every divisor here is a size that the launcher has checked to be at least 1.
    let b = unsafe { NonZeroU32::new_unchecked(b) };
    (a / b, a % b)
}

/// Tiles of equal length: the query tiles of a head are neighbours in time, so that its K and V stay in L2.
#[inline(always)]
pub fn by_head(grid: &Grid, index: u32) -> Tile {
    let (line, m_block) = div_rem(index, grid.m_blocks);
    let (batch, head) = div_rem(line, grid.heads);
    Tile { m_block, head, batch }
}

/// Tiles whose length grows with `m_block` (a causal mask): longest first, within sections of heads that share L2.
///
/// A block that starts late then gets a short tile, which evens out the end of the grid.
#[inline(always)]
pub fn longest_first(grid: &Grid, index: u32) -> Tile {
    let (lines, _) = div_rem(grid.tiles, grid.m_blocks);
    let (section, within) = div_rem(index, grid.section * grid.m_blocks);
    let first = section * grid.section;
    let left = lines - first;
    let width = if left < grid.section { left } else { grid.section };
    let (rank, offset) = div_rem(within, width);
    let (batch, head) = div_rem(first + offset, grid.heads);
    Tile { m_block: grid.m_blocks - 1 - rank, head, batch }
}

/// Index of a block's tile in round `round`, or `None` after the last.
#[inline(always)]
pub fn index(round: u32, block: u32, blocks: u32, tiles: u32) -> Option<u32> {
    let index = round * blocks + block;
    if index < tiles { Some(index) } else { None }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;

    fn grids() -> impl Iterator<Item = (Grid, u32)> {
        [(1, 1, 1, 1), (3, 4, 2, 1), (5, 3, 2, 4), (7, 8, 1, 16), (2, 5, 3, 2)]
            .into_iter()
            .map(|(m, h, b, s)| (Grid { m_blocks: m, heads: h, tiles: m * h * b, section: s }, b))
    }

    #[test]
    fn every_tile_comes_once() {
        for (grid, batch) in grids() {
            for order in [by_head, longest_first] {
                for blocks in [1, 4, 7, grid.tiles] {
                    let mut seen = HashSet::new();
                    for block in 0..blocks {
                        for round in 0..grid.tiles.div_ceil(blocks) {
                            let Some(i) = index(round, block, blocks, grid.tiles) else { continue };
                            let t = order(&grid, i);
                            assert!(
                                t.m_block < grid.m_blocks && t.head < grid.heads && t.batch < batch,
                                "{grid:?} {t:?}"
                            );
                            assert!(seen.insert((t.m_block, t.head, t.batch)), "{grid:?}: {t:?} came twice");
                        }
                    }
                    assert_eq!(seen.len(), grid.tiles as usize);
                }
            }
        }
    }

    #[test]
    fn lengths_never_grow_within_a_section() {
        for (grid, _) in grids() {
            for i in 1..grid.tiles {
                let same_section = i % (grid.section * grid.m_blocks) != 0;
                let (before, after) = (longest_first(&grid, i - 1), longest_first(&grid, i));
                assert!(!same_section || after.m_block <= before.m_block, "{grid:?} at {i}");
            }
        }
    }
}
