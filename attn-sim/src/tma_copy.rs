//! Which bytes a TMA copy of one box moves: a pure function of map, coordinates and shared address.
//!
//! The image of a box in shared memory has dimension 0 fastest and is swizzled by absolute address. Its rows lie one behind the
//! other, those of a swizzled box a whole span of the swizzle apart: what a shorter row leaves free is not touched. Elements
//! outside the tensor are filled by a load and skipped by a store or reduction, but count in the bytes of the box either way.
//!
//! As recorded on an H100, and known of Blackwell from its compilers:
//!
//! - The copy unit works in 16 bytes of a row. A box that begins inside 16 bytes is an illegal instruction, and a store to a row
//!   that ends inside 16 bytes also replaces the rest of them.
//! - A load may begin before the tensor in any dimension. A store or reduction may not: an illegal instruction.
//! - A load whose box reaches outside of the tensor touches the map's base address, which must then be mapped memory even where no
//!   element of the box lies there. A store does not.

use crate::tensor_map::{DataType, Interleave, OobFill, Swizzle, TensorMap};

mod im2col;

/// Shared addresses of copies are multiples of this.
pub const SHARED_ALIGN: u32 = 128;

/// Bytes of a row in global memory that the copy unit moves together.
pub const GLOBAL_UNIT: u32 = 16;

/// Which elements a copy names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates<'a> {
    /// Those from the given corner, innermost coordinate first.
    Tile(&'a [i32]),
    /// `.im2col`: a column of pixels of a batch of images.
    Im2col {
        /// First channel, the base of a filter in width, height and depth, and the image.
        base: &'a [i32],
        /// What is added to every base on the way: the place within the filter. Empty without any.
        offsets: &'a [u16],
    },
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
    /// At this global address, behind the end of a row and in the same 16 bytes: a store writes there all the same.
    Behind(u64),
}

impl Source {
    /// The place so many bytes further. Addresses wrap round.
    fn plus(self, bytes: u64) -> Source {
        match self {
            Source::Global(address) => Source::Global(address.wrapping_add(bytes)),
            Source::Behind(address) => Source::Behind(address.wrapping_add(bytes)),
            Source::Outside => Source::Outside,
        }
    }
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

impl CopyPlan {
    /// Whether a part of the box is outside the tensor.
    pub fn reaches_outside(&self) -> bool {
        self.pieces.iter().any(|piece| piece.source == Source::Outside)
    }
}

/// The value of elements outside the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill([u8; 2]);

impl Fill {
    /// NaNs are this pattern in every 16 bits, whatever the type: a NaN of each format, though not the one that arithmetic gives.
    const NAN: u16 = 0x7ff7;

    fn of(map: &TensorMap) -> Fill {
        let pattern = if map.oob_fill == OobFill::Nan { Self::NAN } else { 0 };
        Fill(pattern.to_le_bytes())
    }

    /// Byte `index` of a piece.
    pub fn byte(&self, index: usize) -> u8 {
        self.0[index % 2]
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
    #[error(
        "coordinate 0 is {got}, tensors of {data_type:?} need a multiple of {multiple}: the device calls others illegal"
    )]
    Unaligned { got: i32, data_type: DataType, multiple: u32 },
    #[error("coordinate {dim} is {got}, a store or reduction needs 0 or more: the device calls less illegal")]
    Negative { dim: usize, got: i32 },
    #[error("copies of single rows need a tensor map of rank 2 with boxDim[1] = 1, it has rank {rank} and {box_rows}")]
    Rows { rank: usize, box_rows: u32 },
    #[error("tensors of {data_type:?} with swizzle {swizzle:?} cannot be {verb}")]
    Direction { data_type: DataType, swizzle: Swizzle, verb: &'static str },
    #[error("tensor maps with interleave {got:?} are not modelled")]
    Interleave { got: Interleave },
    #[error("the tensor map is {}, the instruction is of the other mode", if *.im2col { "an im2col map" } else { "a tiled one" })]
    Mode { im2col: bool },
    #[error("the filter's base is {got} in dimension {dim}, the box of pixels reaches from {first} to {last}")]
    Base { dim: usize, got: i32, first: i64, last: i64 },
    #[error("there are {got} offsets, a tensor map of rank {rank} needs {}", .rank - 2)]
    Offsets { got: usize, rank: usize },
    #[error("the offset of dimension {dim} is {got}, at most {most} is allowed")]
    Offset { dim: usize, got: u16, most: u16 },
    #[error(
        "the box of pixels reaches past the image in dimension {dim}, which a store or reduction needs to stay inside"
    )]
    StoreBox { dim: usize },
}

impl CopyError {
    /// Whether the device stops with an illegal instruction for it.
    pub fn is_illegal_instruction(&self) -> bool {
        matches!(self, CopyError::Unaligned { .. } | CopyError::Negative { .. })
    }
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
    plan(map, coordinates, shared, false)
}

/// The pieces of a store or reduction to the box at `coordinates` from shared address `shared`; none is [`Source::Outside`].
///
/// # Errors
/// If map, coordinates and address do not go together.
pub fn store(map: &TensorMap, coordinates: Coordinates, shared: u32) -> Result<CopyPlan, CopyError> {
    if map.data_type == DataType::Packed16U4Align16B {
        return Err(direction(map, "stored"));
    }
    check_not_negative(coordinates)?;
    im2col::check_store(map)?;
    let mut plan = plan(map, coordinates, shared, true)?;
    plan.pieces.retain(|piece| piece.source != Source::Outside);
    Ok(plan)
}

fn direction(map: &TensorMap, verb: &'static str) -> CopyError {
    CopyError::Direction { data_type: map.data_type, swizzle: map.swizzle, verb }
}

fn plan(map: &TensorMap, coordinates: Coordinates, shared: u32, store: bool) -> Result<CopyPlan, CopyError> {
    if map.interleave != Interleave::None {
        return Err(CopyError::Interleave { got: map.interleave });
    }
    if !shared.is_multiple_of(SHARED_ALIGN) {
        return Err(CopyError::Shared { got: shared });
    }
    let im2col = map.pixels.is_some();
    if matches!(coordinates, Coordinates::Im2col { .. }) != im2col {
        return Err(CopyError::Mode { im2col });
    }
    let mut image = Image { map, store, rows: 0, start: shared, next: shared, pieces: Vec::new() };
    match coordinates {
        Coordinates::Tile(corner) => {
            if corner.len() != map.rank {
                return Err(CopyError::Rank { got: corner.len(), rank: map.rank });
            }
            check_column(map, corner[0])?;
            image.tile(corner);
        }
        Coordinates::Im2col { base, offsets } => image.im2col(base, offsets)?,
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
    Ok(CopyPlan { bytes: image.rows * map.row_bytes(), pieces: image.pieces, fill: Fill::of(map) })
}

/// Rows are moved in [`GLOBAL_UNIT`]s, those of padded types in whole boxes of 128 elements.
fn check_column(map: &TensorMap, got: i32) -> Result<(), CopyError> {
    let unit = map.data_type.unit();
    let multiple = if map.data_type.is_padded() { 128 } else { GLOBAL_UNIT / unit.global * unit.elements };
    if got.rem_euclid(multiple as i32) != 0 {
        return Err(CopyError::Unaligned { got, data_type: map.data_type, multiple });
    }
    Ok(())
}

fn check_not_negative(coordinates: Coordinates) -> Result<(), CopyError> {
    let check = |all: &[i32]| match all.iter().position(|at| *at < 0) {
        Some(dim) => Err(CopyError::Negative { dim, got: all[dim] }),
        None => Ok(()),
    };
    match coordinates {
        Coordinates::Tile(corner) => check(corner),
        Coordinates::Im2col { base, .. } => check(base),
        Coordinates::Rows { column, rows: [a, b, c, d] } => check(&[column, a, b, c, d]),
    }
}

/// The image of a box in shared memory, built row by row.
struct Image<'a> {
    map: &'a TensorMap,
    /// Whether bytes go from shared to global memory.
    store: bool,
    /// Rows so far.
    rows: u32,
    /// Unswizzled shared address of the first row.
    start: u32,
    /// The same of the next byte.
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

    /// Adds one row of the box: what lies before the tensor, in it, behind its end in the same 16 bytes, and past that.
    fn row(&mut self, column: i32, address: Option<u64>) {
        self.next = self.start + self.rows * self.map.row_pitch();
        self.rows += 1;
        let unit = self.map.data_type.unit();
        let size = self.map.global_dim[0] / u64::from(unit.elements);
        let bytes = size * u64::from(unit.global);
        let whole = if self.store { bytes.next_multiple_of(GLOBAL_UNIT.into()) / u64::from(unit.global) } else { size };
        let first = i64::from(column) / i64::from(unit.elements);
        let end = first + i64::from(self.map.moved(0) / unit.elements);
        let inside = |at: u64| if address.is_some() { (at as i64).clamp(first, end) } else { end };
        let at = |from: i64| address.map(|start| start.wrapping_add((from as u64).wrapping_mul(unit.global.into())));
        let (from, to, behind) = (inside(0), inside(size), inside(whole));
        self.run((from - first) as u32, Source::Outside);
        self.run((to - from) as u32, at(from).map_or(Source::Outside, Source::Global));
        self.run((behind - to) as u32, at(to).map_or(Source::Outside, Source::Behind));
        self.run((end - behind) as u32, Source::Outside);
    }

    /// Adds `units` units whose first is at `source`.
    fn run(&mut self, units: u32, source: Source) {
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
            if bytes > 0 {
                let source = source.plus(u64::from(done / unit.shared * unit.global + done % unit.shared));
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
            && last.source.plus(u64::from(last.bytes)) == piece.source
        {
            last.bytes += piece.bytes;
            return;
        }
        self.pieces.push(piece);
    }
}

#[cfg(test)]
mod tests;
