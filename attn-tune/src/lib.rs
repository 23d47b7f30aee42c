//! What the tuner's steps hand to each other.
//!
//! | module | idea |
//! |---|---|
//! | [`class`](mod@class) | a shape class: one line of the table of plans |
//! | [`grid`] | the plans to try, and those that cannot run, with the reason |
//! | [`folder`] | what is compiled and to be measured: `variants.json` |
//! | [`results`] | what was measured: `results.json`, and who won |
//!
//! `cargo xtask tune build` makes a folder of variants, `attn-gpu-tune` in there measures them on any machine with a driver, and
//! `cargo xtask tune apply` writes the winners into the table.

pub mod class;
pub mod folder;
pub mod grid;
pub mod results;

pub use class::{Class, Element};

use std::path::{Path, PathBuf};

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What the system or the parser said.
    pub why: String,
}

impl FileError {
    fn new(path: &Path, why: impl ToString) -> Self {
        FileError { path: path.to_owned(), why: why.to_string() }
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let bytes = std::fs::read(path).map_err(|e| FileError::new(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| FileError::new(path, e))
}

fn write<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| FileError::new(path, e))?;
    std::fs::write(path, text + "\n").map_err(|e| FileError::new(path, e))
}
