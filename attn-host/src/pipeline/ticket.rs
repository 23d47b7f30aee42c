//! Where a batch's result arrives.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::batch::{Batch, Done, Failed, Failure};
use crate::observe;

/// What a batch ended with.
pub type Outcome = Result<Done, Failed>;

/// The promise of a batch's result: to be waited for, or awaited.
///
/// Tickets get their results in the order of submission: when one is there, those of all earlier batches are, too. Dropping a ticket cancels its
/// batch, whose result nobody could see any more.
#[derive(Debug)]
#[must_use = "dropping a ticket cancels its batch"]
pub struct Ticket {
    slot: Arc<Slot>,
}

/// Cancels a batch from elsewhere than where its ticket is.
#[derive(Clone, Debug)]
pub struct Canceller(Arc<Slot>);

/// What a ticket and its batch have in common.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: u64,
    pub(super) submitted: Instant,
    pub(super) span: observe::Span,
    cancelled: AtomicBool,
    /// Whether somebody is about to put the result, or has.
    claimed: AtomicBool,
    result: Mutex<Arrival>,
    arrived: Condvar,
}

#[derive(Debug)]
enum Arrival {
    Awaited(Option<Waker>),
    There(Box<Outcome>),
    Taken,
}

impl Slot {
    pub(super) fn new(id: u64, span: observe::Span) -> Self {
        Slot {
            id,
            submitted: Instant::now(),
            span,
            cancelled: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            result: Mutex::new(Arrival::Awaited(None)),
            arrived: Condvar::new(),
        }
    }

    /// Whether the caller is the one whose result it gets.
    pub(super) fn claim(&self) -> bool {
        // Relaxed: the result itself is behind a lock.
        !self.claimed.swap(true, Ordering::Relaxed)
    }

    /// Puts a failure, which the caller has claimed to do.
    pub(super) fn fail(&self, failure: Failure, batch: Option<Box<Batch>>) {
        observe::ended(failure.word(), self.submitted.elapsed());
        observe::failed(&self.span, &failure);
        self.put(Err(Failed { id: self.id, failure, batch }));
    }

    /// Gives the batch up, unless it has a result. When this returns it has one.
    pub(super) fn strand(&self, failure: Failure) {
        if self.claim() {
            return self.fail(failure, None);
        }
        let mut arrival = self.lock();
        while matches!(*arrival, Arrival::Awaited(_)) {
            arrival = self.arrived.wait(arrival).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts the result, which the caller has claimed to do, where the ticket finds it.
    pub(super) fn put(&self, outcome: Outcome) {
        let before = std::mem::replace(&mut *self.lock(), Arrival::There(Box::new(outcome)));
        self.arrived.notify_all();
        if let Arrival::Awaited(Some(waker)) = before {
            // A waker is the caller's code; a panic in it is not to end the thread that others' results come from.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        // Relaxed: nothing else is read because of it.
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether somebody would look at a result.
    pub(super) fn is_wanted(&self) -> bool {
        // Relaxed: as above.
        !self.is_cancelled() && !self.claimed.load(Ordering::Relaxed)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Arrival> {
        // No code of others runs while it is held.
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(arrival: &mut Arrival) -> Option<Outcome> {
        match std::mem::replace(arrival, Arrival::Taken) {
            Arrival::There(outcome) => Some(*outcome),
            other => {
                *arrival = other;
                None
            }
        }
    }
}

impl Ticket {
    pub(super) fn new(slot: Arc<Slot>) -> Self {
        Ticket { slot }
    }

    /// The batch's number: later ones have higher ones.
    pub fn id(&self) -> u64 {
        self.slot.id
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// The batch, and why it has no result.
    pub fn wait(self) -> Outcome {
        let mut arrival = self.slot.lock();
        loop {
            if let Some(outcome) = Slot::take(&mut arrival) {
                return outcome;
            }
            arrival = self.slot.arrived.wait(arrival).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the result, but no longer than this.
    ///
    /// # Errors
    /// The ticket, when the time is up.
    pub fn wait_timeout(self, patience: Duration) -> Result<Outcome, Self> {
        let end = Instant::now().checked_add(patience);
        let mut arrival = self.slot.lock();
        loop {
            if let Some(outcome) = Slot::take(&mut arrival) {
                return Ok(outcome);
            }
            // A time that cannot be told is as good as no end.
            let left = end.map_or(Duration::from_secs(3600), |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                drop(arrival);
                return Err(self);
            }
            arrival = self.slot.arrived.wait_timeout(arrival, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the result is there.
    pub fn is_done(&self) -> bool {
        matches!(*self.slot.lock(), Arrival::There(_))
    }

    /// Asks for the batch to be cancelled. Before its turn it is not started; after that the device's work goes on, and its result is dropped.
    /// Either way the batch comes back with [`Failure::Cancelled`](super::Failure::Cancelled) in its turn, unless it was done already.
    pub fn cancel(&self) {
        self.slot.cancel();
    }

    /// What cancels the batch from elsewhere.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.slot.clone())
    }
}

impl Canceller {
    /// As [`Ticket::cancel`].
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut arrival = self.slot.lock();
        if let Some(outcome) = Slot::take(&mut arrival) {
            return Poll::Ready(outcome);
        }
        assert!(!matches!(*arrival, Arrival::Taken), "a ticket is polled after its result was taken");
        *arrival = Arrival::Awaited(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.slot.cancel();
    }
}
