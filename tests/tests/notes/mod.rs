//! The names of the spans that attn-host opens.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::span;

/// Notes the spans' names.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<&'static str>>>);

impl Notes {
    /// Spans of this name.
    pub fn count(&self, name: &str) -> usize {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| **span == name).count()
    }
}

impl tracing::Subscriber for Notes {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("attn_host")
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push(attributes.metadata().name());
        span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
