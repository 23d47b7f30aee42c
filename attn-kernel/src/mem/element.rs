//! The element types of Q, K, V, P and O: what the tensor cores multiply, and of these the 16-bit ones that O is rounded to.

use crate::ptx::{convert, float8};

/// bfloat16: 8 exponent bits, 7 stored mantissa bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16 {}

/// IEEE half precision: 5 exponent bits, 10 stored mantissa bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum F16 {}

/// An 8-bit float of 4 exponent and 3 stored mantissa bits (`e4m3fn`): up to 448, no infinity, one NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E4m3 {}

/// A format that the tensor cores multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// [`Bf16`].
    Bf16,
    /// [`F16`].
    F16,
    /// [`E4m3`].
    E4m3,
}

impl Format {
    /// Bytes of an element.
    pub const fn bytes(self) -> u32 {
        match self {
            Format::Bf16 | Format::F16 => 2,
            Format::E4m3 => 1,
        }
    }
}

/// A type that the tensor cores multiply, and that probabilities are rounded to.
pub trait Operand: Copy + 'static + sealed::Sealed {
    /// Which one: the constant that instruction wrappers choose by.
    const FORMAT: Format;

    /// Binary logarithm of what a probability at the softmax's reference is multiplied with.
    const LIFT: f32;

    /// Rounds two neighbouring probabilities to their place in a thread's part of P: pair `pair` of an accumulator fragment, whose pairs come
    /// in order.
    fn store<const P: usize>(p: &mut [u32; P], pair: usize, lo: f32, hi: f32);

    /// Which of a thread's two rows have no probability in a block that is too large, or no number: `sums` are the rows' sums, `p` is rounded,
    /// and `bound` the greatest sum where it is sums that tell.
    fn within<const P: usize>(sums: [f32; 2], p: &[u32; P], bound: f32) -> [bool; 2];
}

macro_rules! operand_of_16_bits {
    ($type:ident) => {
        impl Operand for $type {
            const FORMAT: Format = Format::$type;
            const LIFT: f32 = 0.0;

            #[inline(always)]
            fn store<const P: usize>(p: &mut [u32; P], pair: usize, lo: f32, hi: f32) {
                p[pair] = Self::pack(lo, hi);
            }

            #[inline(always)]
            fn within<const P: usize>(sums: [f32; 2], _p: &[u32; P], bound: f32) -> [bool; 2] {
                sums.map(|sum| sum <= bound)
            }
        }
    };
}

operand_of_16_bits!(Bf16);
operand_of_16_bits!(F16);

impl Operand for E4m3 {
    const FORMAT: Format = Format::E4m3;

    /// Probabilities from 2^-6 to 448 have their three bits, so those up to 1 use only half of the format. The more they are lifted, the
    /// smaller ones are still told from zero; the less, the more a later block's scores may grow before it is done again with another
    /// reference. Of 8192 random normal scores of deviation 1, 2 and 4, in blocks of 128, with 16 rows of a warp that are done again together:
    ///
    /// | lift | blocks done again | O's error, of that with 8 |
    /// |---|---|---|
    /// | 8 | 23, 33, 39 % | |
    /// | 6 | 2, 16, 25 % | 1.00, 1.07, 1.31 |
    /// | 5 | 0, 9, 21 % | 1.02, 1.24, 1.47 |
    /// | 4 | 0, 4, 19 % | 1.02, 1.22, 1.41 |
    ///
    /// With 5, scores may grow by a factor of 13 and a half, and a probability counts from 2^-15 on.
    const LIFT: f32 = 5.0;

    /// Four to a word. Of two pairs of a row, in neighbouring groups of eight columns, the later one lies lower: its conversion takes the
    /// other one along. [`key_at`](crate::forward::narrow::key_at) says the same of V's keys.
    #[inline(always)]
    fn store<const P: usize>(p: &mut [u32; P], pair: usize, lo: f32, hi: f32) {
        let word = &mut p[pair / 4 * 2 + pair % 2];
        *word = float8::push_e4m3(if pair % 4 < 2 { 0 } else { *word }, lo, hi);
    }

    /// What saturates at 448, or is no number, shows in the rounded bytes: 0x7e and 0x7f. The sums tell nothing, since a row of equal
    /// probabilities has a large one.
    #[inline(always)]
    fn within<const P: usize>(_sums: [f32; 2], p: &[u32; P], _bound: f32) -> [bool; 2] {
        let mut seen = [0; 2];
        let mut i = 0;
        while i < P {
            // No byte has its highest bit set: probabilities have no sign.
            seen[i & 1] |= p[i].wrapping_add(0x0202_0202);
            i += 1;
        }
        seen.map(|bits| bits & 0x8080_8080 == 0)
    }
}

/// A 16-bit float.
pub trait Element: Operand {
    /// Sum of a thread's probabilities of a row and a block up to which the softmax keeps its reference: neither they, rounded to
    /// the type, nor the sums of their products with V then overflow. A power of two.
    const SUM_BOUND: f32;

    /// Rounds two values to nearest even and packs them, `lo` in the low half: the order of fragments in memory.
    fn pack(lo: f32, hi: f32) -> u32;

    /// The two values of a packed pair, low half first.
    fn unpack(pair: u32) -> (f32, f32);

    /// Four [`E4m3`] in the bytes of a word as two packed pairs, in order; exact.
    fn widen(four: u32) -> [u32; 2];
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Bf16 {}
    impl Sealed for super::F16 {}
    impl Sealed for super::E4m3 {}
}

impl Element for Bf16 {
    /// Of the range of f32, whose upper part is left to V.
    const SUM_BOUND: f32 = (1u32 << 30) as f32;

    #[inline(always)]
    fn pack(lo: f32, hi: f32) -> u32 {
        convert::pack_bf16(lo, hi)
    }

    #[inline(always)]
    fn unpack(pair: u32) -> (f32, f32) {
        convert::unpack_bf16(pair)
    }

    #[inline(always)]
    fn widen(four: u32) -> [u32; 2] {
        float8::e4m3_to_bf16(four)
    }
}

impl Element for F16 {
    /// A quarter of the greatest f16.
    const SUM_BOUND: f32 = (1u32 << 14) as f32;

    #[inline(always)]
    fn pack(lo: f32, hi: f32) -> u32 {
        convert::pack_f16(lo, hi)
    }

    #[inline(always)]
    fn unpack(pair: u32) -> (f32, f32) {
        convert::unpack_f16(pair)
    }

    #[inline(always)]
    fn widen(four: u32) -> [u32; 2] {
        float8::e4m3_to_f16(four)
    }
}
