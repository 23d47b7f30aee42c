//! Results of probes as a safetensors file, and their comparison.
//!
//! A tensor for each probe, by its name: its outputs as u32 words, in the order of its parameters. Outputs of more than [`LONG`] words are
//! recorded as a hash (two words) of every 32. No words at all ([`ILLEGAL`]) say that the device refuses the instruction.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Agreement, Probe};
use crate::sample::SampleError;

/// Words from which on a hash stands for 32 of them.
pub const LONG: usize = 2048;
/// What is recorded of an instruction that the device calls illegal with these operands.
pub const ILLEGAL: &[u32] = &[];
/// Words that share a hash.
const CHUNK: usize = 32;

/// Results by the names of their probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording(pub BTreeMap<String, Vec<u32>>);

/// FNV-1a.
pub fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What is recorded of a probe's output.
pub fn compact(agreement: Agreement, words: &[u32]) -> Vec<u32> {
    if words.len() <= LONG || agreement != Agreement::Bits {
        return words.to_vec();
    }
    let hash = |chunk: &[u32]| fnv(chunk.iter().flat_map(|word| word.to_le_bytes()));
    words.chunks(CHUNK).map(hash).flat_map(|hash| [hash as u32, (hash >> 32) as u32]).collect()
}

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or is no safetensors file of 32-bit words.
    pub fn load(path: &Path) -> Result<Self, SampleError> {
        Self::parse(&std::fs::read(path)?)
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// They are no safetensors file of 32-bit words.
    pub fn parse(bytes: &[u8]) -> Result<Self, SampleError> {
        let mut results = BTreeMap::new();
        for (name, tensor) in SafeTensors::deserialize(bytes)?.iter() {
            if tensor.dtype() != Dtype::U32 {
                return Err(SampleError::DType { name: "of a recording", got: tensor.dtype(), allowed: "U32".into() });
            }
            let words = tensor.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            results.insert(name.to_owned(), words);
        }
        Ok(Recording(results))
    }

    /// Writes a file, with `about` as its metadata.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path, about: &[(&str, String)]) -> Result<(), SampleError> {
        let bytes: Vec<(&str, Vec<u8>)> = self
            .0
            .iter()
            .map(|(name, words)| (name.as_str(), words.iter().flat_map(|w| w.to_le_bytes()).collect()))
            .collect();
        let views = bytes
            .iter()
            .map(|(name, data)| Ok((*name, TensorView::new(Dtype::U32, vec![data.len() / 4], data)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let about = about.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        std::fs::write(path, safetensors::serialize(views, Some(about))?)?;
        Ok(())
    }
}

/// How two runs of a probe differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Different numbers of words.
    Length {
        /// Words of the recording.
        recorded: usize,
        /// Words of this run.
        found: usize,
    },
    /// A word.
    Word {
        /// Its place in the output.
        at: usize,
        /// Words that differ, this one included.
        of: usize,
        /// In the recording.
        recorded: u32,
        /// In this run.
        found: u32,
    },
    /// A run of 32 words that is recorded as a hash.
    Chunk {
        /// Place of its first word in the output.
        at: usize,
        /// Chunks that differ, this one included.
        of: usize,
    },
}

/// Compares a probe's output with what is recorded of it. An approximation gives the largest distance found.
pub fn compare(agreement: Agreement, recorded: &[u32], words: &[u32]) -> Result<u32, Difference> {
    let found = compact(agreement, words);
    if found.len() != recorded.len() {
        return Err(Difference::Length { recorded: recorded.len(), found: found.len() });
    }
    if found.len() != words.len() {
        let differ: Vec<usize> =
            (0..found.len() / 2).filter(|i| found[2 * i..2 * i + 2] != recorded[2 * i..2 * i + 2]).collect();
        return differ.first().map_or(Ok(0), |first| Err(Difference::Chunk { at: CHUNK * first, of: differ.len() }));
    }
    let (mut worst, mut first, mut count) = (0, None, 0);
    for (at, (r, f)) in recorded.iter().zip(&found).enumerate() {
        let (distance, limit) = distance(agreement, *r, *f);
        if distance > limit {
            first = first.or(Some((at, *r, *f)));
            count += 1;
        } else {
            worst = worst.max(distance);
        }
    }
    first.map_or(Ok(worst), |(at, recorded, found)| Err(Difference::Word { at, of: count, recorded, found }))
}

/// Distance of two words and what is allowed.
fn distance(agreement: Agreement, a: u32, b: u32) -> (u32, u32) {
    match agreement {
        Agreement::Bits => (u32::from(a != b), 0),
        Agreement::Ulps(limit, absolute) => {
            let (x, y) = (f32::from_bits(a), f32::from_bits(b));
            if (x - y).abs() <= absolute { (0, limit) } else { (ulps(a, b, x.is_nan(), y.is_nan(), 31), limit) }
        }
        Agreement::HalfUlps(limit, precision) => {
            let half = |a: u32, b: u32| {
                let nan = |bits: u32| precision.from_bits(bits as u16).is_nan();
                ulps(a, b, nan(a), nan(b), 15)
            };
            (half(a & 0xffff, b & 0xffff).max(half(a >> 16, b >> 16)), limit)
        }
    }
}

/// Numbers between two of sign and magnitude; `u32::MAX` when one alone is a NaN.
fn ulps(a: u32, b: u32, a_nan: bool, b_nan: bool, sign: u32) -> u32 {
    let ordered = |x: u32| if x >> sign & 1 == 1 { -i64::from(x & ((1 << sign) - 1)) } else { i64::from(x) };
    match (a_nan, b_nan) {
        (true, true) => 0,
        (false, false) => u32::try_from((ordered(a) - ordered(b)).abs()).unwrap_or(u32::MAX),
        _ => u32::MAX,
    }
}

/// The inputs that made a word of a scalar probe's output, for a message.
pub fn inputs(probe: &Probe, at: usize) -> String {
    let words: Vec<String> = probe
        .args
        .iter()
        .filter_map(|arg| match arg {
            super::Arg::Input(words) => words.get(at).map(|word| format!("{word:#010x}")),
            _ => None,
        })
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Precision;

    #[test]
    fn approximations_are_compared_by_distance_and_all_else_by_bits() {
        let bits = |x: f32| x.to_bits();
        assert_eq!(compare(Agreement::Bits, &[1, 2], &[1, 2]), Ok(0));
        let wrong = Difference::Word { at: 1, of: 1, recorded: 2, found: 3 };
        assert_eq!(compare(Agreement::Bits, &[1, 2], &[1, 3]), Err(wrong));
        assert_eq!(compare(Agreement::Ulps(2, 0.0), &[bits(1.0)], &[bits(1.0) + 2]), Ok(2));
        assert!(compare(Agreement::Ulps(2, 0.0), &[bits(1.0)], &[bits(1.0) + 3]).is_err());
        assert_eq!(compare(Agreement::Ulps(0, 0.0), &[bits(0.0)], &[bits(-0.0)]), Ok(0));
        assert_eq!(compare(Agreement::Ulps(0, 0.0), &[0x7fc0_0000], &[0x7fff_ffff]), Ok(0));
        assert!(compare(Agreement::Ulps(9, 0.0), &[bits(f32::NAN)], &[bits(1.0)]).is_err());
        let half = Agreement::HalfUlps(1, Precision::F16);
        assert_eq!(compare(half, &[0x3c00_3c00], &[0x3c01_3bff]), Ok(1));
        assert!(compare(half, &[0x3c00_3c00], &[0x3c02_3c00]).is_err());
    }

    #[test]
    fn a_long_output_is_recorded_by_its_hashes() {
        let mut words: Vec<u32> = (0..2 * LONG as u32).collect();
        let recorded = compact(Agreement::Bits, &words);
        assert_eq!(recorded.len(), 2 * LONG / CHUNK * 2);
        assert_eq!(compare(Agreement::Bits, &recorded, &words), Ok(0));
        words[100] ^= 1;
        assert_eq!(compare(Agreement::Bits, &recorded, &words), Err(Difference::Chunk { at: 96, of: 1 }));
    }

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let recording = Recording([("add".to_owned(), vec![1, u32::MAX]), ("b".to_owned(), vec![7])].into());
        let path = std::env::temp_dir().join(format!("attn-recording-{}.safetensors", std::process::id()));
        recording.save(&path, &[("device", "none".into())]).expect("writable");
        assert_eq!(Recording::load(&path).expect("readable"), recording);
        std::fs::remove_file(&path).expect("removable");
    }
}
