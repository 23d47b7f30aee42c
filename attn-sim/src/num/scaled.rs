//! Products with block scales, as `tcgen05.mma` of the kinds `mxf8f6f4`, `mxf4` and `mxf4nvf4` computes them.
//!
//! With 8- and 6-bit elements (and 4-bit ones among them) there is one scale for a row's or a column's 32 elements, a power of two:
//! it adds to the exponents of the products, and the rule of [`super::dot`] does the rest.
//!
//! Where all elements have 4 bits, an instruction's 64 products are added exactly in four groups of 16. A group's sum times the
//! significands of its two scales is a term, aligned by the sum of the scales' exponents alone; terms and C are cut to 35 digits
//! behind the point of the largest of those exponents, added, and cut to f32. A NaN among the scales or in C gives NaN.
//! From the measurements of MMA-Sim (arXiv 2511.10909).

use super::dot::{LOWEST, Rule, Term, sum_aligned};
use super::exact::Exact;
use super::format::Format;
use super::product::{Panel, multiply};

/// Elements of a group of 4-bit products.
const GROUP: usize = 16;
/// Binary digits behind the point of the largest exponent that are kept of 4-bit products.
const FRACTION: i32 = 35;
/// What a scale that is not a number makes of a sum.
const NAN: u32 = 0x7fff_ffff;

/// How a byte is a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleFormat {
    /// `ue8m0`: an exponent, biased by 127; 255 is a NaN.
    Power,
    /// `ue4m3`: an e4m3 number whose sign does not count.
    Number,
}

/// A scale: `significand * 2^unit`, aligned by `exponent`.
#[derive(Clone, Copy, Debug)]
struct Scale {
    significand: u64,
    unit: i32,
    exponent: i32,
}

impl ScaleFormat {
    /// A scale by its byte; none is a NaN.
    fn decode(self, byte: u8) -> Option<Scale> {
        match self {
            ScaleFormat::Power if byte == 0xff => None,
            ScaleFormat::Power => {
                let exponent = i32::from(byte) - 127;
                Some(Scale { significand: 1, unit: exponent, exponent })
            }
            ScaleFormat::Number => match Format::E4M3.decode(u64::from(byte & 0x7f)) {
                Exact::Finite(f) if f.significand == 0 => Some(Scale { significand: 0, unit: 0, exponent: LOWEST }),
                Exact::Finite(f) => {
                    let exponent = f.exponent + Format::E4M3.mantissa_bits() as i32;
                    Some(Scale { significand: f.significand as u64, unit: f.exponent, exponent })
                }
                _ => None,
            },
        }
    }
}

/// Scales of one operand: as many bytes for each of its lines.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// What the bytes are.
    pub format: ScaleFormat,
    /// Those of a line lie together.
    pub bytes: &'a [u8],
}

/// `D = A B^T`, plus what `d` holds where `accumulate`, of 8-, 6- and 4-bit formats with a scale for each line.
/// `a[row * k + i]`, `b[column * k + i]`, `d[row * columns + column]`.
pub fn multiply_bytes(
    formats: (Format, Format),
    k: usize,
    (a, b): (&[u32], &[u32]),
    (a_scales, b_scales): (Scales<'_>, Scales<'_>),
    d: &mut [u32],
    accumulate: bool,
) {
    let (mut rows, mut columns) = (Panel::rows(formats.0, k, a.to_vec()), Panel::columns(formats.1, k, b.to_vec()));
    let exponents = |scales: Scales<'_>| -> Vec<Option<i32>> {
        scales.bytes.iter().map(|&byte| scales.format.decode(byte).map(|scale| scale.exponent)).collect()
    };
    let (x, y) = (exponents(a_scales), exponents(b_scales));
    x.iter().enumerate().for_each(|(line, e)| rows.scale(line, e.unwrap_or(0)));
    y.iter().enumerate().for_each(|(line, e)| columns.scale(line, e.unwrap_or(0)));
    multiply(&rows, &columns, Rule::F32, d, accumulate);
    for (row, d) in d.chunks_mut(y.len()).enumerate() {
        for (column, d) in d.iter_mut().enumerate() {
            if x[row].is_none() || y[column].is_none() {
                *d = NAN;
            }
        }
    }
}

/// `D = A B^T`, plus what `d` holds where `accumulate`, of e2m1 elements; arrays as in [`multiply_bytes`].
pub fn multiply_nibbles(
    k: usize,
    (a, b): (&[u32], &[u32]),
    (a_scales, b_scales): (Scales<'_>, Scales<'_>),
    d: &mut [u32],
    accumulate: bool,
) {
    let halves = |elements: &[u32]| elements.iter().map(|&x| twice_e2m1(x)).collect::<Vec<i32>>();
    let (a, b) = (halves(a), halves(b));
    let (rows, columns) = (a.len() / k, b.len() / k);
    let decode = |scales: Scales<'_>| scales.bytes.iter().map(|&byte| scales.format.decode(byte)).collect::<Vec<_>>();
    let (x, y) = (decode(a_scales), decode(b_scales));
    let (per_row, per_column) = (x.len() / rows, y.len() / columns);
    for (i, d) in d.iter_mut().enumerate() {
        let (row, column) = (i / columns, i % columns);
        let lines = (&a[row * k..][..k], &b[column * k..][..k]);
        let scales = (&x[row * per_row..][..per_row], &y[column * per_column..][..per_column]);
        *d = fused_nibbles(lines, scales, if accumulate { *d } else { 0 });
    }
}

/// Twice the value of an e2m1 pattern.
fn twice_e2m1(bits: u32) -> i32 {
    let magnitude = [0, 1, 2, 3, 4, 6, 8, 12][(bits & 7) as usize];
    if bits & 8 == 0 { magnitude } else { -magnitude }
}

fn fused_nibbles((a, b): (&[i32], &[i32]), (x, y): (&[Option<Scale>], &[Option<Scale>]), c: u32) -> u32 {
    let c = match Format::F32.decode(c.into()) {
        Exact::Nan => return NAN,
        Exact::Infinite { negative } => {
            let nan = x.iter().chain(y).any(Option::is_none);
            return if nan { NAN } else { Format::F32.infinity(negative).map_or(NAN, |bits| bits as u32) };
        }
        Exact::Finite(f) => Term::of(Format::F32, f),
    };
    let groups = a.len() / GROUP;
    let mut terms = vec![(c, c.aligned_by())];
    for (g, (a, b)) in a.chunks(GROUP).zip(b.chunks(GROUP)).enumerate() {
        let (Some(x), Some(y)) = (x[g * x.len() / groups], y[g * y.len() / groups]) else { return NAN };
        let sum: i32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        let term = Term {
            negative: sum < 0,
            significand: u64::from(sum.unsigned_abs()) * x.significand * y.significand,
            // Both factors were doubled.
            unit: x.unit + y.unit - 2,
            exponent: x.exponent + y.exponent,
        };
        terms.push((term, term.exponent));
    }
    Format::F32.encode_cut(sum_aligned(&terms, FRACTION)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: u8 = 127;

    fn powers(bytes: &[u8]) -> Scales<'_> {
        Scales { format: ScaleFormat::Power, bytes }
    }

    fn numbers(bytes: &[u8]) -> Scales<'_> {
        Scales { format: ScaleFormat::Number, bytes }
    }

    /// One row by one column of 64 elements.
    fn nibbles(a: &[u32], b: &[u32], scales: (Scales<'_>, Scales<'_>), c: f32) -> f32 {
        let mut d = [c.to_bits()];
        multiply_nibbles(64, (a, b), scales, &mut d, true);
        f32::from_bits(d[0])
    }

    #[test]
    fn every_pattern_of_four_bits() {
        for bits in 0..16 {
            let value = Format::F32.encode(Format::E2M1.decode(bits), crate::num::Rounding::Nearest) as u32;
            assert_eq!(twice_e2m1(bits as u32) as f32, 2.0 * f32::from_bits(value), "{bits}");
        }
    }

    #[test]
    fn each_scale_counts_for_its_part_of_k() {
        let ones = [2; 64];
        for part in 0..4 {
            let mut a = [0x38; 4];
            a[part] = 0x44; // 3 in e4m3
            assert_eq!(nibbles(&ones, &ones, (numbers(&a), numbers(&[0x38; 4])), 5.0), 5.0 + 64.0 + 32.0);
            let mut b = [ONE; 2];
            b[part / 2] -= 1;
            assert_eq!(nibbles(&ones, &ones, (powers(&[ONE; 2]), powers(&b)), 0.0), 48.0);
            let mut one_group = [0; 64];
            one_group[16 * part..][..16].fill(7);
            assert_eq!(nibbles(&one_group, &ones, (numbers(&a), numbers(&[0x38; 4])), 0.0), 16.0 * 6.0 * 3.0);
        }
    }

    /// A group is exact whatever cancels in it, and aligned by its scales alone; C is cut 35 digits below them.
    #[test]
    fn thirty_five_digits_below_the_scales() {
        let (ones, zeros) = ([2; 64], [0; 64]);
        let scales = (powers(&[ONE; 2]), powers(&[ONE; 2]));
        let tiny = |n: i32| 2f32.powi(n);
        assert_eq!(nibbles(&zeros, &ones, scales, tiny(-35)), tiny(-35));
        assert_eq!(nibbles(&zeros, &ones, scales, tiny(-36)), 0.0);
        assert_eq!(nibbles(&zeros, &ones, (powers(&[ONE - 1; 2]), scales.1), tiny(-36)), tiny(-36));
        // The result is cut, not rounded.
        assert_eq!(nibbles(&ones, &ones, scales, -tiny(-24)), 64f32.next_down());
    }

    #[test]
    fn a_scale_that_is_no_number() {
        let ones = [2; 64];
        let good = [ONE; 2];
        for bad in [[0xff, ONE], [ONE, 0xff]] {
            assert_eq!(nibbles(&ones, &ones, (powers(&bad), powers(&good)), 0.0).to_bits(), NAN);
            assert_eq!(nibbles(&ones, &ones, (powers(&good), powers(&bad)), f32::INFINITY).to_bits(), NAN);
        }
        assert_eq!(nibbles(&ones, &ones, (powers(&good), powers(&good)), f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert!(nibbles(&ones, &ones, (numbers(&[0x7f; 4]), numbers(&[0x38; 4])), 0.0).is_nan());
        assert_eq!(nibbles(&ones, &ones, (numbers(&[0xb8; 4]), numbers(&[0x38; 4])), 0.0), 64.0);
    }

    #[test]
    fn bytes_are_scaled_by_line() {
        let one = 0x38;
        let (a, b) = (vec![one; 3 * 32], vec![one; 2 * 32]);
        let mut d = [1f32.to_bits(); 6];
        let scales = (powers(&[ONE, ONE + 2, 0xff]), powers(&[ONE, ONE - 1]));
        multiply_bytes((Format::E4M3, Format::E4M3), 32, (&a, &b), scales, &mut d, true);
        let d = d.map(f32::from_bits);
        assert_eq!(d[..4], [33.0, 17.0, 129.0, 65.0]);
        assert!(d[4].is_nan() && d[5].is_nan());
    }
}
