//! The builder.

use attn_host::Arrays;
use candle_core::{Result, Tensor};

use crate::geometry::Geometry;
use crate::lengths::Lengths;
use crate::op::Attend;

/// Attention, `softmax(scale * Q K^T) V`, with what serving needs of it. Without any other call it is dense, without a mask, and its scale is
/// `1 / sqrt(head_dim)`.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    pub(crate) scale: Option<f32>,
    pub(crate) left: Option<usize>,
    pub(crate) right: Option<usize>,
    pub(crate) softcap: Option<f32>,
    pub(crate) splits: Option<u32>,
    pub(crate) packed_q: Option<Lengths>,
    pub(crate) packed_k: Option<Lengths>,
    pub(crate) longest_q: Option<usize>,
    pub(crate) longest_k: Option<usize>,
    pub(crate) arrays: Arrays<Tensor, Tensor>,
}

impl Attention {
    /// Attention without a mask.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the factor on `Q K^T`.
    pub fn scale(self, scale: f32) -> Self {
        Attention { scale: Some(scale), ..self }
    }

    /// A query sees no later key. Masks are aligned to the bottom right: the last query of a sequence is at its last key.
    pub fn causal(self) -> Self {
        Attention { right: Some(0), ..self }
    }

    /// A query sees so many keys before its position, and so many after it; `None` is all of them.
    pub fn window(self, left: Option<usize>, right: Option<usize>) -> Self {
        Attention { left, right, ..self }
    }

    /// Scores become `softcap * tanh(score / softcap)`, after the scale.
    pub fn softcap(self, softcap: f32) -> Self {
        Attention { softcap: Some(softcap), ..self }
    }

    /// ALiBi: `slope * |position - key|` is taken from each score. Slopes are f32, `(heads)` or `(batch, heads)`.
    pub fn alibi(self, slopes: &Tensor) -> Self {
        self.with(|arrays| arrays.alibi_slopes = Some(slopes.clone()))
    }

    /// A logit for each query head, f32 `(heads)`, that takes part in the softmax and has no value.
    pub fn sinks(self, sinks: &Tensor) -> Self {
        self.with(|arrays| arrays.sinks = Some(sinks.clone()))
    }

    /// Packed sequences: Q is `(total_q, heads, head_dim)`, K and V are `(total_k, kv_heads, head_dim)`.
    pub fn packed(self, q: &Lengths, k: &Lengths) -> Self {
        Attention { packed_k: Some(k.clone()), ..self.packed_q(q) }
    }

    /// Packed queries alone, `(total_q, heads, head_dim)`, where K and V are a cache.
    pub fn packed_q(self, q: &Lengths) -> Self {
        Attention { packed_q: Some(q.clone()), ..self }
    }

    /// K and V are pages, `(pages, page_size, kv_heads, head_dim)`, that a table deals out, u32 or i32 `(batch, width)`: key `j` of sequence
    /// `b` is row `j % page_size` of page `table[b][j / page_size]`. On a GPU a page that is not there reads as zeros, on the CPU it is an
    /// error.
    pub fn paged(self, table: &Tensor) -> Self {
        self.with(|arrays| arrays.page_table = Some(table.clone()))
    }

    /// Keys of each sequence that are in use, u32 or i32 `(batch)`, where K and V are a cache: pages, or `(batch, rows, kv_heads, head_dim)`.
    /// On a GPU a length above the cache's is taken for it, on the CPU it is an error.
    pub fn seqused_k(self, lengths: &Tensor) -> Self {
        self.with(|arrays| arrays.seqused_k = Some(lengths.clone()))
    }

    /// Factors of K and V where they are 8-bit floats (`DType::F8E4M3`) under queries of 16 bits: f32, `(kv_heads)` or `(batch, kv_heads)`.
    pub fn descales(self, k: &Tensor, v: &Tensor) -> Self {
        self.with(|arrays| {
            arrays.k_descale = Some(k.clone());
            arrays.v_descale = Some(v.clone());
        })
    }

    /// Into how many parts the keys are split on a GPU. Without this call as many as should be fastest; with it, a sequence's result does
    /// not depend on its batch.
    pub fn splits(self, splits: u32) -> Self {
        Attention { splits: Some(splits), ..self }
    }

    /// Plans for sequences with up to so many queries and keys where they are packed, or with so many keys where a page table has room for
    /// more. Longer ones are an error, or keys past that are not seen.
    pub fn longest(self, q: usize, k: usize) -> Self {
        Attention { longest_q: Some(q), longest_k: Some(k), ..self }
    }

    /// Computes it: Q `(batch, queries, heads, head_dim)`, K `(batch, keys, kv_heads, head_dim)`, V `(batch, keys, kv_heads, head_dim_v)`, if
    /// nothing else was said. The result is of Q's type and has Q's shape, with V's head dimension.
    ///
    /// # Errors
    /// Shapes, types and lengths that do not go together, with the argument's name; what no kernel computes, as [`attn_host::Error`] says it;
    /// candle's.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let geometry = Geometry::of(self, q, k, v)?;
        if geometry.is_empty() {
            return Tensor::zeros(geometry.output, q.dtype(), q.device());
        }
        let op = Attend::new(self, geometry)?;
        addressable(q)?.apply_op3(&addressable(k)?, &addressable(v)?, op)
    }

    fn with(mut self, change: impl FnOnce(&mut Arrays<Tensor, Tensor>)) -> Self {
        change(&mut self.arrays);
        self
    }
}

/// The tensor, or a contiguous copy where kernels cannot address it: the last dimension must be contiguous, rows begin at multiples of 16
/// bytes, sequences lie whole rows apart, and nothing is repeated.
fn addressable(tensor: &Tensor) -> Result<Tensor> {
    let unit = 16 / tensor.dtype().size_in_bytes().max(1);
    let [outer @ .., last] = tensor.stride() else { return Ok(tensor.clone()) };
    let aligned = outer.iter().chain([&tensor.layout().start_offset()]).all(|stride| stride % unit == 0);
    let repeated = outer.contains(&0);
    let apart = match outer {
        [batch, row, _] => batch.checked_rem(*row) == Some(0),
        _ => true,
    };
    if *last == 1 && aligned && apart && !repeated { Ok(tensor.clone()) } else { tensor.copy() }
}
