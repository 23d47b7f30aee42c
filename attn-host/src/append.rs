//! New keys and values into a cache: what there is to append, to where, and how it is rotated.

use std::fmt;

use crate::problem::{DType, Descales, PagedKv, Strides, dtype_name};

pub use plan::{AppendPlan, AppendSpans};
pub use tensors::AppendTensors;

mod check;
mod launch;
mod plan;
mod tensors;
#[cfg(test)]
mod tests;

/// The step before attention with a cache: K and V of new tokens are written behind those that are there, K rotated by its position where the
/// model has rotary embeddings, and Q with it.
///
/// Nothing is checked before [`AppendPlan::new`].
///
/// ```no_run
/// # use attn_host::*;
/// # fn append(device: &Device, tensors: AppendTensors, stream: Stream) -> Result<(), Error> {
/// // One token of each of 64 sequences into pages of 64 keys; 32 query heads are rotated in place.
/// let shape = AppendShape { batch: 64, new: 1, kv_heads: 8, head_dim: 128, head_dim_v: 128 };
/// let cache = Cache::Paged(PagedKv { page_size: 64, pages: 9000, table_width: 512 });
/// let rotary = Rotary { dim: 128, pairs: Pairs::Halves, positions: 32768, sines: Sines::F32 };
/// let append = Append::new(DType::Bf16, shape, cache).seqlens_before().rotary(rotary).queries(32);
/// let plan = AppendPlan::new(device, &append)?; // keep it, and launch it as often as you like
/// // SAFETY: the tensors are of these shapes, alive and left alone until the stream is done.
/// unsafe { plan.launch(&tensors, stream) }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    pub(crate) dtype: DType,
    pub(crate) shape: AppendShape,
    pub(crate) cache: Cache,
    pub(crate) packed: Option<u64>,
    pub(crate) seqused_new: bool,
    pub(crate) seqlens_before: bool,
    pub(crate) rotary: Option<Rotary>,
    pub(crate) heads: u64,
    pub(crate) float8: bool,
    pub(crate) descales: Option<Descales>,
    pub(crate) strides: TensorStrides,
    pub(crate) sines_stride: Option<i64>,
}

/// Strides of each tensor, where they are not contiguous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TensorStrides {
    pub(crate) k: Option<Strides>,
    pub(crate) v: Option<Strides>,
    pub(crate) q: Option<Strides>,
    pub(crate) q_out: Option<Strides>,
    pub(crate) k_cache: Option<Strides>,
    pub(crate) v_cache: Option<Strides>,
}

/// Sizes of what is appended: K `(batch, new, kv_heads, head_dim)`, V `(batch, new, kv_heads, head_dim_v)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppendShape {
    /// Independent sequences.
    pub batch: u64,
    /// New tokens of each, or of the one that has most.
    pub new: u64,
    /// Key/value heads.
    pub kv_heads: u64,
    /// Elements of a key, and of a query.
    pub head_dim: u64,
    /// Elements of a value.
    pub head_dim_v: u64,
}

/// Where keys and values go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cache {
    /// K is `(batch, rows, kv_heads, head_dim)`, V likewise: so many rows for each sequence.
    Dense {
        /// Rows of each sequence.
        rows: u64,
    },
    /// Pages that a table deals out. A token whose page is not below [`PagedKv::pages`] is dropped.
    Paged(PagedKv),
}

/// Rotary position embedding: pair `i` of a head at position `p` is turned by the angle whose cosine and sine are `cos[p][i]` and `sin[p][i]`,
/// in f32, and rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rotary {
    /// Elements of a head that are rotated, its first ones: a multiple of 16.
    pub dim: u64,
    /// Which elements are pairs.
    pub pairs: Pairs,
    /// Positions that the tables have: `(positions, dim / 2)`. Tokens at others are dropped.
    pub positions: u64,
    /// What the tables hold.
    pub sines: Sines,
}

/// Which elements are rotated with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pairs {
    /// Element `i` with `i + dim / 2` (GPT-NeoX, Llama as Hugging Face has it).
    Halves,
    /// Element `2 i` with `2 i + 1` (GPT-J).
    Interleaved,
}

/// Elements of the tables of cosines and sines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sines {
    /// f32.
    F32,
    /// Those of K and V.
    AsTensors,
}

impl Append {
    /// Contiguous new tokens of each sequence, without rotation, into a contiguous cache that holds none yet.
    pub fn new(dtype: DType, shape: AppendShape, cache: Cache) -> Self {
        Append {
            dtype,
            shape,
            cache,
            packed: None,
            seqused_new: false,
            seqlens_before: false,
            rotary: None,
            heads: 0,
            float8: false,
            descales: None,
            strides: TensorStrides::default(),
            sines_stride: None,
        }
    }

    /// The new tokens of all sequences lie one sequence after the other in `(total, kv_heads, head_dim)`, and a launch has the prefix sums of
    /// their counts in `cu_seqlens_new`, `i32[batch + 1]`. `new` is then the most of a sequence; those beyond it are dropped.
    pub fn packed(self, total: u64) -> Self {
        Append { packed: Some(total), ..self }
    }

    /// A launch says in `seqused_new`, `i32[batch]`, how many of each sequence's new tokens there are. The others are dropped.
    pub fn seqused_new(self) -> Self {
        Append { seqused_new: true, ..self }
    }

    /// A launch says in `seqlens_before`, `i32[batch]`, how many keys each sequence has in the cache already. New token `i` gets the position
    /// `seqlens_before + i`; one whose position is not in the cache is dropped.
    pub fn seqlens_before(self) -> Self {
        Append { seqlens_before: true, ..self }
    }

    /// K is rotated by its position.
    pub fn rotary(self, rotary: Rotary) -> Self {
        Append { rotary: Some(rotary), ..self }
    }

    /// Queries of the new tokens, `heads` of each, are rotated like K: `(batch, new, heads, head_dim)`, or packed like it.
    pub fn queries(self, heads: u64) -> Self {
        Append { heads, ..self }
    }

    /// The caches hold 8-bit floats (e4m3): what is too large becomes 448, infinity too, and NaN stays NaN. Their strides are multiples of 16
    /// elements. New keys, values and queries are of the element type as ever.
    pub fn float8_cache(self) -> Self {
        Append { float8: true, ..self }
    }

    /// A launch has the factors in `k_descale` and `v_descale`, above zero, that attention multiplies the 8-bit keys and values with: what is
    /// written is the element over its factor, rounded once. Without this call all are 1.
    pub fn descales(self, descales: Descales) -> Self {
        Append { descales: Some(descales), ..self }
    }

    /// Sets the strides of the new keys: multiples of 8 elements. Packed tokens have no batch stride.
    pub fn strides_k(self, strides: Strides) -> Self {
        self.with(|all| all.k = Some(strides))
    }

    /// Sets the strides of the new values.
    pub fn strides_v(self, strides: Strides) -> Self {
        self.with(|all| all.v = Some(strides))
    }

    /// Sets the strides of the queries, and of the rotated ones where [`strides_q_out`](Self::strides_q_out) does not.
    pub fn strides_q(self, strides: Strides) -> Self {
        self.with(|all| all.q = Some(strides))
    }

    /// Sets the strides of the rotated queries.
    pub fn strides_q_out(self, strides: Strides) -> Self {
        self.with(|all| all.q_out = Some(strides))
    }

    /// Sets the strides of the cache of keys, such that no two elements share memory. The batch stride is the page's where there are pages.
    pub fn strides_k_cache(self, strides: Strides) -> Self {
        self.with(|all| all.k_cache = Some(strides))
    }

    /// Sets the strides of the cache of values.
    pub fn strides_v_cache(self, strides: Strides) -> Self {
        self.with(|all| all.v_cache = Some(strides))
    }

    /// Sets the elements from one position's cosines to the next's, and sines likewise: a multiple of 16 bytes. Both tables may then be
    /// halves of one.
    pub fn sines_stride(self, stride: i64) -> Self {
        Append { sines_stride: Some(stride), ..self }
    }

    fn with(mut self, change: impl FnOnce(&mut TensorStrides)) -> Self {
        change(&mut self.strides);
        self
    }

    /// Batch entries and rows of the tensors of new tokens.
    pub(crate) fn entries(&self) -> (u64, u64) {
        self.packed.map_or((self.shape.batch, self.shape.new), |total| (1, total))
    }

    /// Bytes of the new keys and values, and of the queries that are rotated, as many as there is room for. The sizes have been checked.
    #[cfg(feature = "metrics")]
    pub(crate) fn new_bytes(&self) -> u64 {
        let AppendShape { kv_heads, head_dim, head_dim_v, .. } = self.shape;
        let (entries, rows) = self.entries();
        let row = kv_heads * (head_dim + head_dim_v) + self.heads * head_dim;
        entries * rows * row * u64::from(self.dtype.bytes())
    }

    /// The element type of the caches.
    pub(crate) fn cache_dtype(&self) -> DType {
        if self.float8 { DType::E4m3 } else { self.dtype }
    }

    /// Pages, or batch entries, of the cache, and rows of each.
    pub(crate) fn cache_entries(&self) -> (u64, u64) {
        match self.cache {
            Cache::Dense { rows } => (self.shape.batch, rows),
            Cache::Paged(paged) => (paged.pages, paged.page_size),
        }
    }
}

impl fmt::Display for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AppendShape { batch, new, kv_heads, head_dim, head_dim_v } = self.shape;
        write!(f, "{} b={batch} new={new} hkv={kv_heads} d={head_dim} dv={head_dim_v}", dtype_name(self.dtype))?;
        if let Some(total) = self.packed {
            write!(f, ", {total} packed")?;
        }
        match self.cache {
            Cache::Dense { rows } => write!(f, ", cache of {rows} rows")?,
            Cache::Paged(PagedKv { page_size, pages, .. }) => write!(f, ", {pages} pages of {page_size} keys")?,
        }
        if self.float8 {
            write!(f, " of 8 bits")?;
        }
        if let Some(Rotary { dim, pairs, .. }) = self.rotary {
            let pairs = match pairs {
                Pairs::Halves => "halves",
                Pairs::Interleaved => "interleaved",
            };
            write!(f, ", {dim} rotated, {pairs}")?;
        }
        if self.heads > 0 { write!(f, ", {} query heads", self.heads) } else { Ok(()) }
    }
}
