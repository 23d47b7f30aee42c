//! Signals: families of mbarriers that complete once for every block of keys, with the phase in a counter of blocks.
//!
//! A [`Ring`](super::Ring) fits where a buffer passes from a producer to a consumer. The scores of one slot pass through three
//! hands for every block (tensor core, softmax, tensor core), and each hand-over completes exactly once a block. So one count
//! of blocks gives the phase of all of them, and [`Beat`] is that count.

use crate::mem::Smem;
use crate::ptx::mbarrier::{self, Mbarrier};
use crate::ptx::tcgen05::{self, Issuer};

/// `N` mbarriers side by side, one for each slot, all of the same meaning.
#[derive(Clone, Copy, Debug)]
pub struct Signals<const N: u32> {
    first: Smem<Mbarrier>,
}

impl<const N: u32> Signals<N> {
    /// Bytes of the mbarriers.
    pub const BYTES: u32 = N * mbarrier::BYTES;

    /// Signals over the mbarriers at `first`.
    ///
    /// # Safety
    /// The [`BYTES`](Self::BYTES) there belong to these signals alone, are 8-byte aligned, and [`init`](Self::init) has run, with
    /// a barrier of the block after it, before anybody waits or arrives.
    #[inline(always)]
    pub const unsafe fn new(first: Smem<Mbarrier>) -> Self {
        Signals { first }
    }

    #[inline(always)]
    const fn bar(&self, slot: u32) -> Smem<Mbarrier> {
        self.first.offset(slot * mbarrier::BYTES)
    }

    /// Initialises the barriers: each completes after `arrivals` arrivals.
    ///
    /// # Safety
    /// As [`Ring::init`](super::Ring::init).
    #[inline(always)]
    pub unsafe fn init(&self, arrivals: u32) {
        let mut slot = 0;
        while slot < N {
            // SAFETY: the memory is the signals' own; the caller initialises once.
            unsafe { mbarrier::init(self.bar(slot), arrivals) };
            slot += 1;
        }
    }

    /// One arrival by the calling thread.
    ///
    /// # Safety
    /// An arrival of this thread's role is pending in the slot's present phase.
    #[inline(always)]
    pub unsafe fn arrive(&self, slot: u32) {
        // SAFETY: the caller's promise.
        unsafe { mbarrier::arrive(self.bar(slot)) }
    }

    /// One arrival when the multiplies that `by` has issued are finished.
    ///
    /// # Safety
    /// As [`arrive`](Self::arrive).
    #[inline(always)]
    pub unsafe fn commit(&self, by: Issuer, slot: u32) {
        // SAFETY: the caller's promise.
        unsafe { tcgen05::commit::<1>(by, self.bar(slot)) }
    }

    /// Waits for the completion with this parity.
    ///
    /// # Safety
    /// The waiter is at most one completion behind the slot.
    #[inline(always)]
    pub unsafe fn wait(&self, slot: u32, parity: u32) {
        // SAFETY: the caller's promise.
        unsafe { mbarrier::wait_parity(self.bar(slot), parity) }
    }
}

/// How many blocks of keys have gone by, and from it the slot and the parity that belong to the present one.
///
/// With two query tiles each tile has a slot of its own, which every block uses. With one tile the blocks take the two slots
/// in turn, so that a slot's phase lasts two blocks.
#[derive(Clone, Copy, Debug)]
pub struct Beat<const TILES: u32> {
    count: u32,
}

impl<const TILES: u32> Beat<TILES> {
    /// Before the first block.
    #[inline(always)]
    pub const fn new() -> Self {
        const { assert!(TILES == 1 || TILES == 2, "one or two query tiles") };
        Beat { count: 0 }
    }

    /// The slot of query tile `tile`.
    #[inline(always)]
    pub const fn slot(&self, tile: u32) -> u32 {
        if const { TILES == 2 } { tile } else { self.count & 1 }
    }

    /// The parity of every signal of the present block.
    #[inline(always)]
    pub const fn parity(&self) -> u32 {
        if const { TILES == 2 } { self.count & 1 } else { self.count >> 1 & 1 }
    }

    /// The present block is done with.
    #[inline(always)]
    pub const fn next(&mut self) {
        // With two tiles only the lowest bit is ever looked at, which an exclusive or keeps in one instruction.
        if const { TILES == 2 } {
            self.count ^= 1;
        } else {
            self.count = self.count.wrapping_add(1);
        }
    }
}

impl<const TILES: u32> Default for Beat<TILES> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Beat;
    use std::vec::Vec;

    fn walk<const TILES: u32>(tile: u32) -> Vec<(u32, u32)> {
        let mut beat = Beat::<TILES>::new();
        (0..6)
            .map(|_| {
                let now = (beat.slot(tile), beat.parity());
                beat.next();
                now
            })
            .collect()
    }

    #[test]
    fn two_tiles_keep_their_slots_and_one_tile_alternates() {
        assert_eq!(walk::<2>(1), [(1, 0), (1, 1), (1, 0), (1, 1), (1, 0), (1, 1)]);
        assert_eq!(walk::<1>(0), [(0, 0), (1, 0), (0, 1), (1, 1), (0, 0), (1, 0)]);
    }
}
