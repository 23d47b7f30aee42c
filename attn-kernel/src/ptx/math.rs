//! f32 arithmetic as the kernels use it: one PTX instruction each, subnormals flushed, with a host twin.
//!
//! Rust's own operators are IEEE and never contract, so what must be an FMA says so. Except for the approximations (`ex2`,
//! `lg2`, `rcp`, whose hardware error is given), a host twin gives the same bits.
//!
//! The packed pairs (`fma2`, `add2`, `mul2`) and [`max3`] are one instruction on Blackwell and two elsewhere, as [`BLACKWELL`] says: a
//! constant from `--cfg attn_arch`, because rustc 1.96 knows no target feature for sm_103a.

use crate::entry::BLACKWELL;
use crate::ptx;

macro_rules! arithmetic {
    ($(#[$doc:meta])* $name:ident($($x:ident),*): $asm:literal, $host:expr) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($($x: f32),*) -> f32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let d: f32;
                ptx!(concat!($asm, ";"), $($x = in(reg32) $x,)* d = lateout(reg32) d, options(pure, nomem, nostack));
                d
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                $(let $x = host::ftz($x);)*
                host::ftz($host)
            }
        }
    };
}

arithmetic!(
    /// `ex2.approx.ftz.f32`: `2^x` within 2 ulp; `-inf` gives 0. One MUFU operation. sm_20.
    ex2(x): "ex2.approx.ftz.f32 {d}, {x}", libm::exp2f(x)
);
arithmetic!(
    /// `lg2.approx.ftz.f32`: `log2(x)`, absolute error below 2^-22 near 1, else relative; 0 gives `-inf`. sm_20.
    lg2(x): "lg2.approx.ftz.f32 {d}, {x}", libm::log2f(x)
);
arithmetic!(
    /// `rcp.approx.ftz.f32`: `1 / x` within 1 ulp; 0 gives infinity. sm_20.
    rcp(x): "rcp.approx.ftz.f32 {d}, {x}", 1.0 / x
);
arithmetic!(
    /// `fma.rn.ftz.f32`: `a * b + c`, rounded once. sm_20.
    fma(a, b, c): "fma.rn.ftz.f32 {d}, {a}, {b}, {c}", libm::fmaf(a, b, c)
);
arithmetic!(
    /// `add.rn.ftz.f32`: `a + b`. sm_20.
    add(a, b): "add.rn.ftz.f32 {d}, {a}, {b}", a + b
);
arithmetic!(
    /// `sub.rn.ftz.f32`: `a - b`. sm_20.
    sub(a, b): "sub.rn.ftz.f32 {d}, {a}, {b}", a - b
);
arithmetic!(
    /// `mul.rn.ftz.f32`: `a * b`. sm_20.
    mul(a, b): "mul.rn.ftz.f32 {d}, {a}, {b}", a * b
);
arithmetic!(
    /// `add.rm.ftz.f32`: `a + b`, rounded toward minus infinity. sm_20.
    add_down(a, b): "add.rm.ftz.f32 {d}, {a}, {b}", host::add_down(a, b)
);
arithmetic!(
    /// `max.ftz.f32`: the greater; the other one if one is NaN. sm_20.
    max(a, b): "max.ftz.f32 {d}, {a}, {b}", host::max(a, b)
);
arithmetic!(
    /// `max.NaN.ftz.f32`: the greater; NaN if one is NaN. sm_80.
    max_nan(a, b): "max.NaN.ftz.f32 {d}, {a}, {b}", if a.is_nan() || b.is_nan() { f32::NAN } else { host::max(a, b) }
);
arithmetic!(
    /// `min.ftz.f32`: the lesser; the other one if one is NaN. sm_20.
    min(a, b): "min.ftz.f32 {d}, {a}, {b}", host::min(a, b)
);

/// The greatest of three: one `max.ftz.f32` with three inputs on Blackwell (PTX 8.8), two of two elsewhere.
#[inline(always)]
pub fn max3(a: f32, b: f32, c: f32) -> f32 {
    if const { BLACKWELL } {
        let d: f32;
        ptx!(
            "max.ftz.f32 {d}, {a}, {b}, {c};",
            a = in(reg32) a, b = in(reg32) b, c = in(reg32) c, d = lateout(reg32) d, options(pure, nomem, nostack)
        );
        d
    } else {
        max(max(a, b), c)
    }
}

/// `shr.u32`: `x >> by`, and 0 from 32 on, where Rust's operator has no answer. sm_20.
#[inline(always)]
pub fn shr(x: u32, by: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let d: u32;
        ptx!(
            "shr.u32 {d}, {x}, {by};",
            x = in(reg32) x, by = in(reg32) by, d = lateout(reg32) d, options(pure, nomem, nostack)
        );
        d
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        x.checked_shr(by).unwrap_or(0)
    }
}

/// `shl.b32`: `x << by`, and 0 from 32 on, where Rust's operator has no answer. sm_20.
#[inline(always)]
pub fn shl(x: u32, by: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let d: u32;
        ptx!(
            "shl.b32 {d}, {x}, {by};",
            x = in(reg32) x, by = in(reg32) by, d = lateout(reg32) d, options(pure, nomem, nostack)
        );
        d
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        x.checked_shl(by).unwrap_or(0)
    }
}

/// `prmt.b32`: four bytes of the eight of `a` and `b`. The four lowest digits of `selector` in base 16, the lowest first, number them: 0 to 3
/// are `a`'s, 4 to 7 `b`'s, and 8 more gives eight times the byte's highest bit. sm_20.
#[inline(always)]
pub fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let d: u32;
        ptx!(
            "prmt.b32 {d}, {a}, {b}, {selector};",
            a = in(reg32) a, b = in(reg32) b, selector = in(reg32) selector, d = lateout(reg32) d,
            options(pure, nomem, nostack)
        );
        d
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
        u32::from_le_bytes([0, 4, 8, 12].map(|shift| {
            let digit = selector >> shift & 15;
            let byte = bytes[digit as usize & 7];
            if digit < 8 { byte } else { (byte as i8 >> 7) as u8 }
        }))
    }
}

macro_rules! packed {
    ($(#[$doc:meta])* $name:ident($($x:ident: $x0:ident $x1:ident),*): $asm:literal, $scalar:path) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name($($x: [f32; 2]),*) -> [f32; 2] {
            if const { BLACKWELL } {
                let (low, high): (f32, f32);
                // Packed and unpacked inside: in Rust, LLVM would merge the shifts with the caller's. ptxas leaves no moves.
                ptx!(
                    concat!(
                        "{{ .reg .b64 d", $(", ", stringify!($x),)* "; ",
                        $("mov.b64 ", stringify!($x), ", {{{", stringify!($x0), "}, {", stringify!($x1), "}}}; ",)*
                        $asm, ".f32x2 d", $(", ", stringify!($x),)* "; mov.b64 {{{low}, {high}}}, d; }}"
                    ),
                    $($x0 = in(reg32) $x[0], $x1 = in(reg32) $x[1],)*
                    low = lateout(reg32) low, high = lateout(reg32) high, options(pure, nomem, nostack)
                );
                [low, high]
            } else {
                [$scalar($($x[0]),*), $scalar($($x[1]),*)]
            }
        }
    };
}

packed!(
    /// `fma.rn.ftz.f32x2`: [`fma`] of both elements.
    fma2(a: a0 a1, b: b0 b1, c: c0 c1): "fma.rn.ftz", fma
);
packed!(
    /// `add.rn.ftz.f32x2`: [`add`] of both elements.
    add2(a: a0 a1, b: b0 b1): "add.rn.ftz", add
);
packed!(
    /// `sub.rn.ftz.f32x2`: [`sub`] of both elements.
    sub2(a: a0 a1, b: b0 b1): "sub.rn.ftz", sub
);
packed!(
    /// `mul.rn.ftz.f32x2`: [`mul`] of both elements.
    mul2(a: a0 a1, b: b0 b1): "mul.rn.ftz", mul
);
packed!(
    /// `add.rm.ftz.f32x2`: [`add_down`] of both elements.
    add_down2(a: a0 a1, b: b0 b1): "add.rm.ftz", add_down
);

#[cfg(not(target_arch = "nvptx64"))]
mod host {
    /// Subnormals become zeros of their sign.
    #[inline(always)]
    pub fn ftz(x: f32) -> f32 {
        if x.is_subnormal() { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
    }

    /// PTX's maximum: a NaN loses, +0 wins against -0, two NaNs give the canonical one.
    #[inline(always)]
    pub fn max(a: f32, b: f32) -> f32 {
        if a.is_nan() && b.is_nan() {
            f32::from_bits(0x7fff_ffff)
        } else if a > b || b.is_nan() || (a == b && a.is_sign_positive()) {
            a
        } else {
            b
        }
    }

    /// PTX's minimum: a NaN loses, -0 wins against +0, two NaNs give the canonical one.
    #[inline(always)]
    pub fn min(a: f32, b: f32) -> f32 {
        if a.is_nan() && b.is_nan() { max(a, b) } else { -max(-a, -b) }
    }

    /// `a + b` toward minus infinity. The exact rounding error of the nearest sum tells whether that went up.
    #[inline(always)]
    pub fn add_down(a: f32, b: f32) -> f32 {
        let sum = a + b;
        if sum == 0.0 {
            // The zero of a difference is negative in this rounding.
            return if a.is_sign_positive() && b.is_sign_positive() { 0.0 } else { -0.0 };
        }
        if sum == f32::INFINITY && a.is_finite() && b.is_finite() {
            return f32::MAX;
        }
        let b_part = sum - a;
        let error = (a - (sum - b_part)) + (b - b_part);
        if error < 0.0 { sum.next_down() } else { sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_down_rounds_toward_minus_infinity() {
        for (a, b) in [(-0.25, 12_582_912.0), (0.75, 12_582_912.0), (-126.5, 12_582_912.0), (1.0, 1e-10), (1.0, -1e-10)]
        {
            let exact = f64::from(a) + f64::from(b);
            let down = add_down(a, b);
            assert!(f64::from(down) <= exact && f64::from(down.next_up()) > exact, "{a} + {b} gave {down}");
        }
        assert_eq!(add_down(1.0, -1.0).to_bits(), 0x8000_0000);
        assert_eq!(add_down(0.0, 0.0).to_bits(), 0);
        assert_eq!(add_down(f32::MAX, f32::MAX), f32::MAX);
        assert_eq!(add_down(-f32::MAX, -f32::MAX), f32::NEG_INFINITY);
        assert_eq!(add_down(f32::INFINITY, 1.0), f32::INFINITY);
    }

    #[test]
    fn subnormals_are_flushed() {
        let tiny = f32::from_bits(1);
        assert_eq!(add(tiny, tiny).to_bits(), 0);
        assert_eq!(mul(-1e-30, 1e-30).to_bits(), 0x8000_0000);
        assert_eq!(fma(1e-20, 1e-20, -tiny).to_bits(), 0);
        assert_eq!(ex2(-127.0), 0.0);
        assert_eq!(ex2(-126.0), f32::MIN_POSITIVE);
    }

    #[test]
    fn maxima_ignore_nan_and_order_zeros() {
        assert_eq!(max(f32::NAN, 1.0), 1.0);
        assert_eq!(max(1.0, f32::NAN), 1.0);
        assert_eq!(max(-0.0, 0.0).to_bits(), 0);
        assert_eq!(max(0.0, -0.0).to_bits(), 0);
        assert_eq!(min(0.0, -0.0).to_bits(), 0x8000_0000);
        assert_eq!(max(f32::NAN, f32::NAN).to_bits(), 0x7fff_ffff);
        assert_eq!(min(f32::NAN, f32::NAN).to_bits(), 0x7fff_ffff);
        assert_eq!(min(f32::NAN, 1.0), 1.0);
        assert_eq!(max3(1.0, 3.0, 2.0), 3.0);
        assert_eq!(max3(f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY), f32::NEG_INFINITY);
    }

    #[test]
    fn shifts_run_out_of_bits() {
        assert_eq!([0, 1, 31, 32, 33, u32::MAX].map(|by| shr(u32::MAX, by)), [u32::MAX, u32::MAX >> 1, 1, 0, 0, 0]);
        assert_eq!([0, 1, 31, 32, 33, u32::MAX].map(|by| shl(u32::MAX, by)), [u32::MAX, !1, 1 << 31, 0, 0, 0]);
    }

    #[test]
    fn pairs_are_two_scalars() {
        assert_eq!(fma2([1.5, -2.0], [2.0, 4.0], [0.25, 0.5]), [3.25, -7.5]);
        assert_eq!(add2([1.0, 2.0], [3.0, 4.0]), [4.0, 6.0]);
        assert_eq!(sub2([1.0, 2.0], [3.0, 5.0]), [-2.0, -3.0]);
        assert_eq!(mul2([1.0, 2.0], [3.0, 4.0]), [3.0, 8.0]);
        assert_eq!(add_down2([-0.5, 0.5], [12_582_912.0; 2]), [12_582_911.0, 12_582_912.0]);
    }

    #[test]
    fn approximations_know_their_limits() {
        assert_eq!(ex2(f32::NEG_INFINITY), 0.0);
        assert_eq!(ex2(3.0), 8.0);
        assert_eq!(lg2(0.0), f32::NEG_INFINITY);
        assert_eq!(lg2(8.0), 3.0);
        assert_eq!(rcp(0.0), f32::INFINITY);
        assert_eq!(rcp(4.0), 0.25);
    }
}
