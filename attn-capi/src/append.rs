//! What is appended to a cache, as C fills it.

use std::mem;

use attn_host::{AppendShape, Cache, PagedKv, Pairs, Rotary, Sines};

use crate::pointers::{read, write};
use crate::problem::{Strides, dtype};
use crate::serving::{ATTN_DESCALES_NONE, descales};
use crate::status::{Failure, Status, guarded};

pub use plan::{AppendPlan, AppendTensors, attn_append_plan_create, attn_append_plan_destroy, attn_append_plan_launch};

mod plan;
#[cfg(test)]
mod tests;

/// Element i is rotated with element i + rotary_dim / 2.
pub const ATTN_PAIRS_HALVES: u32 = 0;
/// Element 2 i is rotated with element 2 i + 1.
pub const ATTN_PAIRS_INTERLEAVED: u32 = 1;

/// The tables of cosines and sines are f32.
pub const ATTN_SINES_F32: u32 = 0;
/// They are of the element type of K and V.
pub const ATTN_SINES_AS_TENSORS: u32 = 1;

/// New keys and values of sequences, written into a cache behind those that are there; K, and Q with it, rotated by position where the
/// model has rotary embeddings. attn_append_init fills all of it with a dense cache's, attn_append_contiguous the strides.
///
/// New K is (batch, new_tokens, kv_heads, head_dim), V likewise with head_dim_v, Q (batch, new_tokens, heads, head_dim).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    /// sizeof(attn_append).
    pub struct_size: usize,
    /// ATTN_DTYPE_*.
    pub dtype: u32,
    /// 1: seqused_new says how many new tokens of each sequence there are.
    pub seqused_new: u32,
    /// 1: seqlens_before says how many keys of each sequence the cache has already; 0: none.
    pub seqlens_before: u32,
    /// ATTN_PAIRS_*.
    pub pairs: u32,
    /// ATTN_SINES_*.
    pub sines: u32,
    /// 1: the caches hold 8-bit floats (e4m3), with strides that are multiples of 16 elements.
    pub float8: u32,
    /// ATTN_DESCALES_*: what the caches' 8-bit floats are meant times.
    pub descales: u32,
    /// Zero; keeps what follows aligned.
    pub reserved: u32,
    /// Independent sequences.
    pub batch: u64,
    /// New tokens of each, or of the one that has most.
    pub new_tokens: u64,
    /// New tokens of all sequences, packed: K is (total, kv_heads, head_dim), with cu_seqlens_new. 0: not packed.
    pub total: u64,
    /// Key/value heads.
    pub kv_heads: u64,
    /// Query heads, which are rotated. 0: no queries.
    pub heads: u64,
    /// Elements of a key and of a query: a multiple of 8 up to 256.
    pub head_dim: u64,
    /// Elements of a value: a multiple of 8 up to 256.
    pub head_dim_v: u64,
    /// Keys that the cache has room for in each sequence, where it is not paged: (batch, cache_rows, kv_heads, head_dim).
    pub cache_rows: u64,
    /// Keys of a page: the cache is (pages, page_size, kv_heads, head_dim), with page_table. 0: not paged.
    pub page_size: u64,
    /// Pages that there are.
    pub pages: u64,
    /// Entries of the page table for each sequence.
    pub table_width: u64,
    /// Elements of a head that are rotated, its first ones: a multiple of 16. 0: none.
    pub rotary_dim: u64,
    /// Positions that the tables of cosines and sines have.
    pub positions: u64,
    /// Elements from one position's cosines to the next's, and sines likewise.
    pub sines_stride: i64,
    /// Strides of the new keys.
    pub k: Strides,
    /// Strides of the new values.
    pub v: Strides,
    /// Strides of the queries.
    pub q: Strides,
    /// Strides of the rotated queries.
    pub q_out: Strides,
    /// Strides of the cache of keys; the batch stride is the page's where there are pages.
    pub k_cache: Strides,
    /// Strides of the cache of values.
    pub v_cache: Strides,
}

impl Append {
    pub(crate) fn new(dtype: u32, batch: u64, new_tokens: u64, kv_heads: u64, head_dim: u64, head_dim_v: u64) -> Self {
        let none = Strides { batch: 0, seq: 0, head: 0 };
        Append {
            struct_size: mem::size_of::<Append>(),
            dtype,
            seqused_new: 0,
            seqlens_before: 0,
            pairs: ATTN_PAIRS_HALVES,
            sines: ATTN_SINES_F32,
            float8: 0,
            descales: ATTN_DESCALES_NONE,
            reserved: 0,
            batch,
            new_tokens,
            total: 0,
            kv_heads,
            heads: 0,
            head_dim,
            head_dim_v,
            cache_rows: 0,
            page_size: 0,
            pages: 0,
            table_width: 0,
            rotary_dim: 0,
            positions: 0,
            sines_stride: 0,
            k: none,
            v: none,
            q: none,
            q_out: none,
            k_cache: none,
            v_cache: none,
        }
    }

    /// The same with the strides of contiguous tensors.
    fn contiguous(self) -> Self {
        let rows = |rows, heads, dim| Strides::from(attn_host::Strides::contiguous(rows, heads, dim));
        let Append { kv_heads, heads, head_dim, head_dim_v, .. } = self;
        let new = if self.total == 0 { self.new_tokens } else { self.total };
        let cache = if self.page_size == 0 { self.cache_rows } else { self.page_size };
        let q = rows(new, heads, head_dim);
        Append {
            sines_stride: i64::try_from(self.rotary_dim / 2).unwrap_or(i64::MAX),
            k: rows(new, kv_heads, head_dim),
            v: rows(new, kv_heads, head_dim_v),
            q,
            q_out: q,
            k_cache: rows(cache, kv_heads, head_dim),
            v_cache: rows(cache, kv_heads, head_dim_v),
            ..self
        }
    }

    /// The same for attn-host, which checks sizes and strides.
    fn to_host(self) -> Result<attn_host::Append, Failure> {
        let Append { batch, new_tokens, kv_heads, head_dim, head_dim_v, page_size, pages, table_width, .. } = self;
        for (name, value, most) in [
            ("reserved", self.reserved, 0),
            ("seqused_new", self.seqused_new, 1),
            ("seqlens_before", self.seqlens_before, 1),
            ("pairs", self.pairs, ATTN_PAIRS_INTERLEAVED),
            ("sines", self.sines, ATTN_SINES_AS_TENSORS),
            ("float8", self.float8, 1),
        ] {
            if value > most {
                return Err(Failure::problem(format!("{name} is {value}; allowed: 0 to {most}")));
            }
        }
        let shape = AppendShape { batch, new: new_tokens, kv_heads, head_dim, head_dim_v };
        let cache = match page_size {
            0 => Cache::Dense { rows: self.cache_rows },
            _ => Cache::Paged(PagedKv { page_size, pages, table_width }),
        };
        let mut host = attn_host::Append::new(dtype(self.dtype)?, shape, cache)
            .strides_k(self.k.into())
            .strides_v(self.v.into())
            .strides_k_cache(self.k_cache.into())
            .strides_v_cache(self.v_cache.into());
        if self.heads != 0 {
            host = host.queries(self.heads).strides_q(self.q.into()).strides_q_out(self.q_out.into());
        }
        if self.total != 0 {
            host = host.packed(self.total);
        }
        if self.seqused_new == 1 {
            host = host.seqused_new();
        }
        if self.seqlens_before == 1 {
            host = host.seqlens_before();
        }
        if self.rotary_dim != 0 {
            let pairs = if self.pairs == ATTN_PAIRS_HALVES { Pairs::Halves } else { Pairs::Interleaved };
            let sines = if self.sines == ATTN_SINES_F32 { Sines::F32 } else { Sines::AsTensors };
            let rotary = Rotary { dim: self.rotary_dim, pairs, positions: self.positions, sines };
            host = host.rotary(rotary).sines_stride(self.sines_stride);
        }
        if self.float8 == 1 {
            host = host.float8_cache();
        }
        Ok(match descales(self.descales)? {
            Some(descales) => host.descales(descales),
            None => host,
        })
    }
}

/// Fills an attn_append: no queries, no rotation, an empty cache whose cache_rows or pages are still to be set, and no strides.
///
/// # Safety
/// `append` is null or a place for an `attn_append`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_append_init(
    append: *mut Append,
    dtype: u32,
    batch: u64,
    new_tokens: u64,
    kv_heads: u64,
    head_dim: u64,
    head_dim_v: u64,
) -> Status {
    let filled = Append::new(dtype, batch, new_tokens, kv_heads, head_dim, head_dim_v);
    // SAFETY: as the caller promises.
    guarded(|| unsafe { write("append", append, filled) })
}

/// Sets all strides to those of contiguous tensors of the sizes that have been filled in.
///
/// # Safety
/// `append` is null or an `attn_append`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn attn_append_contiguous(append: *mut Append) -> Status {
    guarded(|| {
        // SAFETY: null or the caller's structure, to which it is written back.
        unsafe { write("append", append, read("append", append.cast_const())?.contiguous()) }
    })
}
