//! The GPU against the CPU path, through candle's own tensors: `cargo test --features cuda` on a machine with a GPU.

use std::sync::LazyLock;

use attn_candle::*;
use candle_core::{DType, Device, Result, Tensor, WithDType};

use tensors::{elements, tensor, values};

#[path = "oracle/tensors.rs"]
mod tensors;

/// One for all: to candle, each call makes another device.
static GPU: LazyLock<Device> = LazyLock::new(|| Device::new_cuda(0).expect("a GPU"));

/// A tensor on the CPU, and its copy on the GPU.
type Both = [Tensor; 2];

fn on_both(tensor: Tensor) -> Result<Both> {
    let copy = tensor.to_device(&GPU)?;
    Ok([tensor, copy])
}

fn rows(shape: &[usize], seed: u64, dtype: DType) -> Result<Both> {
    on_both(tensor(values(shape.iter().product(), seed), shape, dtype)?)
}

fn numbers<T: WithDType>(values: &[T], shape: &[usize]) -> Result<Both> {
    on_both(Tensor::from_slice(values, shape, &Device::Cpu)?)
}

/// Computes on both and compares.
fn agree(name: &str, compute: impl Fn(usize) -> Result<Tensor>) -> Result<()> {
    let [expected, found] = [compute(0)?, compute(1)?.to_device(&Device::Cpu)?];
    assert_eq!((expected.dims(), expected.dtype()), (found.dims(), found.dtype()), "{name}");
    let [expected, found] = [elements(&expected)?, elements(&found)?];
    assert!(expected.iter().any(|x| *x != 0.0), "{name}: something is computed");
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        // Both round to the type; the kernels round weights too.
        assert!((expected - found).abs() <= 0.02, "{name}: element {i} is {found}, the CPU's {expected}");
    }
    Ok(())
}

#[test]
fn dense() -> Result<()> {
    let (q, k) = (rows(&[2, 70, 4, 64], 1, DType::BF16)?, rows(&[2, 90, 2, 64], 2, DType::BF16)?);
    let v = rows(&[2, 90, 2, 64], 3, DType::BF16)?;
    let slopes = numbers(&[0.5f32, 0.25, 0.125, 0.0625], &[4])?;
    agree("causal", |i| flash_attn(&q[i], &k[i], &v[i], 0.125, true))?;
    agree("a plan that was made before", |i| flash_attn(&q[i], &k[i], &v[i], 0.125, true))?;
    agree("window", |i| flash_attn_windowed(&q[i], &k[i], &v[i], 0.125, Some(5), Some(3)))?;
    agree("ALiBi and softcap", |i| {
        flash_attn_alibi_windowed_softcap(&q[i], &k[i], &v[i], Some(&slopes[i]), 0.125, None, Some(0), 2.0)
    })?;
    agree("part of a cache", |i| flash_attn(&q[i], &k[i].narrow(1, 8, 64)?, &v[i].narrow(1, 8, 64)?, 0.125, true))
}

#[test]
fn heads_before_rows() -> Result<()> {
    let (q, k) = (rows(&[2, 4, 70, 64], 1, DType::F16)?, rows(&[2, 2, 90, 64], 2, DType::F16)?);
    let v = rows(&[2, 2, 90, 64], 3, DType::F16)?;
    let sinks = numbers(&[0.5f32, -1.0, 2.0, 0.0], &[4])?;
    agree("transposed", |i| {
        flash_attn(&q[i].transpose(1, 2)?, &k[i].transpose(1, 2)?, &v[i].transpose(1, 2)?, 0.125, false)
    })?;
    agree("one query", |i| {
        let q = q[i].narrow(2, 69, 1)?.transpose(1, 2)?;
        Attention::new().sinks(&sinks[i]).forward(&q, &k[i].transpose(1, 2)?, &v[i].transpose(1, 2)?)
    })
}

#[test]
fn packed() -> Result<()> {
    // Two queries behind the last sequence belong to none.
    let (q, k) = (rows(&[66, 4, 64], 1, DType::BF16)?, rows(&[90, 2, 64], 2, DType::BF16)?);
    let v = rows(&[90, 2, 64], 3, DType::BF16)?;
    let (sq, sk) = (numbers(&[0u32, 24, 24, 64], &[4])?, numbers(&[0u32, 40, 50, 90], &[4])?);
    agree("packed", |i| flash_attn_varlen(&q[i], &k[i], &v[i], &sq[i], &sk[i], 40, 40, 0.125, true))
}

#[test]
fn decoding_from_pages() -> Result<()> {
    let q = rows(&[2, 1, 4, 64], 1, DType::BF16)?;
    let pages = |seed, dtype| rows(&[7, 32, 2, 64], seed, dtype);
    let (table, used) = (numbers(&[5u32, 0, 3, 6, 2, 1], &[2, 3])?, numbers(&[70u32, 41], &[2])?);
    let (sinks, factors) = (numbers(&[0.5f32, -1.0, 2.0, 0.0], &[4])?, numbers(&[0.5f32, 1.5], &[2])?);
    let step = |i: usize| Attention::new().causal().paged(&table[i]).seqused_k(&used[i]);
    let (k, v) = (pages(2, DType::BF16)?, pages(3, DType::BF16)?);
    agree("sinks and splits", |i| step(i).sinks(&sinks[i]).splits(2).forward(&q[i], &k[i], &v[i]))?;
    let (k, v) = (pages(2, DType::F8E4M3)?, pages(3, DType::F8E4M3)?);
    agree("8 bits", |i| step(i).descales(&factors[i], &factors[i]).forward(&q[i], &k[i], &v[i]))
}

#[test]
fn what_kernels_do_not_compute_is_said_in_words() -> Result<()> {
    let refusal = |shape: &[usize], dtype| -> Result<String> {
        let [_, x] = rows(shape, 1, dtype)?;
        Ok(flash_attn(&x, &x, &x, 1.0, false).expect_err("must be refused").to_string())
    };
    assert!(refusal(&[1, 2, 1, 8], DType::F32)?.contains("allowed on a GPU: BF16, F16"));
    assert!(refusal(&[1, 2, 1, 264], DType::BF16)?.contains("head_dim is 264"));
    Ok(())
}
