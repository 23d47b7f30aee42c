//! How well the pipeline overlaps: the time of a batch in a steady run, beside what copies and kernels take one by one.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use attn_host::cust::memory::{CopyDestination, DeviceBuffer};
use attn_host::pipeline::{Batch, Done, HostBuffer, Options as Sizes, Pipeline};
use attn_host::{Arrays, DType, DevicePtr, PinnedBuffer, Plan, Problem, Shape, Tensors, simulator};

use crate::compare;
use crate::dense::{Dense, Dims};
use crate::gpu::{Gpu, GpuError};
use crate::oracle::Attention;
use crate::precision::Precision;

mod hang;

/// Times batches in host memory: copies in, kernels and copies out, each alone and all of them in the pipeline.
#[derive(clap::Parser, Debug)]
pub struct Options {
    /// Run on the simulator, tiny problems only.
    #[arg(long)]
    simulator: bool,
    /// A few batches of tiny problems, to be run under a tool that slows everything down.
    #[arg(long)]
    short: bool,
    /// Batches of a steady run.
    #[arg(long, default_value_t = 60)]
    batches: usize,
    /// Batches that have device memory at the same time.
    #[arg(long, default_value_t = 2)]
    depth: usize,
    /// Threads that copy to and from memory that is not pinned, for each direction; the pipeline's own choice by default.
    #[arg(long)]
    copy_threads: Option<usize>,
    /// In place of all that: fill the GPU with threads that never end, and see batches given up and the process end.
    #[arg(long, conflicts_with = "simulator")]
    hang: bool,
}

/// Why the program failed.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The GPU, the driver or the launch side.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A wrong result, or a batch without one.
    #[error("{0}")]
    Wrong(String),
}

impl From<attn_host::Error> for PipelineError {
    fn from(error: attn_host::Error) -> Self {
        PipelineError::Gpu(error.into())
    }
}

impl From<attn_host::cust::error::CudaError> for PipelineError {
    fn from(error: attn_host::cust::error::CudaError) -> Self {
        PipelineError::Gpu(error.into())
    }
}

fn wrong(error: impl std::fmt::Display) -> PipelineError {
    PipelineError::Wrong(error.to_string())
}

/// A kind of batch.
#[derive(Clone, Debug)]
struct Load {
    name: &'static str,
    heads: usize,
    head_dim: usize,
    /// Of each sequence.
    lengths: Vec<usize>,
    /// Sequences one behind the other with their prefix sums; otherwise all are equally long.
    packed: bool,
    /// Whether the host's memory is pinned.
    pinned: bool,
}

/// What a batch takes, in milliseconds.
struct Times {
    copy_in: f64,
    compute: f64,
    copy_out: f64,
    /// In the pipeline's steady run.
    steady: f64,
}

/// Runs the program.
///
/// # Errors
/// A message for the user.
pub fn run(options: &Options) -> Result<(), PipelineError> {
    let gpu = if options.simulator { Gpu::simulated(simulator::Options::default())? } else { Gpu::open()? };
    if options.hang {
        // Destroying the context would wait for the device.
        let gpu = ManuallyDrop::new(gpu);
        return hang::run(&gpu);
    }
    println!("{}; depth {}, {} batches a run", gpu.describe(), options.depth, options.batches);
    for load in loads(options) {
        let times = measure(&gpu, &load, options)?;
        println!("{}", report(&load, &times));
    }
    Ok(())
}

fn loads(options: &Options) -> Vec<Load> {
    let dense = |name, batch, seqlen: usize, heads| Load {
        name,
        heads,
        head_dim: 128,
        lengths: vec![seqlen; batch],
        packed: false,
        pinned: true,
    };
    if options.simulator || options.short {
        let small = dense("small", 1, 40, 1);
        let packed = Load { name: "small packed", lengths: vec![3, 0, 21], packed: true, ..small.clone() };
        let unpinned = Load { name: "small, not pinned", pinned: false, ..small.clone() };
        return vec![small, packed, unpinned];
    }
    let lengths = (0..64).map(|i| 64 + i * 97 % 448).collect();
    let copies = dense("copies bound it", 16, 512, 16);
    vec![
        copies.clone(),
        Load { name: "copies, packed", lengths, packed: true, ..copies.clone() },
        dense("kernels bound it", 1, 32_768, 8),
        dense("about as much of both", 1, 16_384, 8),
        Load { name: "copies, not pinned", pinned: false, ..copies },
    ]
}

impl Load {
    fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn elements(&self) -> usize {
        self.rows() * self.heads * self.head_dim
    }

    fn problem(&self) -> Problem {
        let longest = self.lengths.iter().copied().max().unwrap_or(1) as u64;
        let (heads, head_dim) = (self.heads as u64, self.head_dim as u64);
        let shape = Shape {
            batch: self.lengths.len() as u64,
            seqlen_q: longest,
            seqlen_k: longest,
            heads,
            kv_heads: heads,
            head_dim,
            head_dim_v: head_dim,
        };
        let problem = Problem::new(DType::Bf16, shape);
        let rows = self.rows() as u64;
        if self.packed { problem.packed_q(rows).packed_k(rows) } else { problem }
    }

    fn cu_seqlens(&self) -> Option<Vec<i32>> {
        let sums = (0..=self.lengths.len()).map(|i| self.lengths[..i].iter().sum::<usize>() as i32);
        self.packed.then(|| sums.collect())
    }

    /// Tensor `tensor` of a batch: numbers between -1 and 1 that repeat after a prime, so that no two heads are alike.
    fn values(&self, tensor: usize) -> Vec<u16> {
        let table: Vec<u16> = (0..7919)
            .map(|i| Precision::Bf16.to_bits(((i * 4099 + tensor * 1009) % 7919) as f32 / 3959.5 - 1.0))
            .collect();
        (0..self.elements()).map(|i| table[i % table.len()]).collect()
    }

    fn batch(&self, pipeline: &Pipeline) -> Result<Batch, PipelineError> {
        let [q, k, v] = [0, 1, 2].map(|tensor| self.values(tensor));
        let o = vec![0; self.elements()];
        let place = |values: Vec<u16>| -> Result<HostBuffer, PipelineError> {
            if !self.pinned {
                return Ok(values.into());
            }
            let mut buffer = pipeline.pinned(2 * values.len())?;
            buffer.of_mut::<u16>().copy_from_slice(&values);
            Ok(buffer.into())
        };
        let sums = self.cu_seqlens();
        let arrays = Arrays { cu_seqlens_q: sums.clone(), cu_seqlens_k: sums, ..Arrays::default() };
        Ok(Batch { o: Some(place(o)?), arrays, ..Batch::new(self.problem(), place(q)?, place(k)?, place(v)?) })
    }

    /// Checks some rows of a result against f64.
    fn check(&self, o: &HostBuffer) -> Result<(), PipelineError> {
        let o = o.elements::<u16>().ok_or_else(|| wrong("O is not whole elements"))?;
        let inputs = [0, 1, 2].map(|tensor| self.values(tensor));
        let mut first = 0;
        for (sequence, &length) in self.lengths.iter().enumerate() {
            // The first, the last and one between.
            if length > 0 && (sequence % 29 == 0 || sequence + 1 == self.lengths.len()) {
                let rows = length.min(8);
                let from = if sequence == 0 { 0 } else { length - rows };
                let head = sequence % self.heads;
                let dense = |values: &[u16], from: usize, count: usize| {
                    let dims = Dims { batch: 1, seq: count, heads: 1, width: self.head_dim };
                    Dense::from_fn(dims, |_, row, _, column| {
                        let at = ((first + from + row) * self.heads + head) * self.head_dim + column;
                        Precision::Bf16.from_bits(values[at])
                    })
                };
                let q = dense(&inputs[0], from, rows);
                let (k, v) = (dense(&inputs[1], 0, length), dense(&inputs[2], 0, length));
                let attention = Attention::new(&q, &k, &v, 1.0 / (self.head_dim as f32).sqrt());
                let (reference, lowp) = (attention.reference(), attention.lowp(Precision::Bf16));
                compare::check(&dense(o, from, rows), None, &reference, &lowp, Precision::Bf16)
                    .map_err(|mismatch| wrong(format!("{}: sequence {sequence}: {mismatch}", self.name)))?;
            }
            first += length;
        }
        Ok(())
    }
}

fn measure(gpu: &Gpu, load: &Load, options: &Options) -> Result<Times, PipelineError> {
    let own = Sizes::default();
    let copy_threads = options.copy_threads.unwrap_or(own.copy_threads);
    let sizes = Sizes { depth: options.depth, device_bytes: 16 << 30, pinned_bytes: 16 << 30, copy_threads, ..own };
    let pipeline = Pipeline::new(gpu.device(), sizes)?;
    let (copy_in, compute, copy_out) = phases(gpu, load, &pipeline, options)?;
    let steady = steady(load, &pipeline, options)?;
    Ok(Times { copy_in, compute, copy_out, steady })
}

/// Milliseconds of the copies in, the kernels and the copies out of a batch, each by itself.
fn phases(gpu: &Gpu, load: &Load, pipeline: &Pipeline, options: &Options) -> Result<(f64, f64, f64), PipelineError> {
    let rounds = if options.short || options.simulator { 1 } else { 12 };
    let elements = load.elements();
    let mut host = HostCopy::new(load, pipeline)?;
    // SAFETY: written before anything reads it.
    let buffer = || unsafe { DeviceBuffer::<u16>::uninitialized(elements) };
    let mut device = [buffer()?, buffer()?, buffer()?];
    let o = buffer()?;
    let copy_in = median(rounds, || Ok(device.iter_mut().try_for_each(|d| d.copy_from(host.input()))?))?;
    let plan = Plan::new(gpu.device(), &load.problem())?;
    // SAFETY: nothing reads it before the kernels write it.
    let workspace = unsafe { DeviceBuffer::<u8>::uninitialized(plan.workspace_bytes().max(1) as usize)? };
    let sums = load.cu_seqlens().map(|sums| DeviceBuffer::from_slice(&sums)).transpose()?;
    let at = |buffer: &DeviceBuffer<u16>| DevicePtr(buffer.as_device_ptr().as_raw());
    let sums_at = sums.as_ref().map(|sums| DevicePtr(sums.as_device_ptr().as_raw()));
    let tensors = Tensors {
        cu_seqlens_q: sums_at,
        cu_seqlens_k: sums_at,
        workspace: (plan.workspace_bytes() > 0).then(|| DevicePtr(workspace.as_device_ptr().as_raw())),
        ..Tensors::new(at(&device[0]), at(&device[1]), at(&device[2]), at(&o))
    };
    // SAFETY: tensors of the problem's shape, alive until `time` has waited.
    let launch = || Ok(unsafe { plan.launch(&tensors, gpu.raw_stream()) }?);
    gpu.time(1, launch)?;
    let compute = gpu.time(rounds as u32, launch)? / 1e3;
    let copy_out = median(rounds, || Ok(o.copy_to(host.output())?))?;
    Ok((copy_in, compute, copy_out))
}

/// Host memory of the kind that the load has, for a tensor.
enum HostCopy {
    Pinned(PinnedBuffer),
    Plain(Vec<u16>),
}

impl HostCopy {
    fn new(load: &Load, pipeline: &Pipeline) -> Result<Self, PipelineError> {
        let values = load.values(0);
        if !load.pinned {
            return Ok(HostCopy::Plain(values));
        }
        let mut buffer = pipeline.pinned(2 * values.len())?;
        buffer.of_mut::<u16>().copy_from_slice(&values);
        Ok(HostCopy::Pinned(buffer))
    }

    fn input(&self) -> &[u16] {
        match self {
            HostCopy::Pinned(buffer) => buffer.of(),
            HostCopy::Plain(values) => values,
        }
    }

    fn output(&mut self) -> &mut [u16] {
        match self {
            HostCopy::Pinned(buffer) => buffer.of_mut(),
            HostCopy::Plain(values) => values,
        }
    }
}

/// The median of some runs' wall time in milliseconds, after one that is not counted.
fn median(rounds: usize, mut work: impl FnMut() -> Result<(), PipelineError>) -> Result<f64, PipelineError> {
    work()?;
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(milliseconds(times[rounds / 2]))
}

/// Milliseconds a batch in a run of many, whose first ones are not counted. Results are checked.
fn steady(load: &Load, pipeline: &Pipeline, options: &Options) -> Result<f64, PipelineError> {
    let (sets, counted) = (2 * options.depth + 2, options.batches.max(1));
    let mut free = (0..sets).map(|_| load.batch(pipeline)).collect::<Result<Vec<_>, _>>()?;
    let mut tickets = VecDeque::new();
    let mut start = Instant::now();
    for i in 0..sets + counted {
        let batch = match free.pop() {
            Some(batch) => batch,
            None => {
                let Some(ticket) = tickets.pop_front() else { return Err(wrong("no batch is on its way")) };
                again(attn_host::pipeline::Ticket::wait(ticket).map_err(wrong)?)
            }
        };
        // The first of the last `counted` begins when the pipeline is full.
        if i == sets {
            start = Instant::now();
        }
        tickets.push_back(pipeline.submit(batch).map_err(wrong)?);
    }
    let mut last = None;
    let mut ended = Duration::ZERO;
    for ticket in tickets {
        last = Some(ticket.wait().map_err(wrong)?.o);
        ended = start.elapsed();
    }
    last.map_or(Ok(()), |o| load.check(&o))?;
    // As many batches ended since the clock was started as were submitted, and those that were on their way then.
    Ok(milliseconds(ended) / (counted + sets - 1) as f64)
}

/// The batch of a result, to be computed once more.
fn again(done: Done) -> Batch {
    Batch { o: Some(done.o), ..*done.batch }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn report(load: &Load, times: &Times) -> String {
    let Times { copy_in, compute, copy_out, steady } = times;
    let most = copy_in.max(*compute).max(*copy_out);
    let gb = |tensors: usize, ms: f64| (2 * tensors * load.elements()) as f64 / ms / 1e6;
    format!(
        "{:<22} {:>3} sequences, {:>6} rows, h={} d={} | in {copy_in:8.3} ms {:5.1} GB/s | kernels {compute:8.3} ms | out {copy_out:8.3} ms \
         {:5.1} GB/s | one by one {:8.3} ms | steady {steady:8.3} ms, {:.3} of the longest",
        load.name,
        load.lengths.len(),
        load.rows(),
        load.heads,
        load.head_dim,
        gb(3, *copy_in),
        gb(1, *copy_out),
        copy_in + compute + copy_out,
        steady / most,
    )
}
