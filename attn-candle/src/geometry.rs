//! Sizes of a problem, from the shapes of its tensors.

use attn_host::{Alibi, DType, Descales, Float8, PagedKv, Problem, Shape, Splits, Strides, check_cu_seqlens};
use candle_core::{DType as CandleType, Error, Layout, Result, Tensor, bail};

use crate::attention::Attention;

/// The sizes of a problem.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub(crate) shape: Shape,
    pub(crate) output: Vec<usize>,
    /// Rows of all queries, and of all keys, where they are packed.
    pub(crate) packed: [Option<u64>; 2],
    pub(crate) paged: Option<PagedKv>,
    pub(crate) scale: f32,
}

impl Geometry {
    /// Checks that shapes, types and devices go together.
    pub(crate) fn of(attention: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Self> {
        check_types(q, k, v)?;
        check_factors(attention)?;
        let Attention { packed_q, packed_k, arrays, .. } = attention;
        let queries = Rows::of("q", q, packed_q.is_some())?;
        let (keys, values) = (Rows::of("k", k, packed_k.is_some())?, Rows::of("v", v, packed_k.is_some())?);
        check_equal(&[
            ("head_dim of k", keys.dim, "q's", queries.dim),
            ("kv_heads of v", values.heads, "k's", keys.heads),
            ("rows of v", values.rows, "k's", keys.rows),
            ("the first dimension of v", values.outer, "k's", keys.outer),
        ])?;
        if keys.heads == 0 || queries.heads % keys.heads != 0 {
            return Err(typed(attn_host::Error::HeadGroups { heads: queries.heads, kv_heads: keys.heads }));
        }
        let batch = packed_q.as_ref().map_or(queries.outer, |lengths| lengths.count() as u64);
        let table = arrays.page_table.as_ref().map(|table| table.dims2()).transpose()?;
        let paged =
            table.map(|(_, width)| PagedKv { page_size: keys.rows, pages: keys.outer, table_width: width as u64 });
        let room = match (paged, packed_k) {
            (Some(_), Some(_)) => bail!("a page table together with packed keys; allowed: one of them"),
            (Some(paged), None) => paged.page_size * paged.table_width,
            (None, Some(lengths)) => lengths.longest() as u64,
            (None, None) => keys.rows,
        };
        let keys_of = packed_k.as_ref().map_or(keys.outer, |lengths| lengths.count() as u64);
        if paged.is_none() && keys_of != batch {
            bail!("k has {keys_of} sequences; allowed: as many as q, {batch}");
        }
        let seqlen_q = match (packed_q, attention.longest_q) {
            (Some(lengths), longest) => longest.unwrap_or(lengths.longest()) as u64,
            (None, _) => queries.rows,
        };
        let fixed = paged.is_none() && packed_k.is_none();
        let seqlen_k = attention.longest_k.filter(|_| !fixed).map_or(room, |longest| longest as u64);
        if packed_k.is_some() && arrays.seqused_k.is_some() {
            bail!("seqused_k together with packed keys; allowed: with a cache, dense or in pages");
        }
        let shape = Shape {
            batch,
            seqlen_q,
            seqlen_k: if paged.is_some() { seqlen_k.min(room) } else { seqlen_k },
            heads: queries.heads,
            kv_heads: keys.heads,
            head_dim: queries.dim,
            head_dim_v: values.dim,
        };
        let packed = [packed_q, packed_k].map(Option::as_ref);
        let totals = [(0, "cu_seqlens_q", queries.rows, seqlen_q), (1, "cu_seqlens_k", keys.rows, seqlen_k)];
        for (side, argument, total, longest) in totals {
            if let Some(lengths) = packed[side] {
                check_cu_seqlens(argument, lengths.sums(), batch, total, longest).map_err(typed)?;
            }
        }
        check_arrays(attention, &shape, q, k.dtype() == CandleType::F8E4M3)?;
        let mut output = q.dims().to_vec();
        *output.last_mut().expect("of rank 3 or 4") = values.dim as usize;
        Ok(Geometry {
            shape,
            output,
            packed: [packed[0].map(|_| queries.rows), packed[1].map(|_| keys.rows)],
            paged,
            scale: attention.scale.unwrap_or_else(|| (1.0 / (queries.dim as f64).sqrt()) as f32),
        })
    }

    /// There are no queries, or no keys that they could see.
    pub(crate) fn is_empty(&self) -> bool {
        let Shape { batch, seqlen_q, seqlen_k, heads, head_dim_v, .. } = self.shape;
        [batch, seqlen_q, seqlen_k, heads, head_dim_v].contains(&0)
    }

    /// There are packed queries that belong to no sequence.
    #[cfg(feature = "cuda")]
    pub(crate) fn leaves_rows(&self, attention: &Attention) -> bool {
        attention.packed_q.as_ref().is_some_and(|lengths| lengths.total() != self.output[0])
    }

    /// The shape of the LSE.
    pub(crate) fn lse_shape(&self) -> Vec<usize> {
        // The output is (..., queries, heads, head_dim).
        let [outer @ .., queries, heads, _] = &self.output[..] else { unreachable!("of rank 3 or 4") };
        outer.iter().chain([heads, queries]).copied().collect()
    }

    /// The problem for kernels, on tensors of these layouts.
    pub(crate) fn problem(&self, attention: &Attention, dtype: DType, float8: bool) -> Problem {
        let arrays = &attention.arrays;
        let mut problem = Problem::new(dtype, self.shape).scale(self.scale);
        if attention.left.is_some() || attention.right.is_some() {
            let wide = |keys: Option<usize>| keys.map(|keys| keys as u64);
            problem = match (attention.left, attention.right) {
                (None, Some(0)) => problem.mask(attn_host::Mask::Causal),
                (left, right) => problem.window(wide(left), wide(right)),
            };
        }
        if let Some(total) = self.packed[0] {
            problem = problem.packed_q(total);
        }
        if let Some(total) = self.packed[1] {
            problem = problem.packed_k(total);
        }
        if let Some(paged) = self.paged {
            problem = problem.paged(paged);
        }
        if arrays.seqused_k.is_some() {
            problem = problem.seqused_k();
        }
        if let Some(softcap) = attention.softcap {
            problem = problem.softcap(softcap);
        }
        if arrays.sinks.is_some() {
            problem = problem.sinks();
        }
        if let Some(slopes) = &arrays.alibi_slopes {
            problem = problem.alibi(if slopes.rank() == 1 { Alibi::PerHead } else { Alibi::PerSequenceAndHead });
        }
        if let Some(splits) = attention.splits {
            problem = problem.splits(Splits::Exactly(splits));
        }
        if float8 {
            problem = problem.float8(Float8::Keys);
        }
        match &arrays.k_descale {
            Some(factors) if factors.rank() == 1 => problem.descales(Descales::PerHead),
            Some(_) => problem.descales(Descales::PerSequenceAndHead),
            None => problem,
        }
    }
}

/// Sizes of a tensor of rows.
pub(crate) struct Rows {
    /// Sequences, or pages; 1 where sequences are packed.
    pub(crate) outer: u64,
    pub(crate) rows: u64,
    pub(crate) heads: u64,
    pub(crate) dim: u64,
}

impl Rows {
    pub(crate) fn of(argument: &'static str, tensor: &Tensor, packed: bool) -> Result<Self> {
        let sizes = match (tensor.dims(), packed) {
            (&[rows, heads, dim], true) => [1, rows, heads, dim],
            (&[outer, rows, heads, dim], false) => [outer, rows, heads, dim],
            (found, true) => bail!("{argument} is of shape {found:?}; allowed: (total, heads, head_dim), packed"),
            (found, false) => bail!("{argument} is of shape {found:?}; allowed: (batch, rows, heads, head_dim)"),
        };
        let [outer, rows, heads, dim] = sizes.map(|size| size as u64);
        Ok(Rows { outer, rows, heads, dim })
    }
}

/// Strides of a tensor of rows.
pub(crate) fn strides(layout: &Layout) -> Strides {
    let wide = |stride: usize| i64::try_from(stride).unwrap_or(i64::MAX);
    match *layout.stride() {
        [batch, seq, head, _] => Strides { batch: wide(batch), seq: wide(seq), head: wide(head) },
        [seq, head, _] => Strides { batch: 0, seq: wide(seq), head: wide(head) },
        _ => unreachable!("shapes have been checked"),
    }
}

/// Refuses the first size that is not the one it goes with: what it is, its value, whose it should be, and that one's value.
pub(crate) fn check_equal(sizes: &[(&str, u64, &str, u64)]) -> Result<()> {
    match sizes.iter().find(|(_, found, _, wanted)| found != wanted) {
        Some((what, found, of, wanted)) => bail!("{what} is {found}; allowed: {of}, {wanted}"),
        None => Ok(()),
    }
}

fn check_types(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
    let narrow = k.dtype() == CandleType::F8E4M3 && matches!(q.dtype(), CandleType::BF16 | CandleType::F16);
    for (argument, tensor, wanted) in [("k", k, if narrow { k.dtype() } else { q.dtype() }), ("v", v, k.dtype())] {
        if tensor.dtype() != wanted {
            bail!("{argument} is of type {:?}; allowed: {wanted:?}", tensor.dtype());
        }
    }
    for (argument, tensor) in [("k", k), ("v", v)] {
        if !tensor.device().same_device(q.device()) {
            bail!("{argument} is on {:?}; allowed: where q is, {:?}", tensor.device(), q.device());
        }
    }
    Ok(())
}

fn check_factors(attention: &Attention) -> Result<()> {
    let allowed = "finite and above zero";
    let wrong = |factor: &f32| !(factor.is_finite() && *factor > 0.0);
    if let Some(value) = attention.scale.filter(wrong) {
        return Err(typed(attn_host::Error::Scale { value, allowed }));
    }
    match attention.softcap.filter(wrong) {
        Some(value) => Err(typed(attn_host::Error::Softcap { value, allowed })),
        None => Ok(()),
    }
}

/// Checks shapes, types and devices of what only some problems have.
fn check_arrays(attention: &Attention, shape: &Shape, q: &Tensor, float8: bool) -> Result<()> {
    let Shape { batch, heads, kv_heads, .. } = *shape;
    let [batch, heads, kv_heads] = [batch, heads, kv_heads].map(|size| size as usize);
    let arrays = &attention.arrays;
    let width = arrays.page_table.as_ref().map_or(0, |table| table.dims().last().copied().unwrap_or(0));
    let integers =
        [("page_table", &arrays.page_table, vec![batch, width]), ("seqused_k", &arrays.seqused_k, vec![batch])];
    let floats = [
        ("sinks", &arrays.sinks, heads, false),
        ("alibi_slopes", &arrays.alibi_slopes, heads, true),
        ("k_descale", &arrays.k_descale, kv_heads, true),
        ("v_descale", &arrays.v_descale, kv_heads, true),
    ];
    for (argument, tensor, dims) in integers {
        if let Some(tensor) = tensor {
            check_array(argument, tensor, ("q", q), &[CandleType::U32, CandleType::I32], &[&dims])?;
        }
    }
    for (argument, tensor, count, per_sequence) in floats {
        let (each, all) = ([count], [batch, count]);
        let shapes: &[&[usize]] = if per_sequence { &[&each, &all] } else { &[&each] };
        if let Some(tensor) = tensor {
            check_array(argument, tensor, ("q", q), &[CandleType::F32], shapes)?;
        }
    }
    match (&arrays.k_descale, &arrays.v_descale) {
        (Some(_), _) if !float8 => Err(typed(attn_host::Error::Combination {
            first: "factors (descales)",
            second: "keys and values of 16 bits or more",
            allowed: "factors of K and V of type F8E4M3",
        })),
        (Some(k), Some(v)) if k.rank() != v.rank() => {
            bail!("v_descale is of shape {:?}; allowed: k_descale's, {:?}", v.dims(), k.dims())
        }
        _ => Ok(()),
    }
}

/// Checks type and shape of an array, and that it is where the tensor of that name is.
pub(crate) fn check_array(
    argument: &'static str,
    tensor: &Tensor,
    (name, beside): (&'static str, &Tensor),
    types: &[CandleType],
    shapes: &[&[usize]],
) -> Result<()> {
    if !types.contains(&tensor.dtype()) {
        bail!("{argument} is of type {:?}; allowed: {types:?}", tensor.dtype());
    }
    if !shapes.contains(&tensor.dims()) {
        bail!("{argument} is of shape {:?}; allowed: {shapes:?}", tensor.dims());
    }
    if !tensor.device().same_device(beside.device()) {
        bail!("{argument} is on {:?}; allowed: where {name} is, {:?}", tensor.device(), beside.device());
    }
    Ok(())
}

/// An error of attn-host in candle's.
pub(crate) fn typed(error: attn_host::Error) -> Error {
    Error::wrap(error)
}
