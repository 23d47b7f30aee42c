//! Checks a problem's sizes and strides, before anything is chosen, loaded or launched.

use attn_kernel::forward::DType;

use crate::error::Error;
use crate::problem::{Problem, Shape, Strides};

pub(crate) use serving::{check_lengths, check_pages};

mod serving;

/// Coordinates of a tensor map are signed 32-bit.
pub(crate) const MAX_COUNT: u64 = i32::MAX as u64;
/// Leaves room for a whole tile past the last row in signed 32-bit arithmetic.
pub(crate) const MAX_SEQLEN: u64 = (1 << 31) - 1024;
/// The largest head dimension that any kernel holds.
pub(crate) const MAX_HEAD_DIM: u64 = 256;
/// Strides of a tensor map are multiples of this many bytes ...
const STRIDE_UNIT: u64 = 16;
/// ... and below this many.
const STRIDE_LIMIT: u64 = 1 << 40;

/// A checked tensor `(batch, heads, seq, dim)` in elements, innermost dimension first. Packed sequences are one batch entry, pages are
/// batch entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `dim, seq, heads, batch`.
    pub(crate) dims: [u64; 4],
    /// Strides of `seq, heads, batch`; a dimension of size 1 has a valid stride whatever the caller gave.
    pub(crate) strides: [u64; 3],
    /// Elements from the first to one past the last.
    pub(crate) span: u64,
}

/// The checked tensors of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layouts {
    pub(crate) q: Layout,
    pub(crate) k: Layout,
    pub(crate) v: Layout,
    pub(crate) o: Layout,
    /// Dimensions `queries, heads, batch, 1`; the first stride is the head's.
    pub(crate) lse: Layout,
}

impl Layouts {
    pub(crate) fn of(problem: &Problem) -> Result<Self, Error> {
        check_sizes(&problem.shape)?;
        check_scale(problem.scale)?;
        serving::check(problem)?;
        let Shape { heads, kv_heads, head_dim, head_dim_v, .. } = problem.shape;
        let [(q_entries, queries), (k_entries, keys)] = problem.entries();
        let entry = if problem.serving.paged.is_some() { "page" } else { "batch" };
        let rows = |argument, dims, strides: Strides, entry| Tensor {
            argument,
            dims,
            strides: [strides.seq, strides.head, strides.batch],
            names: ["seq", "head", entry],
        };
        let [q, k, v, o] = problem.strides();
        let types = problem.types();
        let q = rows("q", [head_dim, queries, heads, q_entries], q, "batch").for_tensor_map(types[0])?;
        let k = rows("k", [head_dim, keys, kv_heads, k_entries], k, entry).for_tensor_map(types[1])?;
        let v = rows("v", [head_dim_v, keys, kv_heads, k_entries], v, entry).for_tensor_map(types[2])?;
        let output = rows("o", [head_dim_v, queries, heads, q_entries], o, "batch");
        let o = output.for_tensor_map(types[3])?;
        output.without_overlap()?;
        let (batch_stride, head_stride) = problem.strides_of_lse();
        let lse = Tensor {
            argument: "lse",
            dims: [queries, heads, q_entries, 1],
            strides: [head_stride, batch_stride, 0],
            names: ["head", "batch", "none"],
        };
        let layouts = Layouts { q, k, v, o, lse: lse.checked(1, 4)? };
        lse.without_overlap()?;
        Ok(layouts)
    }
}

fn check_sizes(shape: &Shape) -> Result<(), Error> {
    let Shape { batch, seqlen_q, seqlen_k, heads, kv_heads, head_dim, head_dim_v } = *shape;
    for (argument, value) in [("batch", batch), ("heads", heads), ("kv_heads", kv_heads)] {
        if value == 0 || value > MAX_COUNT {
            return Err(Error::Size { argument, value, allowed: "1 to 2147483647" });
        }
    }
    for (argument, value) in [("seqlen_q", seqlen_q), ("seqlen_k", seqlen_k)] {
        if value == 0 || value > MAX_SEQLEN {
            return Err(Error::Size { argument, value, allowed: "1 to 2147482624" });
        }
    }
    for (argument, value) in [("head_dim", head_dim), ("head_dim_v", head_dim_v)] {
        if value == 0 || value % 8 != 0 || value > MAX_HEAD_DIM {
            return Err(Error::Size { argument, value, allowed: "a multiple of 8 from 8 to 256" });
        }
    }
    if heads % kv_heads != 0 {
        return Err(Error::HeadGroups { heads, kv_heads });
    }
    Ok(())
}

fn check_scale(scale: f32) -> Result<(), Error> {
    if scale > 0.0 && (scale * std::f32::consts::LOG2_E).is_finite() {
        return Ok(());
    }
    Err(Error::Scale { value: scale, allowed: "above 0 and finite, also when multiplied by log2(e)" })
}

/// What the caller said of one tensor.
#[derive(Clone, Copy)]
pub(crate) struct Tensor {
    pub(crate) argument: &'static str,
    /// `dim, seq, heads, batch`.
    pub(crate) dims: [u64; 4],
    /// Of `seq, heads, batch`.
    pub(crate) strides: [i64; 3],
    pub(crate) names: [&'static str; 3],
}

impl Tensor {
    /// Checks the strides of a tensor of 16-bit elements: whole vectors of 16 bytes.
    pub(crate) fn for_tensor_map(&self, dtype: DType) -> Result<Layout, Error> {
        let bytes = u64::from(dtype.bytes());
        self.checked(STRIDE_UNIT / bytes, bytes)
    }

    /// Checks the strides: multiples of `unit` elements of `bytes` bytes each, a span that fits an address.
    fn checked(&self, unit: u64, bytes: u64) -> Result<Layout, Error> {
        let mut strides = [self.dims[0]; 3];
        let mut span = self.dims[0];
        for (i, stride) in strides.iter_mut().enumerate() {
            let size = self.dims[i + 1];
            if size == 1 {
                continue;
            }
            *stride = self.stride(i, unit, bytes)?;
            span = (size - 1)
                .checked_mul(*stride)
                .and_then(|reach| reach.checked_add(span))
                .filter(|span| span.checked_mul(bytes).is_some_and(|b| b <= i64::MAX as u64))
                .ok_or(Error::Overflow {
                    argument: self.argument,
                    what: "the memory span",
                    allowed: "at most 2^63 - 1 bytes",
                })?;
        }
        Ok(Layout { dims: self.dims, strides, span })
    }

    fn stride(&self, i: usize, unit: u64, bytes: u64) -> Result<u64, Error> {
        let (value, dimension) = (self.strides[i], self.names[i]);
        let refuse = |allowed| Err(Error::Stride { argument: self.argument, dimension, value, allowed });
        match u64::try_from(value) {
            Err(_) => refuse("zero or positive"),
            Ok(stride) if stride % unit != 0 && bytes == 1 => refuse("a multiple of 16 elements (16 bytes)"),
            Ok(stride) if stride % unit != 0 => refuse("a multiple of 8 elements (16 bytes)"),
            Ok(stride) if stride >= STRIDE_LIMIT / bytes => refuse("below 2^40 bytes"),
            Ok(stride) => Ok(stride),
        }
    }

    /// Refuses strides by which two elements share memory. Exact for nested layouts, in any order of dimensions; strides
    /// that interleave without meeting are refused too.
    pub(crate) fn without_overlap(&self) -> Result<(), Error> {
        let mut order: Vec<usize> = (0..3).filter(|&i| self.dims[i + 1] > 1).collect();
        order.sort_by_key(|&i| self.strides[i]);
        let mut reach = self.dims[0];
        for i in order {
            let value = self.strides[i];
            if value.unsigned_abs() < reach {
                return Err(Error::Overlap {
                    argument: self.argument,
                    dimension: self.names[i],
                    value,
                    allowed: reach,
                });
            }
            reach += (self.dims[i + 1] - 1) * value.unsigned_abs();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Mask;
    use attn_kernel::forward::KERNELS;

    const SHAPE: Shape =
        Shape { batch: 2, seqlen_q: 100, seqlen_k: 200, heads: 8, kv_heads: 2, head_dim: 64, head_dim_v: 32 };

    fn problem(shape: Shape) -> Problem {
        Problem::new(DType::Bf16, shape).mask(Mask::Causal)
    }

    fn error_of(problem: Problem) -> Error {
        Layouts::of(&problem).expect_err("must be refused")
    }

    fn size_of_error(shape: Shape) -> (&'static str, u64) {
        match error_of(problem(shape)) {
            Error::Size { argument, value, .. } => (argument, value),
            other => panic!("not about a size: {other}"),
        }
    }

    #[test]
    fn the_largest_head_dim_is_that_of_the_kernels() {
        let largest = KERNELS.iter().flat_map(|k| [k.launch.d, k.launch.dv]).max();
        assert_eq!(largest.map(u64::from), Some(MAX_HEAD_DIM));
    }

    #[test]
    fn contiguous_tensors_pass_with_their_strides() {
        let layouts = Layouts::of(&problem(SHAPE)).expect("valid");
        assert_eq!(layouts.q.dims, [64, 100, 8, 2]);
        assert_eq!(layouts.q.strides, [8 * 64, 64, 100 * 8 * 64]);
        assert_eq!(layouts.q.span, 2 * 100 * 8 * 64);
        assert_eq!(layouts.v.span, 2 * 200 * 2 * 32);
        assert_eq!(layouts.lse.strides[..2], [100, 800]);
        assert_eq!(layouts.lse.span, 1600);
    }

    #[test]
    fn sizes_outside_their_range_are_named() {
        for value in [0, 1 << 31, u64::MAX] {
            assert_eq!(size_of_error(Shape { batch: value, ..SHAPE }), ("batch", value));
            assert_eq!(size_of_error(Shape { heads: value, ..SHAPE }), ("heads", value));
            assert_eq!(size_of_error(Shape { kv_heads: value, ..SHAPE }), ("kv_heads", value));
            assert_eq!(size_of_error(Shape { seqlen_q: value, ..SHAPE }), ("seqlen_q", value));
            assert_eq!(size_of_error(Shape { seqlen_k: value, ..SHAPE }), ("seqlen_k", value));
        }
        for value in [0, 4, 12, 257, 264, u64::MAX] {
            assert_eq!(size_of_error(Shape { head_dim: value, ..SHAPE }), ("head_dim", value));
            assert_eq!(size_of_error(Shape { head_dim_v: value, ..SHAPE }), ("head_dim_v", value));
        }
    }

    #[test]
    fn heads_are_shared_out_evenly() {
        let shape = Shape { heads: 8, kv_heads: 3, ..SHAPE };
        assert_eq!(error_of(problem(shape)), Error::HeadGroups { heads: 8, kv_heads: 3 });
    }

    #[test]
    fn scales_that_are_no_factor_are_refused() {
        for value in [0.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            assert!(matches!(error_of(problem(SHAPE).scale(value)), Error::Scale { value: v, .. } if v == value));
        }
        assert!(matches!(error_of(problem(SHAPE).scale(f32::NAN)), Error::Scale { value, .. } if value.is_nan()));
    }

    #[test]
    fn every_bad_stride_is_named() {
        let fine = Strides::contiguous(200, 8, 64);
        let bad = [-64, 4, 1 << 39, i64::MAX - 7, i64::MIN];
        for value in bad {
            for dimension in ["seq", "head", "batch"] {
                let strides = match dimension {
                    "seq" => Strides { seq: value, ..fine },
                    "head" => Strides { head: value, ..fine },
                    _ => Strides { batch: value, ..fine },
                };
                let base = problem(SHAPE);
                for (argument, problem) in [
                    ("q", base.strides_q(strides)),
                    ("k", base.strides_k(strides)),
                    ("v", base.strides_v(strides)),
                    ("o", base.strides_o(strides)),
                ] {
                    let found = error_of(problem);
                    let Error::Stride { argument: a, dimension: d, value: v, .. } = found else {
                        panic!("{argument} {dimension} {value}: {found}")
                    };
                    assert_eq!((a, d, v), (argument, dimension, value));
                }
            }
        }
    }

    #[test]
    fn lse_strides_follow_the_same_rules_without_the_unit() {
        assert!(Layouts::of(&problem(SHAPE).lse_strides(811, 101)).is_ok());
        for (batch, head, dimension) in [(-1, 100, "batch"), (800, -1, "head"), (1 << 38, 100, "batch")] {
            let found = error_of(problem(SHAPE).lse_strides(batch, head));
            assert!(matches!(found, Error::Stride { argument: "lse", dimension: d, .. } if d == dimension), "{found}");
        }
        assert_eq!(
            error_of(problem(SHAPE).lse_strides(800, 99)),
            Error::Overlap { argument: "lse", dimension: "head", value: 99, allowed: 100 }
        );
        assert_eq!(
            error_of(problem(SHAPE).lse_strides(0, 100)),
            Error::Overlap { argument: "lse", dimension: "batch", value: 0, allowed: 100 }
        );
    }

    #[test]
    fn inputs_may_repeat_and_outputs_may_not() {
        let zero = Strides { batch: 0, seq: 0, head: 0 };
        assert!(Layouts::of(&problem(SHAPE).strides_q(zero).strides_k(zero).strides_v(zero)).is_ok());
        let found = error_of(problem(SHAPE).strides_o(zero));
        assert!(matches!(found, Error::Overlap { argument: "o", value: 0, allowed: 32, .. }), "{found}");
    }

    #[test]
    fn outputs_may_lie_in_any_order_of_dimensions() {
        // (batch, heads, seq, dim) instead of (batch, seq, heads, dim).
        let transposed = Strides { batch: 100 * 8 * 32, seq: 32, head: 100 * 32 };
        assert!(Layouts::of(&problem(SHAPE).strides_o(transposed)).is_ok());
        let short = Strides { head: 100 * 32 - 8, ..transposed };
        assert_eq!(
            error_of(problem(SHAPE).strides_o(short)),
            Error::Overlap { argument: "o", dimension: "head", value: 3192, allowed: 3200 }
        );
    }

    #[test]
    fn the_stride_of_a_single_entry_is_never_looked_at() {
        let shape = Shape { batch: 1, seqlen_q: 1, heads: 1, kv_heads: 1, ..SHAPE };
        let odd = Strides { batch: -3, seq: i64::MIN, head: 7 };
        let layouts = Layouts::of(&problem(shape).strides_q(odd).strides_o(odd).lse_strides(-1, -1)).expect("valid");
        assert_eq!(layouts.q.strides, [64; 3]);
        assert_eq!(layouts.o.span, 32);
    }

    #[test]
    fn a_span_beyond_an_address_is_refused() {
        let wide = Strides { batch: (1 << 39) - 8, seq: 512, head: 64 };
        let found = error_of(problem(Shape { batch: 1 << 30, ..SHAPE }).strides_q(wide));
        assert!(matches!(found, Error::Overflow { argument: "q", .. }), "{found}");
    }
}
