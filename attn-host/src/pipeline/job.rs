//! A batch on its way: whatever happens to it, its ticket hears of it once.

use std::sync::Arc;
use std::time::Instant;

use super::batch::{Batch, Done, Failed, Failure};
use super::buffer::HostBuffer;
use super::ticket::{Slot, Ticket};
use crate::observe;

/// A batch and its ticket's other end.
pub(super) struct Job {
    id: u64,
    /// There until the ticket has heard of it.
    batch: Option<Box<Batch>>,
    slot: Arc<Slot>,
    submitted: Instant,
    started: Option<Instant>,
    pub(super) span: observe::Span,
}

impl Job {
    pub(super) fn new(id: u64, batch: Box<Batch>) -> (Self, Ticket) {
        let slot = Arc::<Slot>::default();
        let span = observe::batch(id, &batch.problem);
        let job = Job { id, batch: Some(batch), slot: slot.clone(), submitted: Instant::now(), started: None, span };
        (job, Ticket::new(id, slot))
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.slot.is_cancelled()
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
        let Some(batch) = self.batch.take() else { return };
        let (id, total) = (self.id, self.submitted.elapsed());
        let queued = self.started.map_or(total, |started| started - self.submitted);
        observe::ended("done", total);
        self.slot.put(Ok(Done { id, batch, o, lse, queued, total }));
    }

    pub(super) fn fail(mut self, failure: Failure) {
        self.report(failure);
    }

    fn report(&mut self, failure: Failure) {
        let Some(batch) = self.batch.take() else { return };
        let outcome = match failure {
            Failure::Failed(_) => "failed",
            Failure::Cancelled => "cancelled",
            Failure::ShutDown => "shut down",
            Failure::DeviceLost(_) => "device lost",
        };
        observe::ended(outcome, self.submitted.elapsed());
        observe::failed(&self.span, &failure);
        self.slot.put(Err(Failed { id: self.id, failure, batch }));
    }
}

impl Drop for Job {
    /// Only what a panic left behind ends here with its batch.
    fn drop(&mut self) {
        self.report(Failure::ShutDown);
    }
}
