//! Attention by attn-host: one launch for all sentences of a batch, on a GPU or on the simulator in its place.

use std::sync::{Mutex, PoisonError};

use attn_host::cust::context::{Context, CurrentContext};
use attn_host::cust::memory::{AsyncCopyDestination, DeviceBuffer, LockedBuffer};
use attn_host::cust::stream::{Stream, StreamFlags};
use attn_host::cust::{self, CudaFlags};
use attn_host::{DType, Device, DevicePtr, Error, Plan, Problem, Shape, Splits, Strides, Tensors, supports};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use ndarray::{ArrayView2, ArrayViewMut2};

use super::{Attention, AttentionError, Packed, Size};

/// Attention in f16 on the first GPU. One plan, made for the largest batch, serves all: sentences that a batch lacks are empty ones.
pub struct DeviceAttention {
    size: Size,
    plan: Plan,
    name: String,
    // Before the context, which must outlive what was made in it.
    buffers: Mutex<Buffers>,
    context: Context,
}

/// Memory of a batch, here and on the device.
struct Buffers {
    stream: Stream,
    cu_seqlens_host: LockedBuffer<i32>,
    qkv_host: LockedBuffer<u16>,
    o_host: LockedBuffer<u16>,
    cu_seqlens: DeviceBuffer<i32>,
    qkv: DeviceBuffer<u16>,
    o: DeviceBuffer<u16>,
    workspace: DeviceBuffer<u8>,
}

impl DeviceAttention {
    /// Opens the first GPU and makes the plan.
    ///
    /// # Errors
    /// [`Error::NoDriver`] without a driver, [`Error::WrongDevice`] for a GPU that has no kernels; failures of the driver.
    pub fn open(size: Size) -> Result<Self, AttentionError> {
        // The launch side says best what is wrong with a driver; that no context is current yet is expected here.
        if let Err(error @ (Error::NoDriver { .. } | Error::DriverTooOld { .. })) = Device::current() {
            return Err(error.into());
        }
        cust::init(CudaFlags::empty())?;
        let context = Context::new(cust::device::Device::get_device(0)?)?;
        let device = Device::current()?;
        let problem = problem(size);
        supports(&problem, device.info())?;
        let plan = Plan::new(&device, &problem)?;
        let buffers = Mutex::new(Buffers::new(size, &plan)?);
        Ok(DeviceAttention { size, plan, name: device.info().name.clone(), buffers, context })
    }

    /// The name of the kernel that computes.
    pub fn kernel(&self) -> &'static str {
        self.plan.kernel().name
    }
}

/// The largest batch. Q, K and V of a token share a row of all three.
fn problem(size: Size) -> Problem {
    let [tokens, sentences, longest, heads, head_dim] =
        [size.tokens, size.sentences, size.longest, size.heads, size.head_dim].map(|n| n as u64);
    let shape = Shape {
        batch: sentences,
        seqlen_q: longest,
        seqlen_k: longest,
        heads,
        kv_heads: heads,
        head_dim,
        head_dim_v: head_dim,
    };
    let row = (3 * heads * head_dim) as i64;
    let strides = Strides { batch: tokens as i64 * row, seq: row, head: head_dim as i64 };
    Problem::new(DType::F16, shape)
        .packed_q(tokens)
        .packed_k(tokens)
        // A sentence's embedding does not depend on its neighbours then, bit by bit.
        .splits(Splits::Exactly(1))
        .strides_q(strides)
        .strides_k(strides)
        .strides_v(strides)
}

impl Buffers {
    fn new(size: Size, plan: &Plan) -> Result<Self, AttentionError> {
        let hidden = size.heads * size.head_dim;
        let (qkv, o) = (size.tokens * 3 * hidden, size.tokens * hidden);
        Ok(Buffers {
            stream: Stream::new(StreamFlags::NON_BLOCKING, None)?,
            cu_seqlens_host: LockedBuffer::new(&0, size.sentences + 1)?,
            qkv_host: LockedBuffer::new(&0, qkv)?,
            o_host: LockedBuffer::new(&0, o)?,
            cu_seqlens: DeviceBuffer::zeroed(size.sentences + 1)?,
            qkv: DeviceBuffer::zeroed(qkv)?,
            o: DeviceBuffer::zeroed(o)?,
            // A buffer of no bytes is an error.
            workspace: DeviceBuffer::zeroed(plan.workspace_bytes().max(1) as usize)?,
        })
    }

    /// The addresses of a launch.
    fn tensors(&self, hidden: usize) -> Tensors {
        let part = |index: usize| DevicePtr(self.qkv.as_device_ptr().as_raw() + (2 * index * hidden) as u64);
        let cu_seqlens = Some(DevicePtr(self.cu_seqlens.as_device_ptr().as_raw()));
        Tensors {
            cu_seqlens_q: cu_seqlens,
            cu_seqlens_k: cu_seqlens,
            workspace: Some(DevicePtr(self.workspace.as_device_ptr().as_raw())),
            ..Tensors::new(part(0), part(1), part(2), DevicePtr(self.o.as_device_ptr().as_raw()))
        }
    }

    /// Copies in, launches, copies out and waits.
    fn run(&mut self, plan: &Plan, hidden: usize, rows: usize) -> Result<(), AttentionError> {
        let queued = self.queue(plan, hidden, rows);
        // Also where something was refused: what was queued before it uses the buffers.
        let done = self.stream.synchronize();
        queued?;
        Ok(done?)
    }

    fn queue(&mut self, plan: &Plan, hidden: usize, rows: usize) -> Result<(), AttentionError> {
        let (qkv, o) = (rows * 3 * hidden, rows * hidden);
        // SAFETY: the host's buffers are page-locked, as long as the copies, and left alone until `run` has waited for the stream; they and
        // the device's live in `self`.
        unsafe {
            self.cu_seqlens.async_copy_from(self.cu_seqlens_host.as_slice(), &self.stream)?;
            self.qkv.index(..qkv).async_copy_from(&self.qkv_host[..qkv], &self.stream)?;
        }
        // SAFETY: the buffers were made for the plan's problem in the context that is current; `cu_seqlens` names rows inside of them, and
        // nothing else uses them until `run` has waited.
        unsafe { plan.launch(&self.tensors(hidden), attn_host::Stream(self.stream.as_inner().cast()))? };
        // SAFETY: as above.
        unsafe { self.o.index(..o).async_copy_to(&mut self.o_host[..o], &self.stream)? };
        Ok(())
    }
}

impl Attention for DeviceAttention {
    fn attend(
        &self,
        packed: &Packed,
        qkv: ArrayView2<f32>,
        mut context: ArrayViewMut2<f32>,
    ) -> Result<(), AttentionError> {
        let (rows, sentences, hidden) = (packed.rows(), packed.sentences(), context.ncols());
        let longest = packed.spans().map(|rows| rows.len()).max().unwrap_or(0);
        if rows > self.size.tokens || sentences > self.size.sentences || longest > self.size.longest {
            return Err(AttentionError::TooLarge { rows, sentences, longest, size: self.size });
        }
        CurrentContext::set_current(&self.context)?;
        // A panic leaves the buffers as they are between two batches: overwritten by the next.
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let buffers = &mut *buffers;
        buffers.cu_seqlens_host.fill(rows as i32);
        buffers.cu_seqlens_host[..=sentences].copy_from_slice(packed.cu_seqlens());
        let halves = buffers.qkv_host.reinterpret_cast_mut::<f16>();
        for (row, half) in qkv.rows().into_iter().zip(halves.chunks_exact_mut(3 * hidden)) {
            half.convert_from_f32_slice(row.as_slice().expect("rows of the projections are contiguous"));
        }
        buffers.run(&self.plan, hidden, rows)?;
        let halves = buffers.o_host.reinterpret_cast::<f16>();
        for (mut row, half) in context.rows_mut().into_iter().zip(halves.chunks_exact(hidden)) {
            half.convert_to_f32_slice(row.as_slice_mut().expect("rows of the context are contiguous"));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}
