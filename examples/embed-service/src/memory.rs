//! What the process has allocated and not freed, counted by its allocator.
//!
//! Resident memory says little about a leak: the allocator keeps what was freed, and how much depends on which threads asked for what when. What
//! is live comes back to the same value whenever the service has nothing to do, or something leaks.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What is allocated and not freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Bytes.
    pub bytes: u64,
    /// Blocks.
    pub blocks: u64,
}

/// What is live now. Counts of other threads that allocate meanwhile may be taken a moment apart.
pub fn live() -> Live {
    let stats = ALLOCATOR.stats();
    Live {
        bytes: stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated) as u64,
        blocks: stats.allocations.wrapping_sub(stats.deallocations) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_until_they_are_freed() {
        // Other tests allocate too, but far less.
        const BYTES: u64 = 64 << 20;
        let before = live();
        let block = std::hint::black_box(vec![1u8; BYTES as usize]);
        let during = live();
        drop(block);
        let after = live();
        assert!(during.bytes.wrapping_sub(before.bytes) > BYTES / 2, "{before:?} {during:?}");
        assert!(during.bytes.wrapping_sub(after.bytes) > BYTES / 2, "{during:?} {after:?}");
        assert!(before.blocks > 0);
    }
}
