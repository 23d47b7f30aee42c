//! `mma.sync` of 8-bit floats, which Hopper and Blackwell (sm_90, sm_100, sm_103) have no unit for: ptxas converts the elements to
//! f16 and multiplies twice.
//!
//! The first product is of the lower two elements of every four along K, from zero; the second one, of the upper two, is added by
//! the same rule ([`crate::num::dot`]). C is added to that, rounded to nearest. An H100 gives the same bits.

use crate::num::dot::{Output, Rule};
use crate::num::float::{Mode, add};
use crate::num::product::Arithmetic;
use crate::num::{Format, Rounding};

/// `D = A B^T + D`: `a[row * k + i]`, `b[column * k + i]`, `d[row * columns + column]` as patterns.
pub(super) fn multiply(formats: (Format, Format), rule: Rule, k: usize, a: &[u32], b: &[u32], d: &mut [u32]) {
    let halves = Arithmetic::Float(Format::F16, Format::F16, rule);
    let mut sums = vec![0; d.len()];
    for upper in [false, true] {
        let (a, b) = (half(formats.0, a, upper), half(formats.1, b, upper));
        halves.multiply(k / 2, a, b, &mut sums, upper);
    }
    let format = if rule.output == Output::F16 { Format::F16 } else { Format::F32 };
    for (d, sum) in d.iter_mut().zip(sums) {
        *d = add(format, (*d).into(), sum.into(), Mode::NEAREST) as u32;
    }
}

/// Two of every four elements, as f16, which holds every number of 8 bits.
fn half(format: Format, elements: &[u32], upper: bool) -> Vec<u32> {
    let chosen = elements.iter().enumerate().filter(|(i, _)| (i % 4 >= 2) == upper);
    chosen.map(|(_, &x)| Format::F16.encode(format.decode(x.into()), Rounding::Nearest) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: u32 = 0x38;

    /// One row and one column of e4m3; `a` by places along K, the rest of it zeros, `b` all ones.
    fn sum(places: &[(usize, u32)], c: f32) -> f32 {
        let mut a = vec![0; 32];
        places.iter().for_each(|&(i, x)| a[i] = x);
        let mut d = vec![c.to_bits()];
        multiply((Format::E4M3, Format::E4M3), Rule::F32, 32, &a, &[ONE; 32], &mut d);
        f32::from_bits(d[0])
    }

    #[test]
    fn every_element_counts_once() {
        for i in 0..32 {
            assert_eq!(sum(&[(i, ONE)], 0.5), 1.5, "{i}");
        }
    }

    /// A unit of 8-bit products would cut C's digits, or the sum; here the last addition rounds.
    #[test]
    fn c_is_added_last_and_rounded() {
        let last = 2f32.powi(-24);
        // 2^-9 (the smallest number) and 1: C's 2^-25 is too small to be kept by the products' rule, but rounds up here.
        assert_eq!(sum(&[(0, ONE)], last + last * 2f32.powi(-5)), 1.0 + 2.0 * last);
        assert_eq!(sum(&[(0, ONE)], last), 1.0);
        assert_eq!(sum(&[(0, 0x7f)], 1.0).to_bits(), 0x7fff_ffff);
        assert_eq!(sum(&[(0, 1), (3, 1)], 0.0), 2f32.powi(-8));
    }
}
