//! What is to be computed: shape, element type, mask, scale and strides.

use std::fmt;

pub(crate) use attn_kernel::forward::DType;

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mask {
    /// Every key.
    #[default]
    None,
    /// Bottom-right aligned causal: query `i` sees keys `j <= i + seqlen_k - seqlen_q`. A query that sees no key gets
    /// zeros and an LSE of minus infinity.
    Causal,
}

impl Mask {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mask::None => "no mask",
            Mask::Causal => "a causal mask",
        }
    }
}

/// Sizes of a dense problem. Q is `(batch, seqlen_q, heads, head_dim)`, K `(batch, seqlen_k, kv_heads, head_dim)`,
/// V `(batch, seqlen_k, kv_heads, head_dim_v)`, O `(batch, seqlen_q, heads, head_dim_v)`, LSE `(batch, heads, seqlen_q)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Independent sequences.
    pub batch: u64,
    /// Queries of each.
    pub seqlen_q: u64,
    /// Keys and values of each.
    pub seqlen_k: u64,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: u64,
    /// Key/value heads; each serves `heads / kv_heads` neighbouring query heads.
    pub kv_heads: u64,
    /// Elements of a query or key.
    pub head_dim: u64,
    /// Elements of a value or output row.
    pub head_dim_v: u64,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v } = self;
        write!(f, "b={batch} sq={seqlen_q} sk={seqlen_k} h={heads} hkv={kv_heads} d={head_dim} dv={head_dim_v}")
    }
}

/// Elements from one batch entry, sequence position or head to the next. The last dimension is contiguous.
///
/// A stride of zero repeats the same data (inputs only). The stride of a dimension of size 1 is never used and may be
/// anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    /// From one batch entry to the next.
    pub batch: i64,
    /// From one sequence position to the next.
    pub seq: i64,
    /// From one head to the next.
    pub head: i64,
}

impl Strides {
    /// Strides of a contiguous `(batch, seq, heads, dim)` tensor. Saturates where the product leaves `i64`; such a
    /// stride is refused when the problem is planned.
    pub fn contiguous(seq: u64, heads: u64, dim: u64) -> Self {
        let clamp = |x: u64| i64::try_from(x).unwrap_or(i64::MAX);
        let row = heads.saturating_mul(dim);
        Strides { batch: clamp(seq.saturating_mul(row)), seq: clamp(row), head: clamp(dim) }
    }
}

/// A dense forward problem: `O = softmax(scale * Q K^T + mask) V` and its LSE.
///
/// Nothing is checked before [`Plan::new`](crate::Plan::new).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    pub(crate) mask: Mask,
    pub(crate) scale: f32,
    pub(crate) q: Strides,
    pub(crate) k: Strides,
    pub(crate) v: Strides,
    pub(crate) o: Strides,
    pub(crate) lse: (i64, i64),
}

impl Problem {
    /// A problem on contiguous tensors, without a mask, with the scale `1 / sqrt(head_dim)`.
    pub fn new(dtype: DType, shape: Shape) -> Self {
        let Shape { seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v, .. } = shape;
        let lse = Strides::contiguous(heads, 1, seqlen_q);
        Problem {
            dtype,
            shape,
            mask: Mask::None,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            q: Strides::contiguous(seqlen_q, heads, head_dim),
            k: Strides::contiguous(seqlen_k, kv_heads, head_dim),
            v: Strides::contiguous(seqlen_k, kv_heads, head_dim_v),
            o: Strides::contiguous(seqlen_q, heads, head_dim_v),
            lse: (lse.batch, lse.head),
        }
    }

    /// Sets the mask.
    pub fn mask(self, mask: Mask) -> Self {
        Problem { mask, ..self }
    }

    /// Sets the factor on `Q K^T`: finite and above zero.
    pub fn scale(self, scale: f32) -> Self {
        Problem { scale, ..self }
    }

    /// Sets Q's strides: multiples of 8 elements, zero to repeat.
    pub fn strides_q(self, strides: Strides) -> Self {
        Problem { q: strides, ..self }
    }

    /// Sets K's strides: multiples of 8 elements, zero to repeat.
    pub fn strides_k(self, strides: Strides) -> Self {
        Problem { k: strides, ..self }
    }

    /// Sets V's strides: multiples of 8 elements, zero to repeat.
    pub fn strides_v(self, strides: Strides) -> Self {
        Problem { v: strides, ..self }
    }

    /// Sets O's strides: multiples of 8 elements, such that no two elements share memory.
    pub fn strides_o(self, strides: Strides) -> Self {
        Problem { o: strides, ..self }
    }

    /// Sets the f32 elements from one batch entry's, and from one head's, LSE to the next. Queries are contiguous.
    pub fn lse_strides(self, batch: i64, head: i64) -> Self {
        Problem { lse: (batch, head), ..self }
    }

    /// The element type of Q, K, V and O.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Query-key pairs of one head that the mask leaves visible.
    pub fn visible_pairs(&self) -> u128 {
        let (sq, sk) = (u128::from(self.shape.seqlen_q), u128::from(self.shape.seqlen_k));
        match self.mask {
            Mask::None => sq * sk,
            // Query i sees i + sk - sq + 1 keys where that is positive: the last min(sq, sk) queries see sk, sk - 1, ...
            Mask::Causal => {
                let rows = sq.min(sk);
                rows * sk - rows * rows.saturating_sub(1) / 2
            }
        }
    }

    /// Floating-point operations of the two matrix products: `2 b h (d + dv)` for every visible pair.
    pub fn flops(&self) -> f64 {
        let Shape { batch, heads, head_dim, head_dim_v, .. } = self.shape;
        2.0 * batch as f64 * heads as f64 * (head_dim as f64 + head_dim_v as f64) * self.visible_pairs() as f64
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {}, scale {}", dtype_name(self.dtype), self.shape, self.mask.name(), self.scale)
    }
}

pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::Bf16 => "bf16",
        DType::F16 => "f16",
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
    fn causal_pairs_equal_a_count_over_the_mask() {
        for (sq, sk) in [(1, 1), (5, 5), (3, 7), (7, 3), (1, 9), (9, 1)] {
            let counted = (0..sq).flat_map(|i| (0..sk).map(move |j| (i, j))).filter(|&(i, j)| j + sq <= i + sk).count();
            let problem = Problem::new(DType::Bf16, shape(sq, sk)).mask(Mask::Causal);
            assert_eq!(problem.visible_pairs(), counted as u128, "sq={sq} sk={sk}");
        }
    }

    #[test]
    fn flops_count_both_products() {
        let problem = Problem::new(DType::Bf16, shape(5, 7));
        assert_eq!(problem.flops(), 2.0 * 2.0 * 4.0 * (64.0 + 32.0) * 35.0);
    }

    #[test]
    fn default_strides_are_contiguous() {
        let problem = Problem::new(DType::F16, shape(5, 7));
        assert_eq!(problem.q, Strides { batch: 5 * 4 * 64, seq: 4 * 64, head: 64 });
        assert_eq!(problem.k, Strides { batch: 7 * 2 * 64, seq: 2 * 64, head: 64 });
        assert_eq!(problem.v, Strides { batch: 7 * 2 * 32, seq: 2 * 32, head: 32 });
        assert_eq!(problem.o, Strides { batch: 5 * 4 * 32, seq: 4 * 32, head: 32 });
        assert_eq!(problem.lse, (4 * 5, 5));
        assert_eq!(problem.scale, 0.125);
    }
}
