//! Appending on a GPU: candle's tensors as attn-host's typed ones, the caches locked while the launch is queued.

use attn_host::cudarc::driver::{CudaSlice, DeviceRepr};
use attn_host::{CudarcAppendTensors, CudarcViewMut, DType, Rotary, Sines};
use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType as CandleType, Layout, Result, Storage, Tensor, bail};
use half::{bf16, f16};

use super::{plans, view, zero};
use crate::append::{Arrays, Step, memory};
use crate::exclusive::{Memory, exclusive};
use crate::geometry::{strides, typed};

/// Queues the launch; the rotated queries, where there are any.
pub(crate) fn write(step: &Step<'_>) -> Result<Option<Tensor>> {
    for (argument, cache) in [("k_cache", step.k_cache), ("v_cache", step.v_cache)] {
        let value = *cache.stride().last().unwrap_or(&1) as i64;
        if value != 1 {
            let error = attn_host::Error::Stride { argument, dimension: "head_dim", value, allowed: "1 on a GPU" };
            return Err(typed(error));
        }
    }
    match step.k.dtype() {
        CandleType::BF16 => append::<bf16>(step, DType::Bf16),
        CandleType::F16 => append::<f16>(step, DType::F16),
        other => bail!("k is of type {other:?}; allowed on a GPU: BF16, F16"),
    }
}

fn append<T: attn_host::Element + CudaDType + DeviceRepr>(step: &Step<'_>, dtype: DType) -> Result<Option<Tensor>> {
    // Inputs stay locked until the launch is queued.
    let new = [&step.k, &step.v].map(|tensor| tensor.storage_and_layout());
    let q = step.q.as_ref().map(|q| q.storage_and_layout());
    let arrays = step.arrays.try_each(|array| Ok(array.storage_and_layout()))?;
    let [(k, k_layout), (v, v_layout)] = [(cuda(&new[0].0)?, new[0].1), (cuda(&new[1].0)?, new[1].1)];
    let (device, stream) = (k.device(), k.device().cuda_stream());
    let plan = plans::append(&planned(step, dtype), &stream)?;
    let mut rotated = step.q.as_ref().map(|q| zeros::<T>(q, k)).transpose()?;
    let arrays = arrays.try_each(|(storage, layout)| view(cuda(storage)?, layout))?;
    let q = q.as_ref().map(|(storage, layout)| view(cuda(storage)?, layout)).transpose()?;
    let (k, v) = (view(k, k_layout)?, view(v, v_layout)?);
    let q_out = rotated.as_mut().map(CudarcViewMut::from);
    both(step, |k_cache, v_cache| {
        let Arrays { cos, sin, cu_seqlens_new, seqused_new, seqlens_before, page_table, k_descale, v_descale } = arrays;
        let tensors = CudarcAppendTensors {
            q,
            q_out,
            cos,
            sin,
            cu_seqlens_new,
            seqused_new,
            seqlens_before,
            page_table,
            k_descale,
            v_descale,
            ..CudarcAppendTensors::new(k, v, k_cache, v_cache)
        };
        plan.launch_cudarc(tensors, &stream).map_err(typed)
    })?;
    Ok(step.q.as_ref().zip(rotated).map(|(q, rotated)| {
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(rotated, device.clone()));
        Tensor::from_storage(storage, q.shape(), BackpropOp::none(), false)
    }))
}

/// Calls `launch` with both caches. They are locked in the order of their addresses, whichever is whose.
fn both(step: &Step<'_>, launch: impl FnOnce(CudarcViewMut<'_>, CudarcViewMut<'_>) -> Result<()>) -> Result<()> {
    let swapped = memory(step.k_cache) > memory(step.v_cache);
    let [first, second] = if swapped { [step.v_cache, step.k_cache] } else { [step.k_cache, step.v_cache] };
    written(first, |first| {
        written(second, |second| if swapped { launch(second, first) } else { launch(first, second) })
    })
}

/// Calls `run` with the memory of a cache from its first element on.
fn written(cache: &Tensor, run: impl FnOnce(CudarcViewMut<'_>) -> Result<()>) -> Result<()> {
    exclusive(cache, |memory, layout| match memory {
        Memory::Cuda(storage) => with_view(storage, layout, run),
        Memory::Cpu(_) => bail!("a cache is on the CPU; allowed: where k is"),
    })
}

fn with_view(
    storage: &mut CudaStorage,
    layout: &Layout,
    run: impl FnOnce(CudarcViewMut<'_>) -> Result<()>,
) -> Result<()> {
    let from = layout.start_offset()..;
    match &mut storage.slice {
        CudaStorageSlice::BF16(slice) => run((&mut slice.slice_mut(from)).into()),
        CudaStorageSlice::F16(slice) => run((&mut slice.slice_mut(from)).into()),
        CudaStorageSlice::F8E4M3(slice) => {
            let elements = slice.len();
            // SAFETY: 8-bit floats are bytes.
            match unsafe { slice.transmute_mut::<u8>(elements) } {
                Some(mut bytes) => run((&mut bytes.slice_mut(from)).into()),
                None => bail!("a tensor of F8E4M3 has elements of more than a byte"),
            }
        }
        _ => bail!("a cache is of type {:?}; allowed on a GPU: BF16, F16, F8E4M3", storage.dtype()),
    }
}

/// What is to be appended, on tensors with these strides.
fn planned(step: &Step<'_>, dtype: DType) -> attn_host::Append {
    let (geometry, arrays) = (&step.geometry, &step.arrays);
    let of = |tensor: &Tensor| strides(tensor.layout());
    let mut append = attn_host::Append::new(dtype, geometry.shape, geometry.cache)
        .strides_k(of(&step.k))
        .strides_v(of(&step.v))
        .strides_k_cache(of(step.k_cache))
        .strides_v_cache(of(step.v_cache));
    if let Some(total) = geometry.packed {
        append = append.packed(total);
    }
    if arrays.seqused_new.is_some() {
        append = append.seqused_new();
    }
    if arrays.seqlens_before.is_some() {
        append = append.seqlens_before();
    }
    if let (Some((positions, dim)), Some(pairs), Some(cos)) = (geometry.tables, step.pairs, &arrays.cos) {
        let sines = if cos.dtype() == CandleType::F32 { Sines::F32 } else { Sines::AsTensors };
        append = append.rotary(Rotary { dim, pairs, positions, sines });
    }
    if let Some(q) = &step.q {
        append = append.queries(geometry.heads).strides_q(of(q)).strides_q_out(contiguous(q));
    }
    if step.k_cache.dtype() == CandleType::F8E4M3 {
        append = append.float8_cache();
    }
    match &arrays.k_descale {
        Some(factors) if factors.rank() == 1 => append.descales(attn_host::Descales::PerHead),
        Some(_) => append.descales(attn_host::Descales::PerSequenceAndHead),
        None => append,
    }
}

/// Strides of a contiguous tensor of this one's shape.
fn contiguous(tensor: &Tensor) -> attn_host::Strides {
    strides(&Layout::contiguous(tensor.shape()))
}

/// Memory for a tensor of this one's shape.
fn zeros<T: DeviceRepr>(like: &Tensor, beside: &CudaStorage) -> Result<CudaSlice<T>> {
    // SAFETY: it is written here.
    let mut slice = unsafe { beside.device().alloc::<T>(like.elem_count()) }?;
    zero(&mut slice, beside.device())?;
    Ok(slice)
}

fn cuda(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("a tensor of the step is on another device; allowed: k's"),
    }
}
