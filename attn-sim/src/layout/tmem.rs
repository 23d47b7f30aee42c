//! Tensor memory: 128 lanes by 512 columns of 32 bits for each block, addressed as `lane << 16 | column`.

/// Lanes of a block's tensor memory.
pub const LANES: u32 = 128;
/// Columns of a block's tensor memory.
pub const COLUMNS: u32 = 512;

/// A cell: lane and column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// 0 to 127.
    pub lane: u32,
    /// 0 to 511.
    pub column: u32,
}

impl Cell {
    /// The cell that an address names.
    pub const fn of(address: u32) -> Self {
        Cell { lane: address >> 16, column: address & 0xffff }
    }
}

/// How `tcgen05.ld` and `tcgen05.st` spread cells over a warp's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `32x32b`: a lane each, columns in order.
    X32x32,
    /// `16x64b`
    X16x64,
    /// `16x128b`
    X16x128,
    /// `16x256b`: the order of a matrix product's fragment.
    X16x256,
    /// `16x32bx2`: lanes 16 to 31 of the warp are a distance of columns away.
    X16x32x2,
}

impl Shape {
    /// The shape of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "32x32b" => Shape::X32x32,
            "16x64b" => Shape::X16x64,
            "16x128b" => Shape::X16x128,
            "16x256b" => Shape::X16x256,
            "16x32bx2" => Shape::X16x32x2,
            _ => return None,
        })
    }

    /// Registers of each thread for a repetition of 1.
    pub const fn registers(self) -> u32 {
        match self {
            Shape::X32x32 | Shape::X16x64 | Shape::X16x32x2 => 1,
            Shape::X16x128 => 2,
            Shape::X16x256 => 4,
        }
    }

    /// Largest repetition: 128 registers.
    pub const fn most(self) -> u32 {
        128 / self.registers()
    }

    /// Lanes of tensor memory that are reached.
    pub const fn lanes(self) -> u32 {
        if matches!(self, Shape::X32x32) { 32 } else { 16 }
    }

    /// The cell of a thread's register, from the address's; `half` is `16x32bx2`'s distance.
    pub const fn cell(self, thread: u32, register: u32, half: u32) -> Cell {
        let (t, i) = (thread, register);
        let (lane, column) = match self {
            Shape::X32x32 => (t, i),
            Shape::X16x64 => (t / 4 + 8 * (t & 1), 2 * i + (t >> 1 & 1)),
            Shape::X16x128 => (t / 4 + 8 * (i & 1), 4 * (i >> 1) + t % 4),
            Shape::X16x256 => (t / 4 + 8 * (i >> 1 & 1), 8 * (i >> 2) + 2 * (t % 4) + (i & 1)),
            Shape::X16x32x2 => (t % 16, i + if t < 16 { 0 } else { half }),
        };
        Cell { lane, column }
    }
}

/// How a product's rows and columns lie in tensor memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// Two blocks, M = 256: 128 rows each.
    Pair256,
    /// Two blocks, M = 128: 64 rows each, the right half of the columns in lanes 64 to 127.
    Pair128,
    /// One block, M = 128: a row a lane.
    Rows128,
    /// One block, M = 64: sixteen rows in each 32 lanes.
    Rows64,
    /// Weight stationary, M = 64: the right half of the columns in lanes 64 to 127.
    Stationary64,
    /// Weight stationary, M = 32: a quarter of the columns in each 32 lanes.
    Stationary32,
}

impl DataPath {
    /// The layout of D of an instruction's `M`, one or two blocks, weight stationary or not.
    pub fn of(m: u32, blocks: u32, stationary: bool) -> Option<Self> {
        Some(match (m, blocks, stationary) {
            (256, 2, false) => DataPath::Pair256,
            (128, 2, false) => DataPath::Pair128,
            (128, 1, _) => DataPath::Rows128,
            (64, 1, false) => DataPath::Rows64,
            (64, 1, true) => DataPath::Stationary64,
            (32, 1, true) => DataPath::Stationary32,
            _ => return None,
        })
    }

    /// Block of the pair (0 is the leader) and cell, from the address's, of element `(m, n)` of a D of `columns` columns.
    pub const fn cell(self, m: u32, n: u32, columns: u32) -> (u32, Cell) {
        let (block, lane, column) = match self {
            DataPath::Pair256 => (m / 128, m % 128, n),
            DataPath::Pair128 => (m / 64, m % 64 + 64 * (n / (columns / 2)), n % (columns / 2)),
            DataPath::Rows128 => (0, m, n),
            DataPath::Rows64 => (0, 32 * (m / 16) + m % 16, n),
            DataPath::Stationary64 => (0, m + 64 * (n / (columns / 2)), n % (columns / 2)),
            DataPath::Stationary32 => (0, m + 32 * (n / (columns / 4)), n % (columns / 4)),
        };
        (block, Cell { lane, column })
    }

    /// Block and lanes, from the address's, that hold row `m` of an A operand in tensor memory: a lane for each part of D's
    /// columns, in their order.
    pub fn a_lanes(self, m: u32) -> (u32, Vec<u32>) {
        match self {
            DataPath::Pair128 => (m / 64, vec![m % 64, m % 64 + 64]),
            DataPath::Stationary64 => (0, vec![m, m + 64]),
            DataPath::Stationary32 => (0, vec![m, m + 32, m + 64, m + 96]),
            _ => {
                let (block, cell) = self.cell(m, 0, 8);
                (block, vec![cell.lane])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A warp's registers are as many different cells of the shape's rectangle.
    #[test]
    fn shapes_cover_rectangles() {
        for shape in [Shape::X32x32, Shape::X16x64, Shape::X16x128, Shape::X16x256, Shape::X16x32x2] {
            for repeat in [1, 2, 16, shape.most()] {
                let registers = repeat * shape.registers();
                let cells: HashSet<Cell> =
                    (0..32).flat_map(|t| (0..registers).map(move |i| shape.cell(t, i, repeat))).collect();
                assert_eq!(cells.len() as u32, 32 * registers);
                let columns = 32 * registers / shape.lanes();
                assert!(cells.iter().all(|c| c.lane < shape.lanes() && c.column < columns), "{shape:?}");
            }
        }
    }

    /// `16x256b` is the fragment of a matrix product.
    #[test]
    fn the_fragment_order() {
        for t in 0..32 {
            for i in 0..128 {
                let (cell, place) = (Shape::X16x256.cell(t, i, 0), super::super::fragment::d32(t, i));
                assert_eq!((cell.lane, cell.column), (place.line, place.column));
            }
        }
    }

    #[test]
    fn known_cells() {
        let at = |s: Shape, t, i| {
            let c = s.cell(t, i, 8);
            (c.lane, c.column)
        };
        assert_eq!(at(Shape::X32x32, 7, 3), (7, 3));
        assert_eq!(at(Shape::X16x64, 7, 3), (9, 7));
        assert_eq!(at(Shape::X16x128, 7, 3), (9, 7));
        assert_eq!(at(Shape::X16x32x2, 17, 3), (1, 11));
        assert_eq!(Cell::of(0x0020_0101), Cell { lane: 32, column: 257 });
    }

    /// Every element of D has a cell of its own, within its block.
    #[test]
    fn data_paths_have_room() {
        for (m, blocks, stationary) in
            [(256, 2, false), (128, 2, false), (128, 1, false), (64, 1, false), (64, 1, true), (32, 1, true)]
        {
            let path = DataPath::of(m, blocks, stationary).unwrap();
            let cells: HashSet<(u32, Cell)> = (0..m).flat_map(|r| (0..64).map(move |c| path.cell(r, c, 64))).collect();
            assert_eq!(cells.len() as u32, m * 64);
            assert!(cells.iter().all(|(b, c)| *b < blocks && c.lane < LANES && c.column < 64));
            for row in 0..m {
                let (block, lanes) = path.a_lanes(row);
                for column in 0..64 {
                    let (b, cell) = path.cell(row, column, 64);
                    assert!(b == block && lanes.contains(&cell.lane), "{path:?} {row} {column}");
                }
            }
        }
        assert_eq!(DataPath::of(256, 1, false), None);
        assert_eq!(DataPath::Rows64.cell(17, 5, 64), (0, Cell { lane: 33, column: 5 }));
        assert_eq!(DataPath::Pair128.cell(70, 40, 64), (1, Cell { lane: 70, column: 8 }));
    }
}
