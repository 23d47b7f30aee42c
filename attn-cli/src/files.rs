//! Tensors from files and into them: safetensors, and NumPy's .npy.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use attn_tests::precision::Precision;

use crate::error::Failure;

mod npy;
mod output;
mod safetensors;

pub use output::write;

/// A tensor as a file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes, the slowest first.
    pub shape: Vec<usize>,
    /// Elements in that order.
    pub values: Values,
}

/// Elements of the types that there are.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of 16 bits.
    Half(Precision, Vec<u16>),
    /// e4m3.
    Float8(Vec<u8>),
    /// f32, or f64 rounded to it.
    Float(Vec<f32>),
    /// Integers of any width.
    Integer(Vec<i64>),
}

impl Values {
    /// The type's name.
    pub fn name(&self) -> String {
        match self {
            Values::Half(precision, _) => precision.to_string(),
            Values::Float8(_) => "e4m3".to_owned(),
            Values::Float(_) => "f32".to_owned(),
            Values::Integer(_) => "integers".to_owned(),
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Its name says neither of both formats.
    #[error("neither .safetensors nor .npy")]
    Extension,
    /// It is no whole file of its format.
    #[error("not a complete {format} file: {reason}")]
    Format {
        /// The format.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is not there.
    #[error("there is no tensor {name}; there are {have}")]
    Missing {
        /// The tensor.
        name: &'static str,
        /// Those that are there.
        have: String,
    },
    /// A tensor's name means nothing here.
    #[error("{name} is no tensor of a problem; allowed: {allowed}")]
    Unknown {
        /// The name.
        name: String,
        /// Names that mean something.
        allowed: String,
    },
    /// A tensor's type does not fit.
    #[error("tensor {name} holds {found}; allowed: {allowed}")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
        /// What is allowed.
        allowed: String,
    },
    /// A tensor's shape does not fit.
    #[error("tensor {name} has shape {found:?}; allowed: {allowed}")]
    Shape {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What is allowed.
        allowed: String,
    },
    /// An entry of the metadata is not understood.
    #[error("metadata {key} is {found:?}; allowed: {allowed}")]
    Metadata {
        /// The entry.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// Names that tensors of a problem have.
pub const NAMES: [&str; 14] = [
    "q",
    "k",
    "v",
    "cu_seqlens",
    "cu_seqlens_q",
    "cu_seqlens_k",
    "seqused_q",
    "seqused_k",
    "page_table",
    "sinks",
    "alibi_slopes",
    "q_descale",
    "k_descale",
    "v_descale",
];

/// The tensors of a problem, and what the file says of it besides.
#[derive(Debug, Default)]
pub struct Tensors {
    tensors: BTreeMap<&'static str, (PathBuf, Array)>,
    /// Whether the metadata says that the mask is causal.
    pub causal: Option<bool>,
    /// The scale that the metadata says.
    pub scale: Option<f32>,
    first: PathBuf,
}

impl Tensors {
    /// Reads all files of a command line.
    ///
    /// # Errors
    /// The first file that is not what it should be.
    pub fn read(inputs: &[Input]) -> Result<Self, Failure> {
        let first = inputs.first().map(|input| input.path.clone()).unwrap_or_default();
        let mut all = Tensors { first, ..Tensors::default() };
        for input in inputs {
            all.add(input).map_err(Failure::file(&input.path))?;
        }
        Ok(all)
    }

    fn add(&mut self, Input { name, path }: &Input) -> Result<(), FileError> {
        let extension = extension(path).ok_or(FileError::Extension)?;
        let bytes = std::fs::read(path)?;
        let mut insert = |name: &str, array: Array| {
            if let Some(known) = NAMES.iter().find(|known| **known == name) {
                self.tensors.insert(known, (path.clone(), array));
            }
        };
        match (extension, name) {
            (Extension::Npy, name) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let name = name.clone().unwrap_or(stem);
                if !NAMES.contains(&name.as_str()) {
                    return Err(FileError::Unknown { name, allowed: NAMES.join(", ") });
                }
                let array = npy::read(&name, &bytes)?;
                insert(&name, array);
            }
            (Extension::Safetensors, None) => {
                let file = safetensors::read(&bytes)?;
                file.tensors.into_iter().for_each(|(name, array)| insert(&name, array));
                (self.causal, self.scale) = (file.causal.or(self.causal), file.scale.or(self.scale));
            }
            // One name for a file of many tensors.
            (Extension::Safetensors, Some(name)) => {
                let allowed = "the file without a name, which has names of its own".to_owned();
                return Err(FileError::Unknown { name: format!("{name}="), allowed });
            }
        }
        Ok(())
    }

    /// A tensor that every problem has.
    ///
    /// # Errors
    /// It is not there.
    pub fn required(&self, name: &'static str) -> Result<&Array, Failure> {
        self.get(name).ok_or_else(|| {
            let have = self.tensors.keys().copied().collect::<Vec<_>>().join(", ");
            let have = if have.is_empty() { "none that mean something".to_owned() } else { have };
            Failure::file(&self.first)(FileError::Missing { name, have })
        })
    }

    /// A tensor that some problems have.
    pub fn get(&self, name: &str) -> Option<&Array> {
        self.tensors.get(name).map(|(_, array)| array)
    }

    /// A failure about a tensor, with its file.
    pub fn wrong(&self, name: &str, error: FileError) -> Failure {
        Failure::file(self.tensors.get(name).map_or(&self.first, |(path, _)| path))(error)
    }
}

/// A file of the command line: FILE, or NAME=FILE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    name: Option<String>,
    path: PathBuf,
}

impl std::str::FromStr for Input {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A path may have the sign itself; a name has no separator.
        let named = text.split_once('=').filter(|(name, _)| !name.is_empty() && !name.contains(['/', '\\', '.']));
        Ok(match named {
            Some((name, path)) => Input { name: Some(name.to_owned()), path: path.into() },
            None => Input { name: None, path: text.into() },
        })
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.path.display()),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    Safetensors,
    Npy,
}

fn extension(path: &Path) -> Option<Extension> {
    match path.extension()?.to_str()? {
        "safetensors" => Some(Extension::Safetensors),
        "npy" => Some(Extension::Npy),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_may_have_names() {
        let input = |text: &str| text.parse::<Input>().expect("infallible");
        assert_eq!(input("q=a/b.npy"), Input { name: Some("q".into()), path: "a/b.npy".into() });
        assert_eq!(input("a=b/c.npy").to_string(), "a=b/c.npy");
        assert_eq!(input("./a=b.npy"), Input { name: None, path: "./a=b.npy".into() });
    }
}
