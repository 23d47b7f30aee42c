//! The builder.

use attn_host::Arrays;
use candle_core::{Result, Tensor};

use crate::geometry::{Geometry, typed};
use crate::lengths::Lengths;
use crate::op::{Attend, Handover, LogSumExp};

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
        let op = Attend::new(self, geometry, None)?;
        addressable(q)?.apply_op3(&addressable(k)?, &addressable(v)?, op)
    }

    /// The same, and the LSE of each query and head, the natural logarithm of the sum of the exponentials of its scores and its sink: f32,
    /// contiguous, `(batch, heads, queries)`, or `(heads, total_q)` where queries are packed. A row that sees nothing has minus infinity. Results
    /// over parts of the keys are put together with it.
    ///
    /// ```
    /// use attn_candle::Attention;
    /// use candle_core::{Device, Tensor};
    ///
    /// # fn main() -> candle_core::Result<()> {
    /// let normal = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
    /// let (q, k, v) = (normal(&[2, 3, 4, 64])?, normal(&[2, 9, 2, 64])?, normal(&[2, 9, 2, 64])?);
    /// let (o, lse) = Attention::new().causal().forward_with_lse(&q, &k, &v)?;
    /// assert_eq!((o.dims(), lse.dims()), (&[2, 3, 4, 64][..], &[2, 4, 3][..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_with_lse(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let geometry = Geometry::of(self, q, k, v)?;
        let shape = geometry.lse_shape();
        if geometry.shape.head_dim_v == 0 {
            let allowed = "1 or more where the LSE is wanted";
            return Err(typed(attn_host::Error::Size { argument: "head_dim_v", value: 0, allowed }));
        }
        if geometry.is_empty() {
            let o = Tensor::zeros(&geometry.output[..], q.dtype(), q.device())?;
            return Ok((o, self.lse_of_nothing(&shape, q)?));
        }
        let lse = Handover::default();
        let op = Attend::new(self, geometry, Some(lse.clone()))?;
        let [q, k, v] = [addressable(q)?, addressable(k)?, addressable(v)?];
        Ok((q.apply_op3(&k, &v, op)?, q.apply_op3(&k, &v, LogSumExp { shape, from: lse })?))
    }

    /// LSE where there are no keys: the sinks.
    fn lse_of_nothing(&self, shape: &[usize], q: &Tensor) -> Result<Tensor> {
        let rows: usize = shape.iter().product();
        let sinks = match &self.arrays.sinks {
            Some(sinks) => sinks.to_vec1()?,
            None => vec![f32::NEG_INFINITY],
        };
        // Heads are the second to last dimension.
        let queries = shape[shape.len() - 1].max(1);
        let values = (0..rows).map(|i| sinks[i / queries % sinks.len()]).collect();
        Tensor::from_vec(values, shape, q.device())
    }

    fn with(mut self, change: impl FnOnce(&mut Arrays<Tensor, Tensor>)) -> Self {
        change(&mut self.arrays);
        self
    }
}

/// The tensor, or on a GPU a contiguous copy where kernels cannot address it: the last dimension must be contiguous, rows begin at multiples
/// of 16 bytes, sequences lie whole rows apart, and nothing is repeated.
pub(crate) fn addressable(tensor: &Tensor) -> Result<Tensor> {
    let unit = 16 / tensor.dtype().size_in_bytes().max(1);
    let [outer @ .., last] = tensor.stride() else { return Ok(tensor.clone()) };
    let aligned = outer.iter().chain([&tensor.layout().start_offset()]).all(|stride| stride % unit == 0);
    let repeated = outer.contains(&0);
    let apart = match outer {
        [batch, row, _] => batch.checked_rem(*row) == Some(0),
        _ => true,
    };
    let as_it_is = !tensor.device().is_cuda() || (*last == 1 && aligned && apart && !repeated);
    if as_it_is { Ok(tensor.clone()) } else { tensor.force_contiguous() }
}
