//! Tensors of files into a job.

use attn_host::{Alibi, Arrays, Descales, Float8, Mask, PagedKv, Shape};
use attn_tests::precision::Precision;

use crate::error::Failure;
use crate::files::{Array, FileError, Tensors, Values};
use crate::job::{Bits, Job, Tensor};
use crate::options::Scores;
use crate::problem::Spec;

/// Sizes of Q, K or V: sequences or pages, rows of each, heads, head dimension; packed tensors are one sequence.
type Sizes = [u64; 4];

/// The job that the files and the options describe.
///
/// # Errors
/// The tensor that does not fit, or is not there.
pub fn job(tensors: &Tensors, dtype: Option<Precision>, scores: &Scores) -> Result<Job, Failure> {
    let cu_q = integers(tensors, "cu_seqlens_q")?.or(integers(tensors, "cu_seqlens")?);
    let paged = tensors.get("page_table").is_some();
    let shared = if paged { None } else { integers(tensors, "cu_seqlens")? };
    let cu_k = integers(tensors, "cu_seqlens_k")?.or(shared);
    let (q, k, v) = (
        sizes(tensors, "q", cu_q.is_some())?,
        sizes(tensors, "k", cu_k.is_some())?,
        sizes(tensors, "v", cu_k.is_some())?,
    );
    agree(tensors, q, k, v)?;
    let mut spec = Spec::dense(precision(tensors, dtype)?, shape(q, k, v));
    let mut arrays = Arrays {
        seqused_q: integers(tensors, "seqused_q")?,
        seqused_k: integers(tensors, "seqused_k")?,
        sinks: floats(tensors, "sinks")?,
        alibi_slopes: floats(tensors, "alibi_slopes")?,
        q_descale: floats(tensors, "q_descale")?,
        k_descale: floats(tensors, "k_descale")?,
        v_descale: floats(tensors, "v_descale")?,
        ..Arrays::default()
    };
    if let Some(sums) = &cu_q {
        spec.packed_q = Some(q[1]);
        (spec.shape.batch, spec.shape.seqlen_q) = (sums.len().saturating_sub(1) as u64, longest(sums));
    }
    if let Some(sums) = &cu_k {
        (spec.packed_k, spec.shape.seqlen_k) = (Some(k[1]), longest(sums));
    }
    if paged {
        pages(tensors, &mut spec, &mut arrays, k)?;
    } else if cu_k.is_none() && k[0] != spec.shape.batch {
        return Err(shape_error(tensors, "k", format!("{} sequences, as many as q has", spec.shape.batch)));
    }
    (arrays.cu_seqlens_q, arrays.cu_seqlens_k) = (cu_q, cu_k);
    spec.mask = if tensors.causal == Some(true) { Mask::Causal } else { Mask::None };
    spec.scale = tensors.scale;
    spec.alibi = per_head(tensors, "alibi_slopes", spec.shape.batch, spec.shape.heads)?
        .map(|own| if own { Alibi::PerSequenceAndHead } else { Alibi::PerHead });
    if arrays.sinks.as_ref().is_some_and(|sinks| sinks.len() as u64 != spec.shape.heads) {
        return Err(shape_error(tensors, "sinks", format!("[{}], one for each query head", spec.shape.heads)));
    }
    let qkv = [bits(tensors, "q", spec.dtype)?, bits(tensors, "k", spec.dtype)?, bits(tensors, "v", spec.dtype)?];
    narrow(tensors, &mut spec, &mut arrays, &qkv)?;
    Ok(Job { spec: scores.over(spec), arrays, qkv: qkv.map(Tensor::whole) })
}

fn shape_error(tensors: &Tensors, name: &'static str, allowed: String) -> Failure {
    let found = tensors.get(name).map(|array| array.shape.clone()).unwrap_or_default();
    tensors.wrong(name, FileError::Shape { name, found, allowed })
}

fn sizes(tensors: &Tensors, name: &'static str, packed: bool) -> Result<Sizes, Failure> {
    let array = tensors.required(name)?;
    let sizes: Vec<u64> = array.shape.iter().map(|n| *n as u64).collect();
    let rank = if packed { 3 } else { 4 };
    let sizes = match *sizes {
        [rows, heads, dim] if packed => [1, rows, heads, dim],
        [batch, rows, heads, dim] if !packed => [batch, rows, heads, dim],
        _ => {
            return Err(shape_error(
                tensors,
                name,
                format!("{rank} dimensions; {}", if packed { PACKED } else { DENSE }),
            ));
        }
    };
    if sizes.contains(&0) {
        return Err(shape_error(tensors, name, "every dimension at least 1".to_owned()));
    }
    Ok(sizes)
}

const PACKED: &str = "with cu_seqlens it is (rows of all sequences, heads, head_dim)";
const DENSE: &str = "(batch, rows, heads, head_dim), or with cu_seqlens packed in 3";

/// Whether Q, K and V go together.
fn agree(tensors: &Tensors, q: Sizes, k: Sizes, v: Sizes) -> Result<(), Failure> {
    if k[3] != q[3] {
        return Err(shape_error(tensors, "k", format!("head_dim {}, as q has it", q[3])));
    }
    if v[..3] != k[..3] {
        return Err(shape_error(tensors, "v", format!("{:?} before its head_dim, as k has it", &k[..3])));
    }
    Ok(())
}

fn shape(q: Sizes, k: Sizes, v: Sizes) -> Shape {
    Shape { batch: q[0], seqlen_q: q[1], seqlen_k: k[1], heads: q[2], kv_heads: k[2], head_dim: q[3], head_dim_v: v[3] }
}

/// The longest sequence, by sums that may still be wrong; at least 1.
fn longest(sums: &[i32]) -> u64 {
    let lengths = sums.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
    u64::try_from(lengths.max().unwrap_or(0)).unwrap_or(0).max(1)
}

fn pages(tensors: &Tensors, spec: &mut Spec, arrays: &mut Arrays, k: Sizes) -> Result<(), Failure> {
    let table = tensors.required("page_table")?;
    let batch = spec.shape.batch;
    let [rows, width] = table.shape[..] else {
        return Err(shape_error(tensors, "page_table", "2 dimensions, (batch, width)".to_owned()));
    };
    if rows as u64 != batch || width == 0 {
        return Err(shape_error(tensors, "page_table", format!("[{batch}, at least 1]: a row for each sequence")));
    }
    let (width, page_size) = (width as u64, k[1]);
    spec.paged = Some(PagedKv { page_size, pages: k[0], table_width: width });
    // Without lengths every sequence fills its row of the table.
    let most = arrays.seqused_k.as_ref().and_then(|used| used.iter().copied().max());
    let most = most.and_then(|most| u64::try_from(most).ok());
    spec.shape.seqlen_k = most.unwrap_or(width.saturating_mul(page_size)).max(1);
    arrays.page_table = integers(tensors, "page_table")?;
    Ok(())
}

fn integers(tensors: &Tensors, name: &'static str) -> Result<Option<Vec<i32>>, Failure> {
    let Some(array) = tensors.get(name) else { return Ok(None) };
    let Values::Integer(values) = &array.values else {
        let (found, allowed) = (array.values.name(), "integers".to_owned());
        return Err(tensors.wrong(name, FileError::Type { name: name.to_owned(), found, allowed }));
    };
    let small = |value: &i64| {
        i32::try_from(*value).map_err(|_| {
            let (found, allowed) = (value.to_string(), "integers of 32 bits".to_owned());
            tensors.wrong(name, FileError::Type { name: name.to_owned(), found, allowed })
        })
    };
    values.iter().map(small).collect::<Result<_, _>>().map(Some)
}

fn floats(tensors: &Tensors, name: &'static str) -> Result<Option<Vec<f32>>, Failure> {
    let Some(Array { values, .. }) = tensors.get(name) else { return Ok(None) };
    match values {
        Values::Float(values) => Ok(Some(values.clone())),
        Values::Half(precision, bits) => Ok(Some(bits.iter().map(|bits| precision.from_bits(*bits)).collect())),
        other => {
            let (found, allowed) = (other.name(), "f32, f16 or bf16".to_owned());
            Err(tensors.wrong(name, FileError::Type { name: name.to_owned(), found, allowed }))
        }
    }
}

/// Whether an array has values of each sequence besides those of each head, where there is one.
fn per_head(tensors: &Tensors, name: &'static str, batch: u64, heads: u64) -> Result<Option<bool>, Failure> {
    let Some(array) = tensors.get(name) else { return Ok(None) };
    match *array.shape {
        [found] if found as u64 == heads => Ok(Some(false)),
        [rows, found] if rows as u64 == batch && found as u64 == heads => Ok(Some(true)),
        _ => Err(shape_error(tensors, name, format!("[{heads}] or [{batch}, {heads}]"))),
    }
}

/// The format of O: what was asked for, else that of the first of q, k and v that is of 16 bits, else bf16.
fn precision(tensors: &Tensors, dtype: Option<Precision>) -> Result<Precision, Failure> {
    let found = ["q", "k", "v"].into_iter().find_map(|name| match tensors.get(name)?.values {
        Values::Half(precision, _) => Some(precision),
        _ => None,
    });
    Ok(dtype.or(found).unwrap_or(Precision::Bf16))
}

/// A tensor's elements in the format that is computed in; 8-bit ones stay as they are.
fn bits(tensors: &Tensors, name: &'static str, to: Precision) -> Result<Bits, Failure> {
    match &tensors.required(name)?.values {
        Values::Half(precision, bits) if *precision == to => Ok(Bits::Wide(to, bits.clone())),
        Values::Half(from, bits) => Ok(Bits::Wide(to, bits.iter().map(|b| to.to_bits(from.from_bits(*b))).collect())),
        Values::Float(values) => Ok(Bits::Wide(to, values.iter().map(|x| to.to_bits(*x)).collect())),
        Values::Float8(bits) => Ok(Bits::Narrow(bits.clone())),
        other @ Values::Integer(_) => {
            let (found, allowed) = (other.name(), "bf16, f16, f32, f64 or e4m3".to_owned());
            Err(tensors.wrong(name, FileError::Type { name: name.to_owned(), found, allowed }))
        }
    }
}

/// Which of Q, K and V are of 8 bits, and with which factors.
fn narrow(tensors: &Tensors, spec: &mut Spec, arrays: &mut Arrays, qkv: &[Bits; 3]) -> Result<(), Failure> {
    let [q, k, v] = qkv.each_ref().map(|bits| matches!(bits, Bits::Narrow(_)));
    spec.float8 = match (q, k, v) {
        (false, false, false) => Float8::None,
        (false, true, true) => Float8::Keys,
        (true, true, true) => Float8::All,
        _ => {
            // The one that is not like the others.
            let (name, bits) = match (k, v) {
                (true, false) => ("v", &qkv[2]),
                (false, true) => ("k", &qkv[1]),
                _ => ("q", &qkv[0]),
            };
            let allowed = "8 bits in k and v, or in q, k and v, or in none".to_owned();
            let found = format!("elements of {} bits", 8 * bits.element());
            return Err(tensors.wrong(name, FileError::Type { name: name.to_owned(), found, allowed }));
        }
    };
    let (batch, kv_heads) = (spec.shape.batch, spec.shape.kv_heads);
    let names = ["q_descale", "k_descale", "v_descale"];
    let mut own = None;
    for name in names {
        if let Some(found) = per_head(tensors, name, batch, kv_heads)? {
            if own.is_some_and(|own| own != found) {
                return Err(shape_error(tensors, name, "the shape of the other factors".to_owned()));
            }
            own = Some(found);
        }
    }
    let Some(own) = own else { return Ok(()) };
    spec.descales = Some(if own { Descales::PerSequenceAndHead } else { Descales::PerHead });
    // Those that are not there are 1.
    let count = if own { batch * kv_heads } else { kv_heads } as usize;
    let ones = |array: &mut Option<Vec<f32>>| *array = array.take().or(Some(vec![1.0; count]));
    if spec.float8 == Float8::All {
        ones(&mut arrays.q_descale);
    }
    ones(&mut arrays.k_descale);
    ones(&mut arrays.v_descale);
    Ok(())
}
