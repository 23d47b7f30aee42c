//! When an answer is right.
//!
//! An output passes when its largest error is at most
//! `2 * max|lowp - ref| + 2 * max|(ref + 0.3) - 0.3 - ref|`: twice what a naive program of the same precision errs on the
//! same inputs (three times where scores are capped), plus twice what the format loses in one addition. LSE is compared directly. Where NaN and infinities
//! stand is compared before any size of error, since a NaN compares false with every bound.

use std::fmt;

use crate::dense::Dense;
use crate::oracle::Answer;
use crate::precision::Precision;

/// Largest accepted error of an LSE, natural-log units.
pub const LSE_BOUND: f64 = 1e-3;

/// How much more than a naive program an answer may err.
pub const FACTOR: f64 = 2.0;

/// The same where scores go through a softcap, which a kernel does not compute as the naive program does.
pub const FACTOR_SOFTCAP: f64 = 3.0;

/// How much of a score of `head_dim` products of 8-bit floats Hopper's tensor cores may lose: they keep 13 bits behind the point of the
/// greatest term, and add 32 products at a time to the sum so far.
///
/// A product has 8 bits. So up to 128 of them, of one sign, fit almost whole under their sum, and what is lost are 8 times a bit. Of more,
/// each loses its last ones: 15 such bits were seen with 256 products of nearly equal size, of which twice as many are allowed.
pub fn lse_part_float8(head_dim: usize) -> f64 {
    if head_dim <= 128 { 8.0 / 8192.0 } else { 32.0 / 8192.0 }
}

/// What a passing comparison measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Largest error of an output element.
    pub error: f64,
    /// What it was allowed to be.
    pub bound: f64,
    /// Largest error of an LSE, when there was one to compare.
    pub lse_error: Option<f64>,
}

/// Why an answer is wrong. Positions are (batch, seq, head, column).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// A NaN or infinity where another kind of value belongs, or the reverse.
    #[error("{what}{at:?} is {got}, expected {want}: {count} elements differ in kind")]
    Kind {
        /// `o` or `lse`.
        what: &'static str,
        /// First such element.
        at: (usize, usize, usize, usize),
        /// What the kernel gave there.
        got: f64,
        /// What the reference has there.
        want: f64,
        /// How many there are.
        count: usize,
    },
    /// The error of an element exceeds the bound.
    #[error(
        "{what}{at:?} is {got}, expected {want}: error {error:.3e} is over the bound {bound:.3e} ({count} elements are)"
    )]
    Size {
        /// `o` or `lse`.
        what: &'static str,
        /// The worst element.
        at: (usize, usize, usize, usize),
        /// What the kernel gave there.
        got: f64,
        /// What the reference has there.
        want: f64,
        /// Their difference.
        error: f64,
        /// What it was allowed to be.
        bound: f64,
        /// Elements over the bound.
        count: usize,
    },
    /// The naive program's answer is not finite where the reference is, so that it says nothing about error.
    #[error("the naive {precision} answer overflows on these inputs and gives no bound")]
    NoBound {
        /// The format that overflowed.
        precision: Precision,
    },
}

impl Mismatch {
    /// The same with its position replaced: for comparisons of rows that were gathered from elsewhere.
    pub fn moved(mut self, to: impl FnOnce((usize, usize, usize, usize)) -> (usize, usize, usize, usize)) -> Self {
        if let Mismatch::Kind { at, .. } | Mismatch::Size { at, .. } = &mut self {
            *at = to(*at);
        }
        self
    }
}

/// The error that an output in `precision` may have, `factor` times the naive program's and the format's own.
pub fn bound(reference: &[f64], lowp: &[f32], precision: Precision, factor: f64) -> Result<f64, Mismatch> {
    let (mut naive, mut rounding) = (0f64, 0f64);
    for (r, l) in reference.iter().zip(lowp).filter(|(r, _)| r.is_finite()) {
        if !l.is_finite() {
            return Err(Mismatch::NoBound { precision });
        }
        naive = naive.max((f64::from(*l) - r).abs());
        let rounded = precision.round(*r as f32);
        let there_and_back = precision.round(precision.round(rounded + 0.3) - 0.3);
        rounding = rounding.max(f64::from((there_and_back - rounded).abs()));
    }
    Ok(factor * naive + 2.0 * rounding)
}

/// Compares a kernel's answer with the reference; `lse` is `None` when the kernel was not asked for it.
pub fn check(
    o: &Dense<f32>,
    lse: Option<&Dense<f32>>,
    reference: &Answer<f64>,
    lowp: &Answer<f32>,
    precision: Precision,
) -> Result<Report, Mismatch> {
    check_within(Tolerance { factor: FACTOR, lse: 0.0 }, o, lse, reference, lowp, precision)
}

/// How far an answer may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// How much more an output may err than the naive program.
    pub factor: f64,
    /// Largest error of an LSE, as a part of the largest LSE there is, where that is more than [`LSE_BOUND`].
    pub lse: f64,
}

/// The same with another tolerance.
pub fn check_within(
    Tolerance { factor, lse: lse_part }: Tolerance,
    o: &Dense<f32>,
    lse: Option<&Dense<f32>>,
    reference: &Answer<f64>,
    lowp: &Answer<f32>,
    precision: Precision,
) -> Result<Report, Mismatch> {
    let bound = bound(&reference.o.data, &lowp.o.data, precision, factor)?;
    let error = worst("o", o, &reference.o, bound)?;
    let largest =
        reference.lse.data.iter().filter(|lse| lse.is_finite()).fold(0.0, |most: f64, lse| most.max(lse.abs()));
    let lse_bound = LSE_BOUND.max(lse_part * largest);
    let lse_error = lse.map(|lse| worst("lse", lse, &reference.lse, lse_bound)).transpose()?;
    Ok(Report { error, bound, lse_error })
}

/// Largest error of `got`, or the reason why it is wrong.
pub fn worst(what: &'static str, got: &Dense<f32>, want: &Dense<f64>, bound: f64) -> Result<f64, Mismatch> {
    assert_eq!(got.dims, want.dims, "{what} and its reference have the same shape");
    let pairs = || got.data.iter().map(|g| f64::from(*g)).zip(want.data.iter().copied()).enumerate();
    let mut differing = pairs().filter(|(_, (g, w))| kind(*g) != kind(*w));
    if let Some((i, (got_value, want_value))) = differing.next() {
        let (at, count) = (got.position(i), 1 + differing.count());
        return Err(Mismatch::Kind { what, at, got: got_value, want: want_value, count });
    }
    let mut worst = (0.0, 0, 0.0, 0.0);
    let mut count = 0;
    for (i, (g, w)) in pairs().filter(|(_, (_, w))| w.is_finite()) {
        let error = (g - w).abs();
        count += usize::from(error > bound);
        if error > worst.0 {
            worst = (error, i, g, w);
        }
    }
    let (error, i, got_value, want_value) = worst;
    match count {
        0 => Ok(error),
        _ => Err(Mismatch::Size { what, at: got.position(i), got: got_value, want: want_value, error, bound, count }),
    }
}

/// Values that may be compared by difference are of one kind; NaN and each infinity are kinds of their own.
fn kind(x: f64) -> u8 {
    match x {
        x if x.is_nan() => 1,
        f64::INFINITY => 2,
        f64::NEG_INFINITY => 3,
        _ => 0,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max error {:.2e} of {:.2e} allowed", self.error, self.bound)?;
        match self.lse_error {
            Some(lse) => write!(f, ", LSE {lse:.1e} of {LSE_BOUND:.0e}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
