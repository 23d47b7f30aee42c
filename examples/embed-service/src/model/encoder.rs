//! The encoder: embeddings of tokens, layers of attention and feed-forward parts, the mean of every sentence.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;
use safetensors::SafeTensors;

use super::ModelError;
use super::config::{ModelConfig, read};
use super::layers::{Dense, LayerNorm, gelu};
use super::weights::Weights;
use crate::attention::{Attention, AttentionError, Packed};

/// Rows that a thread works on at a time: enough for products to be fast, few enough for what lies between them to stay in its cache.
const ROWS: Range<usize> = 8..96;

/// A model with its weights, and the attention that it uses.
pub struct Encoder {
    words: Array2<f32>,
    /// Of each position, the embedding of the one kind of token that sentences have added.
    positions: Array2<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    attention: Arc<dyn Attention>,
}

struct Layer {
    qkv: Dense,
    output: Dense,
    attention_norm: LayerNorm,
    up: Dense,
    down: Dense,
    norm: LayerNorm,
}

impl Encoder {
    /// Reads `model.safetensors` of a model's folder.
    ///
    /// # Errors
    /// Those of a file that cannot be read, or has not the tensors that the configuration asks for.
    pub fn load(folder: &Path, config: &ModelConfig, attention: Arc<dyn Attention>) -> Result<Self, ModelError> {
        let path = folder.join("model.safetensors");
        let bytes = read(&path)?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| ModelError::Content { path, reason: error.to_string() })?;
        let weights = Weights(tensors);
        let hidden = config.hidden_size;
        let table = |name: &str, rows| weights.matrix(&format!("embeddings.{name}_embeddings.weight"), [rows, hidden]);
        let kinds = table("token_type", config.type_vocab_size)?;
        Ok(Encoder {
            words: table("word", config.vocab_size)?,
            positions: table("position", config.max_position_embeddings)? + kinds.row(0),
            norm: LayerNorm::load(&weights, "embeddings.LayerNorm", config)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&weights, i, config))
                .collect::<Result<_, _>>()?,
            attention,
        })
    }

    /// Batches that are worth computing at the same time.
    pub fn in_flight(&self) -> usize {
        self.attention.in_flight()
    }

    /// The mean of each sentence's last states, a row for each. Sentences are numbers of word pieces, below the vocabulary's size, no more
    /// of them than there are positions.
    ///
    /// # Errors
    /// Failures of the attention's device.
    pub fn embed(&self, sentences: &[&[u32]]) -> Result<Array2<f32>, AttentionError> {
        let packed = Packed::of(sentences.iter().map(|ids| ids.len()));
        let mut x = self.look_up(sentences, &packed);
        let mut context = Array2::zeros(x.dim());
        let rows = rows_at_a_time(packed.rows());
        for layer in &self.layers {
            let qkv = layer.project(x.view(), rows);
            self.attention.attend(&packed, qkv.view(), context.view_mut())?;
            layer.finish(context.view(), &mut x, rows);
        }
        let mut means = Array2::zeros((sentences.len(), x.ncols()));
        for (mut mean, rows) in means.rows_mut().into_iter().zip(packed.spans()) {
            let count = rows.len() as f32;
            mean.assign(&(x.slice(s![rows, ..]).sum_axis(Axis(0)) / count));
        }
        Ok(means)
    }

    /// The embeddings of tokens at their positions.
    fn look_up(&self, sentences: &[&[u32]], packed: &Packed) -> Array2<f32> {
        let mut x = Array2::zeros((packed.rows(), self.words.ncols()));
        let tokens = sentences.iter().flat_map(|ids| ids.iter().enumerate());
        for (mut row, (position, &id)) in x.rows_mut().into_iter().zip(tokens) {
            row.assign(&self.words.row(id as usize));
            row += &self.positions.row(position);
        }
        self.norm.apply(&mut x.view_mut());
        x
    }
}

/// Rows for each of as many tasks as there are threads, where that is neither few nor many.
fn rows_at_a_time(rows: usize) -> usize {
    rows.div_ceil(rayon::current_num_threads()).clamp(ROWS.start, ROWS.end)
}

impl Layer {
    fn load(weights: &Weights, index: usize, config: &ModelConfig) -> Result<Self, ModelError> {
        let (hidden, between) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let dense = |part: &str, inputs, outputs| Dense::load(weights, &name(part), inputs, outputs);
        let norm = |part: &str| LayerNorm::load(weights, &name(part), config);
        let own = |part: &str| dense(&format!("attention.self.{part}"), hidden, hidden);
        Ok(Layer {
            qkv: Dense::joined(&[own("query")?, own("key")?, own("value")?]),
            output: dense("attention.output.dense", hidden, hidden)?,
            attention_norm: norm("attention.output.LayerNorm")?,
            up: dense("intermediate.dense", hidden, between)?,
            down: dense("output.dense", between, hidden)?,
            norm: norm("output.LayerNorm")?,
        })
    }

    /// Q, K and V of every token.
    fn project(&self, x: ArrayView2<f32>, rows: usize) -> Array2<f32> {
        let mut qkv = Array2::zeros((x.nrows(), 3 * x.ncols()));
        qkv.axis_chunks_iter_mut(Axis(0), rows)
            .into_par_iter()
            .zip(x.axis_chunks_iter(Axis(0), rows))
            .for_each(|(qkv, x)| self.qkv.apply_to(&x, qkv));
        qkv
    }

    /// Everything after attention, of every token.
    fn finish(&self, context: ArrayView2<f32>, x: &mut Array2<f32>, rows: usize) {
        x.axis_chunks_iter_mut(Axis(0), rows)
            .into_par_iter()
            .zip(context.axis_chunks_iter(Axis(0), rows))
            .for_each(|(x, context)| self.finish_rows(&context, x));
    }

    fn finish_rows(&self, context: &ArrayView2<f32>, mut x: ArrayViewMut2<f32>) {
        let mut attended = self.output.apply(context);
        attended += &x;
        self.attention_norm.apply(&mut attended.view_mut());
        let mut between = self.up.apply(&attended.view());
        between.mapv_inplace(gelu);
        self.down.apply_to(&between.view(), x.view_mut());
        x += &attended;
        self.norm.apply(&mut x);
    }
}
