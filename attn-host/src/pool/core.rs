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
        Arc::new(Pool { source, kept: Mutex::new(Kept { free: BTreeMap::new(), statistics }) })
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    /// A place for `bytes` bytes, and the bytes of its class.
    pub(super) fn take(&self, bytes: u64) -> Result<(S::Place, u64), Error> {
        let mut kept = self.lock();
        // Held all the while: the driver is asked rarely, and the limit holds at every moment.
        let found = self.take_from(&mut kept, bytes);
        let statistics = &mut kept.statistics;
        match found {
            Ok((_, class)) => {
                statistics.in_use += class;
                statistics.peak = statistics.peak.max(statistics.in_use);
            }
            Err(_) => statistics.refused += 1,
        }
        found
    }

    fn take_from(&self, kept: &mut Kept<S::Place>, bytes: u64) -> Result<(S::Place, u64), Error> {
        let PoolStatistics { limit, in_use, .. } = kept.statistics;
        let refused = Error::PoolLimit { pool: S::NAME, bytes, in_use, limit };
        if bytes.max(1) > limit {
            return Err(refused);
        }
        let class = class_of(bytes).min(limit);
        if let Some(place) = kept.pop(class) {
            kept.statistics.reused += 1;
            return Ok((place, class));
        }
        let Some(room) = limit.checked_sub(class).filter(|room| *room >= in_use) else { return Err(refused) };
        self.evict(kept, room - in_use);
        let place = match self.source.obtain(class) {
            Err(Error::OutOfMemory { .. }) if kept.statistics.kept > 0 => {
                self.evict(kept, 0);
                self.source.obtain(class)
            }
            other => other,
        }?;
        kept.statistics.allocated += 1;
        Ok((place, class))
    }

    /// Keeps a block for the next.
    pub(super) fn give(&self, place: S::Place, class: u64) {
        let mut kept = self.lock();
        kept.statistics.in_use -= class;
        kept.statistics.kept += class;
        kept.free.entry(class).or_default().push(place);
    }

    /// Frees kept blocks, the largest first, until no more than `most` bytes are kept.
    fn evict(&self, kept: &mut Kept<S::Place>, most: u64) {
        while kept.statistics.kept > most {
            let Some((&class, _)) = kept.free.last_key_value() else { return };
            let Some(place) = kept.pop(class) else { return };
            kept.statistics.evicted += 1;
            // SAFETY: it was in nobody's hands but the pool's, and has left it.
            unsafe { self.source.release(place, class) };
        }
    }

    /// Frees all that is kept.
    pub(super) fn trim(&self) {
        self.evict(&mut self.lock(), 0);
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
