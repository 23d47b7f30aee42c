//! What goes into the pipeline, and what comes out.

use std::fmt;
use std::time::Duration;

use super::buffer::{HostBuffer, bytes_of};
use crate::arrays::Arrays;
use crate::error::Error;
use crate::problem::Problem;

/// A problem with its tensors in host memory: `Batch { lse: true, ..Batch::new(problem, q, k, v) }`.
///
/// Tensors are as the problem says, strides included; a buffer may be longer than its tensor. The arrays that only some problems have
/// must be there for these and absent for all others. All is checked when the batch is submitted, lengths and page numbers too.
///
/// ```
/// use attn_host::pipeline::Batch;
/// use attn_host::{Arrays, DType, Problem, Shape};
///
/// // Two sequences of 3 and 1 tokens, packed.
/// let shape = Shape { batch: 2, seqlen_q: 3, seqlen_k: 3, heads: 2, kv_heads: 2, head_dim: 64, head_dim_v: 64 };
/// let problem = Problem::new(DType::F16, shape).packed_q(4).packed_k(4);
/// let sums = Some(vec![0, 3, 4]);
/// let arrays = Arrays { cu_seqlens_q: sums.clone(), cu_seqlens_k: sums, ..Arrays::default() };
/// let qkv = || vec![0u16; 4 * 2 * 64];
/// let batch = Batch { lse: true, arrays, ..Batch::new(problem, qkv(), qkv(), qkv()) };
/// assert_eq!(batch.arrays.check(&batch.problem), Ok(()));
/// ```
#[derive(Debug)]
pub struct Batch {
    /// What is to be computed.
    pub problem: Problem,
    /// Q.
    pub q: HostBuffer,
    /// K.
    pub k: HostBuffer,
    /// V.
    pub v: HostBuffer,
    /// Where O is to be put. Without it the result has a new buffer of [`HostBuffer::Bits`].
    pub o: Option<HostBuffer>,
    /// Whether LSE is wanted too.
    pub lse: bool,
    /// What only some problems have.
    pub arrays: Arrays,
}

impl Batch {
    /// The tensors that every batch has, and none of the others.
    pub fn new(problem: Problem, q: impl Into<HostBuffer>, k: impl Into<HostBuffer>, v: impl Into<HostBuffer>) -> Self {
        let (q, k, v) = (q.into(), k.into(), v.into());
        Batch { problem, q, k, v, o: None, lse: false, arrays: Arrays::default() }
    }

    /// The arrays' bytes.
    pub(super) fn array_bytes(&self) -> Arrays<&[u8], &[u8]> {
        self.arrays.as_ref().map(|array| bytes_of(array), |array| bytes_of(array))
    }
}

/// A batch that is done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Done {
    /// The number that its [`Ticket`](super::Ticket) had.
    pub id: u64,
    /// The batch with its inputs, to be used again. Its `o` is absent.
    pub batch: Box<Batch>,
    /// O, in the buffer that the batch had for it or in a new one. What no query writes is zero.
    pub o: HostBuffer,
    /// LSE, when it was asked for.
    pub lse: Option<Vec<f32>>,
    /// From its submission until its first copy was queued.
    pub queued: Duration,
    /// From its submission until now.
    pub total: Duration,
}

/// A batch that was accepted and has no result.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failed {
    /// The number that its [`Ticket`](super::Ticket) had.
    pub id: u64,
    /// Why.
    pub failure: Failure,
    /// The batch as it was submitted; what its buffer for O holds is unspecified. Absent only after [`Failure::Stuck`], of batches that had
    /// been started: the device may still read and write their memory.
    pub batch: Option<Box<Batch>>,
}

/// Why an accepted batch has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Something went wrong with this batch alone, [`Error::OutOfMemory`] and [`Error::PoolLimit`] among them. Others are not affected.
    #[error("the batch failed: {0}")]
    Failed(#[source] Error),
    /// It was cancelled, or its ticket was dropped.
    #[error("the batch was cancelled")]
    Cancelled,
    /// The pipeline was shut down before the batch's turn.
    #[error("the pipeline was shut down before the batch was started")]
    ShutDown,
    /// The device is lost: nothing more can be computed in its context.
    #[error("the device is lost: {0}")]
    DeviceLost(#[source] Error),
    /// This batch, or one before it, did not come to its end in time: the pipeline is closed.
    #[error("batch {batch} was not done after {after:?}, and nothing behind it is computed")]
    Stuck {
        /// The number of the batch that was not done.
        batch: u64,
        /// For how long nothing had come to its end.
        after: Duration,
    },
}

impl Failure {
    /// A word for it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Failure::Failed(_) => "failed",
            Failure::Cancelled => "cancelled",
            Failure::ShutDown => "shut down",
            Failure::DeviceLost(_) => "device lost",
            Failure::Stuck { .. } => "stuck",
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {}: {}", self.id, self.failure)
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.failure)
    }
}

/// A batch that was not accepted.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rejected {
    /// Why.
    pub reason: Reason,
    /// The batch as it came.
    pub batch: Box<Batch>,
}

/// Why a batch was not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The queue is full, or was until the time was up.
    #[error("the queue is full: {capacity} batches wait")]
    QueueFull {
        /// Batches that the queue takes.
        capacity: usize,
    },
    /// No kernel computes the problem, or a buffer or an array is not what the problem says.
    #[error("{0}")]
    Invalid(#[source] Error),
    /// The pipeline has been shut down.
    #[error("the pipeline has been shut down")]
    ShutDown,
    /// The device is lost: make a new context and a new pipeline.
    #[error("the device is lost: {0}")]
    DeviceLost(#[source] Error),
    /// A batch did not come to its end in time, and the pipeline is closed.
    #[error("the pipeline is closed: batch {batch} was not done after {after:?}")]
    Stuck {
        /// The number of the batch that was not done.
        batch: u64,
        /// For how long nothing had come to its end.
        after: Duration,
    },
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the batch was not accepted: {}", self.reason)
    }
}

impl std::error::Error for Rejected {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}
