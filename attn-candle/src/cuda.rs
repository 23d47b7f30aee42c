//! The launch on a GPU: candle's tensors as attn-host's typed ones.

use attn_host::cudarc::driver::{CudaSlice, DeviceRepr};
use attn_host::{CudarcView, CudarcViewMut, DType, Problem, Tensors};
use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
use candle_core::{CudaDevice, CudaStorage, Layout, Result, Storage, bail};
use half::{bf16, f16};

use crate::geometry::{strides, typed};
use crate::op::Attend;

pub(crate) mod append;
mod plans;

/// A tensor in candle's memory.
type Given<'a> = (&'a CudaStorage, &'a Layout);

pub(crate) fn forward(op: &Attend, q: Given<'_>, k: Given<'_>, v: Given<'_>) -> Result<CudaStorage> {
    match &q.0.slice {
        CudaStorageSlice::BF16(_) => attend::<bf16>(op, DType::Bf16, q, k, v),
        CudaStorageSlice::F16(_) => attend::<f16>(op, DType::F16, q, k, v),
        _ => bail!("q is of type {:?}; allowed on a GPU: BF16, F16", q.0.dtype()),
    }
}

fn attend<T: attn_host::Element + CudaDType + DeviceRepr>(
    op: &Attend,
    dtype: DType,
    q: Given<'_>,
    k: Given<'_>,
    v: Given<'_>,
) -> Result<CudaStorage> {
    let device = q.0.device();
    let stream = device.cuda_stream();
    let plan = plans::attend(&problem(op, dtype, q, k, v), &stream)?;
    let mut o = output::<T>(op, device)?;
    let mut lse = op.lse.as_ref().map(|_| lse(op, device)).transpose()?;
    let mut workspace = match plan.workspace_bytes() {
        0 => None,
        // SAFETY: the kernels write what they read of it.
        bytes => Some(unsafe { device.alloc::<u8>(bytes as usize) }?),
    };
    // The storages stay locked until the launch is queued.
    let guards = op.arrays.as_ref().map(|array| array.storage_and_layout(), |array| array.storage_and_layout());
    let arrays = guards.as_ref().try_each(|(storage, layout)| match &**storage {
        Storage::Cuda(storage) => view(storage, layout),
        _ => bail!("an array beside q, k and v is on another device; allowed: q's"),
    })?;
    let tensors = Tensors::new(view(q.0, q.1)?, view(k.0, k.1)?, view(v.0, v.1)?, (&mut o).into());
    let mut tensors = tensors.with_arrays(arrays);
    tensors.workspace = workspace.as_mut().map(CudarcViewMut::from);
    tensors.lse = lse.as_mut().map(CudarcViewMut::from);
    // SAFETY: prefix sums are those of `Lengths`, which nobody else writes, and have been checked against the shapes.
    unsafe { plan.launch_cudarc_packed(tensors, &stream) }.map_err(typed)?;
    drop(guards);
    if let (Some(wanted), Some(lse)) = (&op.lse, lse) {
        wanted.leave(Storage::Cuda(CudaStorage::wrap_cuda_slice(lse, device.clone())));
    }
    Ok(CudaStorage::wrap_cuda_slice(o, device.clone()))
}

/// The problem on tensors with these strides.
fn problem(op: &Attend, dtype: DType, q: Given<'_>, k: Given<'_>, v: Given<'_>) -> Problem {
    let float8 = matches!(k.0.slice, CudaStorageSlice::F8E4M3(_));
    let problem = op.geometry.problem(&op.attention, dtype, float8);
    problem.strides_q(strides(q.1)).strides_k(strides(k.1)).strides_v(strides(v.1))
}

/// Memory for O. Rows that belong to no sequence are zeros.
fn output<T: DeviceRepr>(op: &Attend, device: &CudaDevice) -> Result<CudaSlice<T>> {
    let elements = op.geometry.output.iter().product();
    // SAFETY: the kernel writes each row of a sequence, and the others are written here.
    let mut o = unsafe { device.alloc::<T>(elements) }?;
    if op.geometry.leaves_rows(&op.attention) {
        zero(&mut o, device)?;
    }
    Ok(o)
}

/// Memory for the LSE. Rows that belong to no sequence are minus infinity.
fn lse(op: &Attend, device: &CudaDevice) -> Result<CudaSlice<f32>> {
    let rows = op.geometry.lse_shape().iter().product();
    if op.geometry.leaves_rows(&op.attention) {
        return device.clone_htod(&vec![f32::NEG_INFINITY; rows]);
    }
    // SAFETY: the kernel writes each row.
    unsafe { device.alloc::<f32>(rows) }
}

fn zero<T: DeviceRepr>(slice: &mut CudaSlice<T>, device: &CudaDevice) -> Result<()> {
    let bytes = slice.num_bytes();
    // SAFETY: as many bytes as the slice has; zeros are floating-point numbers.
    let view = unsafe { slice.transmute_mut::<u8>(bytes) };
    match view {
        Some(mut view) => device.cuda_stream().memset_zeros(&mut view).map_err(candle_core::Error::wrap),
        None => Ok(()),
    }
}

/// The memory of a tensor from its first element on.
fn view<'a>(storage: &'a CudaStorage, layout: &Layout) -> Result<CudarcView<'a>> {
    let from = layout.start_offset()..;
    Ok(match &storage.slice {
        CudaStorageSlice::BF16(slice) => slice.slice(from).into(),
        CudaStorageSlice::F16(slice) => slice.slice(from).into(),
        CudaStorageSlice::F32(slice) => slice.slice(from).into(),
        CudaStorageSlice::U32(slice) => slice.slice(from).into(),
        CudaStorageSlice::I32(slice) => slice.slice(from).into(),
        CudaStorageSlice::F8E4M3(slice) => {
            let elements = slice.len();
            // SAFETY: 8-bit floats are bytes.
            match unsafe { slice.transmute::<u8>(elements) } {
                Some(bytes) => bytes.slice(from).into(),
                None => bail!("a tensor of F8E4M3 has elements of more than a byte"),
            }
        }
        _ => bail!("a tensor is of type {:?}; allowed: BF16, F16, F8E4M3, F32, U32, I32", storage.dtype()),
    })
}
