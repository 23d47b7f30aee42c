//! What is common to the routes that embed: sentences are counted, cut into word pieces, queued and waited for.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::error::ApiError;
use crate::metrics;
use crate::model::Encoded;
use crate::service::State;

/// One sentence or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a sentence or a list of sentences")]
pub enum Sentences {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Sentences {
    fn into_vec(self) -> Vec<String> {
        match self {
            Sentences::One(sentence) => vec![sentence],
            Sentences::Several(sentences) => sentences,
        }
    }
}

/// How sentences are to be embedded.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Cut off those with too many tokens; an error otherwise.
    pub truncate: bool,
    /// Scale embeddings to length 1.
    pub normalize: bool,
}

/// Embeddings with the word pieces that they are of.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// One for each sentence.
    pub embeddings: Vec<Vec<f32>>,
    /// Word pieces of each sentence, once it was cut off.
    pub tokens: Vec<usize>,
    /// Which sentences were cut off.
    pub truncated: Vec<bool>,
}

/// Embeds the sentences of one request.
///
/// # Errors
/// 413 and 422 for too many sentences, none, or ones that are too long and not to be cut off; 503 where there is no room; 504 and 500 where
/// nothing comes of it.
pub async fn embed(state: &Arc<State>, inputs: Sentences, how: How) -> Result<Embedded, ApiError> {
    let sentences = inputs.into_vec();
    let (most, option) = state.limits.most_sentences();
    if sentences.is_empty() {
        return Err(ApiError::Invalid("there are no sentences".to_owned()));
    }
    if sentences.len() > most as usize {
        return Err(ApiError::TooLarge(format!("{} sentences are more than {most} ({option})", sentences.len())));
    }
    // Not worth the work of cutting them into word pieces where there is no room.
    state.engine.check_room(sentences.len())?;
    let encoded = encode(state, sentences).await?;
    if let Some((i, long)) = encoded.iter().enumerate().find(|(_, one)| one.truncated()).filter(|_| !how.truncate) {
        let (tokens, most) = (long.tokens, long.ids.len());
        let message = format!("sentence {i} has {tokens} tokens, more than {most}, and is not to be truncated");
        return Err(ApiError::TooLarge(message));
    }
    let tokens: Vec<usize> = encoded.iter().map(|one| one.ids.len()).collect();
    let truncated: Vec<bool> = encoded.iter().map(Encoded::truncated).collect();
    let receivers = state.engine.submit(encoded.into_iter().map(|one| one.ids).collect())?;
    metrics::taken(tokens.len(), tokens.iter().sum(), truncated.iter().filter(|&&cut| cut).count());
    let all = async {
        let mut embeddings = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            // The sender is dropped unused only where the thread that computes is gone.
            let answer = receiver.await.map_err(|_| ApiError::Failed("nobody computes any more".to_owned()))?;
            embeddings.push(answer?);
        }
        Ok::<_, ApiError>(embeddings)
    };
    let seconds = state.limits.request_timeout_s;
    let waited = tokio::time::timeout(Duration::from_secs(seconds), all).await;
    let mut embeddings = waited.map_err(|_| ApiError::Timeout(seconds))??;
    if how.normalize {
        embeddings.iter_mut().for_each(|embedding| normalize(embedding));
    }
    Ok(Embedded { embeddings, tokens, truncated })
}

/// The word pieces of sentences, found on a thread that may take its time.
async fn encode(state: &Arc<State>, sentences: Vec<String>) -> Result<Vec<Encoded>, ApiError> {
    let state = Arc::clone(state);
    let encode =
        move || sentences.iter().map(|sentence| state.tokenizer.encode(sentence)).collect::<Result<Vec<_>, _>>();
    let encoded = tokio::task::spawn_blocking(encode).await;
    encoded.map_err(|error| ApiError::Failed(error.to_string()))?.map_err(ApiError::Invalid)
}

/// Scales to length 1.
fn normalize(embedding: &mut [f32]) {
    let length = embedding.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    embedding.iter_mut().for_each(|x| *x /= length);
}
