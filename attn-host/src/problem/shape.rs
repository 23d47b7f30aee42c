//! Sizes and strides.

use std::fmt;

/// Sizes of a problem. In a dense one Q is `(batch, seqlen_q, heads, head_dim)`, K `(batch, seqlen_k, kv_heads, head_dim)`,
/// V `(batch, seqlen_k, kv_heads, head_dim_v)`, O `(batch, seqlen_q, heads, head_dim_v)`, LSE `(batch, heads, seqlen_q)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Independent sequences.
    pub batch: u64,
    /// Queries of each, or of the longest one that there may be.
    pub seqlen_q: u64,
    /// Keys and values of each, or of the longest one that there may be.
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
