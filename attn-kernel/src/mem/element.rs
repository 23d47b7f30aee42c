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

    #[inline(always)]
    fn pack(lo: f32, hi: f32) -> u32 {
        convert::pack_f16(lo, hi)
    }

    #[inline(always)]
    fn unpack(pair: u32) -> (f32, f32) {
        convert::unpack_f16(pair)
    }
}
