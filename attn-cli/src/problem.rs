//! A problem with all that the launch side is told of it, and the lengths and pages that only a launch sees.

use attn_host::{Alibi, Arrays, Descales, Float8, Mask, PagedKv, Problem, Shape, Splits};
use attn_tests::precision::Precision;

/// What a problem is, without tensors.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Format of O, and of Q, K and V unless `float8` says otherwise.
    pub dtype: Precision,
    /// Sizes; sequences' lengths are the longest there may be.
    pub shape: Shape,
    /// Queries of all sequences, where they are packed.
    pub packed_q: Option<u64>,
    /// Keys of all sequences, where they are packed.
    pub packed_k: Option<u64>,
    /// Pages of K and V.
    pub paged: Option<PagedKv>,
    /// Which keys a query sees.
    pub mask: Mask,
    /// Factor on the scores, where it is not `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Softcap on the scores.
    pub softcap: Option<f32>,
    /// Slopes.
    pub alibi: Option<Alibi>,
    /// Whether keys are split; dense problems without this are for the dense kernels.
    pub splits: Option<Splits>,
    /// What is of 8 bits.
    pub float8: Float8,
    /// Factors of that.
    pub descales: Option<Descales>,
    /// The one kernel to use.
    pub kernel: Option<String>,
}

/// A sequence's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// First row of Q, counted over all sequences.
    pub q_start: usize,
    /// Queries in use.
    pub queries: usize,
    /// Keys in use.
    pub keys: usize,
}

impl Spec {
    /// A dense problem without anything special.
    pub fn dense(dtype: Precision, shape: Shape) -> Self {
        Spec {
            dtype,
            shape,
            packed_q: None,
            packed_k: None,
            paged: None,
            mask: Mask::None,
            scale: None,
            softcap: None,
            alibi: None,
            splits: None,
            float8: Float8::None,
            descales: None,
            kernel: None,
        }
    }

    /// The factor on the scores.
    pub fn scale(&self) -> f32 {
        self.scale.unwrap_or((1.0 / (self.shape.head_dim as f64).sqrt()) as f32)
    }

    /// The launch side's words for it, with the arrays that there are.
    pub fn problem(&self, arrays: &Arrays) -> Problem {
        let mut problem = Problem::new(self.dtype.dtype(), self.shape).mask(self.mask).scale(self.scale());
        if let Some(total) = self.packed_q {
            problem = problem.packed_q(total);
        }
        if let Some(total) = self.packed_k {
            problem = problem.packed_k(total);
        }
        if arrays.seqused_q.is_some() {
            problem = problem.seqused_q();
        }
        if arrays.seqused_k.is_some() {
            problem = problem.seqused_k();
        }
        if let Some(paged) = self.paged {
            problem = problem.paged(paged);
        }
        if let Some(softcap) = self.softcap {
            problem = problem.softcap(softcap);
        }
        if arrays.sinks.is_some() {
            problem = problem.sinks();
        }
        if let Some(alibi) = self.alibi {
            problem = problem.alibi(alibi);
        }
        if let Some(splits) = self.splits {
            problem = problem.splits(splits);
        }
        if let Some(descales) = self.descales {
            problem = problem.descales(descales);
        }
        problem.float8(self.float8)
    }

    /// The sequences, by lengths that have been checked.
    pub fn sequences(&self, arrays: &Arrays) -> Vec<Sequence> {
        let Shape { batch, seqlen_q, seqlen_k, .. } = self.shape;
        let room = |sums: Option<&Vec<i32>>, b: usize, most: u64| match sums {
            Some(sums) => (sums[b] as usize, (sums[b + 1] - sums[b]) as usize),
            None => (b * most as usize, most as usize),
        };
        let used =
            |used: Option<&Vec<i32>>, b: usize, room: usize| used.map_or(room, |used| room.min(used[b] as usize));
        (0..batch as usize)
            .map(|b| {
                let (q_start, q_room) = room(arrays.cu_seqlens_q.as_ref(), b, seqlen_q);
                let (_, k_room) = room(arrays.cu_seqlens_k.as_ref(), b, seqlen_k);
                Sequence {
                    q_start,
                    queries: used(arrays.seqused_q.as_ref(), b, q_room),
                    keys: used(arrays.seqused_k.as_ref(), b, k_room),
                }
            })
            .collect()
    }

    /// The row of K and V, counted over all sequences or pages, that holds a key.
    pub fn key_row(&self, arrays: &Arrays, sequence: usize, key: usize) -> usize {
        match (self.paged, &arrays.page_table, &arrays.cu_seqlens_k) {
            (Some(PagedKv { page_size, table_width, .. }), Some(table), _) => {
                let (size, width) = (page_size as usize, table_width as usize);
                table[sequence * width + key / size] as usize * size + key % size
            }
            (_, _, Some(sums)) => sums[sequence] as usize + key,
            _ => sequence * self.shape.seqlen_k as usize + key,
        }
    }

    /// Rows of Q and O, then of K and V.
    pub fn rows(&self) -> (u64, u64) {
        let Shape { batch, seqlen_q, seqlen_k, .. } = self.shape;
        let keys = match (self.paged, self.packed_k) {
            (Some(paged), _) => paged.pages.saturating_mul(paged.page_size),
            (None, Some(total)) => total,
            (None, None) => batch.saturating_mul(seqlen_k),
        };
        (self.packed_q.unwrap_or(batch.saturating_mul(seqlen_q)), keys)
    }

    /// Bytes of an element of Q, and of K and V.
    pub fn element_bytes(&self) -> (u64, u64) {
        match self.float8 {
            Float8::None => (2, 2),
            Float8::Keys => (2, 1),
            Float8::All => (1, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let shape = Shape { batch: 2, seqlen_q: 5, seqlen_k: 40, heads: 4, kv_heads: 2, head_dim: 64, head_dim_v: 32 };
        Spec::dense(Precision::Bf16, shape)
    }

    #[test]
    fn sequences_are_where_the_sums_say() {
        let arrays = Arrays {
            cu_seqlens_q: Some(vec![0, 3, 8]),
            cu_seqlens_k: Some(vec![0, 30, 70]),
            seqused_k: Some(vec![9, 50]),
            ..Arrays::default()
        };
        let spec = Spec { packed_q: Some(8), packed_k: Some(70), ..spec() };
        let sequence = |q_start, queries, keys| Sequence { q_start, queries, keys };
        assert_eq!(spec.sequences(&arrays), [sequence(0, 3, 9), sequence(3, 5, 40)]);
        assert_eq!((spec.key_row(&arrays, 1, 2), spec.rows()), (32, (8, 70)));
        let found = arrays.check(&spec.problem(&arrays)).expect_err("more than its room").to_string();
        assert!(found.starts_with("seqused_k[1] is 50; allowed: 0 to 40"), "{found}");
    }

    #[test]
    fn keys_are_on_their_pages() {
        let paged = PagedKv { page_size: 16, pages: 9, table_width: 3 };
        let arrays = Arrays { page_table: Some(vec![8, 0, 1, 2, 3, 4]), ..Arrays::default() };
        let spec = Spec { paged: Some(paged), ..spec() };
        assert_eq!((spec.key_row(&arrays, 0, 3), spec.key_row(&arrays, 1, 17)), (131, 49));
        assert!(arrays.check(&spec.problem(&arrays)).is_ok());
        let arrays = Arrays { page_table: Some(vec![8, 0, 9, 2, 3, 4]), ..Arrays::default() };
        let found = arrays.check(&spec.problem(&arrays)).expect_err("there is no page 9").to_string();
        assert!(found.starts_with("page_table[2] is 9"), "{found}");
    }
}
