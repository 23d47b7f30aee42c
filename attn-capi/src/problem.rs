//! A problem as C fills it.

use std::mem;

use attn_host::{DType, Mask, Shape};

use crate::pointers::write;
use crate::status::{Failure, Status, guarded};

/// Q, K, V and O are bfloat16.
pub const ATTN_DTYPE_BF16: u32 = 0;
/// Q, K, V and O are IEEE half precision.
pub const ATTN_DTYPE_F16: u32 = 1;

/// Every query sees every key.
pub const ATTN_MASK_NONE: u32 = 0;
/// Bottom-right aligned: query i sees keys j <= i + seqlen_k - seqlen_q. A query without a key gets zeros.
pub const ATTN_MASK_CAUSAL: u32 = 1;
/// From window_left keys before a query's own position to window_right after it, both of attn_serving.
pub const ATTN_MASK_WINDOW: u32 = 2;

/// Elements from one batch entry, sequence position or head to the next; multiples of 8. The last dimension is contiguous.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// From one batch entry to the next.
    pub batch: i64,
    /// From one sequence position to the next.
    pub seq: i64,
    /// From one head to the next.
    pub head: i64,
}

/// O = softmax(scale * Q K^T + mask) V, and its LSE. attn_problem_init fills all of it.
///
/// Q is (batch, seqlen_q, heads, head_dim), K (batch, seqlen_k, kv_heads, head_dim), V (batch, seqlen_k, kv_heads,
/// head_dim_v), O (batch, seqlen_q, heads, head_dim_v), LSE (batch, heads, seqlen_q).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Problem {
    /// sizeof(attn_problem).
    pub struct_size: usize,
    /// ATTN_DTYPE_*.
    pub dtype: u32,
    /// ATTN_MASK_*.
    pub mask: u32,
    /// The factor on Q K^T: finite and above zero.
    pub scale: f32,
    /// Zero; keeps what follows aligned.
    pub reserved: u32,
    /// Independent sequences.
    pub batch: u64,
    /// Queries of each.
    pub seqlen_q: u64,
    /// Keys and values of each.
    pub seqlen_k: u64,
    /// Query heads, a multiple of kv_heads.
    pub heads: u64,
    /// Key/value heads; each serves heads / kv_heads neighbouring query heads.
    pub kv_heads: u64,
    /// Elements of a query or key: a multiple of 8 up to 256.
    pub head_dim: u64,
    /// Elements of a value or output row: a multiple of 8 up to 256.
    pub head_dim_v: u64,
    /// Strides of Q; zero repeats the same data.
    pub q: Strides,
    /// Strides of K; zero repeats the same data.
    pub k: Strides,
    /// Strides of V; zero repeats the same data.
    pub v: Strides,
    /// Strides of O.
    pub o: Strides,
    /// f32 elements from one batch entry's LSE to the next.
    pub lse_batch_stride: i64,
    /// f32 elements from one head's LSE to the next. Queries are contiguous.
    pub lse_head_stride: i64,
}

impl From<attn_host::Strides> for Strides {
    fn from(attn_host::Strides { batch, seq, head }: attn_host::Strides) -> Self {
        Strides { batch, seq, head }
    }
}

impl From<Strides> for attn_host::Strides {
    fn from(Strides { batch, seq, head }: Strides) -> Self {
        attn_host::Strides { batch, seq, head }
    }
}

impl Problem {
    /// A problem on contiguous tensors without a mask, scaled by `1 / sqrt(head_dim)`.
    pub(crate) fn contiguous(dtype: u32, shape: Shape) -> Self {
        let Shape { batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v } = shape;
        let strides = |seq, heads, dim| attn_host::Strides::contiguous(seq, heads, dim).into();
        let lse = attn_host::Strides::contiguous(heads, 1, seqlen_q);
        Problem {
            struct_size: mem::size_of::<Problem>(),
            dtype,
            mask: ATTN_MASK_NONE,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            reserved: 0,
            batch,
            seqlen_q,
            seqlen_k,
            heads,
            kv_heads,
            head_dim,
            head_dim_v,
            q: strides(seqlen_q, heads, head_dim),
            k: strides(seqlen_k, kv_heads, head_dim),
            v: strides(seqlen_k, kv_heads, head_dim_v),
            o: strides(seqlen_q, heads, head_dim_v),
            lse_batch_stride: lse.batch,
            lse_head_stride: lse.head,
        }
    }

    /// The same for attn-host, which checks sizes, strides and scale.
    pub(crate) fn to_host(self) -> Result<attn_host::Problem, Failure> {
        self.with_window(None)
    }

    /// The same with the window that `ATTN_MASK_WINDOW` stands for.
    pub(crate) fn with_window(self, window: Option<Mask>) -> Result<attn_host::Problem, Failure> {
        let Problem { batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v, .. } = self;
        let shape = Shape { batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v };
        if self.reserved != 0 {
            return Err(Failure::problem(format!("reserved is {}; allowed: 0", self.reserved)));
        }
        Ok(attn_host::Problem::new(dtype(self.dtype)?, shape)
            .mask(mask(self.mask, window)?)
            .scale(self.scale)
            .strides_q(self.q.into())
            .strides_k(self.k.into())
            .strides_v(self.v.into())
            .strides_o(self.o.into())
            .lse_strides(self.lse_batch_stride, self.lse_head_stride))
    }
}

pub(crate) fn dtype(code: u32) -> Result<DType, Failure> {
    match code {
        ATTN_DTYPE_BF16 => Ok(DType::Bf16),
        ATTN_DTYPE_F16 => Ok(DType::F16),
        _ => Err(Failure::problem(format!("dtype is {code}; allowed: ATTN_DTYPE_BF16 (0), ATTN_DTYPE_F16 (1)"))),
    }
}

fn mask(code: u32, window: Option<Mask>) -> Result<Mask, Failure> {
    match (code, window) {
        (ATTN_MASK_NONE, _) => Ok(Mask::None),
        (ATTN_MASK_CAUSAL, _) => Ok(Mask::Causal),
        (ATTN_MASK_WINDOW, Some(window)) => Ok(window),
        (ATTN_MASK_WINDOW, None) => Err(Failure::problem(
            "mask is ATTN_MASK_WINDOW (2); allowed: with an attn_serving, which has the window".to_owned(),
        )),
        _ => Err(Failure::problem(format!(
            "mask is {code}; allowed: ATTN_MASK_NONE (0), ATTN_MASK_CAUSAL (1), ATTN_MASK_WINDOW (2)"
        ))),
    }
}

/// Fills a problem: contiguous tensors, no mask, scale 1 / sqrt(head_dim). Nothing is checked before a plan is made.
///
/// # Safety
/// `problem` is null or a place for an `attn_problem`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_problem_init(
    problem: *mut Problem,
    dtype: u32,
    batch: u64,
    seqlen_q: u64,
    seqlen_k: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    head_dim_v: u64,
) -> Status {
    guarded(|| {
        let shape = Shape { batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v };
        // SAFETY: as the caller promises.
        unsafe { write("problem", problem, Problem::contiguous(dtype, shape)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_what_other_languages_declare() {
        assert_eq!(mem::size_of::<Problem>(), 8 + 16 + 7 * 8 + 4 * 24 + 16);
        assert_eq!(mem::offset_of!(Problem, batch), 24);
        assert_eq!(mem::offset_of!(Problem, q), 80);
        assert_eq!(mem::offset_of!(Problem, lse_batch_stride), 176);
    }

    #[test]
    fn a_contiguous_problem_is_attn_hosts() {
        let shape = Shape { batch: 2, seqlen_q: 5, seqlen_k: 7, heads: 4, kv_heads: 2, head_dim: 64, head_dim_v: 32 };
        let problem = Problem::contiguous(ATTN_DTYPE_F16, shape).to_host().expect("possible");
        let rows = attn_host::Strides::contiguous;
        let expected = attn_host::Problem::new(DType::F16, shape)
            .strides_q(rows(5, 4, 64))
            .strides_k(rows(7, 2, 64))
            .strides_v(rows(7, 2, 32))
            .strides_o(rows(5, 4, 32))
            .lse_strides(4 * 5, 5);
        assert_eq!(problem, expected);
    }

    #[test]
    fn unknown_codes_are_refused() {
        let shape = Shape { batch: 1, seqlen_q: 1, seqlen_k: 1, heads: 1, kv_heads: 1, head_dim: 8, head_dim_v: 8 };
        let fine = Problem::contiguous(ATTN_DTYPE_BF16, shape);
        assert!(fine.to_host().is_ok());
        for wrong in [
            Problem { dtype: 2, ..fine },
            Problem { mask: 7, ..fine },
            Problem { mask: 2, ..fine },
            Problem { reserved: 1, ..fine },
        ] {
            assert!(wrong.to_host().is_err(), "{wrong:?}");
        }
    }
}
