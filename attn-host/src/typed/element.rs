//! Element types of buffers.

mod sealed {
    pub trait Sealed {
        /// What it is.
        const KIND: super::Kind;
    }
}

pub(crate) use sealed::Sealed;

/// Element types of buffers that launches take: `half::bf16` and `half::f16`; `u16` for the bits of either; `u8` for those of 8-bit floats;
/// `f32`; `i32`, and `u32` for numbers below 2^31. The workspace may be of any.
pub trait Element: Sealed {}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bf16,
    F16,
    /// Any type of 16 bits.
    Bits16,
    /// Any type of 8 bits.
    Bits8,
    F32,
    I32,
    U32,
}

impl Kind {
    pub(super) fn bytes(self) -> u64 {
        match self {
            Kind::Bits8 => 1,
            Kind::Bf16 | Kind::F16 | Kind::Bits16 => 2,
            Kind::F32 | Kind::I32 | Kind::U32 => 4,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Bf16 => "bf16",
            Kind::F16 => "f16",
            Kind::Bits16 => "a type of 16 bits",
            Kind::Bits8 => "a type of 8 bits",
            Kind::F32 => "f32",
            Kind::I32 => "i32",
            Kind::U32 => "u32",
        }
    }
}

macro_rules! elements {
    ($($name:ty: $kind:ident),*) => {$(
        impl Sealed for $name {
            const KIND: Kind = Kind::$kind;
        }
        impl Element for $name {}
    )*};
}

elements!(half::bf16: Bf16, half::f16: F16, u16: Bits16, u8: Bits8, f32: F32, i32: I32, u32: U32);
