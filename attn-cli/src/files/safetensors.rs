//! Safetensors files.

use std::collections::HashMap;

use attn_tests::precision::Precision;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Array, FileError, NAMES, Values};

/// The tensors of a file and what its metadata says.
#[derive(Debug)]
pub struct Contents {
    /// Those whose names mean something.
    pub tensors: Vec<(String, Array)>,
    /// `mask`: none or causal.
    pub causal: Option<bool>,
    /// `scale`: a number or 1/sqrt(N).
    pub scale: Option<f32>,
}

/// Reads a file's bytes.
pub fn read(bytes: &[u8]) -> Result<Contents, FileError> {
    let incomplete =
        |error: safetensors::SafeTensorError| FileError::Format { format: "safetensors", reason: error.to_string() };
    let file = SafeTensors::deserialize(bytes).map_err(incomplete)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(incomplete)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        if NAMES.contains(&name.as_str()) {
            let values = values(&name, &view)?;
            tensors.push((name, Array { shape: view.shape().to_vec(), values }));
        }
    }
    Ok(Contents { tensors, causal: causal(&metadata)?, scale: scale(&metadata)? })
}

fn values(name: &str, view: &TensorView<'_>) -> Result<Values, FileError> {
    let bytes = view.data();
    let halves = || bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
    Ok(match view.dtype() {
        Dtype::BF16 => Values::Half(Precision::Bf16, halves()),
        Dtype::F16 => Values::Half(Precision::F16, halves()),
        Dtype::F8_E4M3 => Values::Float8(bytes.to_vec()),
        Dtype::F32 => Values::Float(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::F64 => Values::Float(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()),
        Dtype::I32 => Values::Integer(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()),
        Dtype::I64 => Values::Integer(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        found => {
            let allowed = "BF16, F16, F8_E4M3, F32, F64, I32 or I64".to_owned();
            return Err(FileError::Type { name: name.to_owned(), found: format!("{found:?}"), allowed });
        }
    })
}

fn causal(metadata: &HashMap<String, String>) -> Result<Option<bool>, FileError> {
    match metadata.get("mask").map(String::as_str) {
        None => Ok(None),
        Some("none") => Ok(Some(false)),
        Some("causal") => Ok(Some(true)),
        Some(found) => Err(FileError::Metadata { key: "mask", found: found.to_owned(), allowed: "none or causal" }),
    }
}

fn scale(metadata: &HashMap<String, String>) -> Result<Option<f32>, FileError> {
    let Some(text) = metadata.get("scale") else { return Ok(None) };
    let root = text.strip_prefix("1/sqrt(").and_then(|rest| rest.strip_suffix(')'));
    let value = match root {
        Some(n) => n.trim().parse().map(|n: f32| 1.0 / n.sqrt()),
        None => text.trim().parse(),
    };
    let wrong = || FileError::Metadata { key: "scale", found: text.clone(), allowed: "a positive number or 1/sqrt(N)" };
    value.ok().filter(|x| x.is_finite() && *x > 0.0).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, Dtype, &[usize], &[u8])], metadata: &[(&str, &str)]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            (*name, TensorView::new(*dtype, shape.to_vec(), data).expect("consistent"))
        });
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        safetensors::serialize(views, Some(metadata)).expect("serializes")
    }

    #[test]
    fn tensors_and_metadata_are_read() {
        let tensors: &[(&str, Dtype, &[usize], &[u8])] = &[
            ("q", Dtype::BF16, &[1, 2], &[0x80, 0x3f, 0, 0x40]),
            ("sinks", Dtype::F32, &[1], &[0, 0, 0x80, 0x3f]),
            ("cu_seqlens", Dtype::I64, &[1], &[9, 0, 0, 0, 0, 0, 0, 0]),
            ("other", Dtype::U8, &[1], &[0]),
        ];
        let contents = read(&file(tensors, &[("mask", "causal"), ("scale", "1/sqrt(64)")])).expect("valid");
        assert_eq!((contents.tensors.len(), contents.causal, contents.scale), (3, Some(true), Some(0.125)));
        let q = &contents.tensors.iter().find(|(name, _)| name == "q").expect("there").1;
        let values = Values::Half(Precision::Bf16, vec![0x3f80, 0x4000]);
        assert_eq!(*q, Array { shape: vec![1, 2], values });
    }

    #[test]
    fn damage_is_named() {
        let whole = file(&[("q", Dtype::F32, &[2], &[0; 8])], &[]);
        for cut in 0..whole.len() {
            let found = read(&whole[..cut]).expect_err("cut short");
            assert!(matches!(found, FileError::Format { .. }), "{cut}: {found}");
        }
        let refused = |bytes: &[u8]| read(bytes).expect_err("not allowed").to_string();
        assert!(refused(&file(&[("q", Dtype::U8, &[1], &[0])], &[])).contains("tensor q holds U8; allowed: BF16"));
        assert!(refused(&file(&[], &[("mask", "lower")])).contains("metadata mask is \"lower\""));
        assert!(refused(&file(&[], &[("scale", "-1")])).contains("metadata scale is \"-1\""));
    }
}
