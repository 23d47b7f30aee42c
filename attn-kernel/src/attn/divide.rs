//! Division by sizes that a launch fixes, without a divide instruction.
//!
//! The GPU divides integers by a sequence of some thirty dependent instructions, and a role must divide several times before it knows
//! its first tile. The host therefore works out a reciprocal of each size, and the kernel multiplies.

use core::mem::offset_of;

use crate::ptx::special;

/// A divisor with its reciprocal, for dividends below 2^31.
///
/// With `2^(l-1) < d <= 2^l`, `m = floor(2^(31+l) / d) + 1` and `e = m d - 2^(31+l)`, which is at most `d`: `n m` is
/// `n / d * 2^(31+l)` and `n e / d` more, which is less than `2^(31+l) / d`: too little to reach the next quotient.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divisor {
    value: u32,
    multiplier: u32,
    shift: u32,
}

impl Divisor {
    /// Where each field lies.
    pub const LAYOUT: [u32; 3] =
        [offset_of!(Self, value) as u32, offset_of!(Self, multiplier) as u32, offset_of!(Self, shift) as u32];

    /// The divisor of a size of at least 1 and at most 2^31.
    pub const fn new(value: u32) -> Self {
        assert!(value >= 1 && value <= 1 << 31, "sizes are counted in 31 bits and none is empty");
        let shift = u32::BITS - (value - 1).leading_zeros();
        Divisor { value, multiplier: ((1u64 << (31 + shift)) / value as u64 + 1) as u32, shift }
    }

    /// The divisor itself.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.value
    }

    /// The same divisor, of which the compiler knows nothing before this place ([`special::fresh`]): what is asked of it is asked afresh.
    #[inline(always)]
    pub fn fresh(self) -> Self {
        Divisor { value: special::fresh(self.value), ..self }
    }

    /// `n / d` and `n % d`, for `n` below 2^31.
    #[inline(always)]
    pub const fn div_rem(self, n: u32) -> (u32, u32) {
        // The upper half of the product of twice `n`: the product shifted by 31.
        let doubled = (2 * n) as u64 * self.multiplier as u64;
        let quotient = (doubled >> 32) as u32 >> self.shift;
        (quotient, n - quotient * self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: u32 = (1 << 31) - 1;

    /// Around every multiple near the ends of the range, where a reciprocal that is off would show first.
    fn check(d: u32) {
        let divisor = Divisor::new(d);
        let check = |n: u32| assert_eq!(divisor.div_rem(n), (n / d, n % d), "{n} by {d}");
        let last = LARGEST / d * d;
        for multiple in [0, d, 2 * (d / 2), last / 2 / d * d, last.saturating_sub(d), last] {
            for n in multiple.saturating_sub(2)..=multiple.saturating_add(2).min(LARGEST) {
                check(n);
            }
        }
        check(LARGEST);
    }

    #[test]
    fn every_small_divisor_divides_as_the_processor_does() {
        (1..=70_000).for_each(check);
    }

    #[test]
    fn divisors_around_powers_of_two_and_up_to_the_largest_do_too() {
        for bit in 0..=31 {
            let power = 1u32 << bit;
            (power.saturating_sub(3).max(1)..=(power + 3).min(1 << 31)).for_each(check);
        }
        let mut d = 0x9e37_79b9u32;
        for _ in 0..100_000 {
            d = d.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            check((d >> 1).max(1));
        }
    }

    #[test]
    fn every_dividend_of_a_range_agrees() {
        for d in [1, 2, 3, 5, 7, 12, 16, 48, 127, 641, 1000, 4095, 65_537] {
            let divisor = Divisor::new(d);
            for n in (0..300_000).chain(LARGEST - 300_000..=LARGEST) {
                assert_eq!(divisor.div_rem(n), (n / d, n % d), "{n} by {d}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "none is empty")]
    fn nothing_divides_by_zero() {
        let _ = Divisor::new(0);
    }
}
