//! A service in this process, a client, and the embeddings that are right.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Parser;
use embed_service::config::Options;
use embed_service::service::{Service, ServiceError};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// The model's folder, fetched if it is not there.
pub fn model() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join("target/models/all-MiniLM-L6-v2");
    if !folder.is_dir() {
        let status = Command::new(env!("CARGO")).args(["xtask", "model"]).current_dir(&root).status();
        assert!(status.is_ok_and(|status| status.success()), "cargo xtask model has failed");
    }
    folder
}

/// The options of `words`, for the model, on a free port.
pub fn options(words: &str) -> Options {
    let model = model();
    let fixed = ["embed-service", "--listen", "127.0.0.1:0", "--model", model.to_str().expect("a path in UTF-8")];
    Options::try_parse_from(fixed.into_iter().chain(words.split_whitespace())).expect("options")
}

/// A service that runs until it is stopped.
pub struct Running {
    pub address: SocketAddr,
    stop: Arc<Notify>,
    thread: JoinHandle<Result<(), ServiceError>>,
}

impl Running {
    /// Starts a service with these options.
    pub fn start(words: &str) -> Self {
        let options = options(words);
        let stop = Arc::new(Notify::new());
        let (say, address) = std::sync::mpsc::channel();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let service = Service::new(&options).await?;
                say.send(service.address()).expect("the test waits for it");
                service.run(async move { stopped.notified().await }).await
            })
        });
        let address = address.recv().expect("the service starts");
        Running { address, stop, thread }
    }

    /// Tells it to stop.
    pub fn tell_to_stop(&self) {
        self.stop.notify_one();
    }

    /// Waits for its end.
    pub fn join(self) -> Result<(), ServiceError> {
        self.thread.join().expect("it does not panic")
    }

    /// Posts bytes; the status, the header retry-after and the JSON of the response.
    pub fn post(&self, path: &str, content_type: &str, body: &[u8]) -> (u16, Option<String>, Value) {
        let request = agent().post(format!("http://{}{path}", self.address)).content_type(content_type);
        let mut response = request.send(body).expect("a response");
        let retry = response.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().expect("a body");
        (status, retry, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
    }

    /// Gets a path: the status and the text.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut response = agent().get(format!("http://{}{path}", self.address)).call().expect("a response");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("a body"))
    }

    /// The embeddings of sentences.
    pub fn embed(&self, sentences: &[impl AsRef<str>]) -> Vec<Vec<f32>> {
        let inputs: Vec<&str> = sentences.iter().map(AsRef::as_ref).collect();
        let (status, _, body) =
            self.post("/embed", "application/json", json!({ "inputs": inputs }).to_string().as_bytes());
        assert_eq!(status, 200, "{body}");
        serde_json::from_value(body["embeddings"].clone()).expect("embeddings")
    }
}

/// A client that takes every status for a response.
pub fn agent() -> ureq::Agent {
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(600)));
    config.build().into()
}

/// Sentences and their embeddings by sentence-transformers.
pub fn golden() -> (Vec<String>, Vec<Vec<f32>>) {
    let bytes = include_bytes!("../data/golden.safetensors");
    let (_, header) = SafeTensors::read_metadata(bytes).expect("a header");
    let sentences = &header.metadata().as_ref().expect("metadata")["sentences"];
    let tensors = SafeTensors::deserialize(bytes).expect("tensors");
    let tensor = tensors.tensor("embeddings").expect("embeddings");
    let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let rows = values.chunks(tensor.shape()[1]).map(<[f32]>::to_vec).collect();
    (serde_json::from_str(sentences).expect("a list"), rows)
}

/// 1 less the cosine of the angle between two vectors.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
