//! Checks what is to be appended, before anything is loaded.

use attn_kernel::append::{THREADS, items};
use attn_kernel::attn::sequence::UNLIMITED;

use super::{Append, AppendShape, Cache, Rotary, Sines};
use crate::error::Error;
use crate::layout::{Layout, MAX_COUNT, MAX_HEAD_DIM, Tensor, check_pages};
use crate::problem::Strides;

/// The checked tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layouts {
    pub(super) k: Layout,
    pub(super) v: Layout,
    pub(super) q: Option<(Layout, Layout)>,
    pub(super) k_cache: Layout,
    pub(super) v_cache: Layout,
    pub(super) sines: Table,
}

/// The tables of cosines and sines, in elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// From one position to the next.
    pub(super) stride: u64,
    /// From the first to one past the last.
    pub(super) span: u64,
    /// Bytes of one.
    pub(super) element: u64,
}

/// How the items of tokens are dealt to blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) k_items: u32,
    pub(super) v_items: u32,
    /// Blocks of a token.
    pub(super) parts: u32,
    /// Blocks of all.
    pub(super) all: u32,
}

impl Layouts {
    pub(super) fn of(append: &Append) -> Result<Self, Error> {
        check_sizes(append)?;
        let AppendShape { kv_heads, head_dim, head_dim_v, .. } = append.shape;
        let ((entries, tokens), (pages, rows)) = (append.entries(), append.cache_entries());
        let page = if matches!(append.cache, Cache::Paged(_)) { "page" } else { "batch" };
        let tensor = |argument, dims: [u64; 4], strides: Option<Strides>, outer| {
            let [dim, rows, heads, _] = dims;
            let Strides { batch, seq, head } = strides.unwrap_or_else(|| Strides::contiguous(rows, heads, dim));
            Tensor { argument, dims, strides: [seq, head, batch], names: ["seq", "head", outer] }
        };
        let input = |tensor: Tensor| tensor.for_tensor_map(append.dtype);
        let output = |tensor: Tensor, dtype| {
            let layout = tensor.for_tensor_map(dtype)?;
            tensor.without_overlap()?;
            Ok::<_, Error>(layout)
        };
        let all = &append.strides;
        let new = |argument, heads, dim, strides| tensor(argument, [dim, tokens, heads, entries], strides, "batch");
        let cache = |argument, dim, strides| tensor(argument, [dim, rows, kv_heads, pages], strides, page);
        let queries = (append.heads > 0).then(|| {
            let q = |argument, strides| new(argument, append.heads, head_dim, strides);
            Ok::<_, Error>((input(q("q", all.q))?, output(q("q_out", all.q_out.or(all.q)), append.dtype)?))
        });
        Ok(Layouts {
            k: input(new("k", kv_heads, head_dim, all.k))?,
            v: input(new("v", kv_heads, head_dim_v, all.v))?,
            q: queries.transpose()?,
            k_cache: output(cache("k_cache", head_dim, all.k_cache), append.cache_dtype())?,
            v_cache: output(cache("v_cache", head_dim_v, all.v_cache), append.cache_dtype())?,
            sines: append.rotary.map_or(Ok(Table::default()), |rotary| Table::of(append, rotary))?,
        })
    }
}

fn check_sizes(append: &Append) -> Result<(), Error> {
    let AppendShape { batch, new, kv_heads, head_dim, head_dim_v } = append.shape;
    for (argument, value) in [("batch", batch), ("kv_heads", kv_heads), ("heads", append.heads.max(1))] {
        if value == 0 || value > MAX_COUNT {
            return Err(Error::Size { argument, value, allowed: "1 to 2147483647" });
        }
    }
    for (argument, value) in [("head_dim", head_dim), ("head_dim_v", head_dim_v)] {
        if value == 0 || value % 8 != 0 || value > MAX_HEAD_DIM {
            return Err(Error::Size { argument, value, allowed: "a multiple of 8 from 8 to 256" });
        }
    }
    let lengths = [("new", Some(new)), ("total", append.packed)];
    for (argument, value) in lengths.into_iter().filter_map(|(argument, value)| Some((argument, value?))) {
        if value == 0 || value > u64::from(UNLIMITED) {
            return Err(Error::Size { argument, value, allowed: "1 to 536870912" });
        }
    }
    match append.cache {
        Cache::Dense { rows } if rows == 0 || rows > u64::from(UNLIMITED) => {
            return Err(Error::Size { argument: "rows", value: rows, allowed: "1 to 536870912" });
        }
        Cache::Dense { .. } => {}
        Cache::Paged(paged) => check_pages(paged)?,
    }
    if append.descales.is_some() && !append.float8 {
        return Err(Error::Combination {
            first: "factors (descales)",
            second: "caches of 16 bits",
            allowed: "factors of caches of 8 bits",
        });
    }
    if append.rotary.is_none() && append.heads > 0 {
        return Err(Error::Combination {
            first: "queries",
            second: "no rotary embedding",
            allowed: "queries where they are rotated",
        });
    }
    Ok(())
}

impl Table {
    fn of(append: &Append, rotary: Rotary) -> Result<Self, Error> {
        let Rotary { dim, positions, sines, .. } = rotary;
        if dim == 0 || dim % 16 != 0 || dim > append.shape.head_dim {
            return Err(Error::Size {
                argument: "rotary dim",
                value: dim,
                allowed: "a multiple of 16, at most head_dim",
            });
        }
        if positions == 0 || positions > MAX_COUNT {
            return Err(Error::Size { argument: "positions", value: positions, allowed: "1 to 2147483647" });
        }
        let element = if sines == Sines::F32 { 4 } else { u64::from(append.dtype.bytes()) };
        let value = append.sines_stride.unwrap_or(dim as i64 / 2);
        let stride = u64::try_from(value).ok().filter(|stride| stride * element % 16 == 0 && *stride < 1 << 32);
        let stride = stride.ok_or(Error::Stride {
            argument: "cos and sin",
            dimension: "position",
            value,
            allowed: "a multiple of 16 bytes from 0, below 2^32",
        })?;
        // Both factors are below 2^32.
        Ok(Table { stride, span: (positions - 1) * stride + dim / 2, element })
    }
}

impl Blocks {
    pub(super) fn of(append: &Append) -> Result<Self, Error> {
        let AppendShape { kv_heads, head_dim, head_dim_v, .. } = append.shape;
        // Head dimensions are at most 256.
        let rotary = append.rotary.map_or(0, |rotary| rotary.dim as u32);
        let (k_items, v_items) = (items(head_dim as u32, rotary), items(head_dim_v as u32, 0));
        let too_many = Error::Overflow {
            argument: "tokens * heads",
            what: "the count of blocks",
            allowed: "at most 2^31 - 1 blocks",
        };
        let of_token = (kv_heads + append.heads) * u64::from(k_items) + kv_heads * u64::from(v_items);
        let (entries, tokens) = append.entries();
        let parts = of_token.div_ceil(u64::from(THREADS));
        let all = entries.checked_mul(tokens).and_then(|tokens| tokens.checked_mul(parts));
        let fits = |count: &u64| *count <= MAX_COUNT;
        // Items are counted in 31 bits too.
        match all.filter(fits) {
            Some(all) if fits(&of_token) => Ok(Blocks { k_items, v_items, parts: parts as u32, all: all as u32 }),
            _ => Err(too_many),
        }
    }
}
