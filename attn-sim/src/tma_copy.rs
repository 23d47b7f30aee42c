//! Which bytes a TMA copy of one box moves: a pure function of map, coordinates and shared address.
//!
//! The image of a box in shared memory is dense, dimension 0 fastest, and is then swizzled by absolute address. Elements outside
//! the tensor are filled by a load and skipped by a store or reduction, but count in the bytes of the box either way.

use crate::tensor_map::{DataType, Interleave, OobFill, Swizzle, TensorMap};

/// Shared addresses of copies are multiples of this.
pub const SHARED_ALIGN: u32 = 128;

/// Which elements a copy names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates<'a> {
    /// Those from the given corner, innermost coordinate first; coordinates may lie outside the tensor.
    Tile(&'a [i32]),
    /// `.tile::gather4` and `.tile::scatter4`: four rows of a matrix, each from column `column`.
    Rows {
        /// First column.
        column: i32,
        /// The rows, in the order in which shared memory holds them.
        rows: [i32; 4],
    },
}

/// Where the bytes of a piece are on the global side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// At this global address.
    Global(u64),
    /// Outside the tensor.
    Outside,
}

/// A run of bytes that is contiguous on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Shared address of the first byte, after swizzling.
    pub shared: u32,
    /// Length in bytes.
    pub bytes: u32,
    /// The global side.
    pub source: Source,
}

/// What one copy moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyPlan {
    /// The runs, in the order of the box; each byte of shared memory at most once.
    pub pieces: Vec<Piece>,
    /// Bytes that a load counts at its mbarrier.
    pub bytes: u32,
    /// What a load writes for elements outside the tensor, repeated over a piece.
    pub fill: Fill,
}

/// The value of elements outside the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    pattern: [u8; 8],
    bytes: usize,
}

impl Fill {
    fn of(map: &TensorMap) -> Fill {
        let bytes = map.data_type.unit().global as usize;
        let nan: u64 = match map.data_type {
            _ if map.oob_fill == OobFill::Zero => 0,
            DataType::Float16 | DataType::Bfloat16 => 0x7fff,
            DataType::Float64 => 0x7fff_ffff_ffff_ffff,
            _ => 0x7fff_ffff,
        };
        Fill { pattern: nan.to_le_bytes(), bytes }
    }

    /// Byte `index` of a piece.
    pub fn byte(&self, index: usize) -> u8 {
        if self.bytes > 8 { 0 } else { self.pattern[index % self.bytes] }
    }
}

/// Why a copy cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named in the messages
pub enum CopyError {
    #[error("the copy has {got} coordinates, its tensor map has rank {rank}")]
    Rank { got: usize, rank: usize },
    #[error("shared address {got:#x} of a tensor copy is not a multiple of {SHARED_ALIGN}")]
    Shared { got: u32 },
    #[error("coordinate 0 is {got}, tensors of {data_type:?} need a multiple of {multiple}")]
    PackedCoordinate { got: i32, data_type: DataType, multiple: u32 },
    #[error("copies of single rows need a tensor map of rank 2 with boxDim[1] = 1, it has rank {rank} and {box_rows}")]
    Rows { rank: usize, box_rows: u32 },
    #[error("tensors of {data_type:?} with swizzle {swizzle:?} cannot be {verb}")]
    Direction { data_type: DataType, swizzle: Swizzle, verb: &'static str },
    #[error("tensor maps with interleave {got:?} are not modelled")]
    Interleave { got: Interleave },
}

/// The pieces of a load from the box at `coordinates` to shared address `shared`.
///
/// # Errors
/// If map, coordinates and address do not go together.
pub fn load(map: &TensorMap, coordinates: Coordinates, shared: u32) -> Result<CopyPlan, CopyError> {
    let store_only = map.data_type == DataType::Packed16U6Align16B && map.swizzle == Swizzle::B128Atom64;
    if store_only {
        return Err(direction(map, "loaded"));
    }
    plan(map, coordinates, shared)
}

/// The pieces of a store or reduction to the box at `coordinates` from shared address `shared`; all lie inside the tensor.
///
/// # Errors
/// If map, coordinates and address do not go together.
pub fn store(map: &TensorMap, coordinates: Coordinates, shared: u32) -> Result<CopyPlan, CopyError> {
    if map.data_type == DataType::Packed16U4Align16B {
        return Err(direction(map, "stored"));
    }
    let mut plan = plan(map, coordinates, shared)?;
    plan.pieces.retain(|piece| piece.source != Source::Outside);
    Ok(plan)
}

fn direction(map: &TensorMap, verb: &'static str) -> CopyError {
    CopyError::Direction { data_type: map.data_type, swizzle: map.swizzle, verb }
}

fn plan(map: &TensorMap, coordinates: Coordinates, shared: u32) -> Result<CopyPlan, CopyError> {
    if map.interleave != Interleave::None {
        return Err(CopyError::Interleave { got: map.interleave });
    }
    if !shared.is_multiple_of(SHARED_ALIGN) {
        return Err(CopyError::Shared { got: shared });
    }
    let mut image = Image { map, next: shared, pieces: Vec::new() };
    match coordinates {
        Coordinates::Tile(corner) => {
            if corner.len() != map.rank {
                return Err(CopyError::Rank { got: corner.len(), rank: map.rank });
            }
            check_column(map, corner[0])?;
            image.tile(corner);
        }
        Coordinates::Rows { column, rows } => {
            if map.rank != 2 || map.box_dim[1] != 1 {
                return Err(CopyError::Rows { rank: map.rank, box_rows: map.box_dim[1] });
            }
            check_column(map, column)?;
            for row in rows {
                image.row(column, image.row_address(&[row]));
            }
        }
    }
    Ok(CopyPlan { bytes: image.next - shared, pieces: image.pieces, fill: Fill::of(map) })
}

/// Packed elements are moved in whole units.
fn check_column(map: &TensorMap, got: i32) -> Result<(), CopyError> {
    let multiple = map.data_type.unit().elements;
    if got.rem_euclid(multiple as i32) != 0 {
        return Err(CopyError::PackedCoordinate { got, data_type: map.data_type, multiple });
    }
    Ok(())
}

/// The image of a box in shared memory, built row by row.
struct Image<'a> {
    map: &'a TensorMap,
    /// Unswizzled shared address of the next byte.
    next: u32,
    pieces: Vec<Piece>,
}

impl Image<'_> {
    fn tile(&mut self, corner: &[i32]) {
        let map = self.map;
        let rows: u32 = (1..map.rank).map(|dim| map.moved(dim)).product();
        let mut outer = [0; 4];
        for mut row in 0..rows {
            for dim in 1..map.rank {
                let (index, count) = (row % map.moved(dim), map.moved(dim));
                outer[dim - 1] = corner[dim].wrapping_add((index * map.step(dim)) as i32);
                row /= count;
            }
            self.row(corner[0], self.row_address(&outer[..map.rank - 1]));
        }
    }

    /// Global address of column 0 of the row with the given coordinates of dimensions 1.., if it is in the tensor. Addresses
    /// wrap round, as nothing keeps a map inside an address space; memory then refuses them.
    fn row_address(&self, outer: &[i32]) -> Option<u64> {
        let mut address = self.map.global_address;
        for (i, &coordinate) in outer.iter().enumerate() {
            let index = u64::try_from(coordinate).ok().filter(|index| *index < self.map.global_dim[i + 1])?;
            address = address.wrapping_add(index.wrapping_mul(self.map.global_strides[i]));
        }
        Some(address)
    }

    /// Adds one row of the box: what lies before the tensor, in it and past it.
    fn row(&mut self, column: i32, address: Option<u64>) {
        let unit = self.map.data_type.unit();
        let size = (self.map.global_dim[0] / u64::from(unit.elements)) as i64;
        let first = i64::from(column) / i64::from(unit.elements);
        let end = first + i64::from(self.map.moved(0) / unit.elements);
        let inside = |at: i64| if address.is_some() { at.clamp(0, size).clamp(first, end) } else { end };
        let (from, to) = (inside(first), inside(end));
        self.run((from - first) as u32, None);
        let start = address.map(|address| address.wrapping_add((from as u64).wrapping_mul(unit.global.into())));
        self.run((to - from) as u32, start);
        self.run((end - to) as u32, None);
    }

    /// Adds `units` units that lie at `address`, or outside the tensor.
    fn run(&mut self, units: u32, address: Option<u64>) {
        let unit = self.map.data_type.unit();
        // Padding splits a run into units, swizzling into atoms.
        let (mut done, total) = (0, units * unit.shared);
        while done < total {
            let here = self.next;
            let atom = self.map.swizzle.atom();
            let rest = if self.map.swizzle == Swizzle::None { u32::MAX } else { atom - here % atom };
            let mut shared = (total - done).min(rest);
            let mut bytes = shared;
            if unit.shared != unit.global {
                shared = shared.min(unit.shared - done % unit.shared);
                bytes = shared.min(unit.global.saturating_sub(done % unit.shared));
            }
            let source = match address {
                Some(address) => Source::Global(
                    address.wrapping_add(u64::from(done / unit.shared * unit.global + done % unit.shared)),
                ),
                None => Source::Outside,
            };
            if bytes > 0 {
                self.push(Piece { shared: self.map.swizzle.apply(here), bytes, source });
            }
            self.next += shared;
            done += shared;
        }
    }

    /// Adds a piece, to the last one where the two are contiguous on both sides.
    fn push(&mut self, piece: Piece) {
        if let Some(last) = self.pieces.last_mut()
            && last.shared + last.bytes == piece.shared
            && match (last.source, piece.source) {
                (Source::Global(a), Source::Global(b)) => a.wrapping_add(u64::from(last.bytes)) == b,
                (Source::Outside, Source::Outside) => true,
                _ => false,
            }
        {
            last.bytes += piece.bytes;
            return;
        }
        self.pieces.push(piece);
    }
}

#[cfg(test)]
mod tests;
