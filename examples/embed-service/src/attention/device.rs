//! Attention by attn-host's pipeline: one launch for all sentences of a batch, on a GPU or on the simulator in its place.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use attn_host::pipeline::{Batch, Done, Failed, HostBuffer, Options, Pipeline, Rejected};
use attn_host::{Arrays, DType, Device, Error, Plan, Problem, Shape, Splits, supports};
use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::{Attention, AttentionError, Packed, Size};

/// Batches whose layers take turns: while the device has the attention of one, the CPU computes what lies between the layers of another.
const IN_FLIGHT: usize = 2;

/// The fewest tokens that a plan is made for. Others are for twice as many each, so that little more is copied than there is.
const FEWEST: usize = 64;

/// Rows that a thread converts at a time.
const ROWS: usize = 64;

/// What the device may be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Most bytes of its memory.
    pub bytes: u64,
    /// How long a batch may take there before the device counts as stuck.
    pub timeout: Option<Duration>,
}

/// Attention in f16 on the first GPU.
pub struct DeviceAttention {
    size: Size,
    pipeline: Pipeline,
    name: String,
    kernel: &'static str,
    /// Batches that are not under way, for their buffers.
    spare: Mutex<Vec<Batch>>,
}

impl DeviceAttention {
    /// Opens the first GPU and starts a pipeline there.
    ///
    /// # Errors
    /// [`Error::NoDriver`] without a driver, [`Error::WrongDevice`] for a GPU that has no kernels; failures of the driver.
    pub fn open(size: Size, room: Room) -> Result<Self, AttentionError> {
        let device = Device::open(0)?;
        let problem = problem(size, size.tokens);
        supports(&problem, device.info())?;
        let kernel = Plan::new(&device, &problem)?.kernel().name;
        let options = Options {
            depth: IN_FLIGHT,
            queue: IN_FLIGHT,
            device_bytes: room.bytes,
            timeout: room.timeout,
            ..Options::default()
        };
        let pipeline = Pipeline::new(&device, options)?;
        let name = device.info().name.clone();
        Ok(DeviceAttention { size, pipeline, name, kernel, spare: Mutex::default() })
    }

    /// The name of the kernel that computes.
    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// A batch that is not under way, or a new one: buffers of pinned memory, as large as any batch needs.
    fn take(&self) -> Result<Batch, Error> {
        // A panic leaves whole batches behind.
        if let Some(batch) = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(batch);
        }
        let Size { tokens, sentences, heads, head_dim, .. } = self.size;
        let buffer = || self.pipeline.pinned(tokens * heads * head_dim * size_of::<f16>());
        let sums = || Some(vec![0; sentences + 1]);
        Ok(Batch {
            o: Some(HostBuffer::Pinned(buffer()?)),
            arrays: Arrays { cu_seqlens_q: sums(), cu_seqlens_k: sums(), ..Arrays::default() },
            ..Batch::new(problem(self.size, tokens), buffer()?, buffer()?, buffer()?)
        })
    }

    fn give(&self, batch: Batch) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }

    /// Computes a batch; it comes back with O.
    fn run(&self, batch: Batch) -> Result<Batch, AttentionError> {
        let ticket = self.pipeline.submit(batch).map_err(|Rejected { reason, batch, .. }| {
            self.give(*batch);
            AttentionError::Refused(reason)
        })?;
        match ticket.wait() {
            Ok(Done { batch, o, .. }) => Ok(Batch { o: Some(o), ..*batch }),
            Err(Failed { failure, batch, .. }) => {
                // What the device may still use does not come back.
                batch.into_iter().for_each(|batch| self.give(*batch));
                Err(AttentionError::Failed(failure))
            }
        }
    }
}

/// Batches of up to `tokens`. Everything else is that of the largest batch, whose sentences are empty where there are fewer, so that one kernel
/// computes all batches in the same way.
fn problem(size: Size, tokens: usize) -> Problem {
    let [sentences, longest, heads, head_dim] =
        [size.sentences, size.longest, size.heads, size.head_dim].map(|n| n as u64);
    let shape = Shape {
        batch: sentences,
        seqlen_q: longest,
        seqlen_k: longest,
        heads,
        kv_heads: heads,
        head_dim,
        head_dim_v: head_dim,
    };
    Problem::new(DType::F16, shape)
        .packed_q(tokens as u64)
        .packed_k(tokens as u64)
        // A sentence's embedding does not depend on its neighbours then, bit by bit.
        .splits(Splits::Exactly(1))
}

/// Fills a batch's buffers: rows of Q, K and V beside each other become rows of each.
fn fill(batch: &mut Batch, packed: &Packed, qkv: ArrayView2<f32>, hidden: usize) {
    let (rows, sums) = (packed.rows(), packed.cu_seqlens());
    for array in [&mut batch.arrays.cu_seqlens_q, &mut batch.arrays.cu_seqlens_k].into_iter().flatten() {
        array[..sums.len()].copy_from_slice(sums);
        array[sums.len()..].fill(rows as i32);
    }
    let [q, k, v] = [&mut batch.q, &mut batch.k, &mut batch.v].map(|buffer| &mut halves_mut(buffer)[..rows * hidden]);
    let to = q.par_chunks_mut(hidden).zip(k.par_chunks_mut(hidden)).zip(v.par_chunks_mut(hidden));
    qkv.axis_iter(Axis(0)).into_par_iter().zip(to).with_min_len(ROWS).for_each(|(row, ((q, k), v))| {
        let row = row.to_slice().expect("rows of the projections are contiguous");
        for (to, from) in [q, k, v].into_iter().zip(row.chunks_exact(hidden)) {
            to.convert_from_f32_slice(from);
        }
    });
}

/// O as the layers take it.
fn read(batch: &Batch, mut context: ArrayViewMut2<f32>) {
    let hidden = context.ncols();
    let o = batch.o.as_ref().and_then(HostBuffer::elements::<f16>).expect("it came back with the batch");
    context.axis_iter_mut(Axis(0)).into_par_iter().zip(o.par_chunks(hidden)).with_min_len(ROWS).for_each(
        |(row, half)| half.convert_to_f32_slice(row.into_slice().expect("rows of the context are contiguous")),
    );
}

fn halves_mut(buffer: &mut HostBuffer) -> &mut [f16] {
    buffer.elements_mut().expect("pinned memory is aligned, and of an even size")
}

impl Attention for DeviceAttention {
    fn attend(&self, packed: &Packed, qkv: ArrayView2<f32>, context: ArrayViewMut2<f32>) -> Result<(), AttentionError> {
        let (rows, sentences, hidden) = (packed.rows(), packed.sentences(), context.ncols());
        let longest = packed.spans().map(|rows| rows.len()).max().unwrap_or(0);
        if rows > self.size.tokens || sentences > self.size.sentences || longest > self.size.longest {
            return Err(AttentionError::TooLarge { rows, sentences, longest, size: self.size });
        }
        let mut batch = self.take()?;
        batch.problem =
            problem(self.size, rows.next_power_of_two().clamp(FEWEST.min(self.size.tokens), self.size.tokens));
        fill(&mut batch, packed, qkv, hidden);
        let batch = self.run(batch)?;
        read(&batch, context);
        self.give(batch);
        Ok(())
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }
}
