//! Exact numbers, between the bits that an operation reads and the rounding of its result.
//!
//! Every operation but the approximations goes through here, so there is one place that rounds.

use std::cmp::Ordering;

/// A number as an operation sees it, before it is rounded to a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exact {
    /// Not a number; payloads do not survive.
    Nan,
    /// An infinity.
    Infinite {
        /// Whether it is minus infinity.
        negative: bool,
    },
    /// A finite number, zero included.
    Finite(Finite),
}

/// `(-1)^negative * significand * 2^exponent`.
///
/// The lowest bit of a significand wider than any format may stand for everything below it, which rounds alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finite {
    /// The sign, which zeros have too.
    pub negative: bool,
    /// Below 2^127; below 2^126 as an operand.
    pub significand: u128,
    /// Weight of the significand's lowest bit.
    pub exponent: i32,
}

/// Bits of an operand that is aligned for a sum: two such sums in a row still fit.
const ALIGNED: u32 = 125;

impl Finite {
    /// Zero of a sign.
    pub const fn zero(negative: bool) -> Self {
        Finite { negative, significand: 0, exponent: 0 }
    }

    /// Exponent of the leading bit; of a zero, below every other number's.
    pub fn magnitude(self) -> i32 {
        match self.significand {
            0 => i32::MIN,
            s => self.exponent + (127 - s.leading_zeros() as i32),
        }
    }

    /// Compares values; zeros are equal.
    fn compare(self, other: Self) -> Ordering {
        match add(Exact::Finite(self), Exact::Finite(other).negated(), false) {
            Exact::Finite(d) if d.significand == 0 => Ordering::Equal,
            Exact::Finite(d) if d.negative => Ordering::Less,
            _ => Ordering::Greater,
        }
    }
}

impl Exact {
    /// An integer.
    pub fn integer(value: i128) -> Self {
        Exact::Finite(Finite { negative: value < 0, significand: value.unsigned_abs(), exponent: 0 })
    }

    /// The number of the other sign; a NaN stays one.
    pub fn negated(self) -> Self {
        match self {
            Exact::Nan => Exact::Nan,
            Exact::Infinite { negative } => Exact::Infinite { negative: !negative },
            Exact::Finite(f) => Exact::Finite(Finite { negative: !f.negative, ..f }),
        }
    }

    /// Whether this is a NaN.
    pub fn is_nan(self) -> bool {
        self == Exact::Nan
    }

    /// The sign; a NaN has none.
    pub fn is_negative(self) -> bool {
        matches!(self, Exact::Infinite { negative: true } | Exact::Finite(Finite { negative: true, .. }))
    }

    /// Whether this is a zero of either sign.
    pub fn is_zero(self) -> bool {
        matches!(self, Exact::Finite(Finite { significand: 0, .. }))
    }

    /// Order of two numbers, none with a NaN. Zeros are equal.
    pub fn compare(self, other: Self) -> Option<Ordering> {
        let rank = |e: Exact| match e {
            Exact::Infinite { negative: true } => -1,
            Exact::Infinite { negative: false } => 1,
            _ => 0,
        };
        match (self, other) {
            (Exact::Nan, _) | (_, Exact::Nan) => None,
            (Exact::Finite(a), Exact::Finite(b)) => Some(a.compare(b)),
            (a, b) => Some(rank(a).cmp(&rank(b))),
        }
    }
}

/// `a + b`. A sum of exactly zero is +0 unless both are -0, or `down` (rounding toward minus infinity), where it is -0.
pub fn add(a: Exact, b: Exact, down: bool) -> Exact {
    match (a, b) {
        (Exact::Nan, _) | (_, Exact::Nan) => Exact::Nan,
        (Exact::Infinite { negative: x }, Exact::Infinite { negative: y }) if x != y => Exact::Nan,
        (Exact::Infinite { .. }, _) => a,
        (_, Exact::Infinite { .. }) => b,
        (Exact::Finite(x), Exact::Finite(y)) => Exact::Finite(add_finite(x, y, down)),
    }
}

fn add_finite(a: Finite, b: Finite, down: bool) -> Finite {
    if a.significand == 0 && b.significand == 0 {
        return Finite::zero(if a.negative == b.negative { a.negative } else { down });
    }
    let (large, small) = if a.magnitude() >= b.magnitude() { (a, b) } else { (b, a) };
    if small.significand == 0 {
        return large;
    }
    // The larger one's leading bit goes to the top; what the smaller one loses sticks to its lowest bit.
    let up = large.significand.leading_zeros().saturating_sub(128 - ALIGNED);
    let exponent = large.exponent - up as i32;
    let x = large.significand << up;
    let shift = small.exponent - exponent;
    let y = if shift >= 0 { small.significand << shift } else { shift_sticky(small.significand, shift.unsigned_abs()) };
    if large.negative == small.negative {
        return Finite { negative: large.negative, significand: x + y, exponent };
    }
    match x.cmp(&y) {
        Ordering::Equal => Finite::zero(down),
        Ordering::Greater => Finite { negative: large.negative, significand: x - y, exponent },
        Ordering::Less => Finite { negative: small.negative, significand: y - x, exponent },
    }
}

/// Shifts right; the lowest bit becomes 1 where a bit is lost.
fn shift_sticky(value: u128, by: u32) -> u128 {
    match by {
        0 => value,
        1..128 => (value >> by) | u128::from(value & ((1 << by) - 1) != 0),
        _ => u128::from(value != 0),
    }
}

/// `a * b`, of significands of at most 63 bits.
pub fn mul(a: Exact, b: Exact) -> Exact {
    let negative = a.is_negative() != b.is_negative();
    match (a, b) {
        (Exact::Nan, _) | (_, Exact::Nan) => Exact::Nan,
        (Exact::Finite(x), Exact::Finite(y)) => Exact::Finite(Finite {
            negative,
            significand: x.significand * y.significand,
            exponent: x.exponent + y.exponent,
        }),
        (x, y) if x.is_zero() || y.is_zero() => Exact::Nan,
        _ => Exact::Infinite { negative },
    }
}

/// `a / b`, of significands of at most 53 bits: 72 bits of the quotient or more, the lowest sticky.
pub fn div(a: Exact, b: Exact) -> Exact {
    let negative = a.is_negative() != b.is_negative();
    match (a, b) {
        (Exact::Nan, _) | (_, Exact::Nan) => Exact::Nan,
        (Exact::Infinite { .. }, Exact::Infinite { .. }) => Exact::Nan,
        (Exact::Infinite { .. }, _) => Exact::Infinite { negative },
        (_, Exact::Infinite { .. }) => Exact::Finite(Finite::zero(negative)),
        (Exact::Finite(x), Exact::Finite(y)) if y.significand == 0 => match x.significand {
            0 => Exact::Nan,
            _ => Exact::Infinite { negative },
        },
        (Exact::Finite(x), Exact::Finite(_)) if x.significand == 0 => Exact::Finite(Finite::zero(negative)),
        (Exact::Finite(x), Exact::Finite(y)) => {
            let up = x.significand.leading_zeros() - (128 - ALIGNED);
            let numerator = x.significand << up;
            let sticky = u128::from(!numerator.is_multiple_of(y.significand));
            let significand = (numerator / y.significand) | sticky;
            Exact::Finite(Finite { negative, significand, exponent: x.exponent - up as i32 - y.exponent })
        }
    }
}

/// The square root: 62 bits of it, the lowest sticky. -0 is its own root; other negative numbers have none.
pub fn sqrt(a: Exact) -> Exact {
    match a {
        Exact::Finite(f) if f.significand == 0 => a,
        Exact::Infinite { negative: false } => a,
        Exact::Finite(f) if !f.negative => {
            let mut up = f.significand.leading_zeros() - (128 - ALIGNED);
            up -= u32::from((f.exponent - up as i32) % 2 != 0);
            let square = f.significand << up;
            let root = square.isqrt();
            let sticky = u128::from(root * root != square);
            Exact::Finite(Finite {
                negative: false,
                significand: root | sticky,
                exponent: (f.exponent - up as i32) / 2,
            })
        }
        _ => Exact::Nan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(v: i128) -> Exact {
        Exact::integer(v)
    }

    #[test]
    fn sums_and_products_of_integers() {
        for a in -20..=20 {
            for b in -20..=20 {
                assert_eq!(add(int(a), int(b), false).compare(int(a + b)), Some(Ordering::Equal));
                assert_eq!(mul(int(a), int(b)).compare(int(a * b)), Some(Ordering::Equal));
                assert_eq!(int(a).compare(int(b)), Some(a.cmp(&b)));
                if b != 0 && a % b == 0 {
                    assert_eq!(div(int(a), int(b)).compare(int(a / b)), Some(Ordering::Equal), "{a} / {b}");
                }
            }
            if a >= 0 {
                assert_eq!(sqrt(int(a * a)).compare(int(a)), Some(Ordering::Equal));
            }
        }
    }

    #[test]
    fn signs_of_zeros() {
        let (plus, minus) = (Exact::Finite(Finite::zero(false)), Exact::Finite(Finite::zero(true)));
        assert!(!add(plus, minus, false).is_negative());
        assert!(add(plus, minus, true).is_negative());
        assert!(add(minus, minus, false).is_negative());
        assert!(add(int(3), int(-3), true).is_negative());
        assert!(mul(minus, int(3)).is_negative());
        assert!(sqrt(minus).is_negative());
    }

    #[test]
    fn what_is_not_a_number() {
        let (inf, zero) = (Exact::Infinite { negative: false }, int(0));
        assert!(add(inf, inf.negated(), false).is_nan());
        assert!(mul(inf, zero).is_nan());
        assert!(div(zero, zero).is_nan());
        assert!(div(inf, inf).is_nan());
        assert!(sqrt(int(-1)).is_nan());
        assert_eq!(div(int(-1), zero), inf.negated());
    }

    #[test]
    fn lost_bits_stick() {
        let tiny = Exact::Finite(Finite { negative: true, significand: 1, exponent: -1000 });
        let Exact::Finite(sum) = add(int(1), tiny, false) else { panic!("a finite sum") };
        assert_eq!(sum.significand, (1 << (ALIGNED - 1)) - 1);
        assert_eq!(int(1).compare(tiny), Some(Ordering::Greater));
    }
}
