//! An mbarrier object as a state machine: counts, phases and the words a program is told of them.
//!
//! A phase is complete once no arrival and no transaction byte is pending; both may change in any order, so that bytes may be
//! completed before they are expected. Phases are counted without end here, which hardware does not do: it knows the current
//! phase and the one before. What would be told apart wrongly there is an error here.

/// Largest count of arrivals, and of transaction bytes either way.
pub const MAX_COUNT: u32 = (1 << 20) - 1;

/// A live mbarrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MbarrierState {
    /// Phases completed so far; the phase in progress has this number.
    phase: u64,
    /// Arrivals that each later phase takes.
    expected: u32,
    /// Arrivals that the phase in progress still takes.
    pending: u32,
    /// Bytes expected less bytes completed in the phase in progress.
    tx: i32,
}

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "waiters are woken when a phase is complete"]
pub enum Step {
    /// The phase goes on.
    Pending,
    /// The phase of this number is complete.
    Complete(u64),
}

/// The 64-bit word that an arrival returns: the phase it arrived in and what was pending before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u64);

impl Token {
    fn new(phase: u64, pending: u32) -> Token {
        Token(phase << 20 | u64::from(pending))
    }

    /// `mbarrier.pending_count`: arrivals that were pending.
    pub const fn pending_count(self) -> u32 {
        (self.0 & MAX_COUNT as u64) as u32
    }

    /// Number of the phase, which the word holds 44 bits of.
    pub const fn phase(self) -> u64 {
        self.0 >> 20
    }
}

/// What a program must not do with an mbarrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named in the messages
pub enum Misuse {
    #[error("the count is {got}, allowed are 1 to {MAX_COUNT}")]
    Count { got: u32 },
    #[error("{got} arrivals where {pending} of {expected} are pending in phase {phase}")]
    TooManyArrivals { got: u32, pending: u32, expected: u32, phase: u64 },
    #[error("{got} more pending arrivals than the {pending} of phase {phase} pass {MAX_COUNT}")]
    TooManyPending { got: u32, pending: u32, phase: u64 },
    #[error("arrive.noComplete of {got} would complete phase {phase}")]
    NoCompleteCompletes { got: u32, phase: u64 },
    #[error("{got} bytes are outside what a transaction count can change by, 0 to {MAX_COUNT}")]
    TxAmount { got: u32 },
    #[error("the transaction count of phase {phase} would be {would_be}, past {MAX_COUNT} bytes either way")]
    TxRange { would_be: i64, phase: u64 },
    #[error(
        "the state word is of phase {of}, the mbarrier is in phase {phase}: only that one and the one before are told apart"
    )]
    StaleState { of: u64, phase: u64 },
    #[error("a wait for phase {target} is asked in phase {phase}, where its parity means another phase")]
    Overtaken { target: u64, phase: u64 },
}

impl MbarrierState {
    /// `mbarrier.init`: phase 0, which takes `count` arrivals.
    ///
    /// # Errors
    /// If `count` is not 1 to [`MAX_COUNT`].
    pub fn init(count: u32) -> Result<Self, Misuse> {
        let count = within(count)?;
        Ok(MbarrierState { phase: 0, expected: count, pending: count, tx: 0 })
    }

    /// Number of the phase in progress.
    pub const fn phase(&self) -> u64 {
        self.phase
    }

    /// Arrivals pending in the phase in progress.
    pub const fn pending(&self) -> u32 {
        self.pending
    }

    /// Arrivals that a phase takes.
    pub const fn expected(&self) -> u32 {
        self.expected
    }

    /// Bytes expected less bytes completed in the phase in progress.
    pub const fn tx(&self) -> i32 {
        self.tx
    }

    /// `mbarrier.arrive`: `count` of the pending arrivals.
    ///
    /// # Errors
    /// If fewer are pending.
    pub fn arrive(&mut self, count: u32) -> Result<(Token, Step), Misuse> {
        let token = self.take(count)?;
        Ok((token, self.step()))
    }

    /// `mbarrier.arrive.expect_tx`: expects `bytes`, then arrives once.
    ///
    /// # Errors
    /// Those of the two operations; nothing is changed then.
    pub fn arrive_expect_tx(&mut self, bytes: u32) -> Result<(Token, Step), Misuse> {
        self.atomically(|bar| {
            bar.add_tx(i64::from(tx_amount(bytes)?))?;
            bar.arrive(1)
        })
    }

    /// `mbarrier.arrive.noComplete`: arrivals that must leave the phase in progress.
    ///
    /// # Errors
    /// If fewer are pending, or if they would complete the phase.
    pub fn arrive_no_complete(&mut self, count: u32) -> Result<Token, Misuse> {
        if within(count)? == self.pending && self.tx == 0 {
            return Err(Misuse::NoCompleteCompletes { got: count, phase: self.phase });
        }
        self.take(count)
    }

    /// `mbarrier.arrive_drop`: arrives, and later phases take `count` arrivals fewer. `no_complete` as in
    /// [`Self::arrive_no_complete`].
    ///
    /// # Errors
    /// If fewer are pending, or if the phase would complete and must not.
    pub fn arrive_drop(&mut self, count: u32, no_complete: bool) -> Result<(Token, Step), Misuse> {
        self.atomically(|bar| {
            let token = if no_complete { bar.arrive_no_complete(count)? } else { bar.take(count)? };
            // No more arrivals are pending than expected, unless `cp.async` arrivals have raised the pending count.
            bar.expected = bar.expected.checked_sub(count).ok_or(Misuse::TooManyArrivals {
                got: count,
                pending: bar.pending + count,
                expected: bar.expected,
                phase: bar.phase,
            })?;
            Ok((token, bar.step()))
        })
    }

    /// `mbarrier.arrive_drop.expect_tx`: expects `bytes`, then arrives once and for all.
    ///
    /// # Errors
    /// Those of the two operations; nothing is changed then.
    pub fn arrive_drop_expect_tx(&mut self, bytes: u32) -> Result<(Token, Step), Misuse> {
        self.atomically(|bar| {
            bar.add_tx(i64::from(tx_amount(bytes)?))?;
            bar.arrive_drop(1, false)
        })
    }

    /// `mbarrier.expect_tx`: the phase in progress takes `bytes` more.
    ///
    /// # Errors
    /// If the transaction count leaves its range.
    pub fn expect_tx(&mut self, bytes: u32) -> Result<Step, Misuse> {
        self.add_tx(i64::from(tx_amount(bytes)?))?;
        Ok(self.step())
    }

    /// `mbarrier.complete_tx`, and what a copy does when its bytes are written.
    ///
    /// # Errors
    /// If the transaction count leaves its range.
    pub fn complete_tx(&mut self, bytes: u32) -> Result<Step, Misuse> {
        self.add_tx(-i64::from(tx_amount(bytes)?))?;
        Ok(self.step())
    }

    /// What `cp.async.mbarrier.arrive` without `.noinc` does first: one more arrival is pending.
    ///
    /// # Errors
    /// If too many are.
    pub fn increment_pending(&mut self) -> Result<(), Misuse> {
        if self.pending == MAX_COUNT {
            return Err(Misuse::TooManyPending { got: 1, pending: self.pending, phase: self.phase });
        }
        self.pending += 1;
        Ok(())
    }

    /// A wait for the phase of parity `parity`: none if it is complete, else the number of the phase waited for. It means the
    /// phase before the one in progress, or that one.
    pub fn wait_parity(&self, parity: bool) -> Option<u64> {
        (self.phase & 1 == u64::from(parity)).then_some(self.phase)
    }

    /// A wait for phase `target` by its parity, asked again: none if the phase is complete.
    ///
    /// # Errors
    /// If its parity means another phase by now, so that hardware would wait on.
    pub fn wait_again(&self, target: u64) -> Result<Option<u64>, Misuse> {
        match self.wait_parity(target & 1 == 1) {
            Some(phase) if phase != target => Err(Misuse::Overtaken { target, phase }),
            waiting => Ok(waiting),
        }
    }

    /// A wait for the phase of a state word: none if it is complete, else its number.
    ///
    /// # Errors
    /// If the word is of neither the phase in progress nor the one before.
    pub fn wait_state(&self, token: Token) -> Result<Option<u64>, Misuse> {
        let of = token.phase();
        if of > self.phase || of + 1 < self.phase {
            return Err(Misuse::StaleState { of, phase: self.phase });
        }
        Ok((of == self.phase).then_some(of))
    }

    /// What is missing for the phase in progress, in words.
    pub fn missing(&self) -> String {
        let arrivals = format!("{} of {} arrivals", self.pending, self.expected);
        match self.tx {
            0 => format!("{arrivals} of phase {}", self.phase),
            tx if tx > 0 => format!("{arrivals} and {tx} bytes of phase {}", self.phase),
            tx => format!("{arrivals} of phase {}, where {} bytes more came than were expected", self.phase, -tx),
        }
    }

    fn atomically<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Misuse>) -> Result<T, Misuse> {
        let mut after = *self;
        let result = act(&mut after)?;
        *self = after;
        Ok(result)
    }

    fn take(&mut self, count: u32) -> Result<Token, Misuse> {
        let token = Token::new(self.phase, self.pending);
        match self.pending.checked_sub(within(count)?) {
            Some(pending) => self.pending = pending,
            None => {
                let (pending, expected, phase) = (self.pending, self.expected, self.phase);
                return Err(Misuse::TooManyArrivals { got: count, pending, expected, phase });
            }
        }
        Ok(token)
    }

    fn add_tx(&mut self, bytes: i64) -> Result<(), Misuse> {
        let would_be = i64::from(self.tx) + bytes;
        if would_be.unsigned_abs() > u64::from(MAX_COUNT) {
            return Err(Misuse::TxRange { would_be, phase: self.phase });
        }
        self.tx = would_be as i32;
        Ok(())
    }

    /// Goes to the next phase if nothing is pending.
    fn step(&mut self) -> Step {
        if self.pending > 0 || self.tx != 0 {
            return Step::Pending;
        }
        let complete = self.phase;
        self.phase += 1;
        self.pending = self.expected;
        Step::Complete(complete)
    }
}

fn within(count: u32) -> Result<u32, Misuse> {
    if (1..=MAX_COUNT).contains(&count) { Ok(count) } else { Err(Misuse::Count { got: count }) }
}

fn tx_amount(bytes: u32) -> Result<u32, Misuse> {
    if bytes <= MAX_COUNT { Ok(bytes) } else { Err(Misuse::TxAmount { got: bytes }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(count: u32) -> MbarrierState {
        MbarrierState::init(count).unwrap()
    }

    #[test]
    fn a_phase_takes_its_arrivals() {
        let mut bar = bar(3);
        let (token, step) = bar.arrive(1).unwrap();
        assert_eq!((token.phase(), token.pending_count(), step), (0, 3, Step::Pending));
        let (token, step) = bar.arrive(2).unwrap();
        assert_eq!((token.pending_count(), step), (2, Step::Complete(0)));
        assert_eq!((bar.phase(), bar.pending(), bar.tx()), (1, 3, 0));
    }

    #[test]
    fn a_phase_takes_its_bytes_in_any_order() {
        // Expected first.
        let mut a = bar(1);
        assert_eq!(a.arrive_expect_tx(100).unwrap().1, Step::Pending);
        assert_eq!(a.complete_tx(60).unwrap(), Step::Pending);
        assert_eq!(a.missing(), "0 of 1 arrivals and 40 bytes of phase 0");
        assert_eq!(a.complete_tx(40).unwrap(), Step::Complete(0));
        // Completed first: the pending arrival keeps the phase open.
        let mut b = bar(1);
        assert_eq!(b.complete_tx(100).unwrap(), Step::Pending);
        assert_eq!(b.tx(), -100);
        assert_eq!(b.arrive_expect_tx(100).unwrap().1, Step::Complete(0));
        // Never expected: the phase cannot end.
        let mut c = bar(1);
        assert_eq!(c.complete_tx(16).unwrap(), Step::Pending);
        assert_eq!(c.arrive(1).unwrap().1, Step::Pending);
        assert_eq!(c.missing(), "0 of 1 arrivals of phase 0, where 16 bytes more came than were expected");
    }

    #[test]
    fn expecting_what_came_completes_a_phase_without_arrivals() {
        let mut bar = bar(1);
        assert_eq!(bar.complete_tx(8).unwrap(), Step::Pending);
        assert_eq!(bar.arrive(1).unwrap().1, Step::Pending);
        assert_eq!(bar.expect_tx(8).unwrap(), Step::Complete(0));
    }

    #[test]
    fn parity_means_the_phase_before_or_this_one() {
        let mut bar = bar(1);
        assert_eq!(bar.wait_parity(true), None, "a fresh barrier has completed the phase before the first");
        assert_eq!(bar.wait_parity(false), Some(0));
        assert_eq!(bar.arrive(1).unwrap().1, Step::Complete(0));
        assert_eq!(bar.wait_parity(false), None);
        assert_eq!(bar.wait_parity(true), Some(1));
        assert_eq!(bar.wait_again(0), Ok(None));
        assert_eq!(bar.arrive(1).unwrap().1, Step::Complete(1));
        assert_eq!(bar.wait_again(0), Err(Misuse::Overtaken { target: 0, phase: 2 }));
        assert_eq!(bar.wait_again(1), Ok(None));
        assert_eq!(bar.wait_again(2), Ok(Some(2)));
    }

    #[test]
    fn state_words_live_for_two_phases() {
        let mut bar = bar(2);
        let (token, _) = bar.arrive(1).unwrap();
        assert_eq!(bar.wait_state(token), Ok(Some(0)));
        assert_eq!(bar.arrive(1).unwrap().1, Step::Complete(0));
        assert_eq!(bar.wait_state(token), Ok(None));
        assert_eq!(bar.arrive(2).unwrap().1, Step::Complete(1));
        assert_eq!(bar.wait_state(token), Err(Misuse::StaleState { of: 0, phase: 2 }));
    }

    #[test]
    fn dropped_arrivals_are_gone_from_the_next_phase() {
        let mut bar = bar(3);
        assert_eq!(bar.arrive_drop(1, false).unwrap().1, Step::Pending);
        assert_eq!(bar.arrive(2).unwrap().1, Step::Complete(0));
        assert_eq!((bar.pending(), bar.expected()), (2, 2));
        assert_eq!(bar.arrive_drop_expect_tx(16).unwrap().1, Step::Pending);
        assert_eq!(bar.complete_tx(16).unwrap(), Step::Pending);
        assert_eq!(bar.arrive_drop(1, false).unwrap().1, Step::Complete(1));
        // Nobody is left: every further arrival is one too many.
        let refused = Misuse::TooManyArrivals { got: 1, pending: 0, expected: 0, phase: 2 };
        assert_eq!(bar.arrive(1), Err(refused));
    }

    #[test]
    fn no_complete_must_not_complete() {
        let mut a = bar(2);
        assert_eq!(a.arrive_no_complete(1).unwrap().pending_count(), 2);
        assert_eq!(a.arrive_no_complete(1), Err(Misuse::NoCompleteCompletes { got: 1, phase: 0 }));
        assert_eq!(a.arrive_drop(1, true), Err(Misuse::NoCompleteCompletes { got: 1, phase: 0 }));
        let mut b = bar(1);
        assert_eq!(b.expect_tx(16).unwrap(), Step::Pending);
        assert!(b.arrive_no_complete(1).is_ok(), "bytes are pending still");
    }

    #[test]
    fn copies_add_their_own_arrival() {
        let mut bar = bar(1);
        bar.increment_pending().unwrap();
        assert_eq!(bar.arrive(1).unwrap().1, Step::Pending);
        assert_eq!(bar.arrive(1).unwrap().1, Step::Complete(0));
        let mut full = MbarrierState::init(MAX_COUNT).unwrap();
        let refused = Misuse::TooManyPending { got: 1, pending: MAX_COUNT, phase: 0 };
        assert_eq!(full.increment_pending(), Err(refused));
    }

    #[test]
    fn counts_have_ranges() {
        for got in [0, MAX_COUNT + 1] {
            assert_eq!(MbarrierState::init(got), Err(Misuse::Count { got }));
            assert_eq!(bar(1).arrive(got), Err(Misuse::Count { got }));
        }
        let refused = Misuse::TooManyArrivals { got: 3, pending: 2, expected: 2, phase: 0 };
        assert_eq!(bar(2).arrive(3), Err(refused));
        assert_eq!(bar(2).expect_tx(MAX_COUNT + 1), Err(Misuse::TxAmount { got: MAX_COUNT + 1 }));
        let mut full = bar(2);
        assert_eq!(full.expect_tx(MAX_COUNT).unwrap(), Step::Pending);
        let refused = Misuse::TxRange { would_be: i64::from(MAX_COUNT) + 1, phase: 0 };
        assert_eq!(full.arrive_expect_tx(1), Err(refused));
        assert_eq!(full.pending(), 2, "a refused operation changes nothing");
    }

    /// Every round has a phase's arrivals, and expects and completes the same bytes, in random order.
    #[test]
    fn random_orders_agree_with_a_tally() {
        let mut seed = 1u64;
        let mut dice = |n: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % n
        };
        let mut bar = bar(4);
        for round in 0..2000 {
            let mut ops = *b"AAAAEEECCC";
            (1..ops.len()).rev().for_each(|i| ops.swap(i, dice(i + 1)));
            let (mut arrived, mut bytes, mut complete) = (0, 0, Vec::new());
            for op in ops {
                let step = match op {
                    b'A' => bar.arrive(1).unwrap().1,
                    b'E' => bar.expect_tx(32).unwrap(),
                    _ => bar.complete_tx(32).unwrap(),
                };
                arrived += i32::from(op == b'A');
                bytes += i32::from(op == b'E') - i32::from(op == b'C');
                if arrived == 4 && bytes == 0 {
                    assert_eq!(step, Step::Complete(round));
                    complete.push(round);
                    arrived = 0;
                } else {
                    assert_eq!(step, Step::Pending);
                }
            }
            assert_eq!(complete, [round]);
        }
    }
}
