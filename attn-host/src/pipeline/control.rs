//! The queue, and how it ends: what submitters and the pipeline's threads have in common.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::batch::{Failure, Reason};
use super::job::Job;
use super::ticket::Slot;
use crate::error::Error;
use crate::observe;

use door::Door;
pub(super) use watch::Limits;

mod door;
mod watch;

/// How long a submitter waits for room in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    None,
    For(Duration),
    Endless,
}

/// What threads wait for and tell each other.
pub(super) struct Control {
    state: Mutex<State>,
    /// The issuing thread has something to do.
    work: Condvar,
    /// The queue has room.
    room: Condvar,
    /// What is watched may be due earlier than before.
    watched: Condvar,
    /// All have been told how their batches ended.
    ended: Condvar,
    /// The same for those who await.
    #[cfg(feature = "tokio")]
    pub(super) room_async: tokio::sync::Notify,
    #[cfg(feature = "tokio")]
    pub(super) ended_async: tokio::sync::Notify,
}

struct State {
    queue: VecDeque<Job>,
    /// Batches that may wait.
    capacity: usize,
    /// Batches that have been taken from the queue and have not landed, the oldest first.
    flying: VecDeque<Arc<Slot>>,
    /// The most of these.
    flights: usize,
    door: Door,
    /// Whether the threads that compute have not ended.
    running: bool,
    /// Every batch that was let in has its result, and none comes in any more.
    over: bool,
    /// Numbers given to batches.
    submitted: u64,
    limits: Limits,
    /// Whether the watching thread sleeps until it is told.
    unwatched: bool,
    /// Since when nothing has landed, in so far as there was anything that could.
    since: Instant,
    /// Since when none comes in.
    closed: Option<Instant>,
    /// When whatever has not landed is given up.
    end: Option<Instant>,
}

/// How many batches are where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) queued: usize,
    pub(super) in_flight: usize,
    pub(super) submitted: u64,
}

impl Control {
    pub(super) fn new(capacity: usize, flights: usize, limits: Limits) -> Self {
        Control {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                capacity,
                flying: VecDeque::new(),
                flights,
                door: Door::Open,
                running: true,
                over: false,
                submitted: 0,
                limits,
                unwatched: false,
                since: Instant::now(),
                closed: None,
                end: None,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            watched: Condvar::new(),
            ended: Condvar::new(),
            #[cfg(feature = "tokio")]
            room_async: tokio::sync::Notify::new(),
            #[cfg(feature = "tokio")]
            ended_async: tokio::sync::Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room and lets a batch in. `job` makes it of its number.
    pub(super) fn submit<T>(&self, patience: Patience, job: impl FnOnce(u64) -> (Job, T)) -> Result<T, Reason> {
        let end = match patience {
            Patience::For(time) => Instant::now().checked_add(time),
            _ => None,
        };
        let mut state = self.lock();
        loop {
            state.door.accepts()?;
            if state.queue.len() < state.capacity {
                break;
            }
            let full = Reason::QueueFull { capacity: state.capacity };
            state = match (patience, end) {
                (Patience::None, _) => return Err(full),
                (_, Some(end)) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(full);
                    }
                    self.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                (_, None) => self.room.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        if state.queue.is_empty() && state.flying.is_empty() {
            state.since = Instant::now();
        }
        if state.limits.batch.is_some() && std::mem::take(&mut state.unwatched) {
            self.watched.notify_one();
        }
        // Numbers are in the order of the queue, since both are given under the lock.
        let (job, given) = job(state.submitted);
        state.submitted += 1;
        state.queue.push_back(job);
        state.observe();
        drop(state);
        self.work.notify_one();
        Ok(given)
    }

    /// The next batch, and why it is not to be started if that is so. `None` when no more will come.
    pub(super) fn next(&self) -> Option<(Job, Option<Failure>)> {
        let mut state = self.lock();
        loop {
            if state.flying.len() < state.flights
                && let Some(job) = state.queue.pop_front()
            {
                state.flying.push_back(job.slot.clone());
                state.observe();
                let verdict = state.door.verdict();
                drop(state);
                self.made_room();
                return Some((job, verdict));
            }
            if state.queue.is_empty() && state.door != Door::Open {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The oldest batch that was taken from the queue has its result.
    pub(super) fn landed(&self) {
        let mut state = self.lock();
        state.flying.pop_front();
        state.since = Instant::now();
        state.observe();
        drop(state);
        self.work.notify_one();
    }

    /// Lets no more batches in; with `abandon`, none that waits is started, and with an `end`, none that has not landed then is waited for.
    pub(super) fn close(&self, abandon: bool, end: Option<Instant>) {
        let mut state = self.lock();
        state.closed.get_or_insert_with(Instant::now);
        state.end = [state.end, end].into_iter().flatten().min();
        match state.door {
            Door::Open | Door::Draining if abandon => state.door = Door::Abandoned,
            Door::Open => state.door = Door::Draining,
            _ => {}
        }
        drop(state);
        self.told_all();
    }

    /// Notes that nothing works any more. The first cause stays.
    pub(super) fn lose(&self, cause: Error) -> Error {
        let mut state = self.lock();
        let cause = match &state.door {
            Door::Lost(first) => first.clone(),
            Door::Stuck(_) => cause,
            _ => {
                state.door = Door::Lost(cause.clone());
                cause
            }
        };
        state.closed.get_or_insert_with(Instant::now);
        drop(state);
        self.told_all();
        cause
    }

    /// Notes that nothing lands any more. Flights are not counted from then on, so that the issuing thread comes to its end.
    pub(super) fn ground(&self) {
        self.lock().flights = usize::MAX;
        self.close(true, None);
    }

    /// Notes that the threads have ended, and fails what is left, which is nothing unless one of them panicked.
    pub(super) fn end(&self) {
        self.close(true, None);
        let mut state = self.lock();
        state.running = false;
        let left = std::mem::take(&mut state.queue);
        drop(state);
        drop(left);
        self.told_all();
        self.all_reported(&mut self.lock());
    }

    /// Notes that every batch has its result.
    fn all_reported(&self, state: &mut State) {
        state.over = true;
        self.ended.notify_all();
        #[cfg(feature = "tokio")]
        self.ended_async.notify_waiters();
    }

    /// Waits until every batch has its result. The cause, if nothing works any more.
    pub(super) fn wait_for_end(&self) -> Result<(), Error> {
        let mut state = self.lock();
        while !state.over {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.door.cause()
    }

    /// The same where every batch has its result already.
    #[cfg(feature = "tokio")]
    pub(super) fn has_ended(&self) -> Option<Result<(), Error>> {
        let state = self.lock();
        state.over.then(|| state.door.cause())
    }

    /// The cause, if nothing works any more.
    pub(super) fn health(&self) -> Result<(), Error> {
        self.lock().door.cause()
    }

    pub(super) fn counts(&self) -> Counts {
        let State { queue, flying, submitted, .. } = &*self.lock();
        Counts { queued: queue.len(), in_flight: flying.len(), submitted: *submitted }
    }

    fn made_room(&self) {
        self.room.notify_one();
        #[cfg(feature = "tokio")]
        self.room_async.notify_one();
    }

    /// Wakes all who wait, to see how the door stands.
    fn told_all(&self) {
        self.work.notify_all();
        self.room.notify_all();
        self.watched.notify_all();
        #[cfg(feature = "tokio")]
        {
            self.room_async.notify_waiters();
            // For one who was about to wait.
            self.room_async.notify_one();
        }
    }
}

impl State {
    fn observe(&self) {
        observe::queue(self.queue.len(), self.flying.len());
    }
}
