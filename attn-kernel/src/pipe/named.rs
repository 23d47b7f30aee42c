//! Named barriers: a hardware barrier with its id and the number of threads that meet there.

use crate::ptx::barrier;

/// One of the block's hardware barriers 1 to 15 and how many threads it counts. Barrier 0 is [`barrier::sync_all`]'s.
///
/// ```
/// use attn_kernel::pipe::NamedBarrier;
/// const O_READY: NamedBarrier = NamedBarrier::new(1, 128);
/// assert_eq!((O_READY.id(), O_READY.threads()), (1, 128));
/// assert_eq!(O_READY.of(2).id(), 3);
/// ```
///
/// A barrier that cannot be is refused when the crate is compiled:
/// ```compile_fail
/// const BAD: attn_kernel::pipe::NamedBarrier = attn_kernel::pipe::NamedBarrier::new(0, 128);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedBarrier {
    id: u32,
    threads: u32,
}

impl NamedBarrier {
    /// Barrier `id`, at which `threads` threads meet: those that wait and those that only arrive.
    #[inline(always)]
    pub const fn new(id: u32, threads: u32) -> Self {
        assert!(id >= 1 && id <= 15, "named barriers are 1 to 15");
        assert!(threads.is_multiple_of(32) && threads >= 32 && threads <= 1024, "barriers count whole warps");
        NamedBarrier { id, threads }
    }

    /// The barrier `index` ids further, of the same count: one of a family with a barrier per warpgroup.
    #[inline(always)]
    pub const fn of(self, index: u32) -> Self {
        NamedBarrier { id: self.id + index, threads: self.threads }
    }

    /// The hardware barrier's number.
    #[inline(always)]
    pub const fn id(self) -> u32 {
        self.id
    }

    /// Threads that meet here.
    #[inline(always)]
    pub const fn threads(self) -> u32 {
        self.threads
    }

    /// Waits until all the threads have arrived; orders shared and global memory among them. PTX `bar.sync`.
    ///
    /// # Safety
    /// All lanes of the warp call it together, and the warps that meet here add up to the count.
    #[inline(always)]
    pub unsafe fn sync(self) {
        // SAFETY: id and count were checked when the barrier was made; the rest is the caller's promise.
        unsafe { barrier::sync(self.id, self.threads) }
    }

    /// Counts this warp without waiting; its earlier accesses are seen by those who wait. PTX `bar.arrive`.
    ///
    /// # Safety
    /// As [`sync`](Self::sync), and the warp does not arrive twice in one round.
    #[inline(always)]
    pub unsafe fn arrive(self) {
        // SAFETY: as in `sync`.
        unsafe { barrier::arrive(self.id, self.threads) }
    }
}
