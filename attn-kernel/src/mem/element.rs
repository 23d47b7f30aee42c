//! The 16-bit element types of Q, K, V, P and O.

use crate::ptx::convert;

/// bfloat16: 8 exponent bits, 7 stored mantissa bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16 {}

/// IEEE half precision: 5 exponent bits, 10 stored mantissa bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum F16 {}

/// A 16-bit float that the tensor cores multiply.
pub trait Element: Copy + 'static + sealed::Sealed {
    /// Whether the type is [`Bf16`]; otherwise it is [`F16`]. A constant that instruction wrappers choose by.
    const IS_BF16: bool;

    /// Sum of a thread's probabilities of a row and a block up to which the softmax keeps its reference: neither they, rounded to
    /// the type, nor the sums of their products with V then overflow. A power of two.
    const SUM_BOUND: f32;

    /// Rounds two values to nearest even and packs them, `lo` in the low half: the order of fragments in memory.
    fn pack(lo: f32, hi: f32) -> u32;

    /// The two values of a packed pair, low half first.
    fn unpack(pair: u32) -> (f32, f32);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Bf16 {}
    impl Sealed for super::F16 {}
}

impl Element for Bf16 {
    const IS_BF16: bool = true;
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
}

impl Element for F16 {
    const IS_BF16: bool = false;
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
}
