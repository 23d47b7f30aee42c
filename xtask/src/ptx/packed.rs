//! Files of packed kernels: those of a kind in one zstd frame, which say most of each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::hash::sha256;

/// Extension of packed files.
pub const PACKED: &str = "zst";

/// One form of a kernel: a part of what a packed file holds. Nothing of it depends on how that was packed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// File beside the manifest.
    pub file: String,
    /// First byte in what the file holds.
    pub at: usize,
    /// How many.
    pub bytes: usize,
    /// Their checksum.
    pub sha256: String,
}

/// What the files beside a manifest hold, unpacked, by their names.
pub type Files = BTreeMap<String, Vec<u8>>;

impl Part {
    /// Adds a kernel's code to a file.
    pub fn add(files: &mut Files, file: String, code: &[u8]) -> Part {
        let content = files.entry(file.clone()).or_default();
        let part = Part { file, at: content.len(), bytes: code.len(), sha256: sha256(code) };
        content.extend_from_slice(code);
        part
    }

    /// The code, if the files are those of the manifest.
    pub fn of<'a>(&self, files: &'a Files) -> Option<&'a [u8]> {
        let code = files.get(&self.file)?.get(self.at..)?.get(..self.bytes)?;
        (sha256(code) == self.sha256).then_some(code)
    }
}

/// The kernels that share a file: those of a name but for the element type, as one says most of the other. More in a file would be
/// smaller still, and a program's first launch unpacks all that comes before its kernel.
pub fn family(name: &str) -> String {
    name.split('_').filter(|word| !["bf16", "f16"].contains(word)).collect::<Vec<_>>().join("_")
}

/// Packs a file: smallest, as it is done once and unpacked often.
pub fn pack(content: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(content, *zstd::compression_level_range().end()).context("cannot pack kernels")
}

/// Reads what the files beside a manifest hold.
pub fn read_all(dir: &Path) -> Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == PACKED) {
            let packed = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let content =
                zstd::stream::decode_all(packed.as_slice()).with_context(|| format!("in {}", path.display()))?;
            files.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), content);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_share_a_file_and_find_their_parts() {
        let names = ["serve_sm90_bf16_d64", "serve_sm90_f16_d64", "serve_sm90_e4m3_d64", "append_f16", "schedule"];
        assert_eq!(
            names.map(family),
            ["serve_sm90_d64", "serve_sm90_d64", "serve_sm90_e4m3_d64", "append", "schedule"]
        );
        let mut files = Files::new();
        let [a, b] = [&b"one"[..], b"another"].map(|code| Part::add(&mut files, "twins".to_owned(), code));
        assert_eq!((a.of(&files), b.of(&files)), (Some(&b"one"[..]), Some(&b"another"[..])));
        assert_eq!((b.at, Part { at: 2, ..b }.of(&files)), (3, None));
    }
}
