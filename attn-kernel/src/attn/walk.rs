//! The order in which a persistent block walks the tiles of a problem.

use core::mem::offset_of;

use super::divide::Divisor;

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

/// Sizes that fix the order of the tiles, and what follows from them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Query tiles of a head.
    pub m_blocks: Divisor,
    /// Query heads.
    pub heads: Divisor,
    /// All tiles: `m_blocks * heads * batch`.
    pub tiles: u32,
    /// Query heads (of any batch entries, in order) whose K and V share the L2 cache, for [`longest_first`].
    section: Divisor,
    /// Tiles of a section.
    section_tiles: Divisor,
    /// First line of the last section.
    last_section: u32,
    /// Heads of the last section, which may be shorter.
    last_width: Divisor,
    /// For [`paired`], lines that come in pairs.
    in_pairs: u32,
    /// Units of these: as many as tiles of half of them.
    units: u32,
    /// Lines after them, dealt a tile at a time.
    tail: Divisor,
    /// Tiles of these.
    tail_tiles: u32,
}

impl Grid {
    /// Words that name where each field lies.
    pub const LAYOUT: [u32; 15] = [
        offset_of!(Self, m_blocks) as u32,
        offset_of!(Self, heads) as u32,
        offset_of!(Self, tiles) as u32,
        offset_of!(Self, section) as u32,
        offset_of!(Self, section_tiles) as u32,
        offset_of!(Self, last_section) as u32,
        offset_of!(Self, last_width) as u32,
        offset_of!(Self, in_pairs) as u32,
        offset_of!(Self, units) as u32,
        offset_of!(Self, tail) as u32,
        offset_of!(Self, tail_tiles) as u32,
        size_of::<Self>() as u32,
        Divisor::LAYOUT[0],
        Divisor::LAYOUT[1],
        Divisor::LAYOUT[2],
    ];

    /// The grid of `m_blocks` query tiles of each of `heads` heads of each of `batch` entries; `section` heads share the L2 cache. Each is
    /// at least 1, and there are fewer than 2^31 tiles.
    pub const fn new(m_blocks: u32, heads: u32, batch: u32, section: u32) -> Self {
        let lines = heads * batch;
        let section = if section < lines { section } else { lines };
        let last_section = (lines - 1) / section * section;
        let wanted = if 2 * section < lines { 2 * section } else { lines };
        let tail = wanted + (lines - wanted) % 2;
        let in_pairs = lines - tail;
        Grid {
            m_blocks: Divisor::new(m_blocks),
            heads: Divisor::new(heads),
            tiles: m_blocks * lines,
            section: Divisor::new(section),
            section_tiles: Divisor::new(section * m_blocks),
            last_section,
            last_width: Divisor::new(lines - last_section),
            in_pairs,
            units: in_pairs / 2 * m_blocks,
            tail: Divisor::new(tail),
            tail_tiles: tail * m_blocks,
        }
    }

    /// The tile of a line (head of a batch entry).
    #[inline(always)]
    fn of_line(&self, line: u32, m_block: u32) -> Tile {
        let (batch, head) = self.heads.div_rem(line);
        Tile { m_block, head, batch }
    }
}

/// Tiles of equal length: the query tiles of a head are neighbours in time, so that its K and V stay in L2.
#[inline(always)]
pub fn by_head(grid: &Grid, index: u32) -> Tile {
    let (line, m_block) = grid.m_blocks.div_rem(index);
    grid.of_line(line, m_block)
}

/// Tiles whose length grows with `m_block` (a causal mask): longest first, within sections of heads that share L2.
///
/// A block that starts late then gets a short tile, which evens out the end of the grid.
#[inline(always)]
pub fn longest_first(grid: &Grid, index: u32) -> Tile {
    let (section, within) = grid.section_tiles.div_rem(index);
    let first = section * grid.section.get();
    let width = if first == grid.last_section { grid.last_width } else { grid.section };
    let (rank, offset) = width.div_rem(within);
    grid.of_line(first + offset, grid.m_blocks.get() - 1 - rank)
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
    let round = *turn / 2;
    let column = if round.is_multiple_of(2) { block } else { blocks - 1 - block };
    let place = round * blocks + column;
    let last = grid.m_blocks.get() - 1;
    let (line, m_block) = if place < grid.units {
        let (pair, rank) = grid.m_blocks.div_rem(place);
        let second = *turn % 2;
        *turn += 1;
        (2 * pair + second, if second == 0 { last - rank } else { rank })
    } else {
        if place - grid.units >= grid.tail_tiles {
            return None;
        }
        let (rank, offset) = grid.tail.div_rem(place - grid.units);
        *turn += 2;
        (grid.in_pairs + offset, last - rank)
    };
    Some(grid.of_line(line, m_block))
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
            .map(|(m, h, b, s)| (Grid::new(m, h, b, s), b))
    }

    fn inside(grid: &Grid, batch: u32, tile: Tile) -> bool {
        tile.m_block < grid.m_blocks.get() && tile.head < grid.heads.get() && tile.batch < batch
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
                            assert!(inside(&grid, batch, t), "{grid:?} {t:?}");
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
        for (grid, batch) in grids().chain([(Grid::new(9, 7, 3, 2), 3)]) {
            for blocks in [1, 4, 7, grid.tiles] {
                let mut seen = HashSet::new();
                for t in deal(&grid, blocks).into_iter().flatten() {
                    assert!(inside(&grid, batch, t), "{grid:?} {t:?}");
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
            let grid = Grid::new(m_blocks, lines, 1, section);
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
                let same_section = i % (grid.section.get() * grid.m_blocks.get()) != 0;
                let (before, after) = (longest_first(&grid, i - 1), longest_first(&grid, i));
                assert!(!same_section || after.m_block <= before.m_block, "{grid:?} at {i}");
            }
        }
    }
}
