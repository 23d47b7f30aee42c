//! What a GPU answered to small cases, as a file, and how near another machine's answers must come.
//!
//! The simulator multiplies as the hardware does, bit by bit, so that scores and maxima are the same. Its `ex2.approx` is
//! another one: the hardware's table is not published, and PTX documents 2 units in the last place of f32. What that
//! explains of a difference in O:
//!
//! - sums of f32 differ by some 2^-22 of themselves, so that O before its rounding is almost the same, and after it the
//!   same or the neighbour: one unit in the last place;
//! - now and then a probability lies so near the middle of two 16-bit numbers that it is rounded the other way (of 2^14 in
//!   bf16 about one, of 2^11 in f16), which moves O by that unit of the probability times its value. [`FLIPS`] of the
//!   largest possible ones are allowed in a row.
//!
//! So an element may differ by `ulp(o) + FLIPS * ulp(1) * max_j p_j |v_j|`, and an LSE by [`LSE_BOUND`].
//!
//! A file has at most [`ROWS`] rows of a case, spread evenly: `CASE o` in the case's own format and `CASE lse` in f32. Its
//! metadata has the device, and a hash of each case's inputs, so that other inputs are not taken for other answers.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::case::Case;
use crate::dense::Dense;
use crate::input::Inputs;
use crate::precision::Precision;
use crate::probe::record::fnv;
use crate::sample::SampleError;

/// Rows of a case in a file, at most.
pub const ROWS: usize = 160;
/// Probabilities of a row that may be rounded the other way.
pub const FLIPS: f64 = 2.0;
/// Largest accepted difference of two LSE: a unit in the last place of the largest, above 64, that occur.
pub const LSE_BOUND: f32 = 1e-5;

/// Some rows of an answer, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which rows, counted in the order (batch, head, query), [`ROWS`] of them in a file.
    pub rows: Vec<usize>,
    /// Their elements of O.
    pub o: Vec<u16>,
    /// Their LSE, when it was asked for.
    pub lse: Option<Vec<u32>>,
}

/// The answers of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// What answered.
    pub device: String,
    /// Answer and hash of the inputs, by the cases' lines.
    pub cases: BTreeMap<String, (Answer, String)>,
}

/// How near two answers are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Elements of O.
    pub elements: usize,
    /// Elements with the same bits.
    pub equal: usize,
    /// Largest difference as a part of what is accepted.
    pub worst: f64,
    /// Largest difference of two LSE.
    pub lse: f32,
}

/// Why two answers do not agree.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Disagreement {
    /// The file lacks the case.
    #[error("the recording has no such case; it was recorded of another list")]
    Unrecorded,
    /// The file has it of other inputs.
    #[error("the recording was made of other inputs")]
    Inputs,
    /// The file has other rows of it.
    #[error("the recording has {recorded} words of {what} where the case has {found}")]
    Length {
        /// `o` or `lse`.
        what: &'static str,
        /// Words in the file.
        recorded: usize,
        /// Words of the case.
        found: usize,
    },
    /// A number. Its place is (batch, query, head, column).
    #[error("{what}{at:?} is {found}, recorded {recorded}: they differ by more than {bound:.1e}")]
    Number {
        /// `o` or `lse`.
        what: &'static str,
        /// Where.
        at: (usize, usize, usize, usize),
        /// The number.
        found: f32,
        /// The recorded number.
        recorded: f32,
        /// The largest difference that would have been accepted.
        bound: f64,
    },
}

impl Answer {
    /// At most so many rows of an answer.
    pub fn of(case: &Case, o: &Dense<f32>, lse: Option<&Dense<f32>>, most: usize) -> Self {
        let width = o.dims.width;
        let rows = rows(case, most);
        let bits = |row: &usize| o.data[row * width..][..width].iter().map(|x| case.precision.to_bits(*x));
        Answer {
            o: rows.iter().flat_map(bits).collect(),
            lse: lse.map(|lse| rows.iter().map(|row| lse.data[*row].to_bits()).collect()),
            rows,
        }
    }

    /// Compares an answer with a recorded one of the same case.
    ///
    /// # Errors
    /// A number differs by more than the module's documentation explains, or the recording has other rows.
    pub fn compare(&self, case: &Case, inputs: &Inputs, recorded: &Answer) -> Result<Agreement, Disagreement> {
        let words = |answer: &Answer| answer.lse.as_ref().map_or(0, Vec::len);
        let lengths = [("o", self.o.len(), recorded.o.len()), ("lse", words(self), words(recorded))];
        if let Some((what, found, recorded)) = lengths.into_iter().find(|(_, a, b)| a != b) {
            return Err(Disagreement::Length { what, recorded, found });
        }
        let mut agreement = Agreement { elements: self.o.len(), ..Agreement::default() };
        let width = case.head_dim_v;
        for (i, row) in self.rows.iter().enumerate() {
            let (head, query) = (row / case.seqlen_q, row % case.seqlen_q);
            let place = (head / case.heads, head % case.heads, query);
            let (mine, theirs) = (&self.o[i * width..][..width], &recorded.o[i * width..][..width]);
            compare_o(case, inputs, place, (mine, theirs), &mut agreement)?;
            if let (Some(mine), Some(theirs)) = (&self.lse, &recorded.lse) {
                compare_lse(place, f32::from_bits(mine[i]), f32::from_bits(theirs[i]), &mut agreement)?;
            }
        }
        Ok(agreement)
    }
}

fn compare_o(
    case: &Case,
    inputs: &Inputs,
    (batch, head, query): (usize, usize, usize),
    (mine, theirs): (&[u16], &[u16]),
    agreement: &mut Agreement,
) -> Result<(), Disagreement> {
    let equal = mine.iter().zip(theirs).filter(|(a, b)| a == b).count();
    agreement.equal += equal;
    if equal == mine.len() {
        return Ok(());
    }
    let largest = inputs.attention(case).largest_terms(batch, head, query);
    for (column, (a, b)) in mine.iter().zip(theirs).enumerate().filter(|(_, (a, b))| a != b) {
        let (found, recorded) = (case.precision.from_bits(*a), case.precision.from_bits(*b));
        let bound =
            ulp(case.precision, found.abs().max(recorded.abs())) + FLIPS * ulp(case.precision, 1.0) * largest[column];
        // False of a NaN, which never agrees with anything but the same bits.
        if (f64::from(found) - f64::from(recorded)).abs() <= bound {
            agreement.worst = agreement.worst.max((f64::from(found) - f64::from(recorded)).abs() / bound);
        } else {
            return Err(Disagreement::Number { what: "o", at: (batch, query, head, column), found, recorded, bound });
        }
    }
    Ok(())
}

fn compare_lse(
    (batch, head, query): (usize, usize, usize),
    found: f32,
    recorded: f32,
    agreement: &mut Agreement,
) -> Result<(), Disagreement> {
    let difference = if found == recorded { 0.0 } else { (found - recorded).abs() };
    if difference <= LSE_BOUND {
        agreement.lse = agreement.lse.max(difference);
        return Ok(());
    }
    let bound = LSE_BOUND.into();
    Err(Disagreement::Number { what: "lse", at: (batch, query, head, 0), found, recorded, bound })
}

/// From a magnitude to the next number of the format.
fn ulp(precision: Precision, x: f32) -> f64 {
    let bits = precision.to_bits(x);
    f64::from(precision.from_bits(bits + 1)) - f64::from(precision.from_bits(bits))
}

impl Agreement {
    /// Takes in another case's.
    pub fn add(&mut self, other: &Agreement) {
        self.elements += other.elements;
        self.equal += other.equal;
        self.worst = self.worst.max(other.worst);
        self.lse = self.lse.max(other.lse);
    }
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Agreement { elements, equal, worst, lse } = self;
        let share = 100.0 * *equal as f64 / (*elements).max(1) as f64;
        write!(f, "{share:.3} % of {elements} elements have the same bits, the others differ by up to {worst:.2} ")?;
        write!(f, "of what ex2.approx explains; LSE by {lse:.1e}")
    }
}

/// A hash of a case's inputs.
fn hash(inputs: &Inputs) -> String {
    let numbers = [&inputs.q, &inputs.k, &inputs.v].into_iter().flat_map(|tensor| &tensor.data);
    format!("{:016x}", fnv(numbers.flat_map(|x| x.to_le_bytes())))
}

impl Recording {
    /// Notes an answer.
    pub fn insert(&mut self, case: &Case, inputs: &Inputs, answer: Answer) {
        self.cases.insert(case.to_string(), (answer, hash(inputs)));
    }

    /// Compares an answer with the recorded one.
    ///
    /// # Errors
    /// They differ, or the recording lacks the case.
    pub fn compare(&self, case: &Case, inputs: &Inputs, answer: &Answer) -> Result<Agreement, Disagreement> {
        let (recorded, of) = self.cases.get(&case.to_string()).ok_or(Disagreement::Unrecorded)?;
        if *of != hash(inputs) {
            return Err(Disagreement::Inputs);
        }
        answer.compare(case, inputs, recorded)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or is no recording.
    pub fn load(path: &Path) -> Result<Self, SampleError> {
        let bytes = std::fs::read(path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let about = header.metadata().clone().unwrap_or_default();
        let file = SafeTensors::deserialize(&bytes)?;
        let mut recording =
            Recording { device: about.get("device").cloned().unwrap_or_default(), ..Default::default() };
        for (name, o) in file.iter() {
            let Some((line, case)) = name.strip_suffix(" o").and_then(|line| Some((line, line.parse::<Case>().ok()?)))
            else {
                continue;
            };
            if o.dtype() != dtype(&case) {
                return Err(SampleError::DType { name: "o", got: o.dtype(), allowed: format!("{:?}", dtype(&case)) });
            }
            let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
            let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            let lse = file.tensor(&format!("{line} lse")).ok();
            let answer = Answer {
                rows: rows(&case, ROWS),
                o: o.data().chunks_exact(2).map(half).collect(),
                lse: lse.map(|lse| lse.data().chunks_exact(4).map(word).collect()),
            };
            recording.cases.insert(line.to_owned(), (answer, about.get(line).cloned().unwrap_or_default()));
        }
        Ok(recording)
    }

    /// Writes a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), SampleError> {
        let mut tensors = Vec::new();
        let mut about = HashMap::from([("device".to_owned(), self.device.clone())]);
        for (line, (answer, inputs)) in &self.cases {
            let bytes = answer.o.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
            let n = answer.rows.len();
            let o = if line.starts_with("bf16") { Dtype::BF16 } else { Dtype::F16 };
            tensors.push((format!("{line} o"), o, vec![n, answer.o.len() / n.max(1)], bytes));
            if let Some(lse) = &answer.lse {
                let bytes = lse.iter().flat_map(|x| x.to_le_bytes()).collect();
                tensors.push((format!("{line} lse"), Dtype::F32, vec![n], bytes));
            }
            about.insert(line.clone(), inputs.clone());
        }
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        std::fs::write(path, safetensors::serialize(views, Some(about))?)?;
        Ok(())
    }
}

fn dtype(case: &Case) -> Dtype {
    match case.precision {
        Precision::Bf16 => Dtype::BF16,
        Precision::F16 => Dtype::F16,
    }
}

/// At most so many rows of a case, spread evenly from the first to the last.
fn rows(case: &Case, most: usize) -> Vec<usize> {
    let all = case.batch * case.heads * case.seqlen_q;
    let kept = all.min(most);
    (0..kept).map(|i| i * (all - 1) / (kept - 1).max(1)).collect()
}

#[cfg(test)]
mod tests;
