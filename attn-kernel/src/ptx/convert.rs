//! Conversions between f32 and packed pairs of 16-bit floats, each with a bit-exact host twin.

#[cfg(target_arch = "nvptx64")]
use crate::ptx;

macro_rules! pack {
    ($(#[$doc:meta])* $name:ident: $ty:literal, $host:path) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(lo: f32, hi: f32) -> u32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let pair: u32;
                // The first source goes to the upper half.
                ptx!(
                    concat!("cvt.rn.", $ty, ".f32 {d}, {hi}, {lo};"),
                    d = lateout(reg32) pair, hi = in(reg32) hi, lo = in(reg32) lo, options(pure, nomem, nostack)
                );
                pair
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                u32::from($host(lo)) | u32::from($host(hi)) << 16
            }
        }
    };
}

pack!(
    /// `cvt.rn.bf16x2.f32`: two f32 rounded to nearest even bf16, `lo` in the low half; NaN becomes 0x7fff. sm_80.
    pack_bf16: "bf16x2", host::to_bf16
);
pack!(
    /// `cvt.rn.f16x2.f32`: two f32 rounded to nearest even f16, `lo` in the low half; overflow becomes infinity, NaN 0x7fff. sm_80.
    pack_f16: "f16x2", host::to_f16
);

/// The two values of a packed bf16 pair, low half first: two shifts, exact.
#[inline(always)]
pub fn unpack_bf16(pair: u32) -> (f32, f32) {
    (f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000))
}

/// The two values of a packed f16 pair, low half first (`cvt.f32.f16`), exact.
#[inline(always)]
pub fn unpack_f16(pair: u32) -> (f32, f32) {
    #[cfg(target_arch = "nvptx64")]
    {
        let (lo, hi): (f32, f32);
        ptx!(
            "{{",
            ".reg .b16 l, h;",
            "mov.b32 {{l, h}}, {pair};",
            "cvt.f32.f16 {lo}, l;",
            "cvt.f32.f16 {hi}, h;",
            "}}",
            lo = out(reg32) lo, hi = lateout(reg32) hi, pair = in(reg32) pair, options(pure, nomem, nostack)
        );
        (lo, hi)
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        (host::from_f16(pair as u16), host::from_f16((pair >> 16) as u16))
    }
}

#[cfg(not(target_arch = "nvptx64"))]
mod host {
    /// The bits of `x` without its lowest `shift` bits, rounded to nearest, ties to even.
    fn round_off(x: u32, shift: u32) -> u32 {
        let half = (1 << (shift - 1)) - 1;
        (x + half + ((x >> shift) & 1)) >> shift
    }

    pub fn to_bf16(x: f32) -> u16 {
        if x.is_nan() {
            0x7fff
        } else {
            (((x.to_bits() >> 31) << 15) | round_off(x.to_bits() & 0x7fff_ffff, 16)) as u16
        }
    }

    pub fn to_f16(x: f32) -> u16 {
        if x.is_nan() {
            return 0x7fff;
        }
        let sign = (x.to_bits() >> 31) << 15;
        let magnitude = x.to_bits() & 0x7fff_ffff;
        let exponent = (magnitude >> 23) as i32 - 127;
        let bits = if exponent >= 16 {
            0x7c00
        } else if exponent >= -14 {
            // Rounding may carry into the exponent, up to infinity, as it should.
            round_off(magnitude - ((127 - 15) << 23), 13)
        } else if exponent >= -25 {
            // Subnormal: units of 2^-24.
            round_off((magnitude & 0x7f_ffff) | 0x80_0000, (-1 - exponent) as u32)
        } else {
            0
        };
        (sign | bits) as u16
    }

    pub fn from_f16(h: u16) -> f32 {
        let sign = u32::from(h >> 15) << 31;
        let exponent = u32::from(h >> 10) & 31;
        let mantissa = u32::from(h) & 0x3ff;
        match exponent {
            0 => {
                let magnitude = mantissa as f32 * f32::from_bits((127 - 24) << 23);
                f32::from_bits(sign | magnitude.to_bits())
            }
            // `cvt.f32.f16` keeps no payload.
            31 if mantissa != 0 => f32::from_bits(0x7fff_ffff),
            31 => f32::from_bits(sign | 0x7f80_0000),
            _ => f32::from_bits(sign | (exponent + 127 - 15) << 23 | mantissa << 13),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// Every sign and exponent with mantissas around each rounding boundary.
    fn samples() -> impl Iterator<Item = f32> {
        (0..512u32).flat_map(|top| {
            (0..1u32 << 11).flat_map(move |m| {
                [0u32, 1, 0xfff, 0x800, 0x801, 0x7ff].map(move |low| f32::from_bits(top << 23 | m << 12 | low))
            })
        })
    }

    #[test]
    fn bf16_matches_half() {
        for x in samples() {
            let expected = if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits() };
            assert_eq!(pack_bf16(x, -x) & 0xffff, u32::from(expected), "{x:e} {:#x}", x.to_bits());
        }
    }

    #[test]
    fn f16_matches_half() {
        for x in samples() {
            let expected = if x.is_nan() { 0x7fff } else { f16::from_f32(x).to_bits() };
            assert_eq!(pack_f16(-x, x) >> 16, u32::from(expected), "{x:e} {:#x}", x.to_bits());
        }
    }

    #[test]
    fn unpacking_is_exact() {
        for h in 0..=u16::MAX {
            let (lo, hi) = unpack_f16(u32::from(h) << 16 | 0x3c00);
            let exact = f16::from_bits(h).to_f32();
            assert_eq!(lo, 1.0);
            assert!(hi.to_bits() == exact.to_bits() || (hi.is_nan() && exact.is_nan()), "{h:#x}");
            let (_, hi) = unpack_bf16(u32::from(h) << 16);
            assert_eq!(
                hi.to_bits(),
                bf16::from_bits(h).to_f32().to_bits() & if hi.is_nan() { hi.to_bits() } else { !0 }
            );
        }
    }

    #[test]
    fn the_low_half_comes_first() {
        assert_eq!(pack_bf16(1.0, -2.0), 0xc000_3f80);
        assert_eq!(pack_f16(1.0, -2.0), 0xc000_3c00);
    }
}
