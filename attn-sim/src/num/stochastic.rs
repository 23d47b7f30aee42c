//! Stochastic rounding (`cvt.rs`): a number's magnitude, in units of the result's last place, plus random bits as a fraction below
//! that place, is cut toward zero.
//!
//! Which bits of the 32 random ones each result gets was measured by others on a B200 for bf16, e4m3 and e2m1; f16 is documented, and
//! the other formats of 8 and 6 bits are taken to be like e4m3. Bits of results are numbered from the lowest in the destination.

use super::exact::{self, Exact, Finite};
use super::format::{Format, Rounding};

/// The random bits of one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dither {
    /// Their value.
    pub value: u32,
    /// How many.
    pub bits: u32,
}

/// Random bits of the results of an instruction, the lowest in the destination first.
pub fn dithers(format: Format, random: u32) -> Vec<Dither> {
    let [b0, b1, b2, b3] = random.to_le_bytes();
    let half = |low: u8, high: u8| u16::from_le_bytes([low, high]);
    let (values, bits) = match format.bits() {
        16 if format == Format::F16 => (vec![half(b0, b1) & 0x1fff, half(b2, b3) & 0x1fff], 13),
        16 => (vec![half(b0, b1), half(b2, b3)], 16),
        // Two results share bits, one of them in the opposite order.
        bits => {
            let (x, y) = if bits == 4 { (half(b0, b2), half(b1, b3)) } else { (half(b0, b1), half(b2, b3)) };
            (vec![x, x.reverse_bits(), y, y.reverse_bits()], 16)
        }
    };
    values.into_iter().map(|value| Dither { value: value.into(), bits }).collect()
}

/// `x` in a format. With `satfinite` the largest number stands for what is beyond it, with `relu` 0 for what is negative.
pub fn round(format: Format, x: f32, dither: Dither, satfinite: bool, relu: bool) -> u64 {
    let value = match Format::F32.decode(x.to_bits().into()) {
        Exact::Finite(f) if f.significand != 0 => {
            let unit = f.magnitude().max(format.min_exponent()) - format.mantissa_bits() as i32;
            let below =
                Finite { negative: f.negative, significand: dither.value.into(), exponent: unit - dither.bits as i32 };
            exact::add(Exact::Finite(f), Exact::Finite(below), false)
        }
        other => other,
    };
    let bits = if satfinite { format.encode_saturated(value, Rounding::Zero) } else { format.encode_cut(value) };
    if relu && value.is_negative() { 0 } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_bits_come_from() {
        let values = |format| dithers(format, 0x8421_c0f1).iter().map(|d| d.value).collect::<Vec<_>>();
        assert_eq!(values(Format::BF16), [0xc0f1, 0x8421]);
        assert_eq!(values(Format::F16), [0x00f1, 0x0421]);
        assert_eq!(values(Format::E4M3), [0xc0f1, 0x8f03, 0x8421, 0x8421]);
        assert_eq!(values(Format::E2M1), [0x21f1, 0x8f84, 0x84c0, 0x0321]);
    }

    /// The smallest bits that round a number up, of every fraction and format: as many of 2^16 as are expected of chance.
    #[test]
    fn chances_are_fractions() {
        for (format, bits) in
            [(Format::BF16, 16), (Format::E4M3, 16), (Format::E3M2, 16), (Format::E2M1, 16), (Format::F16, 13)]
        {
            for (low, high) in [(1.0f32, 1.5), (2.0, 3.0), (0.0, 0.5)] {
                if format != Format::E2M1 && low == 0.0 {
                    continue;
                }
                let ulp =
                    if format == Format::E2M1 { high - low } else { low * 2f32.powi(-(format.mantissa_bits() as i32)) };
                let plain = |x: f32| format.encode(Format::F32.decode(x.to_bits().into()), Rounding::Zero);
                for eighths in 0..8 {
                    let x = low + ulp * eighths as f32 / 8.0;
                    let up = (1u32 << bits) - (eighths << (bits - 3));
                    for negative in [false, true] {
                        let sign = if negative { format.sign() } else { 0 };
                        let rounded =
                            |value| round(format, if negative { -x } else { x }, Dither { value, bits }, true, false);
                        assert_eq!(
                            rounded(up - 1),
                            plain(low) | if x == 0.0 && !negative { 0 } else { sign },
                            "{format:?} {x}"
                        );
                        if eighths > 0 {
                            assert_eq!(rounded(up), plain(low + ulp) | sign, "{format:?} {x}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn ends_of_the_range() {
        let all = Dither { value: 0xffff, bits: 16 };
        let one = |format, x, satfinite, relu| round(format, x, all, satfinite, relu);
        assert_eq!(one(Format::E4M3, 1e9, true, false), 0x7e);
        assert_eq!(one(Format::E4M3, -460.0, true, false), 0xfe);
        assert_eq!(one(Format::E4M3, f32::NAN, true, false), 0x7f);
        assert_eq!(one(Format::E2M1, f32::NAN, true, false), 7);
        assert_eq!(one(Format::E4M3, -1.0, true, true), 0);
        assert_eq!(one(Format::BF16, f32::MAX, false, false), 0x7f80);
        assert_eq!(one(Format::BF16, f32::MAX, true, false), 0x7f7f);
        assert_eq!(one(Format::BF16, f32::NEG_INFINITY, false, false), 0xff80);
        // Exact numbers stay, zeros too.
        assert_eq!(one(Format::BF16, 1.0, false, false), 0x3f80);
        assert_eq!(one(Format::E2M1, -0.0, true, false), 8);
    }
}
