//! Whole matrix products by the rule of [`super::dot`], bit for bit, at a few instructions of the host for each multiplication.
//!
//! A row of A and a column of B are scaled by powers of two so that their largest element lies in [1, 2). A product is then exact
//! in f32, or so small that the rule cuts it to nothing; scaled once more by `2^F` over the largest exponent, its conversion to an
//! integer is the cut, and integer additions are the exact sum. Eight columns go side by side. Where the argument fails (NaNs and
//! infinities, results near the subnormals, products all far below what their row and column could give) an element is computed by the
//! definition instead.

use super::dot::{Output, Rule, fused, integers};
use super::exact::{Exact, Finite};
use super::format::Format;

/// Columns that are computed side by side.
const W: usize = 8;
/// Terms whose sum of cut values fits 32 bits: each lies below 2^27.
const BURST: usize = 8;
/// Exponent of a zero, below all others even when two are added.
const ZERO: i16 = -10_000;
/// Exponents below their row's or column's largest under which an element counts as zero: its products are cut to nothing.
const NEGLIGIBLE: i32 = -100;
/// Largest exponent of an element's terms, relative to its row and column, down to which [`NEGLIGIBLE`] holds.
const TRUSTED: i16 = -70;
/// Absolute exponent down to which neither subnormal results nor the exponent of zeros play a part.
const NORMAL: i32 = -95;

/// One side of a product: `lines` rows of A, or columns of B, of `k` elements each.
#[derive(Clone, Debug)]
pub struct Panel {
    format: Format,
    lines: usize,
    k: usize,
    /// Element `(line, k)` as its pattern.
    bits: Vec<u32>,
    /// Elements over `2^top`, at [`Panel::at`].
    scaled: Vec<f32>,
    /// Exponents less `top`, at [`Panel::at`].
    exponents: Vec<i16>,
    /// Largest exponent of each line.
    tops: Vec<i32>,
    /// Whether a line holds a NaN or an infinity.
    special: Vec<bool>,
    /// Distance of neighbours in a line, and of lines.
    strides: (usize, usize),
}

impl Panel {
    /// Rows of A, from patterns in the order `bits[row * k + i]`.
    pub fn rows(format: Format, k: usize, bits: Vec<u32>) -> Self {
        Self::new(format, k, bits, |_| (1, k))
    }

    /// Columns of B, from patterns in the order `bits[column * k + i]`.
    pub fn columns(format: Format, k: usize, bits: Vec<u32>) -> Self {
        Self::new(format, k, bits, |lines| (lines.next_multiple_of(W), 1))
    }

    fn new(format: Format, k: usize, bits: Vec<u32>, strides: impl Fn(usize) -> (usize, usize)) -> Self {
        let lines = bits.len() / k;
        let room = lines.next_multiple_of(W) * k;
        let mut panel = Panel {
            format,
            lines,
            k,
            bits,
            scaled: vec![0.0; room],
            exponents: vec![ZERO; room],
            tops: vec![0; lines.next_multiple_of(W)],
            special: vec![false; lines],
            strides: strides(lines),
        };
        (0..lines).for_each(|line| panel.fill(line));
        panel
    }

    /// Lines: rows of A, columns of B.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Adds to the exponent of every element of a line: a block scale of the mx kinds.
    ///
    /// The definition's exponents move alike, so results are those of the rule with scaled products.
    pub fn scale(&mut self, line: usize, exponent: i32) {
        self.tops[line] += exponent;
    }

    fn at(&self, line: usize, i: usize) -> usize {
        i * self.strides.0 + line * self.strides.1
    }

    fn line(&self, line: usize) -> &[u32] {
        &self.bits[line * self.k..][..self.k]
    }

    fn fill(&mut self, line: usize) {
        let mantissa = self.format.mantissa_bits() as i32;
        let decoded = |bits: u32| match self.format.decode(bits.into()) {
            Exact::Finite(f) => Some(f),
            _ => None,
        };
        let mut elements = [Finite::zero(false); 64];
        let elements = &mut elements[..self.k];
        for (element, &bits) in elements.iter_mut().zip(&self.bits[line * self.k..]) {
            match decoded(bits) {
                Some(f) => *element = f,
                None => self.special[line] = true,
            }
        }
        let exponents = elements.iter().filter(|f| f.significand != 0).map(|f| f.exponent + mantissa);
        let top = exponents.max().unwrap_or(0);
        self.tops[line] = top;
        for (i, f) in elements.iter().enumerate().filter(|(_, f)| f.significand != 0) {
            let at = self.at(line, i);
            let exponent = f.exponent + mantissa - top;
            self.exponents[at] = exponent as i16;
            if exponent >= NEGLIGIBLE {
                let value = f.significand as f32 * power(f.exponent - top);
                self.scaled[at] = if f.negative { -value } else { value };
            }
        }
    }

    /// What [`Panel::scale`] has added to a line.
    fn added(&self, line: usize) -> i32 {
        let mantissa = self.format.mantissa_bits() as i32;
        let finite = self.line(line).iter().filter_map(|&b| match self.format.decode(b.into()) {
            Exact::Finite(f) if f.significand != 0 => Some(f.exponent + mantissa),
            _ => None,
        });
        self.tops[line] - finite.max().unwrap_or(0)
    }
}

/// 2^n of a normal f32.
fn power(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// `D = A B^T`, plus C where `accumulate`: `d[row * b.lines() + column]` holds C before and D after, as patterns of the rule's
/// output.
///
/// # Panics
/// When the panels' K differ or `d` has another size: the instructions' decoders see to both.
pub fn multiply(a: &Panel, b: &Panel, rule: Rule, d: &mut [u32], accumulate: bool) {
    assert!(a.k == b.k && a.k <= 64 && d.len() == a.lines * b.lines, "the panels of one instruction fit each other");
    if !accumulate {
        d.fill(0);
    }
    for row in 0..a.lines {
        let d = &mut d[row * b.lines..][..b.lines];
        for first in (0..b.lines).step_by(W) {
            let d = &mut d[first..(first + W).min(b.lines)];
            multiply_chunk(a, row, b, first, rule, d);
        }
    }
}

/// What an instruction's operands are, and how their products add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Floating-point formats of A and B, and the rule.
    Float(Format, Format, Rule),
    /// 8-bit integers.
    Integer {
        /// A is signed.
        a_signed: bool,
        /// B is signed.
        b_signed: bool,
        /// The sum is kept in range instead of wrapping.
        saturate: bool,
    },
}

impl Arithmetic {
    /// Bits of an element of A and of B in registers and in tensor memory.
    pub fn bits(self) -> (u32, u32) {
        match self {
            Arithmetic::Float(a, b, _) => (a.bits(), b.bits()),
            Arithmetic::Integer { .. } => (8, 8),
        }
    }

    /// Bits of an element of C and D.
    pub fn result_bits(self) -> u32 {
        match self {
            Arithmetic::Float(_, _, rule) => rule.output.format().bits(),
            Arithmetic::Integer { .. } => 32,
        }
    }

    /// `D = A B^T`, plus what `d` holds where `accumulate`. `a[row * k + i]`, `b[column * k + i]`, `d[row * columns + column]`.
    pub fn multiply(self, k: usize, a: Vec<u32>, b: Vec<u32>, d: &mut [u32], accumulate: bool) {
        match self {
            Arithmetic::Float(f, g, rule) => {
                multiply(&Panel::rows(f, k, a), &Panel::columns(g, k, b), rule, d, accumulate);
            }
            Arithmetic::Integer { a_signed, b_signed, saturate } => {
                let value = |bits: u32, signed| if signed { i32::from(bits as i8) } else { i32::from(bits as u8) };
                let columns = b.len() / k;
                for (i, d) in d.iter_mut().enumerate() {
                    let x = a[i / columns * k..][..k].iter().map(|&x| value(x, a_signed));
                    let y = b[i % columns * k..][..k].iter().map(|&y| value(y, b_signed));
                    *d = integers(x, y, if accumulate { *d as i32 } else { 0 }, saturate) as u32;
                }
            }
        }
    }
}

/// One row by [`W`] columns.
fn multiply_chunk(a: &Panel, row: usize, b: &Panel, first: usize, rule: Rule, d: &mut [u32]) {
    let mut c = [Addend::ZERO; W];
    let mut largest = [2 * ZERO; W];
    for (j, &bits) in d.iter().enumerate() {
        c[j] = Addend::new(rule.output, bits);
        largest[j] = c[j].relative(a.tops[row] + b.tops[first + j]);
    }
    let sums = sums(a, row, b, first, rule.fraction, &mut largest);
    for (j, d) in d.iter_mut().enumerate() {
        let column = first + j;
        let top = i32::from(largest[j]) + a.tops[row] + b.tops[column];
        let special = a.special[row] || b.special[column] || c[j].special;
        *d = if largest[j] == 2 * ZERO && !special {
            0
        } else if special || largest[j] < TRUSTED || top < NORMAL {
            let scale = a.added(row) + b.added(column);
            fused(rule, (a.format, b.format), a.line(row), b.line(column), *d, scale)
        } else {
            finish(rule.output, sums[j] + c[j].cut(top, rule.fraction), top - rule.fraction)
        };
    }
}

/// C, ready to be added.
#[derive(Clone, Copy)]
struct Addend {
    negative: bool,
    special: bool,
    significand: u32,
    exponent: i32,
    mantissa: i32,
}

impl Addend {
    const ZERO: Addend = Addend { negative: false, special: false, significand: 0, exponent: 0, mantissa: 23 };

    fn new(output: Output, bits: u32) -> Self {
        match output.format().decode(bits.into()) {
            Exact::Finite(f) => {
                let mantissa = output.format().mantissa_bits() as i32;
                let significand = f.significand as u32;
                Addend { negative: f.negative, special: false, significand, exponent: f.exponent + mantissa, mantissa }
            }
            _ => Addend { special: true, ..Addend::ZERO },
        }
    }

    /// The exponent less `top`, of a row and a column.
    fn relative(&self, top: i32) -> i16 {
        // Far outside of what matters it only has to stay there.
        if self.significand == 0 { 2 * ZERO } else { (self.exponent - top).clamp(-1000, 1000) as i16 }
    }

    /// In units of `2^(top - fraction)`, cut.
    fn cut(&self, top: i32, fraction: i32) -> i64 {
        let shift = self.exponent - self.mantissa - (top - fraction);
        let magnitude = if self.significand == 0 {
            // A zero's exponent may lie anywhere.
            0
        } else if shift >= 0 {
            i64::from(self.significand) << shift
        } else {
            i64::from(self.significand) >> (-shift).min(63)
        };
        if self.negative { -magnitude } else { magnitude }
    }
}

/// Cut and added products of a row and [`W`] columns, in units of `2^(largest - fraction)`; `largest` holds the addends' exponents
/// before, the largest of all after.
fn sums(a: &Panel, row: usize, b: &Panel, first: usize, fraction: i32, largest: &mut [i16; W]) -> [i64; W] {
    let stride = b.strides.0;
    let a_exponents = &a.exponents[row * a.k..][..a.k];
    for (i, &x) in a_exponents.iter().enumerate() {
        let y = &b.exponents[i * stride + first..][..W];
        for j in 0..W {
            largest[j] = largest[j].max(x + y[j]);
        }
    }
    let mut units = [0.0; W];
    for j in 0..W {
        // Beyond these bounds every product is cut to nothing, or the definition takes over.
        units[j] = power((fraction - i32::from(largest[j])).clamp(-100, 100));
    }
    let mut sums = [0i64; W];
    for (burst, a_scaled) in a.scaled[row * a.k..][..a.k].chunks(BURST).enumerate() {
        let mut partial = [0i32; W];
        for (i, &x) in a_scaled.iter().enumerate() {
            let y = &b.scaled[(burst * BURST + i) * stride + first..][..W];
            for j in 0..W {
                // SAFETY: nothing here is a NaN, and the magnitude is below 2^27: a product lies below 4 * 2^largest, and its unit is
                // at most 2^(25 - largest), or the clamp's 2^-100 for a product that as every one lies below 4.
                partial[j] += unsafe { (x * y[j] * units[j]).to_int_unchecked::<i32>() };
            }
        }
        for j in 0..W {
            sums[j] += i64::from(partial[j]);
        }
    }
    sums
}

/// `sum * 2^unit` as the output writes it.
fn finish(output: Output, sum: i64, unit: i32) -> u32 {
    let magnitude = sum.unsigned_abs();
    let width = 64 - magnitude.leading_zeros() as i32;
    let exponent = unit + width - 1;
    if output == Output::F32 && magnitude != 0 && (-126..=127).contains(&exponent) {
        let significand = if width > 24 { magnitude >> (width - 24) } else { magnitude << (24 - width) };
        let sign = if sum < 0 { 1 << 31 } else { 0 };
        // The leading bit counts the exponent field up by one.
        return sign | ((((exponent + 126) as u32) << 23) + significand as u32);
    }
    output.encode(Exact::Finite(Finite { negative: sum < 0, significand: magnitude.into(), exponent: unit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator of its own, so that failures repeat.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        /// A number of a kind: 0 well-behaved, 1 wide range, 2 any pattern, 3 many zeros, 4 products that cancel.
        fn pattern(&mut self, format: Format, kind: u32) -> u32 {
            let r = self.next();
            let any = (r as u32) & ((format.sign() << 1) - 1) as u32;
            let sign = if r >> 40 & 1 == 1 { -1.0 } else { 1.0 };
            let unit = (r >> 44) as f64 / f64::from(1 << 20);
            let x = match kind {
                0 => sign * unit,
                1 => sign * (1.0 + unit) * 2f64.powi((r % 120) as i32 - 60),
                2 => return any,
                3 if !r.is_multiple_of(3) => 0.0,
                3 => sign * (1.0 + unit) * 2f64.powi(-((r % 150) as i32)),
                _ => sign * 2f64.powi((r % 56) as i32 - 28),
            };
            format.encode(Format::F64.decode(x.to_bits()), super::super::format::Rounding::Nearest) as u32
        }
    }

    fn check(rule: Rule, formats: (Format, Format), k: usize, kinds: (u32, u32, u32), random: &mut Random) {
        let (m, n) = (8, 24);
        let mut side =
            |format, lines: usize, kind| (0..lines * k).map(|_| random.pattern(format, kind)).collect::<Vec<_>>();
        let (a, b) = (side(formats.0, m, kinds.0), side(formats.1, n, kinds.1));
        let c: Vec<u32> = (0..m * n).map(|_| random.pattern(rule.output.format(), kinds.2)).collect();
        let mut d = c.clone();
        multiply(&Panel::rows(formats.0, k, a.clone()), &Panel::columns(formats.1, k, b.clone()), rule, &mut d, true);
        for row in 0..m {
            for column in 0..n {
                let (x, y) = (&a[row * k..][..k], &b[column * k..][..k]);
                let expected = fused(rule, formats, x, y, c[row * n + column], 0);
                assert_eq!(d[row * n + column], expected, "{rule:?} {kinds:?} {x:x?} {y:x?} {:x}", c[row * n + column]);
            }
        }
    }

    /// Every format and rule, on numbers of every kind, against the definition.
    #[test]
    fn the_same_bits_as_the_definition() {
        let f8 = [Format::E4M3, Format::E5M2, Format::E2M3, Format::E3M2, Format::E2M1];
        let mut random = Random(0x1234_5678_9abc_def1);
        for kind in 0..5u32.pow(3) {
            let kinds = (kind % 5, kind / 5 % 5, kind / 25);
            for rule in [Rule::F32, Rule::F16] {
                for f in [Format::BF16, Format::F16] {
                    check(rule, (f, f), 16, kinds, &mut random);
                }
                for a in f8 {
                    check(rule, (a, f8[random.next() as usize % 5]), 32, kinds, &mut random);
                }
            }
            check(Rule::F32, (Format::TF32, Format::TF32), 8, kinds, &mut random);
            for rule in [Rule::HOPPER_F8, Rule::HOPPER_F8_F16] {
                check(rule, (Format::E4M3, Format::E5M2), 32, kinds, &mut random);
            }
        }
    }

    /// All products at the most that cut values may be, so that 32-bit partial sums would overflow if bursts were longer.
    #[test]
    fn the_largest_sums() {
        for (format, k) in [(Format::BF16, 16), (Format::F16, 16), (Format::TF32, 8), (Format::E4M3, 32)] {
            // The largest significand at exponent 0.
            let one = format.encode(Exact::integer(1), super::super::format::Rounding::Nearest) as u32;
            let two = format.encode(Exact::integer(2), super::super::format::Rounding::Nearest) as u32;
            let top = if format == Format::TF32 { two - (1 << 13) } else { two - 1 };
            assert!(top > one);
            let mut d = vec![1.999_999_9f32.to_bits(); 8];
            let expected = fused(Rule::F32, (format, format), &vec![top; k], &vec![top; k], d[0], 0);
            multiply(
                &Panel::rows(format, k, vec![top; k]),
                &Panel::columns(format, k, vec![top; 8 * k]),
                Rule::F32,
                &mut d,
                true,
            );
            assert_eq!(d, vec![expected; 8]);
        }
    }

    #[test]
    fn integer_products() {
        let signs = Arithmetic::Integer { a_signed: true, b_signed: false, saturate: false };
        let (a, b) = (vec![0xff, 2, 3, 0x80], vec![0xff, 1, 1, 1]);
        let mut d = vec![10, 20, 30, 40];
        signs.multiply(2, a.clone(), b.clone(), &mut d, true);
        let expected = [10 - 255 + 2, 20 - 1 + 2, 30 + 3 * 255 - 128, 40 + 3 - 128];
        assert_eq!(d, expected.map(|x: i32| x as u32));
        let mut d = vec![i32::MAX as u32];
        Arithmetic::Integer { a_signed: false, b_signed: false, saturate: true }.multiply(
            2,
            vec![1, 1],
            vec![1, 1],
            &mut d,
            true,
        );
        assert_eq!(d, [i32::MAX as u32]);
    }

    /// Columns that do not fill a chunk, scales of lines, and a C that is not read.
    #[test]
    fn odd_widths_scales_and_no_c() {
        let one = u32::from(half::bf16::ONE.to_bits());
        let mut a = Panel::rows(Format::BF16, 16, vec![one; 3 * 16]);
        let mut b = Panel::columns(Format::BF16, 16, vec![one; 5 * 16]);
        a.scale(1, 3);
        b.scale(4, -2);
        let mut d = vec![f32::NAN.to_bits(); 15];
        multiply(&a, &b, Rule::F32, &mut d, false);
        for (i, d) in d.iter().enumerate() {
            let scale = if i / 5 == 1 { 8.0 } else { 1.0 } * if i % 5 == 4 { 0.25 } else { 1.0 };
            assert_eq!(f32::from_bits(*d), 16.0 * scale, "{i}");
        }
        // Through the definition as well: an infinite addend, and a scale that leads near the subnormals.
        a.scale(0, -130);
        let mut d = vec![0; 15];
        multiply(&a, &b, Rule::F32, &mut d, true);
        assert_eq!(f32::from_bits(d[0]), 2f32.powi(-126));
    }
}
