//! Sizes of what is appended, from the shapes of its tensors.

use attn_host::{AppendShape, Cache, Error, PagedKv, check_cu_seqlens};
use candle_core::{DType, Result, Tensor, bail};

use super::Append;
use crate::geometry::{Rows, check_array, check_equal, typed};

/// The sizes of a step.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub(crate) shape: AppendShape,
    pub(crate) cache: Cache,
    /// Rows of all tokens where they are packed.
    pub(crate) packed: Option<u64>,
    /// Query heads; 0 where there are no queries.
    pub(crate) heads: u64,
    /// Positions that the tables of cosines and sines have, and elements of a head that they rotate.
    pub(crate) tables: Option<(u64, u64)>,
}

impl Geometry {
    /// Checks that shapes, types and devices go together.
    pub(super) fn of(
        append: &Append,
        q: Option<&Tensor>,
        k: &Tensor,
        v: &Tensor,
        k_cache: &Tensor,
        v_cache: &Tensor,
    ) -> Result<Self> {
        let Append { packed, pairs, arrays } = append;
        check_types(q, k, v, k_cache, v_cache)?;
        if q.is_some() && pairs.is_none() {
            return Err(typed(Error::Combination {
                first: "queries",
                second: "no rotary embedding",
                allowed: "queries where they are rotated",
            }));
        }
        let new = |argument, tensor| Rows::of(argument, tensor, packed.is_some());
        let (keys, values) = (new("k", k)?, new("v", v)?);
        let queries = q.map(|q| new("q", q)).transpose()?;
        let (of_k, of_v) = (Rows::of("k_cache", k_cache, false)?, Rows::of("v_cache", v_cache, false)?);
        let q = queries.as_ref().unwrap_or(&keys);
        check_equal(&[
            ("kv_heads of v", values.heads, "k's", keys.heads),
            ("rows of v", values.rows, "k's", keys.rows),
            ("the first dimension of v", values.outer, "k's", keys.outer),
            ("head_dim of q", q.dim, "k's", keys.dim),
            ("rows of q", q.rows, "k's", keys.rows),
            ("the first dimension of q", q.outer, "k's", keys.outer),
            ("head_dim of k_cache", of_k.dim, "k's", keys.dim),
            ("kv_heads of k_cache", of_k.heads, "k's", keys.heads),
            ("head_dim of v_cache", of_v.dim, "v's", values.dim),
            ("kv_heads of v_cache", of_v.heads, "v's", values.heads),
            ("rows of v_cache", of_v.rows, "k_cache's", of_k.rows),
            ("the first dimension of v_cache", of_v.outer, "k_cache's", of_k.outer),
        ])?;
        if of_k.outer * of_k.rows == 0 {
            let allowed = "1 or more, of 1 or more sequences or pages";
            return Err(typed(Error::Size { argument: "rows of k_cache", value: 0, allowed }));
        }
        for (argument, cache) in [("k_cache", k_cache), ("v_cache", v_cache)] {
            if cache.elem_count() > 0 && cache.layout().has_internal_overlap() {
                bail!("{argument} has repeated elements; allowed: a tensor whose elements each have memory");
            }
        }
        let batch = packed.as_ref().map_or(keys.outer, |lengths| lengths.count() as u64);
        let table = arrays.page_table.as_ref().map(|table| table.dims2()).transpose()?;
        let cache = match table {
            Some((_, width)) => {
                Cache::Paged(PagedKv { page_size: of_k.rows, pages: of_k.outer, table_width: width as u64 })
            }
            None if of_k.outer != batch => {
                bail!("k_cache has {} sequences; allowed: as many as k, {batch}", of_k.outer)
            }
            None => Cache::Dense { rows: of_k.rows },
        };
        let shape = AppendShape {
            batch,
            // A plan for packed tokens does for all ways to deal them out.
            new: keys.rows,
            kv_heads: keys.heads,
            head_dim: keys.dim,
            head_dim_v: values.dim,
        };
        if let Some(lengths) = packed {
            check_cu_seqlens("cu_seqlens_new", lengths.sums(), batch, keys.rows, keys.rows).map_err(typed)?;
        }
        check_integers(append, &shape, k)?;
        check_factors(append, &shape, k, k_cache)?;
        Ok(Geometry {
            shape,
            cache,
            packed: packed.as_ref().map(|_| keys.rows),
            heads: queries.map_or(0, |queries| queries.heads),
            tables: tables(append, k)?,
        })
    }

    /// There are no tokens, or nothing of them.
    pub(super) fn is_empty(&self) -> bool {
        let AppendShape { batch, new, kv_heads, .. } = self.shape;
        [batch, new, kv_heads].contains(&0)
    }
}

fn check_types(q: Option<&Tensor>, k: &Tensor, v: &Tensor, k_cache: &Tensor, v_cache: &Tensor) -> Result<()> {
    let dtype = k.dtype();
    if !matches!(dtype, DType::BF16 | DType::F16 | DType::F32) {
        bail!("k is of type {dtype:?}; allowed: BF16, F16, and F32 on the CPU");
    }
    for (argument, tensor) in [("v", v), ("q", q.unwrap_or(v))] {
        if tensor.dtype() != dtype {
            bail!("{argument} is of type {:?}; allowed: k's, {dtype:?}", tensor.dtype());
        }
    }
    if ![dtype, DType::F8E4M3].contains(&k_cache.dtype()) {
        bail!("k_cache is of type {:?}; allowed: k's, {dtype:?}, and F8E4M3", k_cache.dtype());
    }
    if v_cache.dtype() != k_cache.dtype() {
        bail!("v_cache is of type {:?}; allowed: k_cache's, {:?}", v_cache.dtype(), k_cache.dtype());
    }
    for (argument, tensor) in [("v", v), ("q", q.unwrap_or(v)), ("k_cache", k_cache), ("v_cache", v_cache)] {
        if !tensor.device().same_device(k.device()) {
            bail!("{argument} is on {:?}; allowed: where k is, {:?}", tensor.device(), k.device());
        }
    }
    Ok(())
}

fn check_integers(append: &Append, shape: &AppendShape, k: &Tensor) -> Result<()> {
    let (arrays, batch) = (&append.arrays, shape.batch as usize);
    let width = arrays.page_table.as_ref().map_or(0, |table| table.dims().last().copied().unwrap_or(0));
    let all = [
        ("seqlens_before", &arrays.seqlens_before, vec![batch]),
        ("seqused_new", &arrays.seqused_new, vec![batch]),
        ("page_table", &arrays.page_table, vec![batch, width]),
    ];
    for (argument, tensor, dims) in all {
        if let Some(tensor) = tensor {
            check_array(argument, tensor, ("k", k), &[DType::U32, DType::I32], &[&dims])?;
        }
    }
    Ok(())
}

fn check_factors(append: &Append, shape: &AppendShape, k: &Tensor, k_cache: &Tensor) -> Result<()> {
    let [batch, kv_heads] = [shape.batch, shape.kv_heads].map(|size| size as usize);
    let (of_k, of_v) = (&append.arrays.k_descale, &append.arrays.v_descale);
    if of_k.is_some() && k_cache.dtype() != DType::F8E4M3 {
        return Err(typed(Error::Combination {
            first: "factors (descales)",
            second: "caches of 16 bits or more",
            allowed: "factors of caches of type F8E4M3",
        }));
    }
    for (argument, tensor) in [("k_descale", of_k), ("v_descale", of_v)] {
        if let Some(tensor) = tensor {
            check_array(argument, tensor, ("k", k), &[DType::F32], &[&[kv_heads], &[batch, kv_heads]])?;
        }
    }
    match (of_k, of_v) {
        (Some(of_k), Some(of_v)) if of_k.rank() != of_v.rank() => {
            bail!("v_descale is of shape {:?}; allowed: k_descale's, {:?}", of_v.dims(), of_k.dims())
        }
        _ => Ok(()),
    }
}

/// Positions of the tables, and elements that they rotate.
fn tables(append: &Append, k: &Tensor) -> Result<Option<(u64, u64)>> {
    let (Some(cos), Some(sin)) = (&append.arrays.cos, &append.arrays.sin) else { return Ok(None) };
    let &[positions, pairs] = cos.dims() else {
        bail!("cos is of shape {:?}; allowed: (positions, dim / 2)", cos.dims())
    };
    let most = k.dims()[k.rank() - 1] / 2;
    if pairs == 0 || pairs > most {
        bail!("cos has {pairs} pairs of a head; allowed: 1 to {most}, half of head_dim");
    }
    check_array("cos", cos, ("k", k), &[DType::F32, k.dtype()], &[cos.dims()])?;
    check_array("sin", sin, ("k", k), &[cos.dtype()], &[cos.dims()])?;
    Ok(Some((positions as u64, 2 * pairs as u64)))
}
