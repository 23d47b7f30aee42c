//! Permutations of shared memory's bytes by which tensor copies write tiles and matrix units read them.

/// A permutation of bytes within its period. It acts on absolute shared addresses and is its own inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// None.
    None,
    /// 16-byte chunks of rows of 32 bytes: bit 4 ^= bit 7.
    B32,
    /// 16-byte chunks of rows of 64 bytes: bits 5:4 ^= bits 8:7.
    B64,
    /// 16-byte chunks of rows of 128 bytes: bits 6:4 ^= bits 9:7.
    B128,
    /// 32-byte chunks of rows of 128 bytes: bits 6:5 ^= bits 8:7.
    B128Atom32,
    /// The same, and the halves of each 16 bytes change places in every other row: bit 3 ^= bit 7.
    B128Atom32Flip8,
    /// 64-byte chunks of rows of 128 bytes: bit 6 ^= bit 7.
    B128Atom64,
}

impl Swizzle {
    /// The physical address of a byte; a second application leads back.
    pub const fn apply(self, addr: u32) -> u32 {
        match self {
            Swizzle::None => addr,
            Swizzle::B32 => addr ^ ((addr & 0x080) >> 3),
            Swizzle::B64 => addr ^ ((addr & 0x180) >> 3),
            Swizzle::B128 => addr ^ ((addr & 0x380) >> 3),
            Swizzle::B128Atom32 => addr ^ ((addr & 0x180) >> 2),
            Swizzle::B128Atom32Flip8 => addr ^ ((addr & 0x180) >> 2) ^ ((addr & 0x80) >> 4),
            Swizzle::B128Atom64 => addr ^ ((addr & 0x080) >> 1),
        }
    }

    /// Bytes of a row within which chunks move; without a swizzle, the 16 bytes that descriptors count in.
    pub const fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            _ => 128,
        }
    }

    /// Bytes that stay together.
    pub const fn atom(self) -> u32 {
        match self {
            Swizzle::B128Atom32 => 32,
            Swizzle::B128Atom32Flip8 => 8,
            Swizzle::B128Atom64 => 64,
            _ => 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_kernel::mem;

    const ALL: [Swizzle; 7] = [
        Swizzle::None,
        Swizzle::B32,
        Swizzle::B64,
        Swizzle::B128,
        Swizzle::B128Atom32,
        Swizzle::B128Atom32Flip8,
        Swizzle::B128Atom64,
    ];

    #[test]
    fn involutions_that_keep_rows_and_atoms() {
        for s in ALL {
            for addr in 0..8192 {
                let to = s.apply(addr);
                assert_eq!(s.apply(to), addr);
                assert_eq!(to / 128, addr / 128);
                assert_eq!(to / s.span(), addr / s.span(), "{s:?} {addr:#x}");
                assert_eq!(to % s.atom(), addr % s.atom());
            }
        }
    }

    #[test]
    fn the_kernels_own_agree() {
        for (ours, theirs) in [
            (Swizzle::None, mem::Swizzle::None),
            (Swizzle::B32, mem::Swizzle::B32),
            (Swizzle::B64, mem::Swizzle::B64),
            (Swizzle::B128, mem::Swizzle::B128),
        ] {
            assert!((0..4096).all(|a| ours.apply(a) == theirs.apply(a)));
        }
    }

    #[test]
    fn known_places() {
        // Row 3, byte 0x10 of an aligned 128-byte panel.
        assert_eq!(Swizzle::B128.apply(0x190), 0x1a0);
        assert_eq!(Swizzle::B128Atom32.apply(0x180), 0x1e0);
        assert_eq!(Swizzle::B128Atom64.apply(0x080), 0x0c0);
        assert_eq!(Swizzle::B128Atom32Flip8.apply(0x080), 0x0a8);
    }
}
