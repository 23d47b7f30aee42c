//! Completions of asynchronous operations, in an order drawn from the seed.

use super::Machine;
use crate::report::Stop;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// What happens when an operation completes.
pub type Completion = Box<dyn FnOnce(&mut Machine) -> Result<(), Stop>>;

/// The unit that carries out an operation. Later a timing model's; for now it gives the range of delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Tensor and bulk copies.
    Copy,
    /// `cp.async`, `st.async`, `red.async` and remote arrivals.
    Store,
    /// wgmma and tcgen05 multiplies and copies.
    Matrix,
    /// Loads and stores of tensor memory.
    TensorMemory,
    /// The launch of work: cluster launch control, dependent grids.
    Launch,
}

impl Unit {
    /// Least and greatest delay, in instructions issued by the cluster.
    const fn delay(self) -> (u64, u64) {
        match self {
            Unit::Copy => (20, 3000),
            Unit::Store => (5, 500),
            Unit::Matrix => (10, 2000),
            Unit::TensorMemory => (5, 300),
            Unit::Launch => (20, 1000),
        }
    }
}

/// A queue whose operations complete in order: a unit, and whose queue of it.
pub type Queue = (Unit, u64);

struct Event {
    due: u64,
    number: u64,
    completion: Completion,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    /// The heap's greatest is due first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

/// Operations under way.
#[derive(Default)]
pub struct Events {
    heap: BinaryHeap<Event>,
    last: HashMap<Queue, u64>,
    issued: u64,
}

impl Events {
    /// When the next operation completes.
    pub fn next_due(&self) -> Option<u64> {
        self.heap.peek().map(|e| e.due)
    }

    /// Takes an operation that is complete by `now`.
    pub fn pop(&mut self, now: u64) -> Option<Completion> {
        (self.next_due()? <= now).then(|| self.heap.pop().map(|e| e.completion))?
    }

    /// When the last of those under way completes.
    fn last_due(&self) -> Option<u64> {
        self.heap.iter().map(|e| e.due).max()
    }

    fn push(&mut self, mut due: u64, queue: Option<Queue>, completion: Completion) {
        if let Some(queue) = queue {
            let last = self.last.entry(queue).or_default();
            due = due.max(*last);
            *last = due;
        }
        self.issued += 1;
        self.heap.push(Event { due, number: self.issued, completion });
    }
}

impl Machine {
    /// A choice drawn from the seed: true once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.rng.below(n) == 0
    }

    /// Hands an operation to a unit: `completion` runs later, at a time drawn from the seed. Operations of one `queue`
    /// complete in the order of issue; others in any order.
    pub fn schedule(
        &mut self,
        unit: Unit,
        queue: Option<Queue>,
        completion: impl FnOnce(&mut Machine) -> Result<(), Stop> + 'static,
    ) {
        let due = self.now + self.rng.within(unit.delay());
        self.events.push(due, queue, Box::new(completion));
    }

    /// Does something behind all operations that are under way: at once when there are none.
    pub fn behind_all(&mut self, then: impl FnOnce(&mut Machine) + 'static) {
        match self.events.last_due() {
            None => then(self),
            Some(due) => {
                let then = |m: &mut Machine| {
                    then(m);
                    Ok(())
                };
                self.events.push(due, None, Box::new(then));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_keep_their_order_and_due_times_decide_otherwise() {
        let mut events = Events::default();
        let queue = Some((Unit::Copy, 0));
        events.push(10, queue, Box::new(|_| Ok(())));
        events.push(5, queue, Box::new(|_| Ok(())));
        events.push(7, None, Box::new(|_| Ok(())));
        assert_eq!(events.next_due(), Some(7));
        assert!(events.pop(6).is_none() && events.pop(7).is_some());
        assert_eq!(events.next_due(), Some(10));
        assert!(events.pop(10).is_some() && events.pop(10).is_some() && events.pop(99).is_none());
    }
}
