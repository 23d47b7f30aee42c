//! Attention by attn-host's pipeline: one launch for all sentences of a batch, on a GPU or on the simulator in its place.

use std::iter::successors;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use attn_host::pipeline::{Batch, Done, Failed, HostBuffer, Options, Pipeline, Rejected};
use attn_host::{Arrays, DType, Device, DeviceInfo, Error, Outline, Problem, Shape, Splits};
use half::f16;
use half::slice::HalfFloatSliceExt;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::{Attention, AttentionError, Packed, Size};

/// Batches whose layers take turns: while the device has the attention of one, the CPU computes what lies between the layers of another.
const IN_FLIGHT: usize = 2;

/// The fewest tokens that a plan is made for.
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
    /// Tokens that plans are made for, the fewest first.
    rooms: Vec<usize>,
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
        let kernel = Outline::of(&problem(size, size.tokens), device.info())?.kernel.name;
        let rooms = rooms(size, device.info())?;
        let options = Options {
            depth: IN_FLIGHT,
            queue: IN_FLIGHT,
            device_bytes: room.bytes,
            timeout: room.timeout,
            ..Options::default()
        };
        let pipeline = Pipeline::new(&device, options)?;
        let name = device.info().name.clone();
        Ok(DeviceAttention { size, pipeline, name, kernel, rooms, spare: Mutex::default() })
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

/// Tokens that plans are made for: each twice as many as the one before, so that little more is copied than there is, up to the most. Only those
/// that the kernel of the largest batch computes, so that an embedding has the same bits in all of them.
fn rooms(size: Size, device: &DeviceInfo) -> Result<Vec<usize>, Error> {
    let kernel = |tokens: usize| Ok::<_, Error>(Outline::of(&problem(size, tokens), device)?.kernel.name);
    let largest = kernel(size.tokens)?;
    let smaller = successors(Some(FEWEST), |tokens| Some(2 * tokens)).take_while(|&tokens| tokens < size.tokens);
    let mut rooms = Vec::new();
    for tokens in smaller.chain([size.tokens]) {
        if kernel(tokens)? == largest {
            rooms.push(tokens);
        }
    }
    Ok(rooms)
}

/// Batches of up to `tokens`. Everything else is that of the largest batch, whose sentences are empty where there are fewer.
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
        let room = self.rooms.iter().copied().find(|&room| rows <= room).unwrap_or(self.size.tokens);
        batch.problem = problem(self.size, room);
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

#[cfg(test)]
mod tests {
    use super::*;
    use attn_host::Arch;

    #[test]
    fn all_plans_have_the_kernel_of_the_largest() {
        let h100 = DeviceInfo::nominal(Arch::Sm90a);
        let size = Size { heads: 12, head_dim: 32, tokens: 1000, sentences: 512, longest: 256 };
        assert_eq!(rooms(size, &h100), Ok(vec![64, 128, 256, 512, 1000]));
        // With few sentences those for few tokens would have the kernel for few queries.
        let few = Size { sentences: 4, ..size };
        let kernel = |tokens| Outline::of(&problem(few, tokens), &h100).expect("it has one").kernel.name;
        let rooms = rooms(few, &h100).expect("there are kernels");
        assert_ne!(kernel(64), kernel(1000));
        assert!(rooms[0] > 64 && rooms.ends_with(&[1000]) && rooms.iter().all(|&room| kernel(room) == kernel(1000)));
        let tiny = Size { tokens: 10, ..few };
        assert_eq!(super::rooms(tiny, &h100), Ok(vec![10]));
    }
}
