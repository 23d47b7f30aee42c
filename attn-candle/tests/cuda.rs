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
    // Both round to the type; the kernels round weights too.
    agree_within(name, 0.02, |i| Ok(vec![compute(i)?]))
}

/// The same with O and LSE, or all that a step writes.
fn agree_within(name: &str, allowed: f64, compute: impl Fn(usize) -> Result<Vec<Tensor>>) -> Result<()> {
    for (n, (expected, found)) in compute(0)?.into_iter().zip(compute(1)?).enumerate() {
        assert!(found.device().is_cuda(), "{name}, {n}");
        let found = found.to_device(&Device::Cpu)?;
        assert_eq!((expected.dims(), expected.dtype()), (found.dims(), found.dtype()), "{name}, {n}");
        let [expected, found] = [elements(&expected)?, elements(&found)?];
        assert!(expected.iter().any(|x| *x != 0.0), "{name}, {n}: something is computed");
        for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
            let same = *expected == found || (expected - found).abs() <= allowed;
            assert!(same, "{name}, {n}: element {i} is {found}, the CPU's {expected}");
        }
    }
    Ok(())
}

fn pair((o, lse): (Tensor, Tensor)) -> Vec<Tensor> {
    vec![o, lse]
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
fn sums_come_with_results() -> Result<()> {
    let (q, k) = (rows(&[2, 70, 4, 64], 1, DType::BF16)?, rows(&[2, 90, 2, 64], 2, DType::BF16)?);
    let v = rows(&[2, 90, 2, 64], 3, DType::BF16)?;
    let (sinks, used) = (numbers(&[0.5f32, -1.0, 2.0, 0.0], &[4])?, numbers(&[33u32, 0], &[2])?);
    let causal = || Attention::new().causal();
    agree_within("dense", 0.02, |i| Ok(pair(causal().forward_with_lse(&q[i], &k[i], &v[i])?)))?;
    let cache = |i: usize| causal().seqused_k(&used[i]);
    agree_within("rows that see nothing", 0.02, |i| Ok(pair(cache(i).forward_with_lse(&q[i], &k[i], &v[i])?)))?;
    agree_within("one query, sinks and splits", 0.02, |i| {
        let step = cache(i).sinks(&sinks[i]).splits(2);
        Ok(pair(step.forward_with_lse(&q[i].narrow(1, 69, 1)?, &k[i], &v[i])?))
    })?;
    let flat = |both: &Both, rows: usize| -> Result<Both> {
        Ok([both[0].flatten(0, 1)?.narrow(0, 0, rows)?, both[1].flatten(0, 1)?.narrow(0, 0, rows)?])
    };
    // Two queries behind the last sequence belong to none.
    let (q, k, v) = (flat(&q, 66)?, flat(&k, 90)?, flat(&v, 90)?);
    agree_within("packed", 0.02, |i| {
        let lengths = |all: &[usize]| Lengths::new(all, q[i].device());
        let packed = causal().packed(&lengths(&[24, 0, 40])?, &lengths(&[40, 10, 40])?);
        Ok(pair(packed.forward_with_lse(&q[i], &k[i], &v[i])?))
    })
}

#[test]
fn what_kernels_cannot_address_is_copied() -> Result<()> {
    // Contiguous, but three elements behind a multiple of 16 bytes.
    let odd = |shape: &[usize], seed| -> Result<Both> {
        let count: usize = shape.iter().product();
        let [cpu, gpu] = rows(&[count + 3], seed, DType::BF16)?;
        Ok([cpu.narrow(0, 3, count)?.reshape(shape)?, gpu.narrow(0, 3, count)?.reshape(shape)?])
    };
    let (q, k, v) = (odd(&[1, 9, 2, 64], 1)?, odd(&[1, 17, 1, 64], 2)?, odd(&[1, 17, 1, 64], 3)?);
    agree("attention", |i| flash_attn(&q[i], &k[i], &v[i], 0.125, true))?;
    agree_within("append", 0.0, |i| {
        let device = q[i].device();
        let caches = [Tensor::zeros((1, 17, 1, 64), DType::BF16, device)?, k[i].force_contiguous()?];
        Append::new().write(&v[i], &k[i], &caches[0], &caches[1])?;
        Ok(caches.to_vec())
    })
}

/// New caches for one device, as K's and V's copies of these.
fn copies([k, v]: [&Both; 2], i: usize) -> Result<[Tensor; 2]> {
    Ok([k[i].copy()?, v[i].copy()?])
}

#[test]
fn dense_caches_grow_in_place() -> Result<()> {
    let (q, k) = (rows(&[2, 3, 4, 64], 1, DType::BF16)?, rows(&[2, 3, 2, 64], 2, DType::BF16)?);
    let v = rows(&[2, 3, 2, 32], 3, DType::BF16)?;
    let of_k = rows(&[2, 2, 20, 64], 4, DType::BF16)?;
    let of_v = rows(&[2, 2, 20, 32], 5, DType::BF16)?;
    // The last token of the second sequence has no room.
    let before = numbers(&[7u32, 18], &[2])?;
    let (cos, sin) = (rows(&[20, 32], 6, DType::F32)?, rows(&[20, 32], 7, DType::F32)?);
    agree_within("halves, heads before rows", 0.0, |i| {
        let [k_cache, v_cache] = copies([&of_k, &of_v], i)?;
        let append = Append::new().seqlens_before(&before[i]).rotary(&cos[i], &sin[i], Pairs::Halves);
        let (k_rows, v_rows) = (k_cache.transpose(1, 2)?, v_cache.transpose(1, 2)?);
        let rotated = append.write_and_rotate(&q[i], &k[i], &v[i], &k_rows, &v_rows)?;
        Ok(vec![k_cache, v_cache, rotated])
    })?;
    agree_within("as they are, into part of a cache", 0.0, |i| {
        let [k_cache, v_cache] = copies([&of_v, &of_k], i)?;
        let part = |cache: &Tensor| cache.narrow(2, 8, 8)?.transpose(1, 2);
        Append::new().write(&v[i], &k[i], &part(&k_cache)?, &part(&v_cache)?)?;
        Ok(vec![k_cache, v_cache])
    })
}

#[test]
fn pages_grow_in_place() -> Result<()> {
    let (q, k) = (rows(&[9, 4, 64], 1, DType::F16)?, rows(&[9, 2, 64], 2, DType::F16)?);
    let v = rows(&[9, 2, 64], 3, DType::F16)?;
    let pages = |seed, dtype| rows(&[5, 16, 2, 64], seed, dtype);
    // The second page of the second sequence is nowhere.
    let (table, before) = (numbers(&[3u32, 0, 4, u32::MAX], &[2, 2])?, numbers(&[14i32, 13], &[2])?);
    let used = numbers(&[3u32, 4], &[2])?;
    let (cos, sin) = (rows(&[18, 16], 6, DType::F16)?, rows(&[18, 16], 7, DType::F16)?);
    let factors = numbers(&[0.5f32, 0.01, 1.5, 0.25], &[2, 2])?;
    for (name, dtype) in [("16 bits", DType::F16), ("8 bits", DType::F8E4M3)] {
        let (of_k, of_v) = (pages(4, dtype)?, pages(5, dtype)?);
        agree_within(name, 0.0, |i| {
            let [k_cache, v_cache] = copies([&of_k, &of_v], i)?;
            let lengths = Lengths::new(&[4, 5], q[i].device())?;
            let append = Append::new().packed(&lengths).seqused_new(&used[i]).seqlens_before(&before[i]);
            let mut append = append.paged(&table[i]).rotary(&cos[i], &sin[i], Pairs::Interleaved);
            if dtype == DType::F8E4M3 {
                append = append.descales(&factors[i], &factors[i]);
            }
            let rotated = append.write_and_rotate(&q[i], &k[i], &v[i], &k_cache, &v_cache)?;
            Ok(vec![k_cache, v_cache, rotated])
        })?;
    }
    Ok(())
}

#[test]
fn a_step_is_appended_and_attends() -> Result<()> {
    let (q, k) = (rows(&[2, 1, 4, 64], 1, DType::BF16)?, rows(&[2, 1, 2, 64], 2, DType::BF16)?);
    let (of_k, of_v) = (rows(&[2, 64, 2, 64], 4, DType::BF16)?, rows(&[2, 64, 2, 64], 5, DType::BF16)?);
    let (cos, sin) = (rows(&[64, 32], 6, DType::F32)?, rows(&[64, 32], 7, DType::F32)?);
    let (before, after) = (numbers(&[40u32, 9], &[2])?, numbers(&[41u32, 10], &[2])?);
    agree("decoding", |i| {
        let [k_cache, v_cache] = copies([&of_k, &of_v], i)?;
        let append = Append::new().seqlens_before(&before[i]).rotary(&cos[i], &sin[i], Pairs::Halves);
        let q = append.write_and_rotate(&q[i], &k[i], &k[i], &k_cache, &v_cache)?;
        Attention::new().causal().seqused_k(&after[i]).forward(&q, &k_cache, &v_cache)
    })
}

#[test]
fn what_kernels_do_not_append_is_said_in_words() -> Result<()> {
    let [_, new] = rows(&[1, 2, 1, 16], 1, DType::BF16)?;
    let ([_, k_cache], [_, v_cache]) = (rows(&[1, 8, 1, 16], 2, DType::BF16)?, rows(&[1, 8, 1, 16], 3, DType::BF16)?);
    let refusal = |append: &Append, k_cache: &Tensor, v_cache: &Tensor| {
        append.write(&new, &new, k_cache, v_cache).expect_err("must be refused").to_string()
    };
    let plain = Append::new();
    assert!(refusal(&plain, &k_cache, &k_cache).contains("v_cache shares k_cache's memory"));
    let [_, square] = rows(&[1, 16, 1, 16], 4, DType::BF16)?;
    let found = refusal(&plain, &square.transpose(1, 3)?, &square.copy()?);
    assert!(found.contains("head_dim stride of k_cache"), "{found}");
    let [_, tables] = rows(&[8, 4], 5, DType::F32)?;
    let found = refusal(&plain.rotary(&tables, &tables, Pairs::Halves), &k_cache, &v_cache);
    assert!(found.contains("rotary dim is 8; allowed: a multiple of 16"), "{found}");
    let [_, table] = numbers(&[0u32], &[1, 1])?;
    let ([_, k_pages], [_, v_pages]) = (rows(&[1, 24, 1, 16], 6, DType::BF16)?, rows(&[1, 24, 1, 16], 7, DType::BF16)?);
    assert!(refusal(&Append::new().paged(&table), &k_pages, &v_pages).contains("page_size is 24"));
    Ok(())
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
