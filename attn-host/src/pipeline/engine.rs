//! The two threads that work: one queues the work of each batch in turn, the other waits for it and reports the results.

use std::mem::MaybeUninit;
use std::slice;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use super::arrange::Arrangement;
use super::batch::Failure;
use super::buffer::HostBuffer;
use super::control::Control;
use super::flight::{Flight, Stages};
use super::job::Job;
use super::lanes::{Lanes, Slots};
use super::plans::{Make, Plans};
use super::staging::Copiers;
use super::{OWN, Options};
use crate::device::Device;
use crate::error::Error;
use crate::launch::DevicePtr;
use crate::observe;
use crate::pool::{DevicePool, PinnedPool};

/// What the pipeline's handle and its threads have in common.
pub(super) struct Shared {
    pub(super) control: Control,
    pub(super) device: Device,
    pub(super) options: Options,
    pub(super) device_pool: DevicePool,
    pub(super) pinned_pool: PinnedPool,
    pub(super) make: Make,
}

/// A batch on its way to the landing thread.
enum Passage<'a> {
    Queued(Flight<'a>),
    Failed(Job, Failure),
}

/// Tells the handle that the threads have ended, however they do.
struct Ending<'a>(&'a Control);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The issuing thread, which has the other one for as long as it runs. `ready` hears whether it could begin.
pub(super) fn run(shared: &Arc<Shared>, ready: &SyncSender<Result<(), Error>>) {
    let _ending = Ending(&shared.control);
    OWN.set(true);
    let driver = shared.device.driver;
    let begun = driver.enter(shared.device.context).and_then(|entered| {
        let lanes = Lanes::new(driver, shared.options.flights())?;
        Ok((entered, lanes))
    });
    // In this order, so that streams and events end while the context is current.
    let (_entered, lanes) = match begun {
        Ok(begun) => begun,
        Err(error) => return tell(ready, Err(error)),
    };
    // Outside of the scope: what batches in flight use is given back once both threads are done with it.
    let mut issuer = Issuer::new(shared, &lanes);
    thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        let landing = thread::Builder::new().name("attn-land".to_owned());
        let landing = landing.spawn_scoped(scope, move || land(shared, &receive, ready));
        match landing {
            Ok(_) => issuer.run(&send),
            Err(error) => tell(ready, Err(Error::Thread { reason: error.to_string() })),
        }
    });
}

/// Answers who waits for the pipeline to begin. Nobody does once it has.
fn tell(ready: &SyncSender<Result<(), Error>>, answer: Result<(), Error>) {
    let _ = ready.try_send(answer);
}

/// Lets the issuing thread come to its end when the landing thread has, however it does.
struct Grounded<'a>(&'a Control);

impl Drop for Grounded<'_> {
    fn drop(&mut self) {
        self.0.ground();
    }
}

/// The landing thread.
fn land(shared: &Shared, passages: &Receiver<Passage<'_>>, ready: &SyncSender<Result<(), Error>>) {
    let _grounded = Grounded(&shared.control);
    OWN.set(true);
    // Waiting for an event needs no current context, waiting for a context does.
    let _entered = match shared.device.driver.enter(shared.device.context) {
        Ok(entered) => {
            tell(ready, Ok(()));
            entered
        }
        Err(error) => return tell(ready, Err(error)),
    };
    for passage in passages {
        match passage {
            Passage::Queued(flight) => flight.land(shared),
            Passage::Failed(job, failure) => job.fail(failure),
        }
        shared.control.landed();
    }
}

/// What the issuing thread works with.
struct Issuer<'a> {
    shared: &'a Shared,
    lanes: &'a Lanes,
    inputs: Slots,
    outputs: Slots,
    plans: Plans,
    /// Batches whose work has been queued.
    issued: usize,
}

impl<'a> Issuer<'a> {
    fn new(shared: &'a Shared, lanes: &'a Lanes) -> Self {
        let Options { depth, plans, .. } = shared.options;
        let plans = Plans::new(shared.device.clone(), shared.make, plans);
        Issuer { shared, lanes, inputs: Slots::new(depth), outputs: Slots::new(depth), plans, issued: 0 }
    }

    fn run(&mut self, landing: &Sender<Passage<'a>>) {
        while let Some((job, verdict)) = self.shared.control.next() {
            let passage = match verdict {
                Some(failure) => Passage::Failed(job, failure),
                None if job.slot.is_cancelled() => Passage::Failed(job, Failure::Cancelled),
                None => self.start(job),
            };
            // When the other thread is gone, the passage ends here.
            if landing.send(passage).is_err() {
                return;
            }
        }
    }

    fn start(&mut self, mut job: Job) -> Passage<'a> {
        job.start();
        let span = job.slot.span.clone();
        let _entered = span.enter();
        let mut flight = Flight::new(self.lanes, job);
        let mut issued = self.issue(&mut flight);
        if let Err(Error::OutOfMemory { .. } | Error::PoolLimit { .. }) = issued {
            issued = self.make_room(&mut flight).and_then(|()| self.issue(&mut flight));
        }
        let Err(error) = issued else { return Passage::Queued(flight) };
        match flight.abort(error, &self.shared.control) {
            (Some(job), failure) => Passage::Failed(job, failure),
            (None, _) => unreachable!("a flight that was not sent off has its job"),
        }
    }

    /// Gives back all memory that no batch needs, once all that is queued is done.
    fn make_room(&mut self, flight: &mut Flight<'_>) -> Result<(), Error> {
        self.lanes.settle()?;
        flight.stages = None;
        self.inputs.clear();
        self.outputs.clear();
        self.shared.device_pool.trim();
        self.shared.pinned_pool.trim();
        Ok(())
    }

    /// Queues a batch: its copies in, its kernels and its copies out, each on a stream of its own and behind what it needs.
    fn issue(&mut self, flight: &mut Flight<'a>) -> Result<(), Error> {
        let (lanes, number) = (self.lanes, self.issued);
        let problem = flight.job().batch().problem;
        let plan = self.plans.get(&problem)?;
        let arrangement = Arrangement::of(flight.job().batch(), plan)?;
        let (input_bytes, output_bytes) = (arrangement.input_bytes, arrangement.output_bytes);
        let pool = &self.shared.device_pool;
        let marks = number % lanes.marks.len();
        let (input, input_slot) =
            self.inputs.with_room(number, input_bytes, pool, |last| lanes.marks[last].computed.wait())?;
        let (output, output_slot) =
            self.outputs.with_room(number, output_bytes, pool, |last| lanes.marks[last].copied.wait())?;
        let stages = Stages::of(flight.job(), arrangement, &self.shared.pinned_pool)?;
        flight.marks = marks;
        flight.stages = Some(Box::new(stages));
        let mark = &lanes.marks[marks];

        // What the last user of the block reads must not be overwritten.
        input_slot.last.map_or(Ok(()), |last| lanes.copy_in.wait_for(&lanes.marks[last].computed))?;
        copy_in(lanes, flight, input, self.shared.options.copiers())?;
        lanes.copy_in.record(&mark.loaded)?;

        lanes.compute.wait_for(&mark.loaded)?;
        // Nor what has not been copied out.
        output_slot.last.map_or(Ok(()), |last| lanes.compute.wait_for(&lanes.marks[last].copied))?;
        let Some(arrangement) = flight.stages.as_ref().map(|stages| &stages.arrangement) else {
            unreachable!("set above")
        };
        if arrangement.gaps {
            // SAFETY: the block is that long; its last user is waited for.
            unsafe { lanes.compute.clear(output, output_bytes as usize)? };
        }
        let tensors = arrangement.tensors(DevicePtr(input), DevicePtr(output));
        // SAFETY: the arrangement has room for what the plan reaches, in blocks of the plan's device that nobody else has before this batch's
        // successors, which wait for its marks. The stream is of the plan's context. Lengths were checked when the batch was submitted.
        unsafe { plan.launch(&tensors, lanes.compute.stream())? };
        lanes.compute.record(&mark.computed)?;

        lanes.copy_out.wait_for(&mark.computed)?;
        copy_out(lanes, flight, output)?;
        lanes.copy_out.record(&mark.copied)?;

        input_slot.last = Some(marks);
        output_slot.last = Some(marks);
        self.issued += 1;
        Ok(())
    }
}

/// Queues the copies of a batch's inputs, those that are not pinned through its stage.
fn copy_in(lanes: &Lanes, flight: &mut Flight<'_>, to: u64, copiers: Copiers) -> Result<(), Error> {
    let Some(mut stages) = flight.stages.take() else { return Ok(()) };
    let result = copy_in_staged(lanes, flight.job(), &mut stages, to, copiers);
    // Copies that have been queued use it.
    flight.stages = Some(stages);
    result
}

fn copy_in_staged(lanes: &Lanes, job: &mut Job, stages: &mut Stages, to: u64, copiers: Copiers) -> Result<(), Error> {
    let batch = job.batch();
    let Stages { arrangement, input, .. } = stages;
    let place = input.as_ref().map(|stage| stage.place());
    let stage: &mut [u8] = input.as_deref_mut().unwrap_or(&mut []);
    for (part, array) in arrangement.arrays.as_ref().each().into_iter().zip(batch.array_bytes().each()) {
        if let (Some(part), Some(array)) = (part, array) {
            stage[part.offset as usize..][..array.len()].copy_from_slice(array);
        }
    }
    let mut staged = arrangement.array_bytes as usize;
    let mut bytes_in = staged;
    if let Some(place) = place.filter(|_| staged > 0) {
        // SAFETY: the stage belongs to the flight until it lands; the block is the batch's, and its last user is waited for.
        unsafe { lanes.copy_in.copy_in(to, place, staged)? };
    }
    for (own, part) in [&batch.q, &batch.k, &batch.v].into_iter().zip(&arrangement.qkv) {
        let bytes = part.bytes as usize;
        let from = match (own.pinned(), place) {
            (Some(from), _) => from.cast_const(),
            (None, Some(place)) => {
                let from = place.wrapping_add(staged);
                // SAFETY: the stage has room for every tensor that is not pinned, and nobody else uses this part of it.
                let part = unsafe { slice::from_raw_parts_mut(from.cast::<MaybeUninit<u8>>(), bytes) };
                copiers.copy(&own.bytes()[..bytes], part);
                staged += bytes;
                from.cast_const()
            }
            (None, None) => unreachable!("what is not pinned has a stage"),
        };
        // SAFETY: as long as the flight has not landed nothing writes or frees the stage, and nothing the batch's own pinned buffer.
        unsafe { lanes.copy_in.copy_in(to + part.offset, from, bytes)? };
        bytes_in += bytes;
    }
    observe::bytes_in(bytes_in);
    Ok(())
}

/// Queues the copies of a batch's outputs, into its own buffer where that is pinned, and else into its stage.
fn copy_out(lanes: &Lanes, flight: &mut Flight<'_>, from: u64) -> Result<(), Error> {
    let own = flight.job().batch().o.as_ref().and_then(HostBuffer::pinned);
    let Some(Stages { arrangement, output, .. }) = flight.stages.as_deref() else { return Ok(()) };
    let stage = output.as_ref().map(|stage| stage.place());
    let (o, lse) = (arrangement.o, arrangement.lse);
    let staged = if own.is_some() { 0 } else { o.bytes as usize };
    if let Some(to) = own.or(stage) {
        // SAFETY: its length was checked, or the stage has room for it; the flight has both until it lands.
        unsafe { lanes.copy_out.copy_out(to, from + o.offset, o.bytes as usize)? };
    }
    if let (Some(lse), Some(stage)) = (lse, stage) {
        // SAFETY: the stage has room for LSE behind what else it holds.
        unsafe { lanes.copy_out.copy_out(stage.wrapping_add(staged), from + lse.offset, lse.bytes as usize)? };
    }
    Ok(())
}
