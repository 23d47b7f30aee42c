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

/// A type that the tensor cores multiply.
pub trait Operand: Copy + 'static + sealed::Sealed {
    /// Which one: the constant that instruction wrappers choose by.
    const FORMAT: Format;
}

impl Operand for Bf16 {
    const FORMAT: Format = Format::Bf16;
}

impl Operand for F16 {
    const FORMAT: Format = Format::F16;
}

impl Operand for E4m3 {
    const FORMAT: Format = Format::E4m3;
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
