//! The files that say what a model is.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ModelError;

/// The sizes of an encoder: `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct ModelConfig {
    /// Elements of a token's state.
    pub hidden_size: usize,
    /// Elements between the two layers of the feed-forward part.
    pub intermediate_size: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Rows of the word embeddings.
    pub vocab_size: usize,
    /// Most tokens that there are positions for.
    pub max_position_embeddings: usize,
    /// Kinds of token, of which sentences have the first.
    pub type_vocab_size: usize,
    /// What keeps a norm from dividing by zero.
    pub layer_norm_eps: f32,
    model_type: String,
    hidden_act: String,
    /// Most tokens of a sentence: `sentence_bert_config.json`.
    #[serde(skip)]
    pub max_tokens: usize,
}

/// `sentence_bert_config.json`.
#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: usize,
}

/// `1_Pooling/config.json`.
#[derive(Deserialize)]
struct Pooling {
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
}

impl ModelConfig {
    /// Reads a model's folder.
    ///
    /// # Errors
    /// [`ModelError::File`] and [`ModelError::Content`] for files that are not there or not right, [`ModelError::Unsupported`] for another
    /// kind of model.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let mut config: ModelConfig = json(&folder.join("config.json"))?;
        config.max_tokens = match optional::<SentenceConfig>(&folder.join("sentence_bert_config.json"))? {
            Some(sentences) => sentences.max_seq_length.min(config.max_position_embeddings),
            None => config.max_position_embeddings,
        };
        let pooling = optional::<Pooling>(&folder.join("1_Pooling/config.json"))?;
        config.check(pooling.is_none_or(|pooling| pooling.pooling_mode_mean_tokens))?;
        Ok(config)
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    fn check(&self, mean: bool) -> Result<(), ModelError> {
        let wrong = |field, value: String, allowed| Err(ModelError::Unsupported { field, value, allowed });
        let head_dim = self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0);
        if self.model_type != "bert" {
            return wrong("model_type", self.model_type.clone(), "this program computes \"bert\"");
        }
        if self.hidden_act != "gelu" {
            return wrong("hidden_act", self.hidden_act.clone(), "this program computes \"gelu\"");
        }
        if !mean {
            return wrong("pooling", "not by the mean".to_owned(), "this program takes the mean of the tokens");
        }
        if head_dim * self.num_attention_heads != self.hidden_size || !head_dim.is_multiple_of(8) || head_dim == 0 {
            let value = format!("{} for {} heads", self.hidden_size, self.num_attention_heads);
            return wrong("hidden_size", value, "every head has the same multiple of 8 elements");
        }
        if self.max_tokens < 3 {
            return wrong("max_seq_length", self.max_tokens.to_string(), "a sentence has 3 tokens and more");
        }
        Ok(())
    }
}

/// A file of a model's folder.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    fs::read(path).map_err(|source| ModelError::File { path: path.to_owned(), source })
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    serde_json::from_slice(&read(path)?)
        .map_err(|error| ModelError::Content { path: path.to_owned(), reason: error.to_string() })
}

/// A file that need not be there.
fn optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ModelError> {
    if path.exists() { json(path).map(Some) } else { Ok(None) }
}
