//! What `cargo xtask tune build` leaves for the machine that measures: `variants.json` beside the kernels' folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::grid::Dropped;
use crate::{FileError, read, write};

/// The file's name.
pub const FILE: &str = "variants.json";

/// The whole folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Folder {
    /// A measurement each.
    pub classes: Vec<Job>,
}

/// A shape class to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The class.
    pub class: Class,
    /// Lengths, in tokens, of queries and keys.
    pub lengths: Vec<usize>,
    /// Tokens of all batches of a problem; a longer sequence is one batch.
    pub tokens: usize,
    /// What to measure, the present plan first.
    pub variants: Vec<Variant>,
    /// What could not be compiled, or not without spills, and what cannot run at all.
    pub dropped: Vec<Dropped>,
}

/// A compiled plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Entry point, and the cubin's name.
    pub name: String,
    /// The plan's knobs.
    pub knobs: String,
}

impl Folder {
    /// Reads the file of a folder.
    pub fn read(dir: &Path) -> Result<Folder, FileError> {
        read(&dir.join(FILE))
    }

    /// Writes it.
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        write(&dir.join(FILE), self)
    }
}
