//! What is counted, and how Prometheus gets it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::memory::Live;

const REQUESTS: &str = "embed_requests_total";
const REQUEST_SECONDS: &str = "embed_request_seconds";
const SENTENCES: &str = "embed_sentences_total";
const TOKENS: &str = "embed_tokens_total";
const TRUNCATED: &str = "embed_truncated_sentences_total";
const FAILED: &str = "embed_failed_sentences_total";
const WAITING: &str = "embed_waiting_sentences";
const WAITED: &str = "embed_waited_seconds";
const BATCH_SENTENCES: &str = "embed_batch_sentences";
const BATCH_TOKENS: &str = "embed_batch_tokens";
const BATCH_SECONDS: &str = "embed_batch_seconds";
const LIVE_BYTES: &str = "embed_live_bytes";
const LIVE_BLOCKS: &str = "embed_live_blocks";

/// Installs the recorder of this process, once, and returns what renders it.
///
/// # Errors
/// When the program has installed another recorder.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = installed.as_ref() {
        return Ok(handle.clone());
    }
    let seconds: Vec<f64> = (0..17).map(|i| 0.0005 * 2f64.powi(i)).collect();
    let counts: Vec<f64> = (0..15).map(|i| 2f64.powi(i)).collect();
    let buckets = |builder: PrometheusBuilder, suffix: &str, values: &[f64]| {
        builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), values)
    };
    let builder = buckets(PrometheusBuilder::new(), "_seconds", &seconds)?;
    let builder = buckets(buckets(builder, "_sentences", &counts)?, "_batch_tokens", &counts)?;
    let handle = builder.install_recorder()?;
    describe();
    Ok(installed.insert(handle).clone())
}

fn describe() {
    describe_counter!(REQUESTS, "Requests, by route and status");
    describe_histogram!(REQUEST_SECONDS, "From a request's head to its response's, by route");
    describe_counter!(SENTENCES, "Sentences taken");
    describe_counter!(TOKENS, "Word pieces taken, after sentences are cut off");
    describe_counter!(TRUNCATED, "Sentences that were cut off");
    describe_counter!(FAILED, "Sentences whose batch failed");
    describe_gauge!(WAITING, "Sentences in the queue");
    describe_histogram!(WAITED, "How long sentences have waited for their batch");
    describe_histogram!(BATCH_SENTENCES, "Sentences of a batch");
    describe_histogram!(BATCH_TOKENS, "Word pieces of a batch");
    describe_histogram!(BATCH_SECONDS, "How long a batch was computed");
    describe_gauge!(LIVE_BYTES, "Bytes that are allocated and not freed");
    describe_gauge!(LIVE_BLOCKS, "Blocks that are allocated and not freed");
}

/// A request that has been answered.
pub fn request(route: &str, status: u16, seconds: f64) {
    counter!(REQUESTS, "route" => route.to_owned(), "status" => status.to_string()).increment(1);
    histogram!(REQUEST_SECONDS, "route" => route.to_owned()).record(seconds);
}

/// Sentences that were taken.
pub fn taken(sentences: usize, tokens: usize, truncated: usize) {
    counter!(SENTENCES).increment(sentences as u64);
    counter!(TOKENS).increment(tokens as u64);
    counter!(TRUNCATED).increment(truncated as u64);
}

/// Sentences that wait.
pub fn waiting(sentences: usize) {
    gauge!(WAITING).set(sentences as f64);
}

/// A batch that was computed, and how long its sentences had waited.
pub fn batch(sentences: usize, tokens: usize, seconds: f64, waited: impl Iterator<Item = Duration>) {
    histogram!(BATCH_SENTENCES).record(sentences as f64);
    histogram!(BATCH_TOKENS).record(tokens as f64);
    histogram!(BATCH_SECONDS).record(seconds);
    let histogram = histogram!(WAITED);
    waited.for_each(|waited| histogram.record(waited.as_secs_f64()));
}

/// What is allocated.
pub fn live(Live { bytes, blocks }: Live) {
    gauge!(LIVE_BYTES).set(bytes as f64);
    gauge!(LIVE_BLOCKS).set(blocks as f64);
}

/// Sentences whose batch failed.
pub fn failed(sentences: usize) {
    counter!(FAILED).increment(sentences as u64);
}
