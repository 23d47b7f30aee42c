//! Sentences that wait to be computed, bounded, and the batches that they leave in.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::attention::AttentionError;
use crate::config::Limits;

/// Why a sentence has no embedding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The device failed at its batch. Other batches may fare better.
    #[error("the device failed: {0}")]
    Device(String),
    /// Something that should not happen.
    #[error("the computation failed: {0}")]
    Defect(String),
}

impl From<AttentionError> for Failure {
    fn from(error: AttentionError) -> Self {
        match error {
            AttentionError::TooLarge { .. } => Failure::Defect(error.to_string()),
            _ => Failure::Device(error.to_string()),
        }
    }
}

/// What comes back for a sentence.
pub type Answer = Result<Vec<f32>, Failure>;

/// A sentence on its way.
pub struct Item {
    /// Its word pieces.
    pub ids: Vec<u32>,
    /// Since when it waits.
    pub since: Instant,
    /// Where its embedding goes; closed when nobody waits for it any more.
    pub answer: oneshot::Sender<Answer>,
}

/// Why sentences are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no room.
    #[error("{waiting} sentences are waiting and {more} more do not fit, {room} is the most")]
    Full {
        /// Sentences that wait.
        waiting: usize,
        /// Sentences that wanted to.
        more: usize,
        /// Most that may.
        room: usize,
    },
    /// The service is stopping.
    #[error("the service is stopping")]
    Closed,
}

/// What bounds the queue and its batches.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Sentences that may wait.
    pub room: usize,
    /// Most tokens of a batch; no sentence has more.
    pub tokens: usize,
    /// Most sentences of a batch.
    pub sentences: usize,
    /// How long a sentence may wait for others to fill its batch.
    pub wait: Duration,
}

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Bounds {
            room: limits.queue as usize,
            tokens: limits.max_batch_tokens as usize,
            sentences: limits.max_batch_sentences as usize,
            wait: limits.max_wait(),
        }
    }
}

/// First come, first served. A batch leaves when it is full, when its first sentence has waited long enough, or when no more will come.
pub struct Queue {
    bounds: Bounds,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Item>,
    tokens: usize,
    hurried: bool,
    closed: bool,
}

impl Queue {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Queue { bounds, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Takes all sentences of a request, or none.
    ///
    /// # Errors
    /// [`Refused`] when they do not fit, or no more are taken.
    pub fn push(&self, items: Vec<Item>) -> Result<(), Refused> {
        let mut state = self.lock();
        state.check_room(items.len(), &self.bounds)?;
        state.tokens += items.iter().map(|item| item.ids.len()).sum::<usize>();
        state.waiting.extend(items);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Whether so many sentences would be taken now.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn check_room(&self, sentences: usize) -> Result<(), Refused> {
        self.lock().check_room(sentences, &self.bounds)
    }

    /// The next batch, waiting for it; nothing once the queue is closed and empty. Sentences that nobody waits for any more are dropped.
    pub fn next_batch(&self) -> Option<Vec<Item>> {
        let mut state = self.lock();
        loop {
            let Some(first) = state.waiting.front() else {
                if state.closed {
                    return None;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = self.bounds.wait.saturating_sub(first.since.elapsed());
            let full = state.tokens >= self.bounds.tokens || state.waiting.len() >= self.bounds.sentences;
            if full || state.hurried || left.is_zero() {
                let batch = state.take(&self.bounds);
                if !state.waiting.is_empty() {
                    // Another thread may take what is left.
                    self.changed.notify_one();
                }
                if !batch.is_empty() {
                    return Some(batch);
                }
            } else {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// From now on no batch waits to be filled.
    pub fn hurry(&self) {
        self.lock().hurried = true;
        self.changed.notify_all();
    }

    /// Takes no more sentences; those that wait are still served.
    pub fn close(&self) {
        self.lock().closed = true;
        self.hurry();
    }

    /// Sentences that wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The state is whole between any two statements that change it, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_room(&self, more: usize, bounds: &Bounds) -> Result<(), Refused> {
        let (waiting, room) = (self.waiting.len(), bounds.room);
        match self.closed {
            true => Err(Refused::Closed),
            false if waiting + more > room => Err(Refused::Full { waiting, more, room }),
            false => Ok(()),
        }
    }

    /// The first sentences that fit a batch.
    fn take(&mut self, bounds: &Bounds) -> Vec<Item> {
        let (mut batch, mut tokens) = (Vec::new(), 0);
        while batch.len() < bounds.sentences {
            let Some(item) = self.waiting.pop_front_if(|item| tokens + item.ids.len() <= bounds.tokens) else { break };
            self.tokens -= item.ids.len();
            if !item.answer.is_closed() {
                tokens += item.ids.len();
                batch.push(item);
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const BOUNDS: Bounds = Bounds { room: 6, tokens: 10, sentences: 4, wait: Duration::from_millis(20) };

    /// Sentences of these lengths and what they are answered on.
    fn items(lengths: &[usize]) -> (Vec<Item>, Vec<oneshot::Receiver<Answer>>) {
        let item = |&length: &usize| {
            let (answer, receiver) = oneshot::channel();
            (Item { ids: vec![0; length], since: Instant::now(), answer }, receiver)
        };
        lengths.iter().map(item).unzip()
    }

    fn lengths(batch: Option<Vec<Item>>) -> Vec<usize> {
        batch.expect("there is a batch").iter().map(|item| item.ids.len()).collect()
    }

    #[test]
    fn batches_keep_the_order_and_both_bounds() {
        let queue = Queue::new(BOUNDS);
        let (sentences, _receivers) = items(&[4, 5, 3, 1, 1, 1]);
        queue.push(sentences).unwrap();
        assert_eq!(lengths(queue.next_batch()), [4, 5]);
        assert_eq!(lengths(queue.next_batch()), [3, 1, 1, 1]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_batch_that_is_not_full_leaves_when_its_first_sentence_has_waited() {
        let queue = Queue::new(BOUNDS);
        let (sentences, _receivers) = items(&[2]);
        let start = sentences[0].since;
        queue.push(sentences).unwrap();
        assert_eq!(lengths(queue.next_batch()), [2]);
        assert!(start.elapsed() >= BOUNDS.wait);
    }

    #[test]
    fn a_sentence_that_comes_while_a_batch_waits_joins_it() {
        let queue = Queue::new(Bounds { wait: Duration::from_secs(60), ..BOUNDS });
        let (first, _a) = items(&[6]);
        let (second, _b) = items(&[4]);
        thread::scope(|scope| {
            queue.push(first).unwrap();
            let batch = scope.spawn(|| lengths(queue.next_batch()));
            queue.push(second).unwrap();
            assert_eq!(batch.join().unwrap(), [6, 4]);
        });
    }

    #[test]
    fn a_request_that_does_not_fit_is_refused_whole() {
        let queue = Queue::new(BOUNDS);
        let (some, _a) = items(&[1; 5]);
        let (more, _b) = items(&[1; 2]);
        queue.push(some).unwrap();
        assert_eq!(queue.push(more), Err(Refused::Full { waiting: 5, more: 2, room: 6 }));
        assert_eq!(queue.len(), 5);
    }

    #[test]
    fn a_closed_queue_serves_what_it_has_and_takes_no_more() {
        let queue = Queue::new(Bounds { wait: Duration::from_secs(60), ..BOUNDS });
        let (some, _a) = items(&[1, 1]);
        let (more, _b) = items(&[1]);
        queue.push(some).unwrap();
        queue.close();
        assert_eq!(queue.push(more), Err(Refused::Closed));
        assert_eq!(lengths(queue.next_batch()), [1, 1]);
        assert!(queue.next_batch().is_none());
    }

    #[test]
    fn a_hurried_queue_waits_for_no_one_and_still_takes_sentences() {
        let queue = Queue::new(Bounds { wait: Duration::from_secs(60), ..BOUNDS });
        let (some, _a) = items(&[1]);
        queue.push(some).unwrap();
        queue.hurry();
        assert_eq!(lengths(queue.next_batch()), [1]);
        let (more, _b) = items(&[2]);
        queue.push(more).unwrap();
        assert_eq!(lengths(queue.next_batch()), [2]);
    }

    #[test]
    fn sentences_that_nobody_waits_for_are_dropped() {
        let queue = Queue::new(BOUNDS);
        let (sentences, mut receivers) = items(&[9, 2, 3]);
        receivers.remove(0);
        queue.push(sentences).unwrap();
        assert_eq!(lengths(queue.next_batch()), [2, 3]);
        let (gone, receivers) = items(&[1]);
        drop(receivers);
        queue.push(gone).unwrap();
        queue.close();
        assert!(queue.next_batch().is_none());
    }
}
