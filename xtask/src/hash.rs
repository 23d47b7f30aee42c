//! SHA-256: checksums of files, and keys of cached results over everything that the result depends on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// A key under construction.
pub struct Key(Sha256);

impl Key {
    /// A key for results of the kind `kind`.
    pub fn new(kind: &str) -> Key {
        Key(Sha256::new()).add(kind)
    }

    /// Adds something that the result depends on.
    #[must_use]
    pub fn add(mut self, part: impl AsRef<[u8]>) -> Key {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        self.0.update((part.as_ref().len() as u64).to_le_bytes());
        self.0.update(part.as_ref());
        self
    }

    /// Adds every file below `dir` for whose path in there `wanted` says so, by that path and its content.
    pub fn tree(mut self, dir: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Key> {
        for path in files(dir)? {
            let name = path.strip_prefix(dir).unwrap_or(&path);
            if wanted(name) {
                let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                self = self.add(name.to_string_lossy().as_bytes()).add(content);
            }
        }
        Ok(self)
    }

    /// The key in hexadecimal.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// SHA-256 of `bytes` in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every file below `dir`, sorted.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut queue = vec![dir.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() { queue.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_sha_256() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn keys_keep_their_parts_apart() {
        let key = |parts: &[&str]| parts.iter().fold(Key::new("t"), |key, part| key.add(part)).finish();
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }
}
