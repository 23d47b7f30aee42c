//! The instruction descriptor of `tcgen05.mma`: 32 bits that give types, majors, signs and shape.

use super::descriptor::Major;

/// What the descriptor's bits say, for the kinds without block scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Whether A is sparse.
    pub sparse: bool,
    /// Saturate an integer result.
    pub saturate: bool,
    /// Code of D's type: 0 f16, 1 f32, 2 s32.
    pub d: u32,
    /// Code of A's type, by the instruction's kind.
    pub a: u32,
    /// Code of B's type, by the instruction's kind.
    pub b: u32,
    /// Change the sign of A's elements.
    pub negate_a: bool,
    /// Change the sign of B's elements.
    pub negate_b: bool,
    /// Contiguous dimension of A.
    pub a_major: Major,
    /// Contiguous dimension of B.
    pub b_major: Major,
    /// Columns of D.
    pub n: u32,
    /// Rows of D, of both blocks together with `cta_group::2`.
    pub m: u32,
}

impl Instruction {
    /// Reads the 32 bits.
    pub fn decode(bits: u32) -> Self {
        let bit = |i: u32| bits >> i & 1 == 1;
        let major = |i| if bit(i) { Major::Mn } else { Major::K };
        Instruction {
            sparse: bit(2),
            saturate: bit(3),
            d: bits >> 4 & 3,
            a: bits >> 7 & 7,
            b: bits >> 10 & 7,
            negate_a: bit(13),
            negate_b: bit(14),
            a_major: major(15),
            b_major: major(16),
            n: (bits >> 17 & 0x3f) << 3,
            m: (bits >> 24 & 0x1f) << 4,
        }
    }
}

/// What the descriptor's bits say for the kinds with block scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// Types, majors, signs and shape; D is f32.
    pub instruction: Instruction,
    /// Where in its word the first scale of a row of A is: a byte.
    pub a_byte: u32,
    /// The same of B.
    pub b_byte: u32,
    /// Scales are exponents (`ue8m0`), not numbers (`ue4m3`).
    pub powers: bool,
    /// K is 96 instead of 64.
    pub long: bool,
}

impl Scaled {
    /// Reads the 32 bits. `nibbles` are those of the kinds whose elements all have 4 bits, which have one bit less for B's type.
    pub fn decode(bits: u32, nibbles: bool) -> Self {
        let plain = Instruction::decode(bits);
        Scaled {
            instruction: Instruction {
                saturate: false,
                d: 1,
                b: if nibbles { plain.b & 3 } else { plain.b },
                m: (bits >> 27 & 3) << 7,
                ..plain
            },
            a_byte: bits >> 29 & 3,
            b_byte: bits >> 4 & 3,
            powers: bits >> 23 & 1 == 1,
            long: nibbles && bits >> 31 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_other_programs() {
        let i = Instruction::decode(0x0820_0490);
        assert_eq!((i.m, i.n, i.d, i.a, i.b, i.a_major, i.b_major), (128, 128, 1, 1, 1, Major::K, Major::K));
        assert_eq!(Instruction::decode(0x0821_0490), Instruction { b_major: Major::Mn, ..i });
        assert_eq!(Instruction::decode(0x0811_0490), Instruction { b_major: Major::Mn, n: 64, ..i });
        assert_eq!(Instruction::decode(0x1020_0490), Instruction { m: 256, ..i });
        assert_eq!(Instruction::decode(0x0820_049c), Instruction { sparse: true, saturate: true, ..i });
        assert_eq!(
            Instruction::decode(0x0820_e490),
            Instruction { negate_a: true, negate_b: true, a_major: Major::Mn, ..i }
        );
    }

    #[test]
    fn descriptors_with_scales() {
        // e5m2 by e4m3, 128 by 128, third and second bytes.
        let s = Scaled::decode(1 << 4 | 1 << 7 | 16 << 17 | 1 << 23 | 1 << 27 | 2 << 29, false);
        let i = s.instruction;
        assert_eq!((i.m, i.n, i.d, i.a, i.b), (128, 128, 1, 1, 0));
        assert_eq!((s.a_byte, s.b_byte, s.powers, s.long), (2, 1, true, false));
        let s = Scaled::decode(1 << 7 | 1 << 10 | 32 << 17 | 2 << 27 | 1 << 31, true);
        assert_eq!((s.instruction.m, s.instruction.n, s.instruction.a, s.instruction.b), (256, 256, 1, 1));
        assert_eq!((s.powers, s.long), (false, true));
    }
}
