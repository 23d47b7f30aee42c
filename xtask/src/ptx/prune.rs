//! Keeping `target/ptx-cache` small: what was not used for longest goes first.

use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use anyhow::{Context, Result};

/// Above this many bytes the cache is cut ...
const LIMIT: u64 = 1_500_000_000;
/// ... down to this many.
const KEEP: u64 = 700_000_000;

/// One cached result.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    used: SystemTime,
    path: PathBuf,
    bytes: u64,
}

/// Removes old results from `cache` when there are too many bytes of them.
pub fn prune(cache: &Path) -> Result<()> {
    for path in surplus(entries(cache)?, LIMIT, KEEP) {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        there(removed).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Notes that the result described by `report` was used now.
pub fn touch(report: &Path) {
    // Only the order of removal depends on it.
    let _ = fs::File::options().append(true).open(report).and_then(|file| file.set_modified(SystemTime::now()));
}

/// The files `ir-*` and the folders `XX/*`. The compiled `core` and rustc's own memory stay.
fn entries(cache: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for path in children(cache)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("ir-") {
            entries.extend(entry(path)?);
        } else if name.len() == 2 && path.is_dir() {
            for result in children(&path)? {
                entries.extend(entry(result)?);
            }
        }
    }
    Ok(entries)
}

/// What is of a result; nothing of one that another build has moved or removed meanwhile.
fn entry(path: PathBuf) -> Result<Option<Entry>> {
    let files = if path.is_dir() { children(&path)? } else { vec![path.clone()] };
    let (mut used, mut bytes) = (SystemTime::UNIX_EPOCH, 0);
    for file in files {
        let metadata = there(fs::metadata(&file)).with_context(|| format!("cannot read {}", file.display()))?;
        let Some(metadata) = metadata else { return Ok(None) };
        used = used.max(metadata.modified()?);
        bytes += metadata.len();
    }
    Ok(Some(Entry { used, path, bytes }))
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = there(fs::read_dir(dir)).with_context(|| format!("cannot read {}", dir.display()))?;
    Ok(entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect())
}

/// Nothing where a file is not there, or no more.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// The oldest of `entries`, whose removal brings their sum from above `limit` down to `keep`.
fn surplus(mut entries: Vec<Entry>, limit: u64, keep: u64) -> Vec<PathBuf> {
    let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    if total <= limit {
        return Vec::new();
    }
    entries.sort();
    let mut surplus = Vec::new();
    for entry in entries {
        if total <= keep {
            break;
        }
        total -= entry.bytes;
        surplus.push(entry.path);
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_oldest_go_first_and_only_above_the_limit() {
        let entries = || {
            let entry = |name: &str, age: u64| Entry {
                used: SystemTime::UNIX_EPOCH + Duration::from_secs(100 - age),
                path: name.into(),
                bytes: 10,
            };
            vec![entry("new", 1), entry("old", 9), entry("middle", 5)]
        };
        assert!(surplus(entries(), 30, 10).is_empty());
        assert_eq!(surplus(entries(), 29, 20), [PathBuf::from("old")]);
        assert_eq!(surplus(entries(), 29, 10), [PathBuf::from("old"), PathBuf::from("middle")]);
    }
}
