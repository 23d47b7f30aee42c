//! What pools of every kind have in common: size classes, the limit, and what is done when memory runs out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// The least that is allocated, and the unit of small classes.
const UNIT: u64 = 512;

/// Where a pool's memory comes from.
pub(super) trait Source {
    /// What stands for a block.
    type Place: Copy;

    /// What the memory is called in errors.
    const NAME: &'static str;

    /// Allocates.
    fn obtain(&self, bytes: u64) -> Result<Self::Place, Error>;

    /// Frees what [`obtain`](Self::obtain) gave for as many bytes.
    ///
    /// # Safety
    /// Nothing uses it any more.
    unsafe fn release(&self, place: Self::Place, bytes: u64);
}

/// What a pool has done so far. Sizes are in bytes and count whole blocks, which are up to a quarter larger than what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatistics {
    /// The most that the pool holds.
    pub limit: u64,
    /// In blocks that are in use.
    pub in_use: u64,
    /// In blocks that are kept for the next.
    pub kept: u64,
    /// The most that was ever in use.
    pub peak: u64,
    /// Requests that a kept block answered.
    pub reused: u64,
    /// Blocks that the driver allocated.
    pub allocated: u64,
    /// Kept blocks that were freed, to make room or by [`trim`](crate::DevicePool::trim).
    pub evicted: u64,
    /// Requests that failed.
    pub refused: u64,
}

/// A pool of blocks from a source.
pub(super) struct Pool<S: Source> {
    source: S,
    /// Held by the one who asks the source. That may take long, and with a kernel that never ends for ever, and whoever gives a block back or
    /// takes one that is kept does not wait for it.
    asking: Mutex<()>,
    kept: Mutex<Kept<S::Place>>,
}

struct Kept<P> {
    /// Free blocks by class; no list is empty.
    free: BTreeMap<u64, Vec<P>>,
    statistics: PoolStatistics,
}

impl<S: Source> Pool<S> {
    pub(super) fn new(source: S, limit: u64) -> Arc<Self> {
        let statistics = PoolStatistics { limit, ..PoolStatistics::default() };
        Arc::new(Pool { source, asking: Mutex::new(()), kept: Mutex::new(Kept { free: BTreeMap::new(), statistics }) })
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    /// A place for `bytes` bytes, and the bytes of its class.
    pub(super) fn take(&self, bytes: u64) -> Result<(S::Place, u64), Error> {
        let class = {
            let mut kept = self.lock();
            let class = class_of(bytes).min(kept.statistics.limit);
            if let Some(place) = kept.again(class, bytes) {
                return Ok((place, class));
            }
            class
        };
        let place = {
            let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            self.ask(bytes, class)
        };
        let statistics = &mut self.lock().statistics;
        match &place {
            Ok(_) => statistics.peak = statistics.peak.max(statistics.in_use),
            Err(_) => statistics.refused += 1,
        }
        Ok((place?, class))
    }

    /// A place from the source, in the room that the limit leaves or that kept blocks make. The books say at every moment at least what the
    /// source has given: room is taken before it is asked, and nobody else asks meanwhile.
    fn ask(&self, bytes: u64, class: u64) -> Result<S::Place, Error> {
        let leaving = {
            let mut kept = self.lock();
            if let Some(place) = kept.again(class, bytes) {
                return Ok(place);
            }
            let PoolStatistics { limit, in_use, .. } = kept.statistics;
            let room =
                limit.checked_sub(class).and_then(|room| room.checked_sub(in_use)).filter(|_| bytes.max(1) <= limit);
            let room = room.ok_or(Error::PoolLimit { pool: S::NAME, bytes, in_use, limit })?;
            kept.statistics.in_use += class;
            kept.leave(room)
        };
        self.release(leaving);
        let obtained = match self.source.obtain(class) {
            Err(error @ Error::OutOfMemory { .. }) => match self.lock().leave(0) {
                none if none.is_empty() => Err(error),
                leaving => {
                    self.release(leaving);
                    self.source.obtain(class)
                }
            },
            other => other,
        };
        let statistics = &mut self.lock().statistics;
        match &obtained {
            Ok(_) => statistics.allocated += 1,
            Err(_) => statistics.in_use -= class,
        }
        obtained
    }

    /// Keeps a block for the next.
    pub(super) fn give(&self, place: S::Place, class: u64) {
        let mut kept = self.lock();
        kept.statistics.in_use -= class;
        kept.statistics.kept += class;
        kept.free.entry(class).or_default().push(place);
    }

    /// Frees blocks.
    fn release(&self, leaving: Vec<(S::Place, u64)>) {
        for (place, class) in leaving {
            // SAFETY: it was in nobody's hands but the pool's, and has left it.
            unsafe { self.source.release(place, class) };
        }
    }

    /// Frees all that is kept.
    pub(super) fn trim(&self) {
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let leaving = self.lock().leave(0);
        self.release(leaving);
    }

    pub(super) fn statistics(&self) -> PoolStatistics {
        self.lock().statistics
    }

    fn lock(&self) -> MutexGuard<'_, Kept<S::Place>> {
        // Nothing here panics between two changes that belong together.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> Kept<P> {
    /// A kept block, which is in use from now on.
    fn again(&mut self, class: u64, bytes: u64) -> Option<P> {
        let place = if bytes.max(1) > self.statistics.limit { None } else { self.pop(class) }?;
        let statistics = &mut self.statistics;
        statistics.reused += 1;
        statistics.in_use += class;
        statistics.peak = statistics.peak.max(statistics.in_use);
        Some(place)
    }

    /// Takes out the largest blocks until no more than `most` bytes are kept, to be freed.
    fn leave(&mut self, most: u64) -> Vec<(P, u64)> {
        let mut leaving = Vec::new();
        while self.statistics.kept > most
            && let Some((&class, _)) = self.free.last_key_value()
            && let Some(place) = self.pop(class)
        {
            self.statistics.evicted += 1;
            leaving.push((place, class));
        }
        leaving
    }

    fn pop(&mut self, class: u64) -> Option<P> {
        let blocks = self.free.get_mut(&class)?;
        let place = blocks.pop();
        if blocks.is_empty() {
            self.free.remove(&class);
        }
        if place.is_some() {
            self.statistics.kept -= class;
        }
        place
    }
}

impl<S: Source> Drop for Pool<S> {
    fn drop(&mut self) {
        self.trim();
    }
}

/// The size of block for a request: four classes for each power of two.
pub(super) fn class_of(bytes: u64) -> u64 {
    let bytes = bytes.max(1);
    let step = 1u64 << (63 - bytes.leading_zeros()).saturating_sub(2);
    let step = step.max(UNIT);
    bytes.checked_next_multiple_of(step).unwrap_or(u64::MAX)
}
