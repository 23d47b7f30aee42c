//! Sentences into word pieces.

use std::path::Path;

use super::ModelError;

/// The model's own tokenizer: `tokenizer.json`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_tokens: usize,
}

/// A sentence as the model takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Numbers of word pieces, with those that mark the ends.
    pub ids: Vec<u32>,
    /// Word pieces before the sentence was cut off.
    pub tokens: usize,
}

impl Encoded {
    /// Whether the sentence has more word pieces than the model takes.
    pub fn truncated(&self) -> bool {
        self.tokens > self.ids.len()
    }
}

impl Tokenizer {
    /// Reads a model's folder. Sentences are cut off at `max_tokens`; what the file says of truncation and padding is for other uses.
    ///
    /// # Errors
    /// [`ModelError::Content`] for a file that cannot be read or has more word pieces than the model's `vocabulary`.
    pub fn load(folder: &Path, max_tokens: usize, vocabulary: usize) -> Result<Self, ModelError> {
        let path = folder.join("tokenizer.json");
        let wrong = |reason: String| ModelError::Content { path: path.clone(), reason };
        let mut inner = tokenizers::Tokenizer::from_file(&path).map_err(|error| wrong(error.to_string()))?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        if largest as usize >= vocabulary {
            return Err(wrong(format!("has a word piece {largest}, the model has {vocabulary}")));
        }
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| wrong(error.to_string()))?;
        Ok(Tokenizer { inner, max_tokens })
    }

    /// Tokens that a sentence is cut off at.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Word pieces of a sentence, cut off.
    ///
    /// # Errors
    /// The tokenizer's own words for what it cannot take.
    pub fn encode(&self, sentence: &str) -> Result<Encoded, String> {
        let encoding = self.inner.encode_fast(sentence, true).map_err(|error| error.to_string())?;
        let mut ids = encoding.get_ids().to_vec();
        let tokens = ids.len();
        if let Some(&end) = ids.last().filter(|_| tokens > self.max_tokens) {
            // The mark of the end stays.
            ids.truncate(self.max_tokens - 1);
            ids.push(end);
        }
        Ok(Encoded { ids, tokens })
    }
}
