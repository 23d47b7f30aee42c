//! Typed addresses in tensor memory: 128 lanes of 512 columns of 32 bits, Blackwell's place for accumulators.

use core::fmt;
use core::marker::PhantomData;

/// Lanes of tensor memory: the rows of an accumulator of 128.
pub const LANES: u32 = 128;
/// Columns of tensor memory, 32 bits each.
pub const COLUMNS: u32 = 512;
/// Lanes that one warp reaches: warp `w` of a block has lanes `32 (w % 4) ..`.
pub const LANES_OF_WARP: u32 = 32;

/// An address in tensor memory, lane in the high half and column in the low one, of something of kind `T`.
///
/// Only tcgen05 instructions take it. `T` names what lies there and is never dereferenced by Rust.
pub struct Tmem<T> {
    addr: u32,
    kind: PhantomData<fn() -> T>,
}

impl<T> Tmem<T> {
    /// The address as the hardware writes it, checked by nobody: making one is safe, the accesses are not.
    #[inline(always)]
    pub const fn new(addr: u32) -> Self {
        Tmem { addr, kind: PhantomData }
    }

    /// `lane << 16 | column`.
    #[inline(always)]
    pub const fn addr(self) -> u32 {
        self.addr
    }

    /// The address `columns` columns to the right. The sum stays below [`COLUMNS`].
    #[inline(always)]
    pub const fn columns(self, columns: u32) -> Self {
        Tmem::new(self.addr.wrapping_add(columns))
    }

    /// The address `lanes` lanes down. The sum stays below [`LANES`].
    #[inline(always)]
    pub const fn lanes(self, lanes: u32) -> Self {
        Tmem::new(self.addr.wrapping_add(lanes << 16))
    }

    /// The first lane that warp `warp` of the block reaches, in the columns of `self`, whose lane is 0.
    #[inline(always)]
    pub const fn of_warp(self, warp: u32) -> Self {
        self.lanes(warp % (LANES / LANES_OF_WARP) * LANES_OF_WARP)
    }

    /// The same address seen as another kind.
    #[inline(always)]
    pub const fn cast<U>(self) -> Tmem<U> {
        Tmem::new(self.addr)
    }
}

impl<T> Clone for Tmem<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Tmem<T> {}

impl<T> PartialEq for Tmem<T> {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr
    }
}

impl<T> Eq for Tmem<T> {}

impl<T> fmt::Debug for Tmem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tmem(lane {}, column {})", self.addr >> 16, self.addr & 0xffff)
    }
}

#[cfg(test)]
mod tests {
    use super::Tmem;
    use std::format;

    #[test]
    fn lanes_are_the_high_half() {
        let t = Tmem::<f32>::new(0x40);
        assert_eq!(t.columns(128).addr(), 0xc0);
        assert_eq!(t.lanes(32).columns(1).addr(), 0x0020_0041);
        assert_eq!(t.cast::<u32>().lanes(127).addr(), 0x007f_0040);
        assert_eq!(format!("{:?}", t.lanes(96)), "Tmem(lane 96, column 64)");
    }

    #[test]
    fn warps_of_every_group_of_four_share_the_lanes() {
        let lanes = [0, 1, 2, 3, 4, 7, 15].map(|w| Tmem::<f32>::new(8).of_warp(w).addr());
        assert_eq!(lanes, [0x8, 0x20_0008, 0x40_0008, 0x60_0008, 0x8, 0x60_0008, 0x60_0008]);
    }
}
