//! Batches that start and end in host memory, computed one behind the other without a pause.
//!
//! A [`Pipeline`] copies each batch to the device, launches its plan and copies the results back, on three streams, so that while one batch is
//! computed the next one is on its way in and the one before on its way out:
//!
//! ```text
//! copy in    | 0 | 1 | 2 | 3 |
//! attention      | 0 | 1 | 2 | 3 |
//! copy out           | 0 | 1 | 2 | 3 |
//! ```
//!
//! Once it is full, a batch takes as long as the slowest of the three. With a GPU or the simulator (feature `simulator`):
//!
#![cfg_attr(feature = "simulator", doc = "```")]
#![cfg_attr(not(feature = "simulator"), doc = "```no_run")]
//! use attn_host::pipeline::{Batch, Options, Pipeline};
//! use attn_host::{DType, Device, Mask, Problem, Shape};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     # #[cfg(feature = "simulator")]
//!     # attn_host::simulator::install(Default::default())?;
//!     let pipeline = Pipeline::new(&Device::open(0)?, Options::default())?;
//!     let shape = Shape { batch: 1, seqlen_q: 64, seqlen_k: 64, heads: 2, kv_heads: 1, head_dim: 32, head_dim_v: 32 };
//!     let problem = Problem::new(DType::F16, shape).mask(Mask::Causal);
//!     let (q, kv) = (vec![0u16; 64 * 2 * 32], vec![0u16; 64 * 32]);
//!     let tickets: Vec<_> = (0..4)
//!         .map(|_| pipeline.submit(Batch { lse: true, ..Batch::new(problem, q.clone(), kv.clone(), kv.clone()) }))
//!         .collect::<Result<_, _>>()?;
//!     for ticket in tickets {
//!         let done = ticket.wait()?; // in the order of submission
//!         assert_eq!(done.o.elements::<u16>().map(<[u16]>::len), Some(64 * 2 * 32));
//!         assert_eq!(done.lse.map(|lse| lse.len()), Some(2 * 64));
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Batches
//!
//! A [`Batch`] owns its host memory, dense or packed, with the lengths, pages, sinks and factors that its problem has; it comes back with
//! the result, so that nothing need be allocated for the next one. What is in [pinned memory](Pipeline::pinned) the device copies by itself.
//! Other memory costs a copy by the CPU on the way in and one on the way out, on two threads, about 10 GB/s each: much less than a bus carries.
//! Plans are kept by problem, so batches of a few shapes cost no planning.
//!
//! # Threads and order
//!
//! A pipeline is used through `&Pipeline` by as many threads as like, whatever context is current there. Batches are computed in the order in
//! which they were accepted, and tickets get their results in that order, failed and cancelled batches included. [`submit`](Pipeline::submit)
//! waits while the queue is full (back-pressure), [`try_submit`](Pipeline::try_submit) does not and hands the batch back, and with the
//! feature `tokio` `submit_async` awaits. A [`Ticket`] can be waited for or awaited, by any executor. The pipeline has three threads of its
//! own, which sleep when there is nothing to do.
//!
//! # Cancellation
//!
//! [`Ticket::cancel`], and dropping the ticket, cancel a batch: it is not started, or, where it has been, its result is not copied any further.
//! Work that the device has begun is not stopped.
//!
//! # Errors
//!
//! - A batch that is wrong by itself is not accepted: [`Reason::Invalid`].
//! - What goes wrong with one batch, [`Failure::Failed`], does not touch the others. When memory runs out, the pipeline first waits for the
//!   batches in flight, frees what its pools keep and tries once more.
//! - After an error by which the context is lost (an illegal address, a hardware error), every batch in flight and in the queue ends with
//!   [`Failure::DeviceLost`], and none is accepted any more. Make a new context then, or a new process.
//! - [`Pipeline::shutdown`] either drains the queue or ends what has not been started with [`Failure::ShutDown`]. Dropping the pipeline drains
//!   it. Every batch that was accepted is reported exactly once, whatever happens.
//!
//! # What never ends
//!
//! A kernel that does not end, or a copy that a broken bus swallows, cannot be taken back, and what waits for it in the driver waits for ever.
//! The caller's threads never do. When no batch has come to its end for [`Options::timeout`], or for [`Options::shutdown_timeout`] once the
//! pipeline is shut down or dropped, the pipeline gives up: every batch ends with [`Failure::Stuck`], none is accepted any more, and waiting
//! for the end returns [`Error::Stuck`].
//!
//! The device may then still read and write what belongs to batches in flight. Their device and pinned memory, the caller's own pinned buffers
//! among it, is therefore neither freed nor used again, and they do not come back with the error. [`Statistics`] goes on counting it, as in
//! use and in flight. Where the device gets done after all, all of it is given back; where it does not, it goes with the process, which may end
//! while threads of the pipeline wait in the driver. Other calls of the driver in the same context may wait as well, those that free
//! memory above all, so the thing to do is to end the process.
//!
//! The device's context must live as long as the pipeline; where it is destroyed before, the device counts as lost.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::error::Error;
use crate::observe;
use crate::plan::Plan;
use crate::pool::{DevicePool, PinnedBuffer, PinnedPool, PoolStatistics};

pub use batch::{Batch, Done, Failed, Failure, Reason, Rejected};
pub use buffer::HostBuffer;
use control::{Control, Counts, Limits, Patience};
use engine::Shared;
use job::Job;
use staging::Copiers;
pub use ticket::{Canceller, Outcome, Ticket};

mod arrange;
#[cfg(feature = "tokio")]
mod asynchronous;
mod batch;
mod buffer;
mod check;
mod control;
mod engine;
mod flight;
mod job;
mod lanes;
mod plans;
mod staging;
#[cfg(test)]
mod tests;
mod ticket;

/// Sizes of a pipeline: `Options { queue: 256, ..Options::default() }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Batches whose inputs, and batches whose outputs, have device memory at the same time. With 2 a batch comes in while another is computed,
    /// and a third goes out. 1 to 64.
    pub depth: usize,
    /// Batches that wait for their turn before submitters do. 1 to 1048576.
    pub queue: usize,
    /// The most device memory that the pipeline holds, in bytes.
    pub device_bytes: u64,
    /// The most pinned host memory that the pipeline holds, in bytes.
    pub pinned_bytes: u64,
    /// Plans that are kept.
    pub plans: usize,
    /// Threads that copy between pinned memory and memory that is not, for each direction. They are started for copies of more than a
    /// megabyte and end with them. Memory that a batch brings [pinned](Pipeline::pinned) needs none.
    /// 1 to 256.
    pub copy_threads: usize,
    /// The longest that a batch may take from when it is the first in line until it is done, plans and loading of kernels included, before the
    /// pipeline [gives up](self#what-never-ends). Without it only a shutdown does.
    pub timeout: Option<Duration>,
    /// The same once the pipeline is shut down or dropped; from then on the shorter of the two holds. Without it both wait for ever.
    pub shutdown_timeout: Option<Duration>,
}

impl Default for Options {
    /// A depth of 2, a queue of 16, 4 GiB of either memory, 32 plans, a quarter of the CPU's threads up to 4 for copies, no timeout, and 60
    /// seconds of it once the pipeline is shut down.
    fn default() -> Self {
        Options {
            depth: 2,
            queue: 16,
            device_bytes: 4 << 30,
            pinned_bytes: 4 << 30,
            plans: 32,
            copy_threads: thread::available_parallelism().map_or(1, |threads| (threads.get() / 4).clamp(1, 4)),
            timeout: None,
            shutdown_timeout: Some(Duration::from_secs(60)),
        }
    }
}

impl Options {
    /// Batches whose work is queued at the same time: those that have device memory, and as many whose turn it is next, so that the device
    /// never waits for the host.
    fn flights(&self) -> usize {
        2 * self.depth
    }

    fn copiers(&self) -> Copiers {
        Copiers(self.copy_threads)
    }

    fn limits(&self) -> Limits {
        Limits { batch: self.timeout, shutdown: self.shutdown_timeout }
    }

    fn checked(self) -> Result<Self, Error> {
        let sizes = [
            ("depth", self.depth, 64, "1 to 64"),
            ("queue", self.queue, 1 << 20, "1 to 1048576"),
            ("copy_threads", self.copy_threads, 256, "1 to 256"),
        ];
        for (argument, value, most, allowed) in sizes {
            if value == 0 || value > most {
                return Err(Error::Size { argument, value: value as u64, allowed });
            }
        }
        Ok(self)
    }
}

/// How a pipeline ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Every batch that was accepted is computed.
    Drain,
    /// Batches that have not been started end with [`Failure::ShutDown`].
    Abandon,
}

/// What a pipeline is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Batches that were accepted since the pipeline was made.
    pub submitted: u64,
    /// Batches that wait.
    pub queued: usize,
    /// Batches that have been started and have not come to their end, those that were given up included: the device may use their memory, which
    /// counts as in use below.
    pub in_flight: usize,
    /// The pool of device memory.
    pub device: PoolStatistics,
    /// The pool of pinned memory.
    pub pinned: PoolStatistics,
}

/// Computes batches in host memory one behind the other: see the [module's documentation](self).
pub struct Pipeline {
    shared: Arc<Shared>,
    /// There until the handle is dropped.
    issuing: Option<JoinHandle<()>>,
    watching: Option<JoinHandle<()>>,
}

thread_local! {
    /// Whether this is a thread of a pipeline, where wakers run.
    static OWN: Cell<bool> = const { Cell::new(false) };
}

impl Pipeline {
    /// Starts a pipeline on the device, whose context must be current.
    ///
    /// # Errors
    /// [`Error::Size`] for options that are not allowed; [`Error::Thread`]; [`Error::Cuda`], [`Error::NoContext`] and
    /// [`Error::OutOfMemory`] when the driver fails.
    pub fn new(device: &Device, options: Options) -> Result<Self, Error> {
        let device_pool = DevicePool::new(device, options.device_bytes);
        let pinned_pool = PinnedPool::new(device, options.pinned_bytes);
        Self::with_pools(device, options, device_pool, pinned_pool)
    }

    /// The same with pools that it shares with others; their limits are those that hold.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::WrongContext`] when the device memory is of another context.
    pub fn with_pools(
        device: &Device,
        options: Options,
        device_pool: DevicePool,
        pinned_pool: PinnedPool,
    ) -> Result<Self, Error> {
        Self::with_plans(device, options, device_pool, pinned_pool, Plan::new)
    }

    pub(crate) fn with_plans(
        device: &Device,
        options: Options,
        device_pool: DevicePool,
        pinned_pool: PinnedPool,
        make: plans::Make,
    ) -> Result<Self, Error> {
        let options = options.checked()?;
        device_pool.check_context(device)?;
        let control = Control::new(options.queue, options.flights(), options.limits());
        let shared = Arc::new(Shared { control, device: device.clone(), options, device_pool, pinned_pool, make });
        let (ready, begun) = mpsc::sync_channel(1);
        let mut pipeline = Pipeline { shared: shared.clone(), issuing: None, watching: None };
        let issuing = shared.clone();
        pipeline.issuing = Some(start("attn-issue", move || engine::run(&issuing, &ready))?);
        let watching = move || {
            OWN.set(true);
            shared.control.watch();
        };
        pipeline.watching = Some(start("attn-watch", watching)?);
        // A thread that ends without an answer has panicked.
        begun.recv().unwrap_or_else(|gone| Err(Error::Thread { reason: gone.to_string() }))?;
        Ok(pipeline)
    }

    /// Submits a batch; waits while the queue is full.
    ///
    /// # Errors
    /// The batch, and why it was not accepted: any [`Reason`] but a full queue.
    pub fn submit(&self, batch: Batch) -> Result<Ticket, Rejected> {
        self.enter(batch, Patience::Endless)
    }

    /// The same, but waits no longer than this.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`Reason::QueueFull`] when the time is up.
    pub fn submit_timeout(&self, batch: Batch, patience: Duration) -> Result<Ticket, Rejected> {
        self.enter(batch, Patience::For(patience))
    }

    /// Submits a batch if the queue has room.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`Reason::QueueFull`].
    pub fn try_submit(&self, batch: Batch) -> Result<Ticket, Rejected> {
        self.enter(batch, Patience::None)
    }

    fn enter(&self, batch: Batch, patience: Patience) -> Result<Ticket, Rejected> {
        self.admit(self.checked(batch)?, patience).map_err(refused)
    }

    /// The batch, if it can be computed.
    fn checked(&self, batch: Batch) -> Result<Box<Batch>, Rejected> {
        let batch = Box::new(batch);
        match check::check(&batch, self.shared.device.info()) {
            Ok(()) => Ok(batch),
            Err(error) => Err(refused(Rejected { reason: Reason::Invalid(error), batch })),
        }
    }

    fn admit(&self, batch: Box<Batch>, patience: Patience) -> Result<Ticket, Rejected> {
        let mut waiting = Some(batch);
        let admitted = self.shared.control.submit(patience, |id| {
            Job::new(id, waiting.take().unwrap_or_else(|| unreachable!("a batch is let in once")))
        });
        match (admitted, waiting) {
            (Ok(ticket), _) => Ok(ticket),
            (Err(reason), Some(batch)) => Err(Rejected { reason, batch }),
            (Err(_), None) => unreachable!("a batch that was not let in is still there"),
        }
    }

    /// Pinned memory for batches, of the pipeline's pool.
    ///
    /// # Errors
    /// Those of [`PinnedPool::take`].
    pub fn pinned(&self, bytes: usize) -> Result<PinnedBuffer, Error> {
        self.shared.pinned_pool.take(bytes)
    }

    /// Whether batches can be computed.
    ///
    /// # Errors
    /// The cause, when the device is lost.
    pub fn health(&self) -> Result<(), Error> {
        self.shared.control.health()
    }

    /// What the pipeline is doing.
    pub fn statistics(&self) -> Statistics {
        let Shared { control, device_pool, pinned_pool, .. } = &*self.shared;
        let Counts { queued, in_flight, submitted } = control.counts();
        Statistics { submitted, queued, in_flight, device: device_pool.statistics(), pinned: pinned_pool.statistics() }
    }

    /// Lets no more batches in and waits until those that are have their results, started or not as `how` says. Threads that wait in
    /// [`submit`](Self::submit) get their batches back. May be called again and from several threads; after a drain has begun,
    /// [`Shutdown::Abandon`] ends it sooner. In a waker, which runs on a thread of the pipeline, it does not wait.
    ///
    /// # Errors
    /// The cause, when the device is lost; [`Error::Stuck`] when no batch comes to its end for
    /// [`shutdown_timeout`](Options::shutdown_timeout).
    pub fn shutdown(&self, how: Shutdown) -> Result<(), Error> {
        self.close(how, None)
    }

    /// The same, but waits no longer than this, whatever comes to its end meanwhile.
    ///
    /// # Errors
    /// As [`shutdown`](Self::shutdown), and [`Error::Stuck`] when the time is up.
    pub fn shutdown_timeout(&self, how: Shutdown, patience: Duration) -> Result<(), Error> {
        self.close(how, Some(patience))
    }

    fn close(&self, how: Shutdown, patience: Option<Duration>) -> Result<(), Error> {
        self.shut(how, patience);
        if OWN.get() { self.health() } else { self.shared.control.wait_for_end() }
    }

    /// Lets no more batches in.
    fn shut(&self, how: Shutdown, patience: Option<Duration>) {
        let end = patience.and_then(|time| Instant::now().checked_add(time));
        self.shared.control.close(how == Shutdown::Abandon, end);
    }
}

/// Starts a thread of a pipeline.
fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(|error| Error::Thread { reason: error.to_string() })
}

/// Notes that a batch goes back.
fn refused(rejected: Rejected) -> Rejected {
    observe::rejected(&rejected.reason);
    rejected
}

impl Drop for Pipeline {
    /// Drains the queue.
    fn drop(&mut self) {
        // Batches have heard of what went wrong by themselves.
        let ended = if self.issuing.is_some() { self.shutdown(Shutdown::Drain) } else { Ok(()) };
        // Threads that may be waiting for the device for ever are left to themselves, and a process may end without them.
        if OWN.get() || matches!(ended, Err(Error::Stuck { .. })) {
            return;
        }
        for thread in [self.issuing.take(), self.watching.take()].into_iter().flatten() {
            // The threads have given everything back then. Batches have heard of a panic, too.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pipeline").field(&self.statistics()).finish()
    }
}
