//! A block's named barriers as state machines: who arrived, for how many threads, and with what to reduce.
//!
//! Barriers count by warps, 32 threads each, whatever lanes of a warp arrive. They count arrivals: a warp that arrived and went
//! on may join those who wait, and counts twice then. A second arrival that waits for nothing is a producer's that has lost its
//! consumer, and reported. A round ends when as many threads arrived as its
//! first arrival said; the barrier is then free for the next round at once.

/// Barriers of a block.
pub const BARRIERS: u32 = 16;

/// Threads that an arriving warp counts as.
pub const WARP: u32 = 32;

/// What an arrival is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// `barrier.sync`: the warp waits for the end of the round.
    Sync,
    /// `barrier.arrive`: it goes on.
    Arrive,
    /// `barrier.red`: it waits, and gets the reduction of all threads' predicates.
    Reduce {
        /// Threads of the warp whose predicate is true.
        ones: u32,
        /// Threads of the warp that take part.
        threads: u32,
    },
}

/// Reductions of a round, each over all its `barrier.red` threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduced {
    /// `.popc`: threads whose predicate is true.
    pub ones: u32,
    /// Threads that took part.
    pub threads: u32,
}

impl Reduced {
    /// `.and`
    pub const fn all(self) -> bool {
        self.ones == self.threads
    }

    /// `.or`
    pub const fn any(self) -> bool {
        self.ones > 0
    }
}

/// End of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Number of the round, from 0.
    pub number: u64,
    /// Warps that took part, in order of arrival.
    pub warps: Vec<u32>,
    /// What `barrier.red` returns.
    pub reduced: Reduced,
}

/// What a program must not do with a named barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named in the messages
pub enum Misuse {
    #[error("barrier {got} does not exist, a block has 0 to 15")]
    Index { got: u32 },
    #[error("barrier {barrier} for {got} threads: the count is a multiple of 32, at least 32")]
    Count { barrier: u32, got: u32 },
    #[error("barrier {barrier} is used for {got} threads in a round that warp {by} began for {threads}")]
    CountMismatch { barrier: u32, got: u32, threads: u32, by: u32 },
    #[error("warp {warp} arrives twice in one round of barrier {barrier}: {arrived} of {threads} threads had arrived")]
    Twice { barrier: u32, warp: u32, arrived: u32, threads: u32 },
    #[error("barrier {barrier} is used by barrier.red and by barrier.sync or arrive in one round")]
    MixedReduction { barrier: u32 },
}

/// One barrier.
#[derive(Clone, Debug, Default)]
struct Barrier {
    round: u64,
    /// Threads of the round; none between rounds.
    threads: Option<u32>,
    warps: Vec<u32>,
    reduced: Option<Reduced>,
}

/// All barriers of a block.
#[derive(Clone, Debug)]
pub struct NamedBarriers {
    barriers: Vec<Barrier>,
}

impl Default for NamedBarriers {
    fn default() -> Self {
        NamedBarriers { barriers: vec![Barrier::default(); BARRIERS as usize] }
    }
}

impl NamedBarriers {
    /// Warp `warp` arrives at barrier `index`, in a round of `threads` threads: the round, if this ends it.
    ///
    /// # Errors
    /// If index or count mean nothing or do not fit what others did in this round.
    pub fn arrive(&mut self, index: u32, warp: u32, threads: u32, arrival: Arrival) -> Result<Option<Round>, Misuse> {
        let barrier = self.barriers.get_mut(index as usize).ok_or(Misuse::Index { got: index })?;
        if threads == 0 || !threads.is_multiple_of(WARP) {
            return Err(Misuse::Count { barrier: index, got: threads });
        }
        barrier.check(index, warp, threads, arrival)?;
        barrier.threads = Some(threads);
        barrier.warps.push(warp);
        if let Arrival::Reduce { ones, threads } = arrival {
            let sum = barrier.reduced.get_or_insert(Reduced { ones: 0, threads: 0 });
            *sum = Reduced { ones: sum.ones + ones, threads: sum.threads + threads };
        }
        Ok((barrier.arrived() >= threads).then(|| barrier.end()))
    }

    /// Number of the round in progress at barrier `index`.
    pub fn round(&self, index: u32) -> u64 {
        self.barriers[index as usize].round
    }

    /// What is missing for the round in progress, in words.
    pub fn missing(&self, index: u32) -> String {
        let barrier = &self.barriers[index as usize];
        match barrier.threads {
            Some(threads) => {
                let warps: Vec<_> = barrier.warps.iter().map(u32::to_string).collect();
                let (arrived, warps) = (barrier.arrived(), warps.join(", "));
                format!("barrier {index}: {arrived} of {threads} threads arrived, warps {warps}")
            }
            None => format!("barrier {index}: nobody arrived"),
        }
    }

    /// Barriers with a round that some warp began and nobody ended.
    pub fn unfinished(&self) -> impl Iterator<Item = u32> + '_ {
        (0..BARRIERS).filter(|i| self.barriers[*i as usize].threads.is_some())
    }

    /// The round at barrier `index` takes `threads` threads from here on, since warps have exited: the round, if that ends it.
    pub fn shrink(&mut self, index: u32, threads: u32) -> Option<Round> {
        let barrier = &mut self.barriers[index as usize];
        barrier.threads?;
        barrier.threads = Some(threads);
        (barrier.arrived() >= threads).then(|| barrier.end())
    }
}

impl Barrier {
    fn arrived(&self) -> u32 {
        self.warps.len() as u32 * WARP
    }

    fn check(&self, index: u32, warp: u32, got: u32, arrival: Arrival) -> Result<(), Misuse> {
        let Some(threads) = self.threads else { return Ok(()) };
        if got != threads {
            return Err(Misuse::CountMismatch { barrier: index, got, threads, by: self.warps[0] });
        }
        // Who waits cannot come again, so that an earlier arrival of the warp was one that went on.
        if arrival == Arrival::Arrive && self.warps.contains(&warp) {
            return Err(Misuse::Twice { barrier: index, warp, arrived: self.arrived(), threads });
        }
        if matches!(arrival, Arrival::Reduce { .. }) != self.reduced.is_some() {
            return Err(Misuse::MixedReduction { barrier: index });
        }
        Ok(())
    }

    fn end(&mut self) -> Round {
        let number = self.round;
        self.round += 1;
        self.threads = None;
        let reduced = self.reduced.take().unwrap_or(Reduced { ones: 0, threads: 0 });
        Round { number, warps: std::mem::take(&mut self.warps), reduced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_ends_with_its_last_warp() {
        let mut all = NamedBarriers::default();
        assert_eq!(all.arrive(1, 4, 96, Arrival::Sync), Ok(None));
        assert_eq!(all.arrive(1, 2, 96, Arrival::Arrive), Ok(None));
        assert_eq!(all.missing(1), "barrier 1: 64 of 96 threads arrived, warps 4, 2");
        let round = all.arrive(1, 3, 96, Arrival::Sync).unwrap().unwrap();
        assert_eq!((round.number, round.warps), (0, vec![4, 2, 3]));
        assert_eq!(all.missing(1), "barrier 1: nobody arrived");
        // Free at once, for another count too.
        assert_eq!(all.arrive(1, 3, 64, Arrival::Sync), Ok(None));
        assert_eq!(all.arrive(1, 2, 64, Arrival::Sync).unwrap().unwrap().number, 1);
    }

    #[test]
    fn barriers_are_apart() {
        let mut all = NamedBarriers::default();
        assert_eq!(all.arrive(0, 0, 64, Arrival::Sync), Ok(None));
        assert_eq!(all.arrive(15, 0, 64, Arrival::Sync), Ok(None));
        assert_eq!(all.unfinished().collect::<Vec<_>>(), [0, 15]);
        assert_eq!(all.arrive(16, 0, 64, Arrival::Sync), Err(Misuse::Index { got: 16 }));
    }

    #[test]
    fn reductions_cover_all_threads() {
        let mut all = NamedBarriers::default();
        assert_eq!(all.arrive(2, 0, 64, Arrival::Reduce { ones: 32, threads: 32 }), Ok(None));
        let round = all.arrive(2, 1, 64, Arrival::Reduce { ones: 5, threads: 32 }).unwrap().unwrap();
        assert_eq!(round.reduced, Reduced { ones: 37, threads: 64 });
        assert!(round.reduced.any() && !round.reduced.all());
    }

    #[test]
    fn misuse_is_named() {
        let mut all = NamedBarriers::default();
        for got in [0, 16, 33] {
            assert_eq!(all.arrive(0, 0, got, Arrival::Sync), Err(Misuse::Count { barrier: 0, got }));
        }
        assert_eq!(all.arrive(0, 5, 64, Arrival::Arrive), Ok(None));
        let refused = Misuse::CountMismatch { barrier: 0, got: 96, threads: 64, by: 5 };
        assert_eq!(all.arrive(0, 1, 96, Arrival::Sync), Err(refused));
        let refused = Misuse::Twice { barrier: 0, warp: 5, arrived: 32, threads: 64 };
        assert_eq!(all.arrive(0, 5, 64, Arrival::Arrive), Err(refused));
        let mixed = all.arrive(0, 1, 64, Arrival::Reduce { ones: 0, threads: 32 });
        assert_eq!(mixed, Err(Misuse::MixedReduction { barrier: 0 }));
    }

    #[test]
    fn a_warp_that_went_on_may_wait_too() {
        let mut all = NamedBarriers::default();
        assert_eq!(all.arrive(1, 0, 96, Arrival::Arrive), Ok(None));
        assert_eq!(all.arrive(1, 0, 96, Arrival::Sync), Ok(None));
        assert_eq!(all.arrive(1, 1, 96, Arrival::Sync).unwrap().unwrap().warps, [0, 0, 1]);
    }

    #[test]
    fn exits_shrink_a_round() {
        let mut all = NamedBarriers::default();
        assert_eq!(all.shrink(0, 32), None, "no round, nothing to end");
        assert_eq!(all.arrive(0, 0, 96, Arrival::Sync), Ok(None));
        assert_eq!(all.shrink(0, 64), None);
        assert_eq!(all.arrive(0, 1, 64, Arrival::Sync).unwrap().unwrap().warps, [0, 1]);
    }
}
