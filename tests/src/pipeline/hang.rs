//! A GPU that never gets done: what the pipeline makes of it, and whether the process ends.

use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use attn_host::Error;
use attn_host::cust::memory::DeviceBuffer;
use attn_host::cust::module::Module;
use attn_host::cust::stream::{Stream, StreamFlags};
use attn_host::pipeline::{Batch, Failed, Failure, Options as Sizes, Pipeline, Shutdown};
use attn_host::{DType, Problem, Shape};

use super::{PipelineError, wrong};
use crate::gpu::Gpu;

/// Reads a word until it is not zero, which it never is.
const SPIN: &str = "
.version 7.8
.target sm_90
.address_size 64
.visible .entry spin(.param .u64 word)
{
    .reg .b64 %address;
    .reg .b32 %value;
    .reg .pred %zero;
    ld.param.u64 %address, [word];
    cvta.to.global.u64 %address, %address;
again:
    ld.volatile.global.u32 %value, [%address];
    setp.eq.u32 %zero, %value, 0;
    @%zero bra again;
    ret;
}
";

/// Threads of a block, and blocks that fill a multiprocessor: nothing else is started there.
const FULL: (u32, u32) = (1024, 2);

/// When the pipeline is to give up.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Fills the GPU with threads that wait for ever, and submits batches behind them.
pub(super) fn run(gpu: &Gpu) -> Result<(), PipelineError> {
    // Whatever frees device memory waits for the device, so nothing here is ever freed.
    let word = ManuallyDrop::new(DeviceBuffer::from_slice(&[0u32])?);
    let module = ManuallyDrop::new(Module::from_ptx(SPIN, &[])?);
    let stream = ManuallyDrop::new(Stream::new(StreamFlags::NON_BLOCKING, None)?);
    let pipeline = Pipeline::new(gpu.device(), Sizes { timeout: Some(TIMEOUT), ..Sizes::default() })?;
    // Loads the kernel and takes memory while the device is idle.
    pipeline.submit(batch()).map_err(wrong)?.wait().map_err(wrong)?;
    let function = module.get_function("spin")?;
    let mut address = word.as_device_ptr().as_raw();
    let (threads, blocks) = FULL;
    // SAFETY: the kernel's one parameter is an address of a word that is never freed.
    unsafe {
        stream.launch(&function, gpu.device().info().sm_count * blocks, threads, 0, &[(&raw mut address).cast()])?
    };
    let start = Instant::now();
    let tickets = (0..3).map(|_| pipeline.submit(batch())).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    for ticket in tickets {
        match ticket.wait() {
            Err(Failed { failure: Failure::Stuck { batch: 1, .. }, batch, .. }) => {
                println!(
                    "{:6.2} s: given up, its memory {}",
                    start.elapsed().as_secs_f64(),
                    if batch.is_some() { "back" } else { "kept" }
                );
            }
            other => return Err(wrong(format!("a batch behind what never ends: {other:?}"))),
        }
    }
    match pipeline.shutdown(Shutdown::Drain) {
        Err(Error::Stuck { .. }) => {}
        other => return Err(wrong(format!("the shutdown: {other:?}"))),
    }
    println!("{:6.2} s: shut down; {:?}", start.elapsed().as_secs_f64(), pipeline.statistics());
    drop(pipeline);
    println!("{:6.2} s: dropped; now the process ends", start.elapsed().as_secs_f64());
    Ok(())
}

/// A small one.
fn batch() -> Batch {
    let shape = Shape { batch: 1, seqlen_q: 64, seqlen_k: 64, heads: 1, kv_heads: 1, head_dim: 64, head_dim_v: 64 };
    let tensor = || vec![0u16; 64 * 64];
    Batch::new(Problem::new(DType::F16, shape), tensor(), tensor(), tensor())
}
