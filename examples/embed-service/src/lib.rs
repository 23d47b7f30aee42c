//! An HTTP service that turns sentences into embeddings: a BERT-like encoder whose attention is computed by attn-host, all sentences of a batch
//! in one launch per layer, whatever their lengths.
//!
//! A request's way: [`http`](mod@http) reads it, [`embed`] cuts its sentences into word pieces and queues them, [`queue`] makes batches, a thread
//! of the [`engine`] computes one with the [`model`], whose [`attention`] runs on a GPU, on the simulator or on the CPU.

pub mod attention;
pub mod config;
pub mod embed;
pub mod engine;
pub mod error;
pub mod memory;
pub mod model;
pub mod queue;
pub mod service;

mod body;
mod http;
mod listen;
mod metrics;
