//! Where the rows of a serving problem lie in memory.
//!
//! As in [`layout`], everything that is no row in use is poison: rows before, after and between the sequences, the rest of
//! their rooms and of their last pages, and pages that nobody owns.

use crate::case::Case;
use crate::dense::{Dense, Dims};
use crate::layout::{self, Arena, GUARD, Layout, View};
use crate::serve::case::{Keys, ServeCase};
use crate::serve::lengths::Lengths;
use crate::serve::pages::PageTable;

/// Rows of poison before and after packed tensors: as many as the tallest tile has.
const GUARD_ROWS: usize = 256;

/// Which rows of a tensor are a sequence's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rooms {
    /// Those of its batch entry.
    Dense,
    /// Those from its start on; one start more than sequences.
    Packed(Vec<usize>),
    /// Those of its pages.
    Paged {
        /// The pages.
        table: PageTable,
        /// Rows of one.
        page_size: usize,
    },
}

impl Rooms {
    fn queries(case: &ServeCase) -> Self {
        case.packed_q.as_ref().map_or(Rooms::Dense, |room| Rooms::Packed(room.starts()))
    }

    fn keys(case: &ServeCase) -> Self {
        match &case.keys {
            Keys::Dense => Rooms::Dense,
            Keys::Packed(room) => Rooms::Packed(room.starts()),
            Keys::Paged(paging) => Rooms::Paged { table: PageTable::of(case, *paging), page_size: paging.page_size },
        }
    }

    /// Rows of all packed sequences.
    pub fn total(&self) -> Option<usize> {
        match self {
            Rooms::Packed(starts) => starts.last().copied(),
            _ => None,
        }
    }

    /// Batch entry (or page) and row in it of a sequence's row.
    fn of(&self, sequence: usize, row: usize) -> (usize, usize) {
        match self {
            Rooms::Dense => (sequence, row),
            Rooms::Packed(starts) => (0, starts[sequence] + row),
            Rooms::Paged { table, page_size } => (table.page(sequence, row / page_size), row % page_size),
        }
    }

    /// Sizes of a tensor with these rooms.
    fn dims(&self, batch: usize, seq: usize, heads: usize, width: usize) -> Dims {
        let (batch, seq) = match self {
            Rooms::Dense => (batch, seq),
            // A tensor has a row, even if no sequence has.
            Rooms::Packed(starts) => (1, starts.last().map_or(1, |total| *total.max(&1)) + 2 * GUARD_ROWS),
            Rooms::Paged { table, page_size } => (table.pages, *page_size),
        };
        Dims { batch, seq, heads, width }
    }

    /// The tensor in a view that has guards around it.
    fn without_guards(&self, view: View) -> View {
        match self {
            Rooms::Packed(_) => View {
                offset: view.offset + GUARD_ROWS * view.seq,
                dims: Dims { seq: view.dims.seq - 2 * GUARD_ROWS, ..view.dims },
                ..view
            },
            _ => view,
        }
    }
}

/// Every tensor of a case with its arena.
#[derive(Clone, Debug)]
pub struct ServePlacement {
    /// Q, K and V: index into `inputs`, and the view.
    pub qkv: [(usize, View); 3],
    /// The arenas of Q, K and V.
    pub inputs: Vec<Arena>,
    /// O and its arena, guards included.
    pub o: (View, Arena),
    /// LSE (width 1) and its arena, guards included.
    pub lse: (View, Arena),
    /// Which rows of Q, O and LSE are whose.
    pub queries: Rooms,
    /// Which rows of K and V are whose.
    pub keys: Rooms,
    lengths: Vec<(usize, usize)>,
}

impl ServePlacement {
    /// Places the tensors of a case.
    pub fn of(case: &ServeCase) -> Self {
        let Case { batch, heads, kv_heads, seqlen_q, seqlen_k, head_dim, head_dim_v, layout, .. } = case.base;
        let (queries, keys) = (Rooms::queries(case), Rooms::keys(case));
        let dims = [
            queries.dims(batch, seqlen_q, heads, head_dim),
            keys.dims(batch, seqlen_k, kv_heads, head_dim),
            keys.dims(batch, seqlen_k, kv_heads, head_dim_v),
        ];
        let (views, inputs) = match layout {
            Layout::Packed => layout::packed(&dims, &[0, 0, 0]),
            Layout::PackedKv => layout::packed(&dims, &[0, 1, 1]),
            _ => {
                let (views, arenas): (Vec<View>, Vec<Arena>) = [0, 1, 2]
                    .map(|i| if layout == Layout::Far && i > 0 { far(dims[i]) } else { near(layout, dims[i]) })
                    .into_iter()
                    .unzip();
                ([(0, views[0]), (1, views[1]), (2, views[2])], arenas)
            }
        };
        let rooms = [&queries, &keys, &keys];
        let qkv = [0, 1, 2].map(|i| (views[i].0, rooms[i].without_guards(views[i].1)));
        let (o, o_arena) = near(layout, Dims { width: head_dim_v, ..dims[0] });
        let lse = Self::lse(layout, queries.total(), &case.base);
        let lengths = (0..batch).map(|b| (case.queries(b), case.keys(b))).collect();
        ServePlacement { qkv, inputs, o: (queries.without_guards(o), o_arena), lse, queries, keys, lengths }
    }

    /// (batch, heads, seq), or (heads, total) with packed queries.
    fn lse(layout: Layout, total: Option<usize>, case: &Case) -> (View, Arena) {
        let (batch, seq) = total.map_or((case.batch, case.seqlen_q), |total| (1, total.max(1)));
        let (row, gap) = if layout == Layout::Padded { (seq + 3, 7) } else { (seq, 0) };
        let dims = Dims { batch, seq, heads: case.heads, width: 1 };
        let view = View::new(GUARD, dims, [case.heads * row + gap, 1, row]);
        (view, Arena::whole(view.end() + GUARD))
    }

    /// Writes the rows in use of tensor `which` (0, 1, 2 for Q, K, V) of one sequence into its arena's elements.
    pub fn scatter(
        &self,
        which: usize,
        sequence: usize,
        tensor: &Dense<f32>,
        bits: impl Fn(f32) -> u16,
        to: &mut [u16],
    ) {
        let (view, rooms) = (&self.qkv[which].1, if which == 0 { &self.queries } else { &self.keys });
        let Dims { seq, heads, width, .. } = tensor.dims;
        for (row, head) in (0..seq).flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let (b, s) = rooms.of(sequence, row);
            // A page that does not exist: nothing to write.
            if b >= view.dims.batch {
                continue;
            }
            let at = view.index((b, s, head, 0));
            for (to, x) in to[at..at + width].iter_mut().zip(tensor.row(0, head, row)) {
                *to = bits(*x);
            }
        }
    }

    /// The rows in use of an output, whose view is given, of one sequence.
    pub fn gather<T: Copy, U: Copy>(
        &self,
        view: &View,
        sequence: usize,
        from: &[T],
        convert: impl Fn(T) -> U,
    ) -> Dense<U> {
        let dims = Dims { batch: 1, seq: self.lengths[sequence].0, ..view.dims };
        Dense::from_fn(dims, |_, row, head, column| {
            let (b, s) = self.queries.of(sequence, row);
            convert(from[view.index((b, s, head, column))])
        })
    }

    /// First element of an output's arena that is in no row in use and not `poison` any more.
    pub fn overwritten<T: Copy + PartialEq>(&self, view: &View, arena: &[T], poison: T) -> Option<usize> {
        let mut own = vec![false; arena.len()];
        let Dims { heads, width, .. } = view.dims;
        for (sequence, (queries, _)) in self.lengths.iter().enumerate() {
            for (row, head) in (0..*queries).flat_map(|row| (0..heads).map(move |head| (row, head))) {
                let (b, s) = self.queries.of(sequence, row);
                let at = view.index((b, s, head, 0));
                own[at..at + width].fill(true);
            }
        }
        arena.iter().zip(own).position(|(x, own)| !own && *x != poison)
    }

    /// Prefix sums as the kernels read them, where the tensor is packed.
    pub fn cumulative(rooms: &Rooms) -> Option<Vec<i32>> {
        match rooms {
            Rooms::Packed(starts) => Some(starts.iter().map(|start| *start as i32).collect()),
            _ => None,
        }
    }

    /// Lengths in use as the kernels read them.
    pub fn in_use(lengths: Option<&Lengths>) -> Option<Vec<i32>> {
        lengths.map(|lengths| lengths.values().iter().map(|length| *length as i32).collect())
    }
}

/// A tensor in a buffer of its own, with guards before and after it.
fn near(layout: Layout, dims: Dims) -> (View, Arena) {
    let view = layout.view(GUARD, dims, false);
    (view, Arena::whole(view.end() + GUARD))
}

/// Pages so far apart that their offsets pass 32 bits, a whole number of rows.
fn far(dims: Dims) -> (View, Arena) {
    let view = Layout::Bshd.view(0, dims, false);
    let stride = ((1 << 30) / view.seq + 1) * view.seq;
    (view, Arena { chunk: view.batch, chunks: dims.batch, stride })
}

#[cfg(test)]
mod tests;
