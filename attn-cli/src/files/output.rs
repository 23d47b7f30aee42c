//! O and LSE into files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use attn_tests::precision::Precision;
use npyz::WriterBuilder;
use safetensors::tensor::{Dtype, TensorView};

use super::{Extension, FileError, extension};
use crate::device::Answer;
use crate::job::Job;

/// Writes O and LSE to a safetensors file, or O alone to an .npy file: of 16 bits where NumPy has the type, else f32.
pub fn write(path: &Path, job: &Job, answer: &Answer) -> Result<(), FileError> {
    match extension(path) {
        Some(Extension::Safetensors) => write_safetensors(path, job, answer),
        Some(Extension::Npy) => write_npy(path, job, answer),
        None => Err(FileError::Extension),
    }
}

/// The shape of O: (total, heads, head_dim_v) or (batch, seqlen_q, heads, head_dim_v).
fn shape_of_o(job: &Job) -> Vec<u64> {
    let shape = job.spec.shape;
    match job.spec.packed_q {
        Some(total) => vec![total, shape.heads, shape.head_dim_v],
        None => vec![shape.batch, shape.seqlen_q, shape.heads, shape.head_dim_v],
    }
}

/// The shape of LSE: (heads, total) or (batch, heads, seqlen_q).
fn shape_of_lse(job: &Job) -> Vec<u64> {
    let shape = job.spec.shape;
    match job.spec.packed_q {
        Some(total) => vec![shape.heads, total],
        None => vec![shape.batch, shape.heads, shape.seqlen_q],
    }
}

fn write_safetensors(path: &Path, job: &Job, answer: &Answer) -> Result<(), FileError> {
    let o: Vec<u8> = answer.o.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let lse: Vec<u8> = answer.lse.iter().flat_map(|x| x.to_le_bytes()).collect();
    let dtype = match job.spec.dtype {
        Precision::Bf16 => Dtype::BF16,
        Precision::F16 => Dtype::F16,
    };
    let sizes = |shape: Vec<u64>| shape.into_iter().map(|n| n as usize).collect();
    let unfit = |error: safetensors::SafeTensorError| FileError::Io(std::io::Error::other(error.to_string()));
    let views = [
        ("o", TensorView::new(dtype, sizes(shape_of_o(job)), &o).map_err(unfit)?),
        ("lse", TensorView::new(Dtype::F32, sizes(shape_of_lse(job)), &lse).map_err(unfit)?),
    ];
    Ok(std::fs::write(path, safetensors::serialize(views, None).map_err(unfit)?)?)
}

fn write_npy(path: &Path, job: &Job, answer: &Answer) -> Result<(), FileError> {
    let file = BufWriter::new(File::create(path)?);
    let shape = shape_of_o(job);
    match job.spec.dtype {
        Precision::F16 => put(file, &shape, answer.o.iter().map(|bits| half::f16::from_bits(*bits))),
        Precision::Bf16 => put(file, &shape, answer.o.iter().map(|bits| Precision::Bf16.from_bits(*bits))),
    }
}

fn put<T: npyz::AutoSerialize>(
    mut file: BufWriter<File>,
    shape: &[u64],
    values: impl Iterator<Item = T>,
) -> Result<(), FileError> {
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut file).begin_nd()?;
    writer.extend(values)?;
    writer.finish()?;
    Ok(file.flush()?)
}
