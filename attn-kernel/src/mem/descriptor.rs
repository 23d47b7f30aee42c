//! Matrix descriptors of wgmma: where a tile lies in shared memory and how its 8x16-byte core matrices are strided.
//!
//! Bits 13:0 address / 16, 29:16 leading byte offset / 16, 45:32 stride byte offset / 16, 63:62 swizzle (0 none, 1 128 B, 2 64 B,
//! 3 32 B). The base offset in bits 51:49 stays zero, because a tile starts on the period of its swizzle.
//!
//! Address of element `(mn, k)` before the swizzle, `W` the swizzle's span, `mb` and `kb` the element's byte offsets:
//!
//! | major | swizzle | address |
//! |---|---|---|
//! | K | 32, 64, 128 B | `start + (mn % 8) W + (mn / 8) SBO + kb` |
//! | K | none | `start + (mn % 8) 16 + (mn / 8) SBO + kb % 16 + (kb / 16) LBO` |
//! | MN | 32, 64, 128 B | `start + mb % W + (mb / W) LBO + (k % 8) W + (k / 8) SBO` |
//! | MN | none | `start + mb % 16 + (mb / 16) SBO + (k % 8) 16 + (k / 8) LBO` |
//!
//! A TMA box whose inner row is one span is one panel: rows `W` bytes apart, so `SBO = 8 W` in both majors.

use super::{Smem, Swizzle};

/// A wgmma matrix descriptor, in two halves: what moves along a tile (address, leading offset) and what stays (stride, swizzle).
///
/// As one 64-bit number, every step along K costs an addition with carry and two moves to uniform registers in machine code; in
/// halves it costs one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    low: u32,
    high: u32,
}

impl Descriptor {
    /// A descriptor from its parts, in bytes; each is a multiple of 16 below 2^18.
    #[inline(always)]
    pub const fn new(swizzle: Swizzle, start: u32, lbo: u32, sbo: u32) -> Self {
        let layout: u32 = match swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        };
        Descriptor { low: field(start) | field(lbo) << 16, high: field(sbo) | layout << 30 }
    }

    /// Bits 31:0, which hold the address.
    #[inline(always)]
    pub const fn low(self) -> u32 {
        self.low
    }

    /// Bits 63:32, the same for every part of a tile.
    #[inline(always)]
    pub const fn high(self) -> u32 {
        self.high
    }

    /// The whole descriptor.
    pub const fn bits(self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }

    /// A K-major tile in panels of one swizzle span: rows follow each other at the span. The reduction dimension is contiguous.
    #[inline(always)]
    pub const fn k_major<T>(swizzle: Swizzle, tile: Smem<T>) -> Self {
        // The leading offset means nothing here; 1 is what other programs write.
        Self::new(swizzle, tile.addr(), 16, swizzle.period())
    }

    /// An MN-major tile in panels of one swizzle span, `panel_bytes` from one panel to the next. M or N is contiguous.
    #[inline(always)]
    pub const fn mn_major<T>(swizzle: Swizzle, tile: Smem<T>, panel_bytes: u32) -> Self {
        Self::new(swizzle, tile.addr(), panel_bytes, swizzle.period())
    }

    /// A K-major tile without a swizzle: core matrices of 128 contiguous bytes, `lbo` between neighbours along K and
    /// `sbo` between neighbours along M or N.
    #[inline(always)]
    pub const fn k_major_plain<T>(tile: Smem<T>, lbo: u32, sbo: u32) -> Self {
        Self::new(Swizzle::None, tile.addr(), lbo, sbo)
    }

    /// An MN-major tile without a swizzle: `lbo` between core matrices along K, `sbo` along M or N.
    #[inline(always)]
    pub const fn mn_major_plain<T>(tile: Smem<T>, lbo: u32, sbo: u32) -> Self {
        Self::new(Swizzle::None, tile.addr(), lbo, sbo)
    }

    /// The descriptor of the tile `bytes` further (a multiple of 16); the sum stays within the block's shared memory.
    ///
    /// Works inside a swizzle's period too, because the hardware swizzles absolute addresses.
    #[inline(always)]
    pub const fn advance(self, bytes: u32) -> Self {
        Descriptor { low: self.low + (bytes >> 4), high: self.high }
    }
}

/// An address or offset as its 14-bit field counts it.
#[inline(always)]
const fn field(bytes: u32) -> u32 {
    (bytes & 0x3ffff) >> 4
}

/// Byte offset of k-step `step` (16 elements of 16 bits, 32 bytes) in a K-major tile of `rows` rows: along the panel's row,
/// then on to the next panel.
#[inline(always)]
pub const fn k_major_step(swizzle: Swizzle, rows: u32, step: u32) -> u32 {
    let per_panel = swizzle.span() / 32;
    (step / per_panel) * rows * swizzle.span() + (step % per_panel) * 32
}

/// Byte offset of k-step `step` in an MN-major tile: 16 rows of one span.
#[inline(always)]
pub const fn mn_major_step(swizzle: Swizzle, step: u32) -> u32 {
    step * 16 * swizzle.span()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TILE: Smem<()> = Smem::new(0x1_2400);

    #[test]
    fn bit_patterns() {
        // Layout 1, SBO 1024, LBO field 1, address field 0x1240.
        assert_eq!(Descriptor::k_major(Swizzle::B128, TILE).bits(), 0x4000_0040_0001_1240);
        assert_eq!(Descriptor::k_major(Swizzle::B64, TILE).bits(), 0x8000_0020_0001_1240);
        assert_eq!(Descriptor::k_major(Swizzle::B32, TILE).bits(), 0xc000_0010_0001_1240);
        // 128 keys x 128: the second panel is 128 rows of 128 bytes away, LBO field 0x400.
        assert_eq!(Descriptor::mn_major(Swizzle::B128, TILE, 128 * 128).bits(), 0x4000_0040_0400_1240);
        assert_eq!(Descriptor::k_major_plain(TILE, 128, 256).bits(), 0x0000_0010_0008_1240);
        assert_eq!(Descriptor::mn_major_plain(TILE, 256, 128).bits(), 0x0000_0008_0010_1240);
    }

    #[test]
    fn only_the_low_18_bits_of_the_address_enter() {
        let other_block = Smem::<()>::new(TILE.addr() | 0x0100_0000);
        assert_eq!(Descriptor::k_major(Swizzle::B128, TILE), Descriptor::k_major(Swizzle::B128, other_block));
    }

    #[test]
    fn steps_along_k() {
        let fields = |rows| [0, 1, 2, 3, 4, 5, 6, 7].map(|s| k_major_step(Swizzle::B128, rows, s) >> 4);
        assert_eq!(fields(128), [0, 2, 4, 6, 0x400, 0x402, 0x404, 0x406]);
        assert_eq!(fields(64)[4], 0x200);
        assert_eq!([0, 1, 2].map(|s| mn_major_step(Swizzle::B128, s) >> 4), [0, 0x80, 0x100]);
        assert_eq!([0, 1, 2].map(|s| k_major_step(Swizzle::B64, 64, s)), [0, 32, 64 * 64]);
    }

    #[test]
    fn advance_counts_16_byte_units() {
        let d = Descriptor::k_major(Swizzle::B128, TILE);
        assert_eq!(d.advance(32), Descriptor::k_major(Swizzle::B128, TILE.offset(32)));
        assert_eq!(d.advance(2048).bits(), d.bits() + 0x80);
    }

    /// The formulas of the module's table against the box that TMA writes: row `k` or `mn` at `span` bytes, panels apart.
    #[test]
    fn a_tma_panel_is_both_majors() {
        for s in [Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            let (w, sbo) = (s.span(), s.period());
            for row in 0..64 {
                for b in (0..w).step_by(2) {
                    let dense = row * w + b;
                    assert_eq!((row % 8) * w + (row / 8) * sbo + b, dense);
                    assert_eq!(b % w + (row % 8) * w + (row / 8) * sbo, dense);
                }
            }
        }
    }
}
