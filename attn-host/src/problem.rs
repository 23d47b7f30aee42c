//! What is to be computed: shape, element type, mask, scale and strides, and all that makes a problem more than a dense one.

use std::fmt;

pub(crate) use attn_kernel::forward::{DType, Float8};

pub use mask::Mask;
pub use serving::{Alibi, Descales, PagedKv, Splits};
pub(crate) use serving::{Serving, float8_name};
pub use shape::{Shape, Strides};

mod mask;
mod serving;
mod shape;

/// A forward problem: `O = softmax(scale * Q K^T + mask) V` and its LSE.
///
/// Nothing is checked before [`Plan::new`](crate::Plan::new). A problem is dense until it is told otherwise. What lies in device memory and
/// only a launch reads, lengths and page numbers above all, comes with the launch's [`Tensors`](crate::Tensors).
///
/// ```
/// use attn_host::{DType, Mask, Problem, Shape};
///
/// let shape = Shape { batch: 4, seqlen_q: 100, seqlen_k: 300, heads: 32, kv_heads: 8, head_dim: 128, head_dim_v: 128 };
/// let problem = Problem::new(DType::Bf16, shape).mask(Mask::Causal).seqused_k();
/// assert_eq!(problem.visible_pairs(), 100 * 200 + 100 * 101 / 2); // the first query stands at the 201st key
/// println!("{problem}, {:.1} GFLOP", problem.flops() / 1e9);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    pub(crate) mask: Mask,
    pub(crate) scale: f32,
    pub(crate) serving: Serving,
    q: Option<Strides>,
    k: Option<Strides>,
    v: Option<Strides>,
    o: Option<Strides>,
    lse: Option<(i64, i64)>,
}

impl Problem {
    /// A problem on contiguous tensors, without a mask, with the scale `1 / sqrt(head_dim)`.
    pub fn new(dtype: DType, shape: Shape) -> Self {
        Problem {
            dtype,
            shape,
            mask: Mask::None,
            scale: (1.0 / (shape.head_dim as f64).sqrt()) as f32,
            serving: Serving::default(),
            q: None,
            k: None,
            v: None,
            o: None,
            lse: None,
        }
    }

    /// Sets the mask.
    pub fn mask(self, mask: Mask) -> Self {
        Problem { mask, ..self }
    }

    /// Sets a window for the mask: [`Mask::Window`].
    pub fn window(self, left: Option<u64>, right: Option<u64>) -> Self {
        self.mask(Mask::Window { left, right })
    }

    /// Sets the factor on `Q K^T`: finite and above zero.
    pub fn scale(self, scale: f32) -> Self {
        Problem { scale, ..self }
    }

    /// The queries of all sequences lie one sequence after the other in `(total_q, heads, head_dim)`, O likewise in
    /// `(total_q, heads, head_dim_v)`, LSE in `(heads, total_q)`, and a launch has the prefix sums of their lengths in `cu_seqlens_q`,
    /// `i32[batch + 1]`. `seqlen_q` is then the longest; a sequence may be empty, and none is taken for longer than `seqlen_q`.
    pub fn packed_q(self, total_q: u64) -> Self {
        self.with(|serving| serving.packed_q = Some(total_q))
    }

    /// The same of the keys: K is `(total_k, kv_heads, head_dim)`, V `(total_k, kv_heads, head_dim_v)`, and a launch has `cu_seqlens_k`.
    pub fn packed_k(self, total_k: u64) -> Self {
        self.with(|serving| serving.packed_k = Some(total_k))
    }

    /// A launch says in `seqused_q`, `i32[batch]`, how many of each sequence's queries there are; O and LSE of the others are not written.
    pub fn seqused_q(self) -> Self {
        self.with(|serving| serving.seqused_q = true)
    }

    /// A launch says in `seqused_k`, `i32[batch]`, how many of each sequence's keys there are, in a cache say.
    pub fn seqused_k(self) -> Self {
        self.with(|serving| serving.seqused_k = true)
    }

    /// K and V lie in pages, and a launch has their numbers in `page_table`. The batch stride of K and V is then the page's.
    pub fn paged(self, paged: PagedKv) -> Self {
        self.with(|serving| serving.paged = Some(paged))
    }

    /// Scores become `softcap * tanh(score / softcap)`, after the scale: finite and above zero.
    pub fn softcap(self, softcap: f32) -> Self {
        self.with(|serving| serving.softcap = Some(softcap))
    }

    /// A launch has in `sinks`, `f32[heads]`, a logit for each query head that takes part in the softmax, unscaled, and has no value. It is
    /// part of the LSE.
    pub fn sinks(self) -> Self {
        self.with(|serving| serving.sinks = true)
    }

    /// A launch has slopes in `alibi_slopes`.
    pub fn alibi(self, alibi: Alibi) -> Self {
        self.with(|serving| serving.alibi = Some(alibi))
    }

    /// Whether to split the keys. Without this call a dense problem is computed by the dense kernels, which do not, and any other one as
    /// with [`Splits::Auto`].
    pub fn splits(self, splits: Splits) -> Self {
        self.with(|serving| serving.splits = Some(splits))
    }

    /// Which of Q, K and V are 8-bit floats (e4m3: up to 448, no infinity). O is always of the problem's type, and Q unless it is of 8 bits too.
    /// Strides of such tensors are multiples of 16 elements.
    pub fn float8(self, float8: Float8) -> Self {
        self.with(|serving| serving.float8 = float8)
    }

    /// A launch has factors of the 8-bit tensors, above zero, in `k_descale` and `v_descale`, and in `q_descale` where Q is of 8 bits: K's elements
    /// are meant times `k_descale`, and so on. Without this call all are 1.
    pub fn descales(self, descales: Descales) -> Self {
        self.with(|serving| serving.descales = Some(descales))
    }

    fn with(mut self, change: impl FnOnce(&mut Serving)) -> Self {
        change(&mut self.serving);
        self
    }

    /// Sets Q's strides: multiples of 8 elements (16 bytes), zero to repeat.
    pub fn strides_q(self, strides: Strides) -> Self {
        Problem { q: Some(strides), ..self }
    }

    /// Sets K's strides: multiples of 8 elements, zero to repeat.
    pub fn strides_k(self, strides: Strides) -> Self {
        Problem { k: Some(strides), ..self }
    }

    /// Sets V's strides: multiples of 8 elements, zero to repeat.
    pub fn strides_v(self, strides: Strides) -> Self {
        Problem { v: Some(strides), ..self }
    }

    /// Sets O's strides: multiples of 8 elements, such that no two elements share memory.
    pub fn strides_o(self, strides: Strides) -> Self {
        Problem { o: Some(strides), ..self }
    }

    /// Sets the f32 elements from one batch entry's, and from one head's, LSE to the next. Queries are contiguous.
    pub fn lse_strides(self, batch: i64, head: i64) -> Self {
        Problem { lse: Some((batch, head)), ..self }
    }

    /// Whether it is a problem for the dense kernels.
    pub(crate) fn is_dense(&self) -> bool {
        self.serving.beyond_dense().is_none() && matches!(self.mask.reach(), (None, None | Some(0)))
    }

    /// Sequences or pages of each tensor, and the rows of each: of Q and O, then of K and V.
    pub(crate) fn entries(&self) -> [(u64, u64); 2] {
        let Shape { batch, seqlen_q, seqlen_k, .. } = self.shape;
        let q = self.serving.packed_q.map_or((batch, seqlen_q), |total| (1, total));
        let k = match (self.serving.paged, self.serving.packed_k) {
            (Some(paged), _) => (paged.pages, paged.page_size),
            (None, Some(total)) => (1, total),
            (None, None) => (batch, seqlen_k),
        };
        [q, k]
    }

    /// The element types of Q, K, V and O.
    pub(crate) fn types(&self) -> [DType; 4] {
        let (narrow, wide) = (DType::E4m3, self.dtype);
        match self.serving.float8 {
            Float8::None => [wide; 4],
            Float8::Keys => [wide, narrow, narrow, wide],
            Float8::All => [narrow, narrow, narrow, wide],
        }
    }

    /// The strides of Q, K, V and O: those that were set, else contiguous ones.
    pub(crate) fn strides(&self) -> [Strides; 4] {
        let Shape { heads, kv_heads, head_dim, head_dim_v, .. } = self.shape;
        let [(_, queries), (_, keys)] = self.entries();
        [
            self.q.unwrap_or_else(|| Strides::contiguous(queries, heads, head_dim)),
            self.k.unwrap_or_else(|| Strides::contiguous(keys, kv_heads, head_dim)),
            self.v.unwrap_or_else(|| Strides::contiguous(keys, kv_heads, head_dim_v)),
            self.o.unwrap_or_else(|| Strides::contiguous(queries, heads, head_dim_v)),
        ]
    }

    /// Elements from one batch entry's LSE, and from one head's, to the next.
    pub(crate) fn strides_of_lse(&self) -> (i64, i64) {
        let [(_, queries), _] = self.entries();
        let contiguous = Strides::contiguous(self.shape.heads, 1, queries);
        self.lse.unwrap_or((contiguous.batch, contiguous.head))
    }

    /// The element type of O, and of Q, K and V unless they are of 8 bits.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Query-key pairs of one head of one sequence that the mask leaves visible, where the sequence is as long as it may be.
    pub fn visible_pairs(&self) -> u128 {
        self.mask.visible_pairs(self.shape.seqlen_q, self.shape.seqlen_k)
    }

    /// Floating-point operations of the two matrix products: `2 b h (d + dv)` for every visible pair. Where sequences have lengths of their
    /// own, an upper bound; [`Mask::visible_pairs`] counts a sequence's.
    pub fn flops(&self) -> f64 {
        let Shape { batch, heads, head_dim, head_dim_v, .. } = self.shape;
        2.0 * batch as f64 * heads as f64 * (head_dim as f64 + head_dim_v as f64) * self.visible_pairs() as f64
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { shape, mask, scale, serving, .. } = self;
        write!(f, "{} {shape}, {mask}, scale {scale}{serving}", dtype_name(self.dtype))
    }
}

pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::Bf16 => "bf16",
        DType::F16 => "f16",
        DType::E4m3 => "e4m3",
        _ => "another type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(seqlen_q: u64, seqlen_k: u64) -> Shape {
        Shape { batch: 2, seqlen_q, seqlen_k, heads: 4, kv_heads: 2, head_dim: 64, head_dim_v: 32 }
    }

    #[test]
    fn flops_count_both_products() {
        let problem = Problem::new(DType::Bf16, shape(5, 7));
        assert_eq!(problem.flops(), 2.0 * 2.0 * 4.0 * (64.0 + 32.0) * 35.0);
    }

    #[test]
    fn default_strides_are_contiguous() {
        let problem = Problem::new(DType::F16, shape(5, 7));
        let [q, k, v, o] = problem.strides();
        assert_eq!(q, Strides { batch: 5 * 4 * 64, seq: 4 * 64, head: 64 });
        assert_eq!(k, Strides { batch: 7 * 2 * 64, seq: 2 * 64, head: 64 });
        assert_eq!(v, Strides { batch: 7 * 2 * 32, seq: 2 * 32, head: 32 });
        assert_eq!(o, Strides { batch: 5 * 4 * 32, seq: 4 * 32, head: 32 });
        assert_eq!(problem.strides_of_lse(), (4 * 5, 5));
        assert_eq!(problem.scale, 0.125);
    }
    #[test]
    fn packed_and_paged_tensors_are_contiguous_in_their_own_rows() {
        let paged = PagedKv { page_size: 16, pages: 9, table_width: 3 };
        let problem = Problem::new(DType::F16, shape(5, 7)).paged(paged).packed_q(6);
        assert_eq!(problem.entries(), [(1, 6), (9, 16)]);
        assert_eq!(problem.strides()[1], Strides { batch: 16 * 2 * 64, seq: 2 * 64, head: 64 });
        assert_eq!(problem.strides_of_lse(), (4 * 6, 6));
        let packed = Problem::new(DType::F16, shape(5, 7)).packed_k(11);
        assert_eq!(packed.entries(), [(2, 5), (1, 11)]);
        let own = Strides { batch: 1, seq: 2, head: 3 };
        assert_eq!(packed.strides_v(own).strides()[2], own);
    }

    #[test]
    fn a_problem_prints_what_it_is() {
        let plain = Problem::new(DType::Bf16, shape(5, 7)).to_string();
        assert_eq!(plain, "bf16 b=2 sq=5 sk=7 h=4 hkv=2 d=64 dv=32, no mask, scale 0.125");
        let all = Problem::new(DType::Bf16, shape(5, 7))
            .window(Some(3), Some(0))
            .packed_q(6)
            .paged(PagedKv { page_size: 16, pages: 9, table_width: 3 })
            .seqused_k()
            .softcap(30.0)
            .sinks()
            .alibi(Alibi::PerHead)
            .to_string();
        assert!(
            all.ends_with(
                "a window of 3 keys before and 0 after, scale 0.125, 6 packed queries, 9 pages of 16 keys, \
                 seqused_k, sinks, softcap 30, alibi"
            ),
            "{all}"
        );
    }
}
