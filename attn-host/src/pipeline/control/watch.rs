//! What happens to batches that do not come to their end.
//!
//! A kernel that never ends cannot be stopped, and whoever waits for it in the driver, or asks the driver to free memory, waits for ever. So no
//! thread of the caller's does: they wait for what the pipeline's threads tell, and a third thread tells them when these have been silent for
//! too long. What the others hold then, stays with them: it comes back where the device gets done after all, and else when the process ends.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::door::{Door, Stuck};
use super::{Control, State};
use crate::observe;

/// How long a pipeline waits for batches to come to their end.
#[derive(Clone, Copy, Debug)]
pub(in crate::pipeline) struct Limits {
    /// At any time.
    pub(in crate::pipeline) batch: Option<Duration>,
    /// Once it is shut down.
    pub(in crate::pipeline) shutdown: Option<Duration>,
}

impl Control {
    /// Waits until the other threads have ended, or gives up what they have.
    pub(in crate::pipeline) fn watch(&self) {
        let mut state = self.lock();
        while state.running {
            let now = Instant::now();
            state = match state.due() {
                Some(due) if due <= now => return self.strand(state),
                Some(due) => self.watched.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0,
                None => {
                    state.unwatched = true;
                    self.watched.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Gives up every batch that was let in: those in flight with their memory, the others come back.
    fn strand(&self, mut state: MutexGuard<'_, State>) {
        let Some(batch) = state.first() else { return };
        let stuck = Stuck { batch, after: state.since.elapsed() };
        state.door = Door::Stuck(stuck);
        let (flying, waiting) = (state.flying.clone(), std::mem::take(&mut state.queue));
        drop(state);
        self.told_all();
        observe::queue(0, flying.len());
        observe::stuck(&stuck.error(), flying.len());
        flying.into_iter().for_each(|slot| slot.strand(stuck.failure()));
        waiting.into_iter().for_each(|job| job.fail(stuck.failure()));
        self.all_reported(&mut self.lock());
    }
}

impl State {
    /// The number of the batch that is waited for.
    fn first(&self) -> Option<u64> {
        let waiting = self.queue.front().map(|job| job.slot.id);
        self.flying.front().map(|slot| slot.id).or(waiting)
    }

    /// When what is waited for has taken too long.
    fn due(&self) -> Option<Instant> {
        self.first()?;
        let after = |since: Instant, patience: Option<Duration>| patience.and_then(|time| since.checked_add(time));
        let closed = self.closed.and_then(|closed| after(closed.max(self.since), self.limits.shutdown));
        [after(self.since, self.limits.batch), closed, self.end].into_iter().flatten().min()
    }
}
