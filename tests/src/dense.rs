//! Tensors as plain arrays, the form in which the oracle reads and the comparisons compare.

/// Sizes of a tensor, in the order of the project's convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Batch entries.
    pub batch: usize,
    /// Rows: queries or keys.
    pub seq: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a row.
    pub width: usize,
}

impl Dims {
    /// Elements in all.
    pub fn len(&self) -> usize {
        self.batch * self.seq * self.heads * self.width
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tensor in memory order (batch, heads, seq, width), so that one head's rows are one slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense<T> {
    /// Sizes.
    pub dims: Dims,
    /// Elements, `dims.len()` of them.
    pub data: Vec<T>,
}

impl<T: Copy> Dense<T> {
    /// A tensor with every element `value`.
    pub fn filled(dims: Dims, value: T) -> Self {
        Dense { dims, data: vec![value; dims.len()] }
    }

    /// A tensor whose elements are `f(batch, seq, head, column)`.
    pub fn from_fn(dims: Dims, mut f: impl FnMut(usize, usize, usize, usize) -> T) -> Self {
        let mut data = Vec::with_capacity(dims.len());
        for b in 0..dims.batch {
            for h in 0..dims.heads {
                for s in 0..dims.seq {
                    data.extend((0..dims.width).map(|c| f(b, s, h, c)));
                }
            }
        }
        Dense { dims, data }
    }

    /// Index in `data` of row `seq` of a head.
    pub fn row_start(&self, batch: usize, head: usize, seq: usize) -> usize {
        ((batch * self.dims.heads + head) * self.dims.seq + seq) * self.dims.width
    }

    /// All rows of one head.
    pub fn head(&self, batch: usize, head: usize) -> &[T] {
        let start = self.row_start(batch, head, 0);
        &self.data[start..start + self.dims.seq * self.dims.width]
    }

    /// One row.
    pub fn row(&self, batch: usize, head: usize, seq: usize) -> &[T] {
        let start = self.row_start(batch, head, seq);
        &self.data[start..start + self.dims.width]
    }

    /// `(batch, seq, head, column)` of an index into `data`, for messages.
    pub fn position(&self, index: usize) -> (usize, usize, usize, usize) {
        let Dims { seq, heads, width, .. } = self.dims;
        let (row, column) = (index / width, index % width);
        let (head, s) = (row / seq, row % seq);
        (head / heads, s, head % heads, column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_rows_agree() {
        let dims = Dims { batch: 2, seq: 3, heads: 4, width: 5 };
        let t = Dense::from_fn(dims, |b, s, h, c| (b, s, h, c));
        assert!(t.data.iter().enumerate().all(|(i, at)| t.position(i) == *at));
        assert_eq!(t.row(1, 2, 1)[3], (1, 1, 2, 3));
        assert_eq!(t.head(1, 3).len(), 15);
    }
}
