//! Read-modify-write operations of reductions and atomics, on the bits of one element.

use crate::num::Format;
use crate::num::float::{self, MinMax, Mode};
use crate::ptx::ScalarType;
use crate::tensor_map::DataType;

/// What is done with the old value and the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // PTX's names
pub enum ReduceOp {
    Add,
    Min,
    Max,
    /// Counts up, and from the operand on to 0.
    Inc,
    /// Counts down, and from 0 or beyond the operand to the operand.
    Dec,
    And,
    Or,
    Xor,
}

impl ReduceOp {
    /// The operation of a modifier.
    pub fn parse(modifier: &str) -> Option<Self> {
        Some(match modifier {
            "add" => ReduceOp::Add,
            "min" => ReduceOp::Min,
            "max" => ReduceOp::Max,
            "inc" => ReduceOp::Inc,
            "dec" => ReduceOp::Dec,
            "and" => ReduceOp::And,
            "or" => ReduceOp::Or,
            "xor" => ReduceOp::Xor,
            _ => return None,
        })
    }

    /// Whether a tensor copy can reduce elements of a tensor map's type with this operation.
    pub fn fits_tensor(self, ty: DataType) -> bool {
        use DataType::*;
        match self {
            ReduceOp::Add => matches!(ty, Uint32 | Int32 | Uint64 | Float32 | Float32Ftz | Float16 | Bfloat16),
            ReduceOp::Min | ReduceOp::Max => matches!(ty, Uint32 | Int32 | Uint64 | Int64 | Float16 | Bfloat16),
            ReduceOp::Inc | ReduceOp::Dec => ty == Uint32,
            ReduceOp::And | ReduceOp::Or | ReduceOp::Xor => matches!(ty, Uint32 | Int32 | Uint64 | Int64),
        }
    }
}

/// The scalar type whose arithmetic a tensor map's elements have, if they have any.
pub const fn scalar_of(ty: DataType) -> Option<ScalarType> {
    Some(match ty {
        DataType::Uint32 => ScalarType::U32,
        DataType::Int32 => ScalarType::S32,
        DataType::Uint64 => ScalarType::U64,
        DataType::Int64 => ScalarType::S64,
        DataType::Float32 | DataType::Float32Ftz => ScalarType::F32,
        DataType::Float16 => ScalarType::F16,
        DataType::Bfloat16 => ScalarType::Bf16,
        _ => return None,
    })
}

/// The new value of an element of type `ty`. Floats round to nearest; `ftz` flushes subnormals. Packed pairs are two elements.
/// None if the type has no such operation.
pub fn apply(op: ReduceOp, ty: ScalarType, ftz: bool, old: u64, operand: u64) -> Option<u64> {
    use ScalarType::*;
    match ty {
        F16x2 => halves(op, F16, ftz, old, operand),
        Bf16x2 => halves(op, Bf16, ftz, old, operand),
        F16 => floats(op, Format::F16, ftz, old, operand),
        Bf16 => floats(op, Format::BF16, ftz, old, operand),
        F32 => floats(op, Format::F32, ftz, old, operand),
        F64 => floats(op, Format::F64, ftz, old, operand),
        U32 | S32 | B32 => Some(integers(op, 32, ty.is_signed(), old, operand)),
        U64 | S64 | B64 => Some(integers(op, 64, ty.is_signed(), old, operand)),
        _ => None,
    }
}

fn halves(op: ReduceOp, ty: ScalarType, ftz: bool, old: u64, operand: u64) -> Option<u64> {
    let half = |shift: u32| apply(op, ty, ftz, old >> shift & 0xffff, operand >> shift & 0xffff);
    Some(half(0)? | half(16)? << 16)
}

fn floats(op: ReduceOp, format: Format, ftz: bool, old: u64, operand: u64) -> Option<u64> {
    let bounds = |max| Some(float::min_max(format, MinMax { max, ftz, ..MinMax::default() }, old, operand));
    match op {
        ReduceOp::Add => Some(float::add(format, old, operand, if ftz { Mode::FLUSH } else { Mode::NEAREST })),
        ReduceOp::Min => bounds(false),
        ReduceOp::Max => bounds(true),
        _ => None,
    }
}

fn integers(op: ReduceOp, bits: u32, signed: bool, old: u64, operand: u64) -> u64 {
    let mask = u64::MAX >> (64 - bits);
    let (old, operand) = (old & mask, operand & mask);
    // Flipping the sign bit orders two's complement like unsigned numbers.
    let key = |value: u64| if signed { value ^ (1 << (bits - 1)) } else { value };
    let new = match op {
        ReduceOp::Add => old.wrapping_add(operand),
        ReduceOp::Min if key(operand) < key(old) => operand,
        ReduceOp::Max if key(operand) > key(old) => operand,
        ReduceOp::Min | ReduceOp::Max => old,
        ReduceOp::Inc if old >= operand => 0,
        ReduceOp::Inc => old + 1,
        ReduceOp::Dec if old == 0 || old > operand => operand,
        ReduceOp::Dec => old - 1,
        ReduceOp::And => old & operand,
        ReduceOp::Or => old | operand,
        ReduceOp::Xor => old ^ operand,
    };
    new & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use ScalarType::*;

    fn of(op: ReduceOp, ty: ScalarType, old: u64, operand: u64) -> u64 {
        apply(op, ty, false, old, operand).expect("the type has the operation")
    }

    #[test]
    fn integers_wrap_and_know_their_sign() {
        assert_eq!(of(ReduceOp::Add, U32, 0xffff_ffff, 2), 1);
        assert_eq!(of(ReduceOp::Add, U64, u64::MAX, 2), 1);
        assert_eq!(of(ReduceOp::Max, S32, 0xffff_ffff, 1), 1);
        assert_eq!(of(ReduceOp::Max, U32, 0xffff_ffff, 1), 0xffff_ffff);
        assert_eq!(of(ReduceOp::Min, S64, 5, -3i64 as u64), -3i64 as u64);
        assert_eq!(of(ReduceOp::Min, U64, 5, -3i64 as u64), 5);
        assert_eq!(of(ReduceOp::Xor, B32, 0b1100, 0b1010), 0b0110);
    }

    #[test]
    fn counters_wrap_at_their_operand() {
        assert_eq!([3, 4, 5].map(|old| of(ReduceOp::Inc, U32, old, 4)), [4, 0, 0]);
        assert_eq!([0, 1, 5].map(|old| of(ReduceOp::Dec, U32, old, 4)), [4, 0, 4]);
    }

    #[test]
    fn floats_round_and_flush() {
        let bits = |x: f32| u64::from(x.to_bits());
        assert_eq!(of(ReduceOp::Add, F32, bits(1.5), bits(2.25)), bits(3.75));
        assert_eq!(apply(ReduceOp::Add, F32, true, 1, 1), Some(0));
        assert_eq!(of(ReduceOp::Add, F32, 1, 1), 2);
        // 1 + 2^-11 is a tie in f16, and 2049 in pairs of bf16 rounds to even.
        assert_eq!(of(ReduceOp::Add, F16, 0x3c00, 0x1000), 0x3c00);
        assert_eq!(of(ReduceOp::Add, Bf16x2, 0x3f80_4000, 0x3f80_3f80), 0x4000_4040);
        assert_eq!(of(ReduceOp::Max, F16x2, 0x3c00_bc00, 0x4000_c000), 0x4000_bc00);
        assert_eq!(apply(ReduceOp::And, F32, false, 1, 1), None);
    }

    #[test]
    fn tensor_types_have_arithmetic() {
        for ty in DataType::ALL {
            assert!(!ReduceOp::Add.fits_tensor(ty) || scalar_of(ty).is_some(), "{ty:?}");
            assert!(!ReduceOp::Xor.fits_tensor(ty) || scalar_of(ty).is_some(), "{ty:?}");
        }
        assert!(ReduceOp::Add.fits_tensor(DataType::Bfloat16) && !ReduceOp::Add.fits_tensor(DataType::Int64));
    }
}
