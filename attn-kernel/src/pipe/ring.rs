//! A ring of shared-memory stages between a producer and its consumers.
//!
//! Every stage has two mbarriers: `full` (its tile has been written) and `empty` (its tile has been read). The cursors own stage
//! and phase; kernels hold handles. A handle can neither be copied nor used twice, so a stage is committed once and released
//! once, and no kernel counts phases.
//!
//! ```no_run
//! use attn_kernel::pipe::Ring;
//! use attn_kernel::mem::Smem;
//! // SAFETY: the memory is the ring's own and `init` was called before the roles parted.
//! let ring: Ring<2> = unsafe { Ring::new(Smem::new(0x400), 16384, Smem::new(0x8400)) };
//! let (mut load, mut mma) = ring.split();
//! let slot = load.acquire();             // producer: waits until the stage is empty
//! let (_tile, _bar) = (slot.tile(), slot.full());
//! slot.expect(16384);                    // one arrival, and the bytes that TMA will bring
//! let k = mma.wait();                    // consumer: waits until the stage is full
//! let _tile = k.tile();
//! k.release();                           // one arrival: the tile has been read
//! ```
//!
//! What the types refuse:
//! ```compile_fail,E0382
//! # fn f(mut load: attn_kernel::pipe::ring::Producer<2>) {
//! let slot = load.acquire();
//! slot.commit();
//! slot.commit();                         // a second commit
//! # }
//! ```
//! ```compile_fail,E0382
//! # fn f(mut mma: attn_kernel::pipe::ring::Consumer<2>) {
//! let k = mma.wait();
//! k.release();
//! let _ = k.tile();                      // the producer may be overwriting it
//! # }
//! ```
//! ```compile_fail,E0599
//! # fn f(mut load: attn_kernel::pipe::ring::Producer<2>) {
//! let both = load.clone();               // two cursors would disagree about the phase
//! # }
//! ```
//! ```compile_fail
//! #![deny(unused_must_use)]
//! # fn f(mut mma: attn_kernel::pipe::ring::Consumer<2>) {
//! mma.wait();                            // a stage that is never released stops the producer
//! # }
//! ```

use crate::mem::Smem;
use crate::ptx::mbarrier::{self, Mbarrier};
use crate::ptx::tcgen05::{self, Issuer};
use crate::ptx::warp;

/// What a ring's tile address points at: bytes whose shape the kernel's plan knows.
pub enum Tile {}

/// `STAGES` tiles of equal size, one after the other, and their `2 * STAGES` mbarriers: all `full` ones, then all `empty` ones.
#[derive(Clone, Copy, Debug)]
pub struct Ring<const STAGES: u32> {
    tiles: Smem<Tile>,
    tile_bytes: u32,
    full: Smem<Mbarrier>,
}

impl<const STAGES: u32> Ring<STAGES> {
    /// Bytes of the ring's mbarriers.
    pub const BARRIER_BYTES: u32 = 2 * STAGES * mbarrier::BYTES;

    /// A ring over tiles of `tile_bytes` bytes at `tiles` and barriers at `barriers`.
    ///
    /// # Safety
    /// Both ranges belong to this ring alone, `barriers` is 8-byte aligned, and [`init`](Self::init) has run, with a barrier of the
    /// block after it, before a cursor waits.
    #[inline(always)]
    pub const unsafe fn new(tiles: Smem<Tile>, tile_bytes: u32, barriers: Smem<Mbarrier>) -> Self {
        const { assert!(STAGES >= 1, "a ring has a stage") };
        Ring { tiles, tile_bytes, full: barriers }
    }

    /// The barrier that tells that stage `stage` has been written.
    #[inline(always)]
    const fn full(&self, stage: u32) -> Smem<Mbarrier> {
        self.full.offset(stage * mbarrier::BYTES)
    }

    /// The barrier that tells that stage `stage` has been read.
    #[inline(always)]
    const fn empty(&self, stage: u32) -> Smem<Mbarrier> {
        self.full.offset((STAGES + stage) * mbarrier::BYTES)
    }

    /// Address of stage `stage`'s tile.
    #[inline(always)]
    const fn tile(&self, stage: u32) -> Smem<Tile> {
        self.tiles.offset(stage * self.tile_bytes)
    }

    /// Initialises the barriers: a stage is full after `producers` arrivals (and the bytes expected with them), empty after `consumers`.
    ///
    /// # Safety
    /// One thread of the block calls it once, followed by [`fence::mbarrier_init`](crate::ptx::fence::mbarrier_init) and a block barrier.
    #[inline(always)]
    pub unsafe fn init(&self, producers: u32, consumers: u32) {
        let mut stage = 0;
        while stage < STAGES {
            // SAFETY: the ring owns 8 aligned bytes for each of its barriers; the caller initialises them once.
            unsafe {
                mbarrier::init(self.full(stage), producers);
                mbarrier::init(self.empty(stage), consumers);
            }
            stage += 1;
        }
    }

    /// One arrival of a consumer at stage `stage` that holds no handle of it: a second role that has read the stage, or one that has kept it.
    ///
    /// # Safety
    /// The stage is full, `init` counted this arrival, and it is the caller's only one for this filling.
    #[inline(always)]
    pub unsafe fn give_back(&self, stage: u32) {
        // SAFETY: the caller's promise.
        unsafe { mbarrier::arrive(self.empty(stage)) }
    }

    /// The two ends. Each role keeps the one that is its own, every thread of a role its own copy of the state.
    #[inline(always)]
    pub const fn split(self) -> (Producer<STAGES>, Consumer<STAGES>) {
        let ring = self;
        // A fresh ring is empty: the producer's first wait, for the phase before the first, passes at once.
        (
            Producer { ring, cursor: Cursor { stage: 0, step: 1, parity: 1 } },
            Consumer { ring, cursor: Cursor { stage: 0, step: 1, parity: 0 } },
        )
    }

    /// The reading end of consumer `part` of `PARTS` that take the stages in turn, each stage being one consumer's alone.
    #[inline(always)]
    pub const fn share<const PARTS: u32>(self, part: u32) -> Consumer<STAGES> {
        const { assert!(STAGES.is_multiple_of(PARTS), "a stage is always the same consumer's") };
        Consumer { ring: self, cursor: Cursor { stage: part, step: PARTS, parity: 0 } }
    }
}

impl Ring<1> {
    /// The two ends as they are when the stage has been filled and read `rounds` times: for roles that count their rounds anyway, and need
    /// no register for this ring's phase. Only the lowest bit counts.
    ///
    /// # Safety
    /// The role has used its end exactly `rounds` times, modulo 2.
    #[inline(always)]
    pub const unsafe fn split_at(self, rounds: u32) -> (Producer<1>, Consumer<1>) {
        let ring = self;
        let parity = rounds & 1;
        (
            Producer { ring, cursor: Cursor { stage: 0, step: 1, parity: parity ^ 1 } },
            Consumer { ring, cursor: Cursor { stage: 0, step: 1, parity } },
        )
    }
}

/// Stage and the parity to wait for, in registers.
#[derive(Debug)]
struct Cursor {
    stage: u32,
    /// Stages from one of this role's to its next.
    step: u32,
    parity: u32,
}

impl Cursor {
    /// On to the role's next stage; the parity flips when the index wraps.
    #[inline(always)]
    const fn advance<const STAGES: u32>(&mut self) {
        self.stage += self.step;
        if self.stage >= STAGES {
            self.stage -= STAGES;
            self.parity ^= 1;
        }
    }
}

/// The writing end of a [`Ring`].
#[derive(Debug)]
pub struct Producer<const STAGES: u32> {
    ring: Ring<STAGES>,
    cursor: Cursor,
}

impl<const STAGES: u32> Producer<STAGES> {
    /// Waits until the next stage is empty and hands it out.
    #[inline(always)]
    pub fn acquire(&mut self) -> Filling {
        let stage = self.cursor.stage;
        // SAFETY: `Ring::new`'s caller promised initialised barriers; the cursor is never more than one phase behind, because each
        // phase of `empty` needs this role's own commit of the stage before it.
        unsafe { mbarrier::wait_parity(self.ring.empty(stage), self.cursor.parity) };
        self.cursor.advance::<STAGES>();
        Filling { tile: self.ring.tile(stage), full: self.ring.full(stage) }
    }

    /// Waits until every stage has been read, so that no consumer of this or another block still arrives at the barriers.
    ///
    /// A producer of a cluster calls it before it exits, once, instead of another [`acquire`](Self::acquire).
    #[inline(always)]
    pub fn drain(mut self) {
        let mut left = STAGES;
        while left > 0 {
            // SAFETY: as in `acquire`.
            unsafe { mbarrier::wait_parity(self.ring.empty(self.cursor.stage), self.cursor.parity) };
            self.cursor.advance::<STAGES>();
            left -= 1;
        }
    }
}

/// A stage that is empty and that this producer fills.
#[must_use = "a stage that is never committed stops the consumers"]
#[derive(Debug)]
pub struct Filling {
    tile: Smem<Tile>,
    full: Smem<Mbarrier>,
}

impl Filling {
    /// Where to write.
    #[inline(always)]
    pub const fn tile(&self) -> Smem<Tile> {
        self.tile
    }

    /// The mbarrier on which copies into the tile complete.
    #[inline(always)]
    pub const fn full(&self) -> Smem<Mbarrier> {
        self.full
    }

    /// Commits the stage to asynchronous copies: one arrival by the calling thread, and the stage is full once `bytes` bytes have
    /// come. The copies may be issued before or after.
    #[inline(always)]
    pub fn expect(self, bytes: u32) {
        // SAFETY: the handle witnesses an initialised barrier whose phase waits for this producer.
        unsafe { mbarrier::arrive_expect_tx(self.full, bytes) }
    }

    /// [`expect`](Self::expect) if `arrives`: for a role of which one thread arrives for several.
    #[inline(always)]
    pub fn expect_by(self, arrives: bool, bytes: u32) {
        if arrives {
            self.expect(bytes);
        }
    }

    /// Commits the stage: one arrival by the calling thread, whose earlier writes the consumers then see.
    #[inline(always)]
    pub fn commit(self) {
        // SAFETY: as in `expect`.
        unsafe { mbarrier::arrive(self.full) }
    }

    /// Commits the stage if `arrives`: for a role of which one thread arrives for several.
    #[inline(always)]
    pub fn commit_by(self, arrives: bool) {
        if arrives {
            self.commit();
        }
    }
}

/// The reading end of a [`Ring`].
#[derive(Debug)]
pub struct Consumer<const STAGES: u32> {
    ring: Ring<STAGES>,
    cursor: Cursor,
}

impl<const STAGES: u32> Consumer<STAGES> {
    /// Waits until the next stage is full and hands it out.
    #[inline(always)]
    pub fn wait(&mut self) -> Full {
        let stage = self.cursor.stage;
        self.wait_for(stage)
    }

    /// [`wait`](Self::wait) by whole warps, whose lanes call it together: the stage is taken from lane 0.
    ///
    /// That tells ptxas what it cannot see behind a loop, that the stage is the same in all lanes. Addresses and descriptors made of
    /// it then live in uniform registers, and a k-step of a multiply costs one uniform addition instead of an addition and two
    /// moves; for one shuffle, which overlaps the wait.
    #[inline(always)]
    pub fn wait_converged(&mut self) -> Full {
        let stage = warp::uniform(self.cursor.stage);
        self.wait_for(stage)
    }

    /// `stage` is the cursor's.
    #[inline(always)]
    fn wait_for(&mut self, stage: u32) -> Full {
        // SAFETY: as in `Producer::acquire`: the next phase of `full` needs this role's own release first.
        unsafe { mbarrier::wait_parity(self.ring.full(stage), self.cursor.parity) };
        self.cursor.advance::<STAGES>();
        Full { tile: self.ring.tile(stage), empty: self.ring.empty(stage) }
    }
}

/// A stage that is full and that this consumer reads.
#[must_use = "a stage that is never released stops the producer"]
#[derive(Debug)]
pub struct Full {
    tile: Smem<Tile>,
    empty: Smem<Mbarrier>,
}

impl Full {
    /// Where to read.
    #[inline(always)]
    pub const fn tile(&self) -> Smem<Tile> {
        self.tile
    }

    /// Gives the stage back: one arrival by the calling thread.
    ///
    /// Reads by asynchronous multiplies have been waited for before. When fewer threads arrive than read, the others are known
    /// to be done, and hand theirs back with [`release_by`](Self::release_by).
    #[inline(always)]
    pub fn release(self) {
        // SAFETY: the handle witnesses an initialised barrier whose phase waits for this consumer.
        unsafe { mbarrier::arrive(self.empty) }
    }

    /// Keeps the stage: it is given back by [`Ring::give_back`].
    #[inline(always)]
    pub const fn keep(self) {}

    /// Gives the stage back when the multiplies that `by` has issued have read it. sm_100a.
    #[inline(always)]
    pub fn release_by_commit(self, by: Issuer) {
        // SAFETY: as in `release`.
        unsafe { tcgen05::commit::<1>(by, self.empty) }
    }

    /// Gives the stage back if `arrives`: for a role of which one thread arrives for all.
    #[inline(always)]
    pub fn release_by(self, arrives: bool) {
        if arrives {
            self.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_walk_the_ring_and_flip_once_a_round() {
        let mut c = Cursor { stage: 0, step: 1, parity: 1 };
        let mut seen = std::vec::Vec::new();
        for _ in 0..7 {
            seen.push((c.stage, c.parity));
            c.advance::<3>();
        }
        assert_eq!(seen, [(0, 1), (1, 1), (2, 1), (0, 0), (1, 0), (2, 0), (0, 1)]);
    }

    #[test]
    fn consumers_that_share_a_ring_have_the_stages_in_turn() {
        // SAFETY: nothing waits on the host.
        let ring: Ring<4> = unsafe { Ring::new(Smem::new(0x400), 0x4000, Smem::new(0x1_0000)) };
        for part in 0..2 {
            let mut consumer = ring.share::<2>(part);
            let mut alone = ring.split().1;
            for turn in 0..10 {
                if turn % 2 == part {
                    let found = (consumer.cursor.stage, consumer.cursor.parity);
                    assert_eq!(found, (alone.cursor.stage, alone.cursor.parity), "part {part}, turn {turn}");
                    consumer.cursor.advance::<4>();
                }
                alone.cursor.advance::<4>();
            }
        }
    }

    #[test]
    fn a_count_of_rounds_gives_the_phase() {
        // SAFETY: nothing waits on the host.
        let ring: Ring<1> = unsafe { Ring::new(Smem::new(0x400), 0x4000, Smem::new(0x1_0000)) };
        let (mut write, mut read) = ring.split();
        for rounds in 0..4 {
            // SAFETY: as above.
            let (w, r) = unsafe { ring.split_at(rounds) };
            assert_eq!((w.cursor.parity, r.cursor.parity), (write.cursor.parity, read.cursor.parity), "round {rounds}");
            write.cursor.advance::<1>();
            read.cursor.advance::<1>();
        }
    }

    #[test]
    fn stages_and_barriers_do_not_overlap() {
        // SAFETY: nothing waits on the host.
        let ring: Ring<3> = unsafe { Ring::new(Smem::new(0x400), 0x4000, Smem::new(0x1_0000)) };
        let bars: std::vec::Vec<u32> =
            (0..3).map(|s| ring.full(s).addr()).chain((0..3).map(|s| ring.empty(s).addr())).collect();
        assert_eq!(bars, [0x1_0000, 0x1_0008, 0x1_0010, 0x1_0018, 0x1_0020, 0x1_0028]);
        assert_eq!(Ring::<3>::BARRIER_BYTES, 48);
        assert_eq!([0, 1, 2].map(|s| ring.tile(s).addr()), [0x400, 0x4400, 0x8400]);
    }
}
