//! Attention inputs, and expected outputs where a file has them, as safetensors.
//!
//! | tensor | shape | type |
//! |---|---|---|
//! | `q` | (batch, seqlen_q, heads, head_dim) | bf16 or f16 |
//! | `k` | (batch, seqlen_k, kv_heads, head_dim) | as `q` |
//! | `v` | (batch, seqlen_k, kv_heads, head_dim_v) | as `q` |
//! | `o`, optional | (batch, seqlen_q, heads, head_dim_v) | f32, f16 or bf16 |
//! | `lse`, optional | (batch, heads, seqlen_q) | f32 |
//!
//! Metadata: `mask` is `none` (the default) or `causal`, and says what `o` and `lse` were computed with; `scale` is a
//! number or `1/sqrt(N)`, by default `1/sqrt(head_dim)`.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::dense::{Dense, Dims};
use crate::precision::Precision;

/// Q, K, V of a file and what it expects of them.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Format of Q, K and V.
    pub precision: Precision,
    /// Queries.
    pub q: Dense<f32>,
    /// Keys.
    pub k: Dense<f32>,
    /// Values.
    pub v: Dense<f32>,
    /// Expected output.
    pub o: Option<Dense<f32>>,
    /// Expected LSE, width 1.
    pub lse: Option<Dense<f32>>,
    /// Factor on the scores.
    pub scale: f32,
    /// Whether `o` and `lse` were computed with a causal mask.
    pub causal: bool,
}

/// Why a file is no sample.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The bytes are no safetensors file, or a truncated one.
    #[error("not a complete safetensors file: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// A tensor is not there.
    #[error("there is no tensor '{name}'; the file has {have}")]
    Missing {
        /// The tensor.
        name: &'static str,
        /// The tensors that are there.
        have: String,
    },
    /// A tensor's type does not fit.
    #[error("tensor '{name}' has type {got:?}, allowed is {allowed}")]
    DType {
        /// The tensor.
        name: &'static str,
        /// Its type.
        got: Dtype,
        /// What is allowed.
        allowed: String,
    },
    /// A tensor's shape does not fit.
    #[error("tensor '{name}' has shape {got:?}, expected {expected}")]
    Shape {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// What was expected.
        expected: String,
    },
    /// A metadata entry has an unknown value.
    #[error("metadata '{key}' is '{got}', allowed is {allowed}")]
    Metadata {
        /// The entry.
        key: &'static str,
        /// Its value.
        got: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl Sample {
    /// The project's real sample: layer 3 of all-MiniLM-L6-v2 on the Gettysburg Address.
    pub fn minilm() -> Self {
        Sample::parse(include_bytes!("../data/minilm_layer3.safetensors")).expect("the project's own sample is valid")
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, SampleError> {
        Sample::parse(&std::fs::read(path)?)
    }

    /// Reads a file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, SampleError> {
        let file = SafeTensors::deserialize(bytes)?;
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();

        let (q_view, k_view, v_view) = (required(&file, "q")?, required(&file, "k")?, required(&file, "v")?);
        let precision = precision("q", q_view.dtype())?;
        for (name, view) in [("k", &k_view), ("v", &v_view)] {
            if view.dtype() != q_view.dtype() {
                return Err(SampleError::DType { name, got: view.dtype(), allowed: format!("that of q, {precision}") });
            }
        }
        let (q, k, v) = (rank4("q", &q_view)?, rank4("k", &k_view)?, rank4("v", &v_view)?);
        let (nb, nk, d) = (q.batch, k.seq, q.width);
        expect("k", &k_view, k.batch == nb && k.width == d, || {
            format!("[{nb}, seqlen_k, kv_heads, {d}] as q has them")
        })?;
        expect("k", &k_view, q.heads.is_multiple_of(k.heads), || format!("a head count that divides q's {}", q.heads))?;
        let v_like_k = v.batch == nb && v.seq == nk && v.heads == k.heads;
        expect("v", &v_view, v_like_k, || format!("[{nb}, {nk}, {}, head_dim_v] as k has them", k.heads))?;

        let o = optional(&file, "o")?.map(|view| expected_o(&view, Dims { width: v.width, ..q })).transpose()?;
        let lse = optional(&file, "lse")?.map(|view| expected_lse(&view, Dims { width: 1, ..q })).transpose()?;
        let (scale, causal) = (scale(&metadata, d)?, causal(&metadata)?);
        let [q, k, v] = [(&q_view, q), (&k_view, k), (&v_view, v)].map(|(view, dims)| tensor(view, dims));
        Ok(Sample { precision, q, k, v, o, lse, scale, causal })
    }
}

/// Writes `o` (rounded to `precision`) and `lse` in the shapes that [`Sample::read`] expects.
pub fn write_answer(path: &Path, o: &Dense<f32>, lse: &Dense<f32>, precision: Precision) -> Result<(), SampleError> {
    let Dims { batch, seq, heads, width } = o.dims;
    let o_bytes: Vec<u8> = bshd_indices(o.dims).flat_map(|i| precision.to_bits(o.data[i]).to_le_bytes()).collect();
    let lse_bytes: Vec<u8> = lse.data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let dtype = match precision {
        Precision::Bf16 => Dtype::BF16,
        Precision::F16 => Dtype::F16,
    };
    let views = [
        ("o", TensorView::new(dtype, vec![batch, seq, heads, width], &o_bytes)?),
        ("lse", TensorView::new(Dtype::F32, vec![batch, heads, seq], &lse_bytes)?),
    ];
    let bytes = safetensors::serialize(views, None)?;
    Ok(std::fs::write(path, bytes)?)
}

fn optional<'a>(file: &SafeTensors<'a>, name: &'static str) -> Result<Option<TensorView<'a>>, SampleError> {
    match file.tensor(name) {
        Ok(view) => Ok(Some(view)),
        Err(safetensors::SafeTensorError::TensorNotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn required<'a>(file: &SafeTensors<'a>, name: &'static str) -> Result<TensorView<'a>, SampleError> {
    optional(file, name)?.ok_or_else(|| {
        let mut have = file.names();
        have.sort_unstable();
        SampleError::Missing { name, have: have.join(", ") }
    })
}

fn precision(name: &'static str, dtype: Dtype) -> Result<Precision, SampleError> {
    match dtype {
        Dtype::BF16 => Ok(Precision::Bf16),
        Dtype::F16 => Ok(Precision::F16),
        got => Err(SampleError::DType { name, got, allowed: "bf16 or f16".into() }),
    }
}

fn expect(
    name: &'static str,
    view: &TensorView<'_>,
    holds: bool,
    expected: impl FnOnce() -> String,
) -> Result<(), SampleError> {
    match holds {
        true => Ok(()),
        false => Err(SampleError::Shape { name, got: view.shape().to_vec(), expected: expected() }),
    }
}

fn rank4(name: &'static str, view: &TensorView<'_>) -> Result<Dims, SampleError> {
    match *view.shape() {
        [batch, seq, heads, width] if batch * seq * heads * width > 0 => Ok(Dims { batch, seq, heads, width }),
        ref got => Err(SampleError::Shape {
            name,
            got: got.to_vec(),
            expected: "four dimensions (batch, seq, heads, head_dim), each at least 1".into(),
        }),
    }
}

/// Indices into a dense tensor in the file's order (batch, seq, heads, head_dim).
fn bshd_indices(dims: Dims) -> impl Iterator<Item = usize> {
    let Dims { batch, seq, heads, width } = dims;
    (0..batch * seq * heads * width).map(move |i| {
        let (c, h, s, b) = (i % width, i / width % heads, i / width / heads % seq, i / width / heads / seq);
        ((b * heads + h) * seq + s) * width + c
    })
}

fn tensor(view: &TensorView<'_>, dims: Dims) -> Dense<f32> {
    let mut tensor = Dense::filled(dims, 0.0);
    let bytes = view.data();
    let value = |i: usize| match view.dtype() {
        Dtype::F32 => f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]),
        Dtype::F16 => Precision::F16.from_bits(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])),
        _ => Precision::Bf16.from_bits(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])),
    };
    bshd_indices(dims).enumerate().for_each(|(i, at)| tensor.data[at] = value(i));
    tensor
}

fn expected_o(view: &TensorView<'_>, dims: Dims) -> Result<Dense<f32>, SampleError> {
    let Dims { batch, seq, heads, width } = dims;
    if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(SampleError::DType { name: "o", got: view.dtype(), allowed: "f32, f16 or bf16".into() });
    }
    let shape = [batch, seq, heads, width];
    expect("o", view, view.shape() == shape, || format!("{shape:?}, which q and v give"))?;
    Ok(tensor(view, dims))
}

fn expected_lse(view: &TensorView<'_>, dims: Dims) -> Result<Dense<f32>, SampleError> {
    if view.dtype() != Dtype::F32 {
        return Err(SampleError::DType { name: "lse", got: view.dtype(), allowed: "f32".into() });
    }
    let shape = [dims.batch, dims.heads, dims.seq];
    expect("lse", view, view.shape() == shape, || format!("{shape:?} (batch, heads, seqlen_q), which q gives"))?;
    // With heads in the place of rows the file's order is the dense order already.
    let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(Dense { dims, data })
}

fn scale(metadata: &HashMap<String, String>, head_dim: usize) -> Result<f32, SampleError> {
    let Some(text) = metadata.get("scale") else { return Ok(1.0 / (head_dim as f32).sqrt()) };
    let root = text.strip_prefix("1/sqrt(").and_then(|rest| rest.strip_suffix(')'));
    let value = match root {
        Some(n) => n.trim().parse().map(|n: f32| 1.0 / n.sqrt()),
        None => text.trim().parse(),
    };
    value.ok().filter(|x| x.is_finite() && *x > 0.0).ok_or_else(|| SampleError::Metadata {
        key: "scale",
        got: text.clone(),
        allowed: "a positive number or 1/sqrt(N)",
    })
}

fn causal(metadata: &HashMap<String, String>) -> Result<bool, SampleError> {
    match metadata.get("mask").map(String::as_str) {
        None | Some("none") => Ok(false),
        Some("causal") => Ok(true),
        Some(other) => Err(SampleError::Metadata { key: "mask", got: other.into(), allowed: "none or causal" }),
    }
}

#[cfg(test)]
mod tests;
