//! New keys and values into a cache: the builder.

use attn_host::Pairs;
use candle_core::{Result, Tensor};

use crate::attention::addressable;
use crate::lengths::Lengths;

use geometry::Geometry;

pub(crate) mod cpu;
pub(crate) mod geometry;

/// The step before attention with a cache: K and V of new tokens are written behind those that are there, in place, K rotated by its position
/// where the model has rotary embeddings, and Q with it. Without any other call each sequence begins with them, and nothing is rotated.
///
/// ```
/// use attn_candle::{Append, Attention, Pairs};
/// use candle_core::{DType, Device, Tensor};
///
/// # fn main() -> candle_core::Result<()> {
/// // A step of decoding: a token of each of two sequences, 4 query heads on 2 of K and V, into caches of 32 rows each.
/// let device = Device::cuda_if_available(0)?;
/// let normal = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &device)?.to_dtype(DType::BF16);
/// let (q, k, v) = (normal(&[2, 1, 4, 64])?, normal(&[2, 1, 2, 64])?, normal(&[2, 1, 2, 64])?);
/// let (k_cache, v_cache) = (normal(&[2, 32, 2, 64])?, normal(&[2, 32, 2, 64])?);
/// let (cos, sin) = (Tensor::ones((32, 32), DType::F32, &device)?, Tensor::zeros((32, 32), DType::F32, &device)?);
/// let (before, after) = (Tensor::new(&[20u32, 7], &device)?, Tensor::new(&[21u32, 8], &device)?);
///
/// let append = Append::new().seqlens_before(&before).rotary(&cos, &sin, Pairs::Halves);
/// let q = append.write_and_rotate(&q, &k, &v, &k_cache, &v_cache)?;
/// let o = Attention::new().causal().seqused_k(&after).forward(&q, &k_cache, &v_cache)?;
/// assert_eq!(o.dims(), [2, 1, 4, 64]);
/// # Ok(())
/// # }
/// ```
///
/// A token is dropped where the cache has no place for it: its position is not below the cache's rows or the table's pages, its page is not
/// there, it is not in use, or the tables of cosines and sines do not reach its position. Nothing else in the caches is touched.
#[derive(Clone, Debug, Default)]
pub struct Append {
    pub(crate) packed: Option<Lengths>,
    pub(crate) pairs: Option<Pairs>,
    pub(crate) arrays: Arrays<Tensor>,
}

/// What only some steps have.
#[derive(Clone, Debug)]
pub(crate) struct Arrays<T> {
    pub(crate) cos: Option<T>,
    pub(crate) sin: Option<T>,
    pub(crate) cu_seqlens_new: Option<T>,
    pub(crate) seqused_new: Option<T>,
    pub(crate) seqlens_before: Option<T>,
    pub(crate) page_table: Option<T>,
    pub(crate) k_descale: Option<T>,
    pub(crate) v_descale: Option<T>,
}

/// Tensors of a step, found to go together: inputs where kernels can address them and apart from the caches.
pub(crate) struct Step<'a> {
    pub(crate) geometry: Geometry,
    pub(crate) pairs: Option<Pairs>,
    pub(crate) q: Option<Tensor>,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
    pub(crate) k_cache: &'a Tensor,
    pub(crate) v_cache: &'a Tensor,
    /// Contiguous.
    pub(crate) arrays: Arrays<Tensor>,
}

impl Append {
    /// New tokens of each sequence, without rotation, into caches that hold none yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keys that each sequence has in the cache already, u32 or i32 `(batch)`: new token `i` gets the position `seqlens_before + i`.
    pub fn seqlens_before(self, lengths: &Tensor) -> Self {
        self.with(|arrays| arrays.seqlens_before = Some(lengths.clone()))
    }

    /// How many of each sequence's new tokens there are, u32 or i32 `(batch)`; the others are dropped.
    pub fn seqused_new(self, lengths: &Tensor) -> Self {
        self.with(|arrays| arrays.seqused_new = Some(lengths.clone()))
    }

    /// New tokens of all sequences lie one sequence after the other: K is `(total, kv_heads, head_dim)`, V and Q likewise. Rows behind the
    /// last sequence are dropped.
    pub fn packed(self, new: &Lengths) -> Self {
        Append { packed: Some(new.clone()), ..self }
    }

    /// The caches are pages, `(pages, page_size, kv_heads, head_dim)`, that a table deals out, u32 or i32 `(batch, width)`: position `j` of
    /// sequence `b` is row `j % page_size` of page `table[b][j / page_size]`. No page may belong to two sequences that append to it.
    pub fn paged(self, table: &Tensor) -> Self {
        self.with(|arrays| arrays.page_table = Some(table.clone()))
    }

    /// K, and Q where it is given, is rotated by its position: pair `i` of a head at position `p` is turned by the angle whose cosine and sine
    /// are `cos[p][i]` and `sin[p][i]`. The tables are `(positions, dim / 2)`, f32 or of K's type; the first `dim` elements of a head are
    /// rotated, on a GPU a multiple of 16. [`Pairs`] says which of them are pairs. It is computed in f32 and rounded once.
    pub fn rotary(self, cos: &Tensor, sin: &Tensor, pairs: Pairs) -> Self {
        let tables = |arrays: &mut Arrays<Tensor>| (arrays.cos, arrays.sin) = (Some(cos.clone()), Some(sin.clone()));
        Append { pairs: Some(pairs), ..self }.with(tables)
    }

    /// Factors of caches of 8-bit floats (`DType::F8E4M3`), above zero, that attention multiplies them with: f32, `(kv_heads)` or
    /// `(batch, kv_heads)`. What is written is the element over its factor, rounded once; what is too large becomes 448. Without this call
    /// all are 1.
    pub fn descales(self, k: &Tensor, v: &Tensor) -> Self {
        self.with(|arrays| {
            arrays.k_descale = Some(k.clone());
            arrays.v_descale = Some(v.clone());
        })
    }

    /// Writes K `(batch, new, kv_heads, head_dim)` and V `(batch, new, kv_heads, head_dim_v)`, of any strides, into `k_cache`
    /// `(batch, rows, kv_heads, head_dim)` and `v_cache` `(batch, rows, kv_heads, head_dim_v)`, if nothing else was said.
    ///
    /// The caches are written in place, so all tensors that share their memory change; they are of K's type or F8E4M3, each in memory of its
    /// own. On a GPU they are taken as they are: the last dimension contiguous, the others multiples of 16 bytes apart. An input that shares
    /// a cache's memory is copied first.
    ///
    /// # Errors
    /// Shapes, types and lengths that do not go together, with the argument's name; caches that share memory; what no kernel computes, as
    /// [`attn_host::Error`] says it; candle's.
    pub fn write(&self, k: &Tensor, v: &Tensor, k_cache: &Tensor, v_cache: &Tensor) -> Result<()> {
        self.run(None, k, v, k_cache, v_cache).map(|_| ())
    }

    /// The same, and Q `(batch, new, heads, head_dim)`, or packed like K, rotated like K: a contiguous tensor of its shape and type. Those of
    /// dropped tokens are zeros, but a token that only the cache has no place for is rotated.
    ///
    /// # Errors
    /// Those of [`write`](Self::write), and queries where nothing is rotated.
    pub fn write_and_rotate(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        k_cache: &Tensor,
        v_cache: &Tensor,
    ) -> Result<Tensor> {
        let rotated = self.run(Some(q), k, v, k_cache, v_cache)?;
        // There is one exactly where there are queries.
        rotated.map_or_else(|| q.zeros_like(), Ok)
    }

    fn run(
        &self,
        q: Option<&Tensor>,
        k: &Tensor,
        v: &Tensor,
        k_cache: &Tensor,
        v_cache: &Tensor,
    ) -> Result<Option<Tensor>> {
        let geometry = Geometry::of(self, q, k, v, k_cache, v_cache)?;
        if geometry.is_empty() {
            return q.map(Tensor::zeros_like).transpose();
        }
        let (of_k, of_v) = (memory(k_cache), memory(v_cache));
        if of_k == of_v {
            candle_core::bail!("v_cache shares k_cache's memory; allowed: a tensor of its own");
        }
        let apart = |tensor: &Tensor| {
            let own = memory(tensor);
            if own == of_k || own == of_v { tensor.force_contiguous() } else { Ok(tensor.clone()) }
        };
        let input = |tensor: &Tensor| addressable(&apart(tensor)?);
        let sums = self.packed.as_ref().map(|lengths| lengths.on_device().clone());
        let arrays = Arrays { cu_seqlens_new: sums, ..self.arrays.clone() };
        let step = Step {
            geometry,
            pairs: self.pairs,
            q: q.map(input).transpose()?,
            k: input(k)?,
            v: input(v)?,
            k_cache,
            v_cache,
            arrays: arrays.try_each(|array| apart(array)?.contiguous())?,
        };
        step.write()
    }

    fn with(mut self, change: impl FnOnce(&mut Arrays<Tensor>)) -> Self {
        change(&mut self.arrays);
        self
    }
}

impl Step<'_> {
    /// Writes the caches; the rotated queries, where there are any.
    fn write(&self) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if self.k.device().is_cuda() {
            return crate::cuda::append::write(self);
        }
        cpu::write(self)
    }
}

/// Which memory a tensor is in: two in the same have the same address of their storage.
pub(crate) fn memory(tensor: &Tensor) -> usize {
    std::ptr::from_ref(&*tensor.storage_and_layout().0).addr()
}

impl<T> Default for Arrays<T> {
    fn default() -> Self {
        Arrays {
            cos: None,
            sin: None,
            cu_seqlens_new: None,
            seqused_new: None,
            seqlens_before: None,
            page_table: None,
            k_descale: None,
            v_descale: None,
        }
    }
}

impl<T> Arrays<T> {
    /// Does the same with each that is there; stops at the first error.
    pub(crate) fn try_each<'a, U>(&'a self, each: impl Fn(&'a T) -> Result<U>) -> Result<Arrays<U>> {
        let each = |array: &'a Option<T>| array.as_ref().map(&each).transpose();
        Ok(Arrays {
            cos: each(&self.cos)?,
            sin: each(&self.sin)?,
            cu_seqlens_new: each(&self.cu_seqlens_new)?,
            seqused_new: each(&self.seqused_new)?,
            seqlens_before: each(&self.seqlens_before)?,
            page_table: each(&self.page_table)?,
            k_descale: each(&self.k_descale)?,
            v_descale: each(&self.v_descale)?,
        })
    }
}
