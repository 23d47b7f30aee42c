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

/// Tiles whose length grows with `m_block`, for persistent blocks: equal work for each of them, in an order that is fixed before any
/// of them starts. `turn` is the block's own, from 0.
///
/// The lines (heads of batch entries) come in pairs. A long tile of one line and the short tile of the other that makes up for it are
/// a unit; units are all equally long, and dealt line by line, so that K and V of few lines at a time share L2. Whole rounds of
/// units seldom use up a problem. The last lines, about twice as many as share L2, are therefore dealt a tile at a time, the longest
/// first: their short tiles even out the end. Every other round is dealt in reverse.
#[inline(always)]
pub fn paired(grid: &Grid, block: u32, blocks: u32, turn: &mut u32) -> Option<Tile> {
    let m_blocks = grid.m_blocks;
    let (lines, _) = div_rem(grid.tiles, m_blocks);
    let wanted = if 2 * grid.section < lines { 2 * grid.section } else { lines };
    let tail = wanted + (lines - wanted) % 2;
    let in_pairs = lines - tail;
    let units = in_pairs / 2 * m_blocks;

    let round = *turn / 2;
    let column = if round.is_multiple_of(2) { block } else { blocks - 1 - block };
    let place = round * blocks + column;
    let (line, m_block) = if place < units {
        let (pair, rank) = div_rem(place, m_blocks);
        let second = *turn % 2;
        *turn += 1;
        (2 * pair + second, if second == 0 { m_blocks - 1 - rank } else { rank })
    } else {
        if place - units >= tail * m_blocks {
            return None;
        }
        let (rank, offset) = div_rem(place - units, tail);
        *turn += 2;
        (in_pairs + offset, m_blocks - 1 - rank)
    };
    let (batch, head) = div_rem(line, grid.heads);
    Some(Tile { m_block, head, batch })
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
    use std::vec::Vec;

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

    /// What each block gets of a grid by [`paired`].
    fn deal(grid: &Grid, blocks: u32) -> Vec<Vec<Tile>> {
        let of = |block| {
            let mut turn = 0;
            core::iter::from_fn(move || paired(grid, block, blocks, &mut turn)).collect()
        };
        (0..blocks).map(of).collect()
    }

    #[test]
    fn every_tile_comes_once_in_pairs_too() {
        for (grid, batch) in grids().chain([(Grid { m_blocks: 9, heads: 7, tiles: 9 * 7 * 3, section: 2 }, 3)]) {
            for blocks in [1, 4, 7, grid.tiles] {
                let mut seen = HashSet::new();
                for t in deal(&grid, blocks).into_iter().flatten() {
                    assert!(t.m_block < grid.m_blocks && t.head < grid.heads && t.batch < batch, "{grid:?} {t:?}");
                    assert!(seen.insert((t.m_block, t.head, t.batch)), "{grid:?}: {t:?} came twice");
                }
                assert_eq!(seen.len(), grid.tiles as usize, "{grid:?} {blocks}");
            }
        }
    }

    #[test]
    fn pairs_give_every_block_as_much_work() {
        for (m_blocks, lines, section) in
            [(4, 512, 64), (8, 256, 32), (32, 64, 8), (128, 16, 2), (64, 16, 2), (23, 80, 16)]
        {
            let grid = Grid { m_blocks, heads: lines, tiles: m_blocks * lines, section };
            let length = |tiles: &Vec<Tile>| tiles.iter().map(|t| t.m_block + 2).sum::<u32>();
            let lengths: Vec<u32> = deal(&grid, 132).iter().map(length).collect();
            let (longest, all) = (*lengths.iter().max().expect("blocks"), lengths.iter().sum::<u32>());
            assert!(f64::from(longest) * 132.0 <= 1.04 * f64::from(all), "{grid:?}: {longest} of {all}");
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
