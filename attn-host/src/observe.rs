//! What launches and batches tell whoever listens: spans with the feature `tracing`, numbers with the feature `metrics`, nothing without.

#![cfg_attr(not(all(feature = "tracing", feature = "metrics")), allow(unused_variables))]

use std::time::Duration;

use crate::append::AppendPlan;
use crate::error::Error;
use crate::pipeline::{Failure, Reason};
use crate::plan::Plan;
use crate::problem::Problem;

/// A span that is nothing without the feature `tracing`.
#[derive(Clone, Debug)]
pub(crate) struct Span(#[cfg(feature = "tracing")] tracing::Span);

/// The thread is in the span as long as this lives.
pub(crate) struct Inside<'a> {
    #[cfg(feature = "tracing")]
    _entered: tracing::span::Entered<'a>,
    #[cfg(not(feature = "tracing"))]
    _entered: std::marker::PhantomData<&'a ()>,
}

impl Span {
    pub(crate) fn enter(&self) -> Inside<'_> {
        Inside {
            #[cfg(feature = "tracing")]
            _entered: self.0.enter(),
            #[cfg(not(feature = "tracing"))]
            _entered: std::marker::PhantomData,
        }
    }
}

/// The span of a batch, from its submission to its result.
pub(crate) fn batch(id: u64, problem: &Problem) -> Span {
    Span(
        #[cfg(feature = "tracing")]
        tracing::info_span!("attn.batch", id, %problem),
    )
}

/// Counts a launch, and says why it failed. Names are literals and without labels: a launch would have to allocate others.
macro_rules! counted {
    ($launch:expr, $total:literal, $seconds:literal, $errors:literal) => {{
        #[cfg(feature = "metrics")]
        let start = std::time::Instant::now();
        let result = $launch();
        #[cfg(feature = "metrics")]
        {
            metrics::counter!($total).increment(1);
            metrics::histogram!($seconds).record(start.elapsed());
            if result.is_err() {
                metrics::counter!($errors).increment(1);
            }
        }
        #[cfg(feature = "tracing")]
        if let Err(error) = &result {
            tracing::warn!(%error, "the launch failed");
        }
        result
    }};
}

/// Queues a plan's kernels within a span, and counts them.
pub(crate) fn launch(plan: &Plan, launch: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    #[cfg(feature = "tracing")]
    let _entered =
        tracing::debug_span!("attn.launch", kernel = plan.kernel().name, problem = %plan.problem()).entered();
    counted!(launch, "attn_launches_total", "attn_launch_seconds", "attn_launch_errors_total")
}

/// Queues the kernel that appends within a span, and counts it.
pub(crate) fn append(plan: &AppendPlan, launch: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    #[cfg(feature = "tracing")]
    let _entered = tracing::debug_span!("attn.append", append = %plan.append()).entered();
    let result = counted!(launch, "attn_appends_total", "attn_append_seconds", "attn_append_errors_total");
    #[cfg(feature = "metrics")]
    if result.is_ok() {
        metrics::counter!("attn_append_bytes_total").increment(plan.append().new_bytes());
    }
    result
}

/// How many batches wait and are in flight.
pub(crate) fn queue(queued: usize, in_flight: usize) {
    #[cfg(feature = "metrics")]
    {
        metrics::gauge!("attn_queue_depth").set(queued as f64);
        metrics::gauge!("attn_batches_in_flight").set(in_flight as f64);
    }
}

/// Bytes that are copied to the device.
pub(crate) fn bytes_in(bytes: usize) {
    #[cfg(feature = "metrics")]
    metrics::counter!("attn_bytes_in_total").increment(bytes as u64);
}

/// Bytes that were copied from the device.
pub(crate) fn bytes_out(bytes: usize) {
    #[cfg(feature = "metrics")]
    metrics::counter!("attn_bytes_out_total").increment(bytes as u64);
}

/// A batch has its result, after this time.
pub(crate) fn ended(outcome: &'static str, total: Duration) {
    #[cfg(feature = "metrics")]
    {
        metrics::counter!("attn_batches_total", "outcome" => outcome).increment(1);
        metrics::histogram!("attn_batch_seconds", "outcome" => outcome).record(total);
    }
}

/// A batch failed.
pub(crate) fn failed(span: &Span, failure: &Failure) {
    #[cfg(feature = "tracing")]
    span.0.in_scope(|| tracing::warn!(%failure, "the batch has no result"));
}

/// A pipeline gives up what it has in flight, whose memory it keeps.
pub(crate) fn stuck(error: &Error, in_flight: usize) {
    #[cfg(feature = "tracing")]
    tracing::error!(%error, in_flight, "the pipeline is closed");
}

/// A batch was not accepted.
pub(crate) fn rejected(reason: &Reason) {
    let word = match reason {
        Reason::QueueFull { .. } => "queue full",
        Reason::Invalid(_) => "invalid",
        Reason::ShutDown => "shut down",
        Reason::DeviceLost(_) => "device lost",
        Reason::Stuck { .. } => "stuck",
    };
    #[cfg(feature = "metrics")]
    metrics::counter!("attn_rejected_total", "reason" => word).increment(1);
    #[cfg(feature = "tracing")]
    tracing::debug!(reason = word, "a batch was not accepted");
}
