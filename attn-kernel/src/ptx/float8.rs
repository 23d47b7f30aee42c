//! Conversions of 8-bit floats (`e4m3`: up to 448, no infinity, NaN is 0x7f), four in the bytes of a word, each with a bit-exact host twin.

use super::convert;
#[cfg(target_arch = "nvptx64")]
use crate::ptx;

/// `cvt.rn.satfinite.e4m3x2.f32`: `lo` and `hi` rounded to nearest even e4m3 as the two lowest bytes, and those of `word` above them. What is
/// too large becomes 448, NaN 0x7f. One instruction, as ptxas makes it. sm_89.
#[inline(always)]
pub fn push_e4m3(word: u32, lo: f32, hi: f32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let four: u32;
        ptx!(
            "{{",
            ".reg .b16 l, h, gone;",
            "cvt.rn.satfinite.e4m3x2.f32 l, {hi}, {lo};",
            "mov.b32 {{h, gone}}, {word};",
            "mov.b32 {four}, {{l, h}};",
            "}}",
            lo = in(reg32) lo, hi = in(reg32) hi, word = in(reg32) word, four = lateout(reg32) four,
            options(pure, nomem, nostack)
        );
        four
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        word << 16 | u32::from(host::to_e4m3(hi)) << 8 | u32::from(host::to_e4m3(lo))
    }
}

/// Four f32 rounded to e4m3, the first in the lowest byte.
#[inline(always)]
pub fn pack_e4m3(x: [f32; 4]) -> u32 {
    push_e4m3(push_e4m3(0, x[2], x[3]), x[0], x[1])
}

/// `cvt.rn.f16x2.e4m3x2` twice: four e4m3 as two packed pairs of f16, in order; exact. sm_89.
#[inline(always)]
pub fn e4m3_to_f16(four: u32) -> [u32; 2] {
    #[cfg(target_arch = "nvptx64")]
    {
        let (low, high): (u32, u32);
        ptx!(
            "{{",
            ".reg .b16 l, h;",
            "mov.b32 {{l, h}}, {four};",
            "cvt.rn.f16x2.e4m3x2 {low}, l;",
            "cvt.rn.f16x2.e4m3x2 {high}, h;",
            "}}",
            low = out(reg32) low, high = lateout(reg32) high, four = in(reg32) four, options(pure, nomem, nostack)
        );
        [low, high]
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let pair = |a: u8, b: u8| u32::from(host::to_f16(a)) | u32::from(host::to_f16(b)) << 16;
        let [a, b, c, d] = four.to_le_bytes();
        [pair(a, b), pair(c, d)]
    }
}

/// Four e4m3 as two packed pairs of bf16, in order; exact, through f16 and f32: there is no conversion between 8 bits and bf16. Four
/// instructions a pair. Moving the bits and multiplying with a power of two takes five, and more for NaN.
#[inline(always)]
pub fn e4m3_to_bf16(four: u32) -> [u32; 2] {
    e4m3_to_f16(four).map(|pair| {
        let (low, high) = convert::unpack_f16(pair);
        convert::pack_bf16(low, high)
    })
}

#[cfg(not(target_arch = "nvptx64"))]
mod host {
    /// 448.
    const GREATEST: u8 = 0x7e;

    pub fn to_e4m3(x: f32) -> u8 {
        if x.is_nan() {
            return 0x7f;
        }
        let sign = ((x.to_bits() >> 31) as u8) << 7;
        // In units of the format's spacing at x, the least of which is 2^-9, a float of this size has no more to round than f32 can tell.
        let exponent = ((x.to_bits() >> 23 & 0xff) as i32 - 127).clamp(-6, 9);
        let units = libm::rintf(x.abs() * f32::from_bits(((127 + 3 - exponent) as u32) << 23));
        // Eight units are the next exponent: a carry of the rounding goes where it should.
        let code = (exponent + 6) as f32 * 8.0 + units;
        sign | (if code < f32::from(GREATEST) { code as u8 } else { GREATEST })
    }

    pub fn to_f16(e: u8) -> u16 {
        let (sign, exponent, mantissa) = (u16::from(e >> 7) << 15, u16::from(e >> 3 & 15), u16::from(e & 7));
        match (exponent, mantissa) {
            (15, 7) => 0x7fff,
            (0, 0) => sign,
            // Subnormal here, normal there: 2^-9 times the mantissa.
            (0, _) => {
                let top = 15 - mantissa.leading_zeros() as u16;
                sign | (15 - 9 + top) << 10 | (mantissa << (10 - top) & 0x3ff)
            }
            _ => sign | (exponent + 15 - 7) << 10 | mantissa << 7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// The value of an e4m3, from its definition.
    fn value(e: u8) -> f32 {
        let (exponent, mantissa) = (i32::from(e >> 3 & 15), f32::from(e & 7));
        let magnitude = match (exponent, e & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa * 2f32.powi(-9),
            _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
        };
        if e < 128 { magnitude } else { -magnitude }
    }

    fn one(x: f32) -> u8 {
        pack_e4m3([x; 4]).to_le_bytes()[3]
    }

    #[test]
    fn widening_is_exact() {
        for e in 0..=255u8 {
            let others = [1, e, 0x38, e ^ 0x80];
            let four = u32::from_le_bytes(others);
            for (i, want) in others.map(value).into_iter().enumerate() {
                let half = |pairs: [u32; 2]| (pairs[i / 2] >> (i % 2 * 16)) as u16;
                let (f, b) = (f16::from_bits(half(e4m3_to_f16(four))), bf16::from_bits(half(e4m3_to_bf16(four))));
                for got in [f.to_f32(), b.to_f32()] {
                    assert!(
                        got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                        "{e:#x}: {got}, not {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_and_to_even_between() {
        for e in 0..0x7e {
            let (low, high) = (value(e), value(e + 1));
            let middle = (low + high) / 2.0;
            let even = if e % 2 == 0 { e } else { e + 1 };
            for (x, want) in [(low, e), (middle.next_down(), e), (middle, even), (middle.next_up(), e + 1)] {
                assert_eq!((one(x), one(-x)), (want, want | 0x80), "{x:e}");
            }
        }
    }

    #[test]
    fn what_is_too_large_saturates_and_nan_stays() {
        for x in [448.0, 463.9, 464.0, 480.0, 1e9, f32::MAX, f32::INFINITY] {
            assert_eq!((one(x), one(-x)), (0x7e, 0xfe), "{x:e}");
        }
        assert_eq!((one(f32::NAN), one(-f32::NAN)), (0x7f, 0x7f));
        assert_eq!([0.0, f32::MIN_POSITIVE, f32::from_bits(1), 2f32.powi(-10)].map(one), [0; 4]);
    }

    #[test]
    fn the_first_value_is_the_lowest_byte() {
        assert_eq!(pack_e4m3([1.0, 2.0, -0.5, 448.0]), 0x7eb0_4038);
        assert_eq!(push_e4m3(push_e4m3(0x1234_5678, -0.5, 448.0), 1.0, 2.0), 0x7eb0_4038);
        assert_eq!(e4m3_to_f16(0x7eb0_4038), [0x4000_3c00, 0x5f00_b800]);
        assert_eq!(e4m3_to_bf16(0x7eb0_4038), [0x4000_3f80, 0x43e0_bf00]);
    }
}
