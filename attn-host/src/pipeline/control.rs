//! The queue, and how it ends: what submitters, the issuing and the landing thread have in common.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::batch::{Failure, Reason};
use super::job::Job;
use crate::error::Error;
use crate::observe;

/// Whether batches come in and go on.
#[derive(Clone, Debug, PartialEq)]
enum Door {
    Open,
    /// None comes in, those that are in go on.
    Draining,
    /// None comes in, none is started.
    Abandoned,
    /// Nothing works any more.
    Lost(Error),
}

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
    /// The threads have ended.
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
    /// Batches that have been taken from the queue and have not landed.
    in_flight: usize,
    /// The most of these.
    flights: usize,
    door: Door,
    running: bool,
    /// Numbers given to batches.
    submitted: u64,
}

/// How many batches are where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) queued: usize,
    pub(super) in_flight: usize,
    pub(super) submitted: u64,
}

impl Control {
    pub(super) fn new(capacity: usize, flights: usize) -> Self {
        Control {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                capacity,
                in_flight: 0,
                flights,
                door: Door::Open,
                running: true,
                submitted: 0,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
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
        // Numbers are in the order of the queue, since both are given under the lock.
        let (job, given) = job(state.submitted);
        state.submitted += 1;
        state.queue.push_back(job);
        observe::queue(state.queue.len(), state.in_flight);
        drop(state);
        self.work.notify_one();
        Ok(given)
    }

    /// The next batch, and why it is not to be started if that is so. `None` when no more will come.
    pub(super) fn next(&self) -> Option<(Job, Option<Failure>)> {
        let mut state = self.lock();
        loop {
            if state.in_flight < state.flights
                && let Some(job) = state.queue.pop_front()
            {
                state.in_flight += 1;
                observe::queue(state.queue.len(), state.in_flight);
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

    /// A batch that was taken from the queue has its result.
    pub(super) fn landed(&self) {
        let mut state = self.lock();
        state.in_flight -= 1;
        observe::queue(state.queue.len(), state.in_flight);
        drop(state);
        self.work.notify_one();
    }

    /// Lets no more batches in; with `abandon`, none that waits is started.
    pub(super) fn close(&self, abandon: bool) {
        let mut state = self.lock();
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
            _ => cause,
        };
        state.door = Door::Lost(cause.clone());
        drop(state);
        self.told_all();
        cause
    }

    /// Notes that nothing lands any more. Flights are not counted from then on, so that the issuing thread comes to its end.
    pub(super) fn ground(&self) {
        self.lock().flights = usize::MAX;
        self.close(true);
    }

    /// Notes that the threads have ended, and fails what is left, which is nothing unless one of them panicked.
    pub(super) fn end(&self) {
        self.close(true);
        let mut state = self.lock();
        state.running = false;
        let left = std::mem::take(&mut state.queue);
        drop(state);
        drop(left);
        self.told_all();
        self.ended.notify_all();
        #[cfg(feature = "tokio")]
        self.ended_async.notify_waiters();
    }

    /// Waits until the threads have ended. The cause, if the device is lost.
    pub(super) fn wait_for_end(&self) -> Result<(), Error> {
        let mut state = self.lock();
        while state.running {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.door.cause()
    }

    /// The same where the threads have ended already.
    #[cfg(feature = "tokio")]
    pub(super) fn has_ended(&self) -> Option<Result<(), Error>> {
        let state = self.lock();
        (!state.running).then(|| state.door.cause())
    }

    /// The cause, if the device is lost.
    pub(super) fn health(&self) -> Result<(), Error> {
        self.lock().door.cause()
    }

    pub(super) fn counts(&self) -> Counts {
        let State { queue, in_flight, submitted, .. } = &*self.lock();
        Counts { queued: queue.len(), in_flight: *in_flight, submitted: *submitted }
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
        #[cfg(feature = "tokio")]
        {
            self.room_async.notify_waiters();
            // For one who was about to wait.
            self.room_async.notify_one();
        }
    }
}

impl Door {
    fn accepts(&self) -> Result<(), Reason> {
        match self {
            Door::Open => Ok(()),
            Door::Draining | Door::Abandoned => Err(Reason::ShutDown),
            Door::Lost(cause) => Err(Reason::DeviceLost(cause.clone())),
        }
    }

    fn verdict(&self) -> Option<Failure> {
        match self {
            Door::Open | Door::Draining => None,
            Door::Abandoned => Some(Failure::ShutDown),
            Door::Lost(cause) => Some(Failure::DeviceLost(cause.clone())),
        }
    }

    fn cause(&self) -> Result<(), Error> {
        match self {
            Door::Lost(cause) => Err(cause.clone()),
            _ => Ok(()),
        }
    }
}
