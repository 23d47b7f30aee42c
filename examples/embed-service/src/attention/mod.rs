//! Attention of sentences of different lengths that lie one after the other, on whatever device there is.

mod cpu;
mod device;
mod open;

use ndarray::{ArrayView2, ArrayViewMut2};

pub use cpu::CpuAttention;
pub use device::{DeviceAttention, Room};
pub use open::{Size, open};

/// How the sentences of a batch lie in its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// First row of each sentence, and the rows in all.
    cu_seqlens: Vec<i32>,
}

impl Packed {
    /// Sentences of these lengths, one after the other. A batch's tokens are far below 2^31.
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut cu_seqlens = vec![0];
        let mut total = 0;
        for length in lengths {
            total += length as i32;
            cu_seqlens.push(total);
        }
        Packed { cu_seqlens }
    }

    /// Prefix sums of the lengths, from 0.
    pub fn cu_seqlens(&self) -> &[i32] {
        &self.cu_seqlens
    }

    /// Rows of all sentences.
    pub fn rows(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |&total| total as usize)
    }

    /// Sentences.
    pub fn sentences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Rows of each sentence.
    pub fn spans(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.cu_seqlens.windows(2).map(|pair| pair[0] as usize..pair[1] as usize)
    }
}

/// Attention of every sentence with itself: `softmax(Q K^T / sqrt(head_dim)) V` for each head.
pub trait Attention: Send + Sync {
    /// `qkv` has a row for each token: all heads of Q, then of K, then of V. `context` gets all heads of the result.
    ///
    /// # Errors
    /// Failures of the device.
    fn attend(&self, packed: &Packed, qkv: ArrayView2<f32>, context: ArrayViewMut2<f32>) -> Result<(), AttentionError>;

    /// What computes, in a few words.
    fn describe(&self) -> String;

    /// Batches that are worth computing at the same time.
    fn in_flight(&self) -> usize {
        1
    }
}

/// Why there is no attention.
#[derive(Debug, thiserror::Error)]
pub enum AttentionError {
    /// The launch side refused or failed.
    #[error(transparent)]
    Launch(#[from] attn_host::Error),
    /// The pipeline takes no batch any more.
    #[error("{0}")]
    Refused(attn_host::pipeline::Reason),
    /// A batch has no result.
    #[error("{0}")]
    Failed(attn_host::pipeline::Failure),
    /// The simulator cannot be had.
    #[error(transparent)]
    Simulator(#[from] attn_host::simulator::ConfigureError),
    /// A batch is larger than the device's buffers.
    #[error(
        "a batch of {rows} tokens in {sentences} sentences of up to {longest}; buffers were made for {} in {} of up to {}",
        size.tokens, size.sentences, size.longest
    )]
    TooLarge {
        /// Its tokens.
        rows: usize,
        /// Its sentences.
        sentences: usize,
        /// Tokens of its longest sentence.
        longest: usize,
        /// What buffers were made for.
        size: Size,
    },
}
