//! What the command line says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::attention::Room;

/// Turns sentences into embeddings over HTTP, with attention on the GPU.
#[derive(Clone, Debug, Parser)]
#[command(name = "embed-service", version)]
pub struct Options {
    /// Folder of the model: model.safetensors, tokenizer.json, config.json.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where attention is computed; everything else is computed by the CPU.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Threads that compute; as many as the machine has cores when 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// What is logged: a level, or targets with levels (`info,embed_service=debug`).
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// What bounds requests, batches and waiting.
    #[command(flatten)]
    pub limits: Limits,
}

/// What bounds requests, batches and waiting.
#[derive(Clone, Debug, clap::Args)]
pub struct Limits {
    /// Most tokens of a batch, all sentences together.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_batch_tokens: u32,
    /// Most sentences of a batch.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub max_batch_sentences: u32,
    /// How long a sentence may wait for others to share its batch.
    #[arg(long, value_name = "MS", default_value_t = 2)]
    pub max_wait_ms: u64,
    /// Sentences that may wait; a request beyond that is answered with 503.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least_one())]
    pub queue: u32,
    /// Requests that may be under way; one more is answered with 503.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one())]
    pub max_requests: u32,
    /// Most sentences of a request.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one())]
    pub max_sentences: u32,
    /// Tokens that a sentence is cut off at, no more than the model's own limit, which is the default.
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u32>,
    /// Most bytes of a request's body.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = at_least_one())]
    pub max_body_bytes: u32,
    /// How long a connection may be idle, or take for the head of a request, before it is closed.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub idle_timeout_s: u64,
    /// How long the body of a request may take to arrive.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub body_timeout_s: u64,
    /// How long a request may wait for its embeddings.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub request_timeout_s: u64,
    /// Most bytes of a device's memory for batches.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub device_bytes: u64,
    /// How long a GPU may take for a layer's attention before it counts as stuck.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub device_timeout_s: u64,
    /// How long accepted requests may take to be finished once the service is told to stop.
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub grace_s: u64,
}

impl Limits {
    /// What a device may be asked for.
    pub fn room(&self) -> Room {
        Room { bytes: self.device_bytes, timeout: Some(Duration::from_secs(self.device_timeout_s)) }
    }

    /// Most sentences of a request, and the option that says so: those that do not fit the empty queue would never do.
    pub fn most_sentences(&self) -> (u32, &'static str) {
        (self.max_sentences, "--max-sentences").min((self.queue, "--queue"))
    }

    /// How long a sentence may wait for others to share its batch.
    pub fn max_wait(&self) -> Duration {
        Duration::from_millis(self.max_wait_ms)
    }
}

fn at_least_one() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// Where attention is to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The GPU if there is one that has kernels, else the CPU.
    Auto,
    /// The GPU, or an error.
    Gpu,
    /// The GPU's kernels on the simulator: slow, for looking.
    Simulator,
    /// The CPU.
    Cpu,
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value().expect("no choice is skipped");
        f.write_str(value.get_name())
    }
}
