//! The swizzles by which TMA writes a tile and the tensor cores read it.

/// How 16-byte chunks are permuted within a panel whose rows span 32, 64 or 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// No permutation: 8x16-byte core matrices.
    None,
    /// Rows of 32 bytes: address bit 4 is xored with bit 7.
    B32,
    /// Rows of 64 bytes: bits 5:4 with bits 8:7.
    B64,
    /// Rows of 128 bytes: bits 6:4 with bits 9:7.
    B128,
}

impl Swizzle {
    /// The swizzle whose span is `bytes` (32, 64 or 128): a panel row of a TMA box.
    pub const fn of_span(bytes: u32) -> Self {
        match bytes {
            32 => Swizzle::B32,
            64 => Swizzle::B64,
            128 => Swizzle::B128,
            _ => panic!("a swizzled panel row is 32, 64 or 128 bytes"),
        }
    }

    /// Bytes of a panel row; 16 without a swizzle, where a core matrix's row is all that is contiguous.
    pub const fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Bytes after which the pattern repeats: eight rows. A tile starts on a multiple of it.
    pub const fn period(self) -> u32 {
        8 * self.span()
    }

    /// The physical address of a byte whose address in the dense row-major panel is `addr`. An involution.
    ///
    /// It acts on absolute address bits, so for a tile that starts on a [`period`](Self::period) it is the same function
    /// of the offset within the tile.
    #[inline(always)]
    pub const fn apply(self, addr: u32) -> u32 {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::B32 => 0x80,
            Swizzle::B64 => 0x180,
            Swizzle::B128 => 0x380,
        };
        addr ^ ((addr & mask) >> 3)
    }
}

/// Every 16-byte chunk of a period is permuted to another and back.
const _: () = {
    let all = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
    let mut i = 0;
    while i < all.len() {
        let mut addr = 0;
        while addr < 2048 {
            assert!(all[i].apply(all[i].apply(addr)) == addr, "a swizzle is an involution");
            addr += 16;
        }
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::Swizzle;
    use std::vec::Vec;

    /// Rounds that shared memory needs to serve one access of `width` bytes by each of `addrs`' threads, when the threads of
    /// a phase (128 bytes in all) are served together: the most different 4-byte words that fall on one of the 32 banks.
    fn rounds(addrs: &[u32], width: u32) -> usize {
        let per_phase = (128 / width) as usize;
        addrs
            .chunks(per_phase)
            .map(|phase| {
                let mut banks = [const { [u32::MAX; 32] }; 32];
                let mut deepest = 0;
                for word in phase.iter().flat_map(|a| (0..width / 4).map(move |w| a / 4 + w)) {
                    let bank = &mut banks[word as usize % 32];
                    let depth = bank.iter().position(|w| *w == word || *w == u32::MAX).unwrap();
                    bank[depth] = word;
                    deepest = deepest.max(depth + 1);
                }
                deepest
            })
            .sum()
    }

    /// An 8x8 matrix of 16-bit elements, one 16-byte row per thread, at column chunk `chunk` of a panel.
    fn matrix_rows(swizzle: Swizzle, chunk: u32) -> Vec<u32> {
        (0..8).map(|r| swizzle.apply(r * swizzle.span() + 16 * chunk)).collect()
    }

    #[test]
    fn the_documented_example() {
        // Row 3, byte 0x10 of an aligned 128-byte panel.
        assert_eq!(Swizzle::B128.apply(3 * 128 + 0x10), 0x1a0);
    }

    #[test]
    fn column_accesses_are_free_of_bank_conflicts_only_when_swizzled() {
        for chunk in 0..8 {
            assert_eq!(rounds(&matrix_rows(Swizzle::B128, chunk), 16), 1);
            let plain: Vec<u32> = (0..8).map(|r| r * 128 + 16 * chunk).collect();
            assert_eq!(rounds(&plain, 16), 8);
        }
        for chunk in 0..4 {
            assert_eq!(rounds(&matrix_rows(Swizzle::B64, chunk), 16), 1);
        }
        for chunk in 0..2 {
            assert_eq!(rounds(&matrix_rows(Swizzle::B32, chunk), 16), 1);
        }
    }

    #[test]
    fn rows_stay_within_their_span() {
        for s in [Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            for addr in 0..4 * s.period() {
                assert_eq!(s.apply(addr) / s.span(), addr / s.span());
            }
        }
    }
}
