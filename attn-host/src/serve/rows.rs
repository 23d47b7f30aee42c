//! Tensors as rows: the maps of rank 5 by which a copy ends with its sequence.
//!
//! `attn_kernel::forward::serve` has the dimensions. Two of them step by a row, so that the sequences of a tensor that is not packed must
//! lie whole rows apart.

use attn_kernel::attn::sequence::BOUND;
use attn_kernel::forward::DType;

use crate::error::Error;
use crate::layout::{Layout, MAX_SEQLEN};
use crate::tensor_map::Tiled;

/// A tensor: rows of all sequences, or of all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    argument: &'static str,
    layout: Layout,
    /// Elements from one row to the next.
    pub(super) stride: u64,
    /// Rows from one batch entry to the next.
    pub(super) room: u32,
    /// Rows up to the last.
    count: u64,
}

impl Rows {
    pub(super) fn of(argument: &'static str, layout: &Layout) -> Result<Self, Error> {
        let [_, queries, _, batch] = layout.dims;
        let [to_row, _, to_batch] = layout.strides;
        let refused = Error::Stride {
            argument,
            dimension: "batch",
            value: to_batch as i64, // checked to be below 2^40 bytes
            allowed: "a multiple of the seq stride where the problem is not dense",
        };
        let (stride, room) = match (batch, queries) {
            (1, _) => (to_row, 0),
            // The one query of each entry is a row of its own, wherever it lies.
            (_, 1) => (to_batch, 1),
            _ if to_batch == 0 => (to_row, 0),
            _ if to_row == 0 || to_batch % to_row != 0 => return Err(refused),
            _ => (to_row, to_batch / to_row),
        };
        let count = (batch - 1).checked_mul(room).and_then(|rows| rows.checked_add(queries));
        let count = count.filter(|&rows| rows <= MAX_SEQLEN).ok_or(Error::Overflow {
            argument,
            what: "the count of rows from the first to the last",
            allowed: "at most 2147482624",
        })?;
        Ok(Rows { argument, layout: *layout, stride, room: room as u32, count })
    }

    /// What maps of Q and O have in common: heads in packs, and the distances of heads, rows and packs.
    fn packs(&self, pack: u32) -> (u64, [u64; 3]) {
        let (heads, to_head) = (self.layout.dims[2], self.layout.strides[1]);
        let packs = heads / u64::from(pack);
        // Nothing ever steps to a second pack where there is one, and its distance need not be one that a map can hold.
        let to_pack = if packs == 1 { to_head } else { to_head.saturating_mul(u64::from(pack)) };
        (packs, [to_head, self.stride, to_pack])
    }

    /// A map for loads of Q, whose boxes have `queries` rows of `pack` heads each.
    pub(super) fn queries(&self, dtype: DType, panel: u32, pack: u32, queries: u32) -> Result<Tiled, Error> {
        let (packs, [to_head, to_row, to_pack]) = self.packs(pack);
        let dims = [self.layout.dims[0], u64::from(pack), self.count, packs, 1];
        let tile = [panel, pack, queries, 1, 1];
        Tiled::ragged(self.argument, dtype, dims, [to_head, to_row, to_pack, to_row], tile, 0)
    }

    /// A map for stores of O, whose boxes have `queries` rows of `pack` heads each, and end with their sequence.
    pub(super) fn output(&self, dtype: DType, panel: u32, pack: u32, queries: u32) -> Result<Tiled, Error> {
        let (packs, [to_head, to_row, to_pack]) = self.packs(pack);
        let box_rows = u64::from(queries);
        let dims = [self.layout.dims[0], u64::from(pack), box_rows, packs, self.count + box_rows];
        let tile = [panel, pack, queries, 1, 1];
        Tiled::ragged(self.argument, dtype, dims, [to_head, to_row, to_pack, to_row], tile, box_rows * to_row)
    }

    /// A map for loads of K or V, whose boxes have `chunk` rows and end with their sequence.
    pub(super) fn keys(&self, dtype: DType, panel: u32, chunk: u32) -> Result<Tiled, Error> {
        let [dim, _, heads, _] = self.layout.dims;
        let (to_head, to_row, bound) = (self.layout.strides[1], self.stride, u64::from(BOUND));
        // With as many steps of the bounded dimension 2^64 bytes, which are none.
        let back = ((1 << 34) / u64::from(dtype.bytes())).checked_sub(to_row).ok_or(Error::Stride {
            argument: self.argument,
            dimension: "seq",
            value: to_row as i64, // checked to be below 2^40 bytes
            allowed: "at most 2^34 bytes where the problem is not dense",
        })?;
        let dims = [dim, bound, heads, bound + 1, self.count + 1];
        Tiled::ragged(self.argument, dtype, dims, [to_row, to_head, back, to_row], [panel, chunk, 1, 1, 1], 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dims: [u64; 4], strides: [u64; 3]) -> Layout {
        Layout { dims, strides, span: 0 }
    }

    fn rows(dims: [u64; 4], strides: [u64; 3]) -> Result<(u64, u32, u64), Error> {
        Rows::of("q", &layout(dims, strides)).map(|rows| (rows.stride, rows.room, rows.count))
    }

    #[test]
    fn batch_entries_lie_whole_rows_apart() {
        assert_eq!(rows([64, 100, 8, 3], [512, 64, 51_200]), Ok((512, 100, 300)));
        assert_eq!(rows([64, 100, 8, 3], [512, 64, 51_200 + 512]), Ok((512, 101, 302)), "a gap of a row");
        // (batch, heads, seq, dim): a head of rows is between two sequences.
        assert_eq!(rows([64, 100, 8, 3], [64, 6400, 51_200]), Ok((64, 800, 1700)));
        let found = rows([64, 100, 8, 3], [512, 64, 51_200 + 64]);
        assert!(
            matches!(found, Err(Error::Stride { argument: "q", dimension: "batch", value: 51_264, .. })),
            "{found:?}"
        );
    }

    #[test]
    fn single_queries_are_rows_wherever_they_lie() {
        assert_eq!(rows([64, 1, 8, 3], [64, 64, 1000]), Ok((1000, 1, 3)));
        assert_eq!(rows([64, 7, 8, 1], [512, 64, 64]), Ok((512, 0, 7)));
    }

    #[test]
    fn repeated_data_has_no_room_of_its_own() {
        assert_eq!(rows([64, 7, 8, 3], [512, 64, 0]), Ok((512, 0, 7)));
        assert_eq!(rows([64, 7, 8, 3], [0, 64, 0]), Ok((0, 0, 7)));
        assert!(rows([64, 7, 8, 3], [0, 64, 512]).is_err());
    }

    #[test]
    fn rows_are_counted_in_31_bits() {
        assert!(rows([64, 100, 8, 1 << 20], [512, 64, 512 * 2000]).is_ok());
        let found = rows([64, 100, 8, 1 << 21], [512, 64, 512 * 2000]);
        assert!(matches!(found, Err(Error::Overflow { argument: "q", .. })), "{found:?}");
    }
}
