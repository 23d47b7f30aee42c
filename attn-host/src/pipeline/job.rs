//! A batch on its way: whatever happens to it, its ticket hears of it once.

use std::sync::Arc;
use std::time::Instant;

use super::batch::{Batch, Done, Failure};
use super::buffer::HostBuffer;
use super::ticket::{Slot, Ticket};
use crate::observe;

/// A batch and its ticket's other end.
pub(super) struct Job {
    pub(super) slot: Arc<Slot>,
    /// There until the ticket has heard of it.
    batch: Option<Box<Batch>>,
    started: Option<Instant>,
}

impl Job {
    pub(super) fn new(id: u64, batch: Box<Batch>) -> (Self, Ticket) {
        let slot = Arc::new(Slot::new(id, observe::batch(id, &batch.problem)));
        (Job { slot: slot.clone(), batch: Some(batch), started: None }, Ticket::new(slot))
    }

    /// Notes that the batch's turn has come.
    pub(super) fn start(&mut self) {
        self.started = Some(Instant::now());
    }

    /// The batch, as long as its ticket has not heard of it.
    pub(super) fn batch(&mut self) -> &mut Batch {
        self.batch.as_mut().expect("a job is left alone once its ticket has heard of it")
    }

    pub(super) fn succeed(mut self, o: HostBuffer, lse: Option<Vec<f32>>) {
        let Some(batch) = self.batch.take().filter(|_| self.slot.claim()) else { return };
        let Slot { id, submitted, .. } = *self.slot;
        let total = submitted.elapsed();
        let queued = self.started.map_or(total, |started| started - submitted);
        observe::ended("done", total);
        self.slot.put(Ok(Done { id, batch, o, lse, queued, total }));
    }

    pub(super) fn fail(mut self, failure: Failure) {
        self.report(failure);
    }

    /// A batch that was given up has been reported already, and ends here.
    fn report(&mut self, failure: Failure) {
        if let Some(batch) = self.batch.take().filter(|_| self.slot.claim()) {
            self.slot.fail(failure, Some(batch));
        }
    }
}

impl Drop for Job {
    /// Only what a panic left behind ends here with its batch.
    fn drop(&mut self) {
        self.report(Failure::ShutDown);
    }
}
