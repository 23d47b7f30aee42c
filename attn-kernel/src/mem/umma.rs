//! Descriptors of tcgen05: where an operand lies in shared memory, and what kind of multiply an instruction is.
//!
//! The operand's descriptor is wgmma's ([`Descriptor`]) with a version number: bits 48:46 are 1, and the swizzle is a field of three
//! bits, 63:61 (0 none, 2 128 B, 4 64 B, 6 32 B), whose upper two are wgmma's. Canonical layouts and steps along K are the same.

use super::{Descriptor, Format, Operand};

/// Bit 46, as a bit of the high half.
const VERSION: u32 = 1 << 14;

/// A tcgen05 shared-memory descriptor, in halves as [`Descriptor`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UmmaDescriptor(Descriptor);

impl UmmaDescriptor {
    /// The descriptor of the tile that `tile` describes.
    #[inline(always)]
    pub const fn of(tile: Descriptor) -> Self {
        UmmaDescriptor(tile)
    }

    /// Bits 31:0, which hold the address.
    #[inline(always)]
    pub const fn low(self) -> u32 {
        self.0.low()
    }

    /// Bits 63:32, the same for every part of a tile.
    #[inline(always)]
    pub const fn high(self) -> u32 {
        self.0.high() | VERSION
    }

    /// The whole descriptor.
    pub const fn bits(self) -> u64 {
        (self.high() as u64) << 32 | self.low() as u64
    }

    /// The descriptor of the tile `bytes` further (a multiple of 16), as [`Descriptor::advance`].
    #[inline(always)]
    pub const fn advance(self, bytes: u32) -> Self {
        UmmaDescriptor(self.0.advance(bytes))
    }
}

/// What D's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// f16, one in the low half of each column; not for bf16 or tf32 factors.
    F16 = 0,
    /// f32.
    F32 = 1,
}

/// What the elements of A or B are, in the instruction's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    /// `kind::f16`: f16.
    F16,
    /// `kind::f16`: bf16.
    Bf16,
    /// `kind::tf32`.
    Tf32,
    /// `kind::f8f6f4`: 4 exponent bits, 3 mantissa bits.
    E4m3,
    /// `kind::f8f6f4`: 5 exponent bits, 2 mantissa bits.
    E5m2,
    /// `kind::f8f6f4`: 2 exponent bits, 3 mantissa bits.
    E2m3,
    /// `kind::f8f6f4`: 3 exponent bits, 2 mantissa bits.
    E3m2,
    /// `kind::f8f6f4`: 2 exponent bits, 1 mantissa bit.
    E2m1,
}

impl Factor {
    /// The factor of an element type.
    pub const fn of<E: Operand>() -> Self {
        match E::FORMAT {
            Format::Bf16 => Factor::Bf16,
            Format::F16 => Factor::F16,
            Format::E4m3 => Factor::E4m3,
        }
    }

    /// Its number in the descriptor; numbers repeat among kinds.
    const fn code(self) -> u32 {
        match self {
            Factor::F16 | Factor::E4m3 => 0,
            Factor::Bf16 | Factor::E5m2 => 1,
            Factor::Tf32 => 2,
            Factor::E2m3 => 3,
            Factor::E3m2 => 4,
            Factor::E2m1 => 5,
        }
    }

    /// Which kind it belongs to, as a number for comparison.
    const fn kind(self) -> u32 {
        match self {
            Factor::F16 | Factor::Bf16 => 0,
            Factor::Tf32 => 1,
            _ => 2,
        }
    }
}

/// The 32-bit instruction descriptor of `D[M, N] (+)= A[M, K] B[N, K]^T`, dense, for kinds f16, tf32 and f8f6f4.
///
/// Bits 5:4 type of D, 9:7 of A, 12:10 of B, 15 and 16 A and B are MN-major, 22:17 `N / 8`, 28:24 `M / 16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction(u32);

impl Instruction {
    /// Both factors K-major. With a pair of blocks, `m` is the pair's.
    ///
    /// # Panics
    /// When `m` is not 64, 128 or 256, `n` not a multiple of 8 up to 256 (16 from `m` = 128 on), the factors not of one kind, or the
    /// sum f16 where the kind has only f32. In a constant that is a compile error.
    pub const fn new(sum: Sum, a: Factor, b: Factor, m: u32, n: u32) -> Self {
        assert!(m == 64 || m == 128 || m == 256, "M is 64, 128, or 256 for a pair of blocks");
        let step = if m == 64 { 8 } else { 16 };
        assert!(n > 0 && n <= 256 && n.is_multiple_of(step), "N is 16 to 256 in steps of 16; of 8 when M is 64");
        assert!(a.kind() == b.kind(), "A and B belong to one kind: f16, tf32 or f8f6f4");
        let f32_only = matches!(a, Factor::Bf16 | Factor::Tf32) || matches!(b, Factor::Bf16 | Factor::Tf32);
        assert!(matches!(sum, Sum::F32) || !f32_only, "products of bf16 or tf32 sum up to f32 only");
        Instruction((sum as u32) << 4 | a.code() << 7 | b.code() << 10 | (n >> 3) << 17 | (m >> 4) << 24)
    }

    /// The same with A, in shared memory, MN-major. Not for tf32, whose MN-major tiles need a layout of their own.
    pub const fn a_mn_major(self) -> Self {
        Instruction(self.0 | 1 << 15)
    }

    /// The same with B MN-major; see [`a_mn_major`](Self::a_mn_major).
    pub const fn b_mn_major(self) -> Self {
        Instruction(self.0 | 1 << 16)
    }

    /// The descriptor itself.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Bf16, F16, Layout, Smem, Swizzle};

    const TILE: Smem<()> = Smem::new(0x1_2400);

    #[test]
    fn operand_bit_patterns() {
        let k = |s| UmmaDescriptor::of(Descriptor::k_major(s, TILE));
        assert_eq!(k(Swizzle::B128).high(), 0x4000_4040);
        assert_eq!(k(Swizzle::B128).low(), 0x0001_1240);
        assert_eq!(k(Swizzle::B64).bits(), 0x8000_4020_0001_1240);
        assert_eq!(k(Swizzle::B32).bits(), 0xc000_4010_0001_1240);
        // 128 keys x 128: panels of 16 KiB, LBO field 0x400.
        let v = UmmaDescriptor::of(Descriptor::mn_major(Swizzle::B128, TILE, 128 * 128));
        assert_eq!(v.bits(), 0x4000_4040_0400_1240);
        assert_eq!(UmmaDescriptor::of(Descriptor::k_major_plain(TILE, 128, 256)).bits(), 0x0000_4010_0008_1240);
        assert_eq!(UmmaDescriptor::of(Descriptor::mn_major_plain(TILE, 256, 128)).bits(), 0x0000_4008_0010_1240);
    }

    #[test]
    fn the_swizzle_field_has_three_bits() {
        let layouts = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32]
            .map(|s| UmmaDescriptor::of(Descriptor::k_major(s, TILE)).bits() >> 61);
        assert_eq!(layouts, [0, 2, 4, 6]);
    }

    #[test]
    fn steps_are_those_of_the_layout() {
        let q = Layout { swizzle: Swizzle::B128, mn_major: false, mn: 128, k: 128 };
        let v = Layout { swizzle: Swizzle::B128, mn_major: true, mn: 128, k: 128 };
        let low = |l: Layout, step| UmmaDescriptor::of(l.descriptor(TILE, step)).low() & 0x3fff;
        let steps = [0, 1, 2, 3, 4, 5, 6, 7].map(|s| low(q, s) - 0x1240);
        assert_eq!(steps, [0, 2, 4, 6, 0x400, 0x402, 0x404, 0x406]);
        assert_eq!([0, 1, 2].map(|s| low(v, s) - 0x1240), [0, 0x80, 0x100]);
        let first = UmmaDescriptor::of(q.descriptor(TILE, 0));
        assert_eq!(first.advance(32), UmmaDescriptor::of(q.descriptor(TILE, 1)));
    }

    #[test]
    fn instruction_bit_patterns() {
        let bf16 = |m, n| Instruction::new(Sum::F32, Factor::of::<Bf16>(), Factor::of::<Bf16>(), m, n);
        assert_eq!(bf16(128, 128).bits(), 0x0820_0490);
        assert_eq!(bf16(128, 128).b_mn_major().bits(), 0x0821_0490);
        assert_eq!(bf16(128, 64).b_mn_major().bits(), 0x0811_0490);
        assert_eq!(bf16(256, 128).bits(), 0x1020_0490);
        assert_eq!(bf16(256, 128).b_mn_major().bits(), 0x1021_0490);
        assert_eq!(bf16(64, 8).a_mn_major().bits(), 0x0402_8490);
        let f16 = Factor::of::<F16>();
        assert_eq!(Instruction::new(Sum::F32, f16, f16, 128, 128).bits(), 0x0820_0010);
        assert_eq!(Instruction::new(Sum::F16, f16, f16, 128, 128).bits(), 0x0820_0000);
        assert_eq!(Instruction::new(Sum::F32, Factor::Tf32, Factor::Tf32, 128, 256).bits(), 0x0840_0910);
        assert_eq!(Instruction::new(Sum::F32, Factor::E4m3, Factor::E5m2, 128, 128).bits(), 0x0820_0410);
        assert_eq!(Instruction::new(Sum::F32, Factor::E2m3, Factor::E2m1, 128, 128).bits(), 0x0820_1590);
        assert_eq!(Instruction::new(Sum::F16, Factor::E3m2, Factor::E4m3, 128, 128).bits(), 0x0820_0200);
    }

    #[test]
    #[should_panic(expected = "in steps of 16")]
    fn n_fits_m() {
        Instruction::new(Sum::F32, Factor::Bf16, Factor::Bf16, 128, 24);
    }

    #[test]
    #[should_panic(expected = "one kind")]
    fn factors_are_of_one_kind() {
        Instruction::new(Sum::F32, Factor::Bf16, Factor::E4m3, 128, 32);
    }

    #[test]
    #[should_panic(expected = "f32 only")]
    fn bf16_has_no_f16_sum() {
        Instruction::new(Sum::F16, Factor::Bf16, Factor::Bf16, 128, 32);
    }
}
