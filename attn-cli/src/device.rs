//! A job on a device: planned, uploaded, launched, read back.

use attn_host::cust::memory::{CopyDestination, DeviceBuffer, DeviceCopy, mem_get_info};
use attn_host::{DevicePtr, Plan, Tensors};
use attn_tests::gpu::{Gpu, GpuError, upload_arrays};
use attn_tests::precision::POISON;

use crate::error::Failure;
use crate::job::{Job, Tensor};

/// Device memory left alone when a job's size is weighed against what is free.
const RESERVE: usize = 256 << 20;
/// NaN, in every byte of outputs before a launch.
const POISON_LSE: u32 = u32::MAX;

/// A job ready to launch.
pub struct Loaded<'a> {
    gpu: &'a Gpu,
    /// The plan.
    pub plan: Plan,
    tensors: Tensors,
    o: DeviceBuffer<u16>,
    lse: DeviceBuffer<u32>,
    _bytes: Vec<DeviceBuffer<u8>>,
    _words: Vec<DeviceBuffer<u32>>,
}

/// What a launch gave, as bits in the memory order of the tensors.
pub struct Answer {
    /// O.
    pub o: Vec<u16>,
    /// LSE.
    pub lse: Vec<f32>,
}

impl<'a> Loaded<'a> {
    /// Plans the job, checks its arrays and uploads its tensors.
    ///
    /// # Errors
    /// What the launch side refuses, too little memory, failures of the driver.
    pub fn new(gpu: &'a Gpu, job: &Job) -> Result<Self, Failure> {
        let problem = job.spec.problem(&job.arrays);
        let plan = match &job.spec.kernel {
            Some(name) => Plan::with_kernel(gpu.device(), &problem, name)?,
            None => Plan::new(gpu.device(), &problem)?,
        };
        job.arrays.check(&problem)?;
        let (spans, workspace) = (plan.spans(), plan.workspace_bytes() as usize);
        let (o_len, lse_len) = (spans.o as usize, spans.lse as usize);
        let need = job.qkv.iter().map(Tensor::bytes).sum::<usize>() + 2 * o_len + 4 * lse_len + workspace;
        let free = mem_get_info().map_err(GpuError::from)?.0;
        if free < need.saturating_add(RESERVE) {
            return Err(GpuError::TooLarge { need, free }.into());
        }
        let mut bytes = Vec::new();
        let [q, k, v] = job.qkv.each_ref().map(|tensor| repeated(&mut bytes, tensor));
        // SAFETY: `run` fills the outputs before a launch; the workspace is written before it is read.
        let (o, lse, scratch) = unsafe {
            let scratch = DeviceBuffer::<u8>::uninitialized(workspace.max(1)).map_err(GpuError::from)?;
            (allocate(o_len)?, allocate(lse_len)?, scratch)
        };
        let mut words = Vec::new();
        let tensors = Tensors {
            lse: Some(at(&lse)),
            workspace: (workspace > 0).then(|| at(&scratch)),
            ..Tensors::new(q?, k?, v?, at(&o)).with_arrays(upload_arrays(&job.arrays, &mut words)?)
        };
        bytes.push(scratch);
        Ok(Loaded { gpu, plan, tensors, o, lse, _bytes: bytes, _words: words })
    }

    /// Queues one launch.
    pub fn launch(&self) -> Result<(), GpuError> {
        // SAFETY: the buffers are as long as the plan's spans and live in `self`; lengths and pages were checked against the problem; plan
        // and stream belong to the context that `gpu` keeps, where launches run one after another.
        Ok(unsafe { self.plan.launch(&self.tensors, self.gpu.raw_stream()) }?)
    }

    /// Fills the outputs with NaN, launches, waits and reads back.
    pub fn run(&mut self) -> Result<Answer, GpuError> {
        let (mut o, mut lse) = (vec![POISON; self.o.len()], vec![POISON_LSE; self.lse.len()]);
        self.o.copy_from(&o)?;
        self.lse.copy_from(&lse)?;
        self.launch()?;
        self.gpu.wait()?;
        self.o.copy_to(&mut o)?;
        self.lse.copy_to(&mut lse)?;
        Ok(Answer { o, lse: lse.into_iter().map(f32::from_bits).collect() })
    }
}

/// # Safety
/// What is read of the buffer has been written.
unsafe fn allocate<T: DeviceCopy>(len: usize) -> Result<DeviceBuffer<T>, GpuError> {
    // SAFETY: as the caller promises.
    Ok(unsafe { DeviceBuffer::uninitialized(len) }?)
}

fn at<T: DeviceCopy>(buffer: &DeviceBuffer<T>) -> DevicePtr {
    DevicePtr(buffer.as_device_ptr().as_raw())
}

/// Uploads a tensor, its block as often as it has elements.
fn repeated(buffers: &mut Vec<DeviceBuffer<u8>>, tensor: &Tensor) -> Result<DevicePtr, GpuError> {
    // SAFETY: every byte is written below.
    let buffer = unsafe { allocate::<u8>(tensor.bytes()) }?;
    let block = tensor.block.as_bytes();
    let mut from = 0;
    while from < tensor.bytes() {
        let count = block.len().min(tensor.bytes() - from);
        buffer.index(from..from + count).copy_from(&block[..count])?;
        from += count;
    }
    let address = at(&buffer);
    buffers.push(buffer);
    Ok(address)
}
