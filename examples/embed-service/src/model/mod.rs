//! A BERT-like encoder whose embedding of a sentence is the mean of its tokens' last states: all-MiniLM-L6-v2 and its kind.

mod config;
mod encoder;
mod layers;
mod tokenizer;
mod weights;

use std::path::PathBuf;

pub use config::ModelConfig;
pub use encoder::Encoder;
pub use tokenizer::{Encoded, Tokenizer};

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the folder cannot be read.
    #[error("cannot read {}: {source}; a model's folder has config.json, tokenizer.json and model.safetensors", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model is of a kind that this program does not compute.
    #[error("the model's {field} is {value}; {allowed}")]
    Unsupported {
        /// The field of its configuration.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The weights lack a tensor or have it in another shape.
    #[error("tensor {name}: {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}
