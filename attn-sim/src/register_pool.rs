//! A block's registers as `setmaxnreg` moves them between warps.
//!
//! Every warp starts with the count that the kernel was compiled for. `.dec` gives registers to the block's pool, `.inc` waits
//! until it can take them from there. PTX wants the warps of a warpgroup to make the same changes in the same order; hardware
//! counts by warp, and so does the pool: it only says where they differ.

/// Warps of a warpgroup.
pub const WARPGROUP: usize = 4;

/// Registers of a multiprocessor, which one block at most has.
const FILE: u32 = 65536;

/// Direction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `setmaxnreg.inc`
    Inc,
    /// `setmaxnreg.dec`
    Dec,
}

/// What a program must not do with its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named in the messages
pub enum Misuse {
    #[error("setmaxnreg to {got} registers: the count is a multiple of 8, 24 to 256")]
    Count { got: u32 },
    #[error("setmaxnreg.{} to {to} registers where the warp has {have}", if *.change == Change::Inc { "inc" } else { "dec" })]
    Direction { change: Change, have: u32, to: u32 },
    #[error("setmaxnreg to {got} where another warp of the warpgroup went to {other} at its change number {number}")]
    Warpgroup { got: u32, other: u32, number: usize },
    #[error("setmaxnreg.inc to {to} can never be met: all warps of the block together have {total} a thread")]
    Never { to: u32, total: u32 },
}

/// The registers of a block.
#[derive(Clone, Debug)]
pub struct RegisterPool {
    /// Registers a thread, by warp.
    warps: Vec<u32>,
    /// Registers that nobody has, counted by thread of a warp: 32 of them are one here.
    free: u32,
    /// Changes that each warp made.
    made: Vec<usize>,
    /// Changes of each warpgroup, in order.
    changes: Vec<Vec<u32>>,
}

impl RegisterPool {
    /// Registers a thread at entry: the bound `.maxnreg`, or what `.minnctapersm` blocks of `threads` threads leave each.
    /// None where neither fixes the count, as `setmaxnreg` is then ignored.
    pub fn at_entry(maxnreg: Option<u32>, minnctapersm: Option<u32>, threads: u32) -> Option<u32> {
        maxnreg.or_else(|| {
            let blocks = minnctapersm.filter(|blocks| *blocks > 0)?;
            let each = FILE / (blocks * threads.next_multiple_of(128));
            Some((each - each % 8).clamp(24, 255))
        })
    }

    /// For `warps` warps with `count` registers a thread.
    pub fn new(warps: usize, count: u32) -> Self {
        let groups = warps.div_ceil(WARPGROUP);
        RegisterPool { warps: vec![count; warps], free: 0, made: vec![0; warps], changes: vec![Vec::new(); groups] }
    }

    /// Registers a thread of warp `warp` has.
    pub fn count(&self, warp: usize) -> u32 {
        self.warps[warp]
    }

    /// Registers a thread that one warp could take.
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Warp `warp` changes to `to` registers a thread; false if it has to wait for others to give theirs.
    ///
    /// # Errors
    /// If the count or the direction is wrong.
    pub fn change(&mut self, warp: usize, change: Change, to: u32) -> Result<bool, Misuse> {
        if !(24..=256).contains(&to) || !to.is_multiple_of(8) {
            return Err(Misuse::Count { got: to });
        }
        let have = self.warps[warp];
        if match change {
            Change::Inc => have > to,
            Change::Dec => have < to,
        } {
            return Err(Misuse::Direction { change, have, to });
        }
        let free = self.free + have;
        if free < to {
            let total = self.warps.iter().sum::<u32>() + self.free;
            return if total < to { Err(Misuse::Never { to, total }) } else { Ok(false) };
        }
        (self.free, self.warps[warp]) = (free - to, to);
        self.made[warp] += 1;
        let changes = &mut self.changes[warp / WARPGROUP];
        if changes.len() < self.made[warp] {
            changes.push(to);
        }
        Ok(true)
    }

    /// Warp `warp` ends, and its registers are nobody's.
    pub fn exit(&mut self, warp: usize) {
        self.free += std::mem::take(&mut self.warps[warp]);
    }

    /// How the last change of warp `warp` differs from the one that another of its warpgroup made before it, if it does.
    pub fn disagreement(&self, warp: usize) -> Option<Misuse> {
        let number = self.made[warp].checked_sub(1)?;
        let (got, other) = (self.warps[warp], self.changes[warp / WARPGROUP][number]);
        (got != other).then_some(Misuse::Warpgroup { got, other, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether all warps of a warpgroup got what they asked for.
    fn group(pool: &mut RegisterPool, group: usize, change: Change, to: u32) -> Result<bool, Misuse> {
        let warps = group * WARPGROUP..(group + 1) * WARPGROUP;
        let got: Vec<bool> = warps.map(|warp| pool.change(warp, change, to)).collect::<Result<_, _>>()?;
        Ok(got.into_iter().all(|got| got))
    }

    #[test]
    fn counts_at_entry() {
        assert_eq!(RegisterPool::at_entry(Some(168), None, 384), Some(168));
        assert_eq!(RegisterPool::at_entry(None, Some(1), 512), Some(128));
        assert_eq!(RegisterPool::at_entry(None, Some(1), 384), Some(168));
        assert_eq!(RegisterPool::at_entry(None, Some(1), 128), Some(255));
        assert_eq!(RegisterPool::at_entry(None, None, 128), None);
    }

    #[test]
    fn one_warpgroup_gives_what_others_take() {
        let mut pool = RegisterPool::new(12, 168);
        assert_eq!(pool.change(4, Change::Inc, 240), Ok(false), "nothing is free yet");
        assert_eq!(group(&mut pool, 0, Change::Dec, 24), Ok(true));
        assert_eq!(pool.free(), 4 * 144);
        assert_eq!(group(&mut pool, 1, Change::Inc, 240), Ok(true));
        assert_eq!(group(&mut pool, 2, Change::Inc, 240), Ok(true));
        assert_eq!((pool.count(0), pool.count(11), pool.free()), (24, 240, 0));
    }

    #[test]
    fn what_a_warp_leaves_can_be_taken() {
        let mut pool = RegisterPool::new(8, 128);
        assert_eq!(pool.change(4, Change::Inc, 160), Ok(false));
        pool.exit(0);
        assert_eq!(pool.change(4, Change::Inc, 160), Ok(true));
        assert_eq!(pool.free(), 96);
    }

    #[test]
    fn misuse_is_named() {
        let mut pool = RegisterPool::new(4, 128);
        for got in [16, 100, 264] {
            assert_eq!(pool.change(0, Change::Inc, got), Err(Misuse::Count { got }));
        }
        let (change, have) = (Change::Dec, 128);
        assert_eq!(pool.change(0, change, 136), Err(Misuse::Direction { change, have, to: 136 }));
        let change = Change::Inc;
        assert_eq!(pool.change(0, change, 120), Err(Misuse::Direction { change, have, to: 120 }));
        assert_eq!(pool.change(0, Change::Dec, 64), Ok(true));
        assert_eq!(pool.disagreement(0), None);
        assert_eq!(pool.change(1, Change::Dec, 72), Ok(true));
        assert_eq!(pool.disagreement(1), Some(Misuse::Warpgroup { got: 72, other: 64, number: 0 }));
        assert_eq!((pool.count(0), pool.count(1), pool.free()), (64, 72, 64 + 56));
        // The block has 512 registers for its four warps' threads, 128 each, whoever gives.
        let mut pool = RegisterPool::new(4, 128);
        assert_eq!(pool.change(0, Change::Inc, 136), Ok(false));
        let mut alone = RegisterPool::new(1, 128);
        assert!(matches!(alone.change(0, Change::Inc, 256), Err(Misuse::Never { .. })));
    }
}
