//! A batch whose work is queued, until it has landed: the device uses its host memory all the while.

use std::mem::MaybeUninit;
use std::slice;

use super::arrange::Arrangement;
use super::batch::{Batch, Failure};
use super::buffer::HostBuffer;
use super::control::Control;
use super::engine::Shared;
use super::job::Job;
use super::lanes::{Lanes, is_lost};
use super::staging::Copiers;
use crate::error::Error;
use crate::observe;
use crate::pool::{PinnedBuffer, PinnedPool, Scalar};

/// A batch in flight.
pub(super) struct Flight<'a> {
    lanes: &'a Lanes,
    /// There until the flight has ended.
    job: Option<Job>,
    /// Which marks are its.
    pub(super) marks: usize,
    pub(super) stages: Option<Box<Stages>>,
}

/// Pinned memory between a batch's own and the device.
pub(super) struct Stages {
    pub(super) arrangement: Arrangement,
    /// Inputs that are not pinned by themselves: the arrays, then of Q, K and V what there is.
    pub(super) input: Option<PinnedBuffer>,
    /// O unless it is pinned by itself, then LSE.
    pub(super) output: Option<PinnedBuffer>,
}

impl Stages {
    /// As much memory as the batch needs.
    pub(super) fn of(job: &mut Job, arrangement: Arrangement, pool: &PinnedPool) -> Result<Self, Error> {
        let batch = job.batch();
        let (own, qkv) = ([&batch.q, &batch.k, &batch.v], &arrangement.qkv);
        let staged: u64 = own.iter().zip(qkv).filter(|(b, _)| b.pinned().is_none()).map(|(_, part)| part.bytes).sum();
        let o = if batch.o.as_ref().and_then(HostBuffer::pinned).is_some() { 0 } else { arrangement.o.bytes };
        let take = |bytes: u64| (bytes > 0).then(|| pool.take(bytes as usize)).transpose();
        let input = take(arrangement.array_bytes + staged)?;
        let output = take(o + arrangement.lse.map_or(0, |lse| lse.bytes))?;
        Ok(Stages { arrangement, input, output })
    }
}

impl<'a> Flight<'a> {
    pub(super) fn new(lanes: &'a Lanes, job: Job) -> Self {
        Flight { lanes, job: Some(job), marks: 0, stages: None }
    }

    pub(super) fn job(&mut self) -> &mut Job {
        self.job.as_mut().expect("a flight is left alone once it has ended")
    }

    /// Waits until the device is done with it, and reports its result.
    pub(super) fn land(mut self, shared: &Shared) {
        let waited = self.lanes.marks[self.marks].copied.wait();
        let result = waited.map_err(|error| self.judge(error, &shared.control));
        // Nothing uses its memory any more, whatever the result is.
        let (Some(job), stages) = (self.job.take(), self.stages.take()) else { return };
        match (result, stages) {
            (Ok(()), Some(stages)) if job.slot.is_wanted() => finish(job, stages, shared.options.copiers()),
            // Pinned memory is back in its pool before anybody hears of the batch, who may submit the next one.
            (result, stages) => {
                drop(stages);
                job.fail(result.err().unwrap_or(Failure::Cancelled));
            }
        }
    }

    /// Ends a flight that could not be sent off.
    pub(super) fn abort(mut self, error: Error, control: &Control) -> (Option<Job>, Failure) {
        let failure = self.judge(error, control);
        (self.job.take(), failure)
    }

    /// Whose failure an error is. When this returns, nothing uses the flight's memory.
    fn judge(&self, error: Error, control: &Control) -> Failure {
        if is_lost(&error) {
            return Failure::DeviceLost(control.lose(error));
        }
        match self.lanes.settle() {
            Ok(()) => Failure::Failed(error),
            Err(cause) => Failure::DeviceLost(control.lose(cause)),
        }
    }
}

impl Drop for Flight<'_> {
    /// Of a flight that has not ended, which only a panic leaves behind, the memory must not be given back before the device is done.
    fn drop(&mut self) {
        if self.job.is_some() {
            // A device that is lost does nothing any more either.
            let _ = self.lanes.settle();
        }
    }
}

/// Hands the outputs over.
fn finish(mut job: Job, stages: Box<Stages>, copiers: Copiers) {
    let span = job.slot.span.clone();
    let (o, lse) = {
        let _entered = span.enter();
        outputs(job.batch(), &stages, copiers)
    };
    // As above.
    drop(stages);
    job.succeed(o, lse);
}

/// O and LSE in memory of the caller's.
fn outputs(batch: &mut Batch, stages: &Stages, copiers: Copiers) -> (HostBuffer, Option<Vec<f32>>) {
    let Stages { arrangement, output, .. } = stages;
    let staged: &[u8] = output.as_deref().unwrap_or(&[]);
    let (bytes, lse_bytes) = (arrangement.o.bytes as usize, arrangement.lse.map_or(0, |lse| lse.bytes) as usize);
    let (o, staged) = match batch.o.take() {
        Some(own) if own.pinned().is_some() => (own, staged),
        Some(mut own) => {
            copiers.copy_over(&staged[..bytes], &mut own.bytes_mut()[..bytes]);
            (own, &staged[bytes..])
        }
        // O is always of 16 bits.
        None => (HostBuffer::Bits(words(&staged[..bytes], copiers)), &staged[bytes..]),
    };
    let lse = arrangement.lse.map(|_| words(&staged[..lse_bytes], copiers));
    observe::bytes_out(bytes + lse_bytes);
    (o, lse)
}

/// Numbers of their bytes, which need not be aligned.
fn words<T: Scalar>(bytes: &[u8], copiers: Copiers) -> Vec<T> {
    let count = bytes.len() / size_of::<T>();
    let mut words = Vec::<T>::with_capacity(count);
    let room = &mut words.spare_capacity_mut()[..count];
    // SAFETY: the same memory, whose bytes need not be initialised.
    let room =
        unsafe { slice::from_raw_parts_mut(room.as_mut_ptr().cast::<MaybeUninit<u8>>(), count * size_of::<T>()) };
    copiers.copy(&bytes[..count * size_of::<T>()], room);
    // SAFETY: all of them have been written, and every bit pattern is a number.
    unsafe { words.set_len(count) };
    words
}
