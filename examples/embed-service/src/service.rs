//! The service: model and device, the listener, and stopping without losing what was accepted.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::attention::{self, AttentionError, Size};
use crate::config::{Limits, Options};
use crate::engine::Engine;
use crate::metrics;
use crate::model::{Encoder, ModelConfig, ModelError, Tokenizer};
use crate::queue::Bounds;
use crate::{http, listen};

/// How often samples are folded into histograms; between two scrapes they would pile up otherwise.
const UPKEEP: Duration = Duration::from_secs(5);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What all requests share.
pub struct State {
    pub(crate) engine: Engine,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) limits: Limits,
    pub(crate) requests: Semaphore,
    pub(crate) prometheus: PrometheusHandle,
    /// The model's folder's name.
    pub(crate) name: String,
    pub(crate) dimensions: usize,
    pub(crate) device: String,
    stopping: AtomicBool,
}

impl State {
    /// Whether the service has been told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether no request for embeddings is under way.
    fn is_idle(&self) -> bool {
        self.requests.available_permits() == self.limits.max_requests as usize
    }
}

/// Why the service does not start, or ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device that was asked for cannot be had.
    #[error("--device {device}: {source}")]
    Device {
        /// What was asked for.
        device: String,
        /// Why it cannot be had.
        source: Box<AttentionError>,
    },
    /// An option does not go with the model or with another one.
    #[error("{option} is {got}; allowed: {allowed}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it is.
        got: usize,
        /// What it may be.
        allowed: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The recorder of metrics cannot be installed.
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
    /// Requests were still under way when the time for finishing them was over.
    #[error("requests were still under way {0} s after the service was told to stop (--grace-s)")]
    Grace(u64),
}

/// A service that is ready to serve.
pub struct Service {
    state: Arc<State>,
    listener: TcpListener,
    address: SocketAddr,
}

impl Service {
    /// Loads the model, opens the device and binds the address.
    ///
    /// # Errors
    /// What is wrong with the model's folder, the device, the options or the address.
    pub async fn new(options: &Options) -> Result<Self, ServiceError> {
        let start = Instant::now();
        let state = Arc::new(load(options)?);
        let ms = start.elapsed().as_millis() as u64;
        info!(model = state.name, dimensions = state.dimensions, device = state.device, ms, "loaded");
        let address = options.listen;
        let failed = |source| ServiceError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Service { state, listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is done, then finishes what was accepted.
    ///
    /// # Errors
    /// [`ServiceError::Grace`] when that takes too long.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), ServiceError> {
        self.boxed(Box::pin(stop)).await
    }

    /// The future as an object: the server behind it is compiled here once, and not in every program that starts a service.
    fn boxed(self, stop: Boxed<()>) -> Boxed<Result<(), ServiceError>> {
        Box::pin(self.serve(stop))
    }

    async fn serve(self, stop: Boxed<()>) -> Result<(), ServiceError> {
        let state = Arc::clone(&self.state);
        let grace = state.limits.grace_s;
        let (told, stopped) = tokio::sync::oneshot::channel();
        let stop = async move {
            stop.await;
            info!(waiting = state.engine.waiting(), "stopping: accepted requests are finished");
            state.stopping.store(true, Ordering::Relaxed);
            state.engine.hurry();
            let _ = told.send(());
        };
        let upkeep = tokio::spawn(upkeep(self.state.prometheus.clone()));
        let idle = Duration::from_secs(self.state.limits.idle_timeout_s);
        let serve = listen::serve(self.listener, http::router(Arc::clone(&self.state)), idle, stop);
        let late = async {
            // The sender lives as long as the server.
            let _ = stopped.await;
            tokio::time::sleep(Duration::from_secs(grace)).await;
        };
        let result = tokio::select! {
            () = serve => Ok(()),
            // A connection may be open without a request.
            () = late => if self.state.is_idle() { Ok(()) } else { Err(ServiceError::Grace(grace)) },
        };
        upkeep.abort();
        if let Err(error) = &result {
            warn!("{error}");
        }
        let state = self.state;
        // Waits for a thread, and so not on one of the runtime's.
        let ended = tokio::task::spawn_blocking(move || state.engine.stop()).await;
        if let Err(error) = ended {
            warn!("{error}");
        }
        result
    }
}

async fn upkeep(prometheus: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        prometheus.run_upkeep();
    }
}

fn load(options: &Options) -> Result<State, ServiceError> {
    let (folder, limits) = (&options.model, &options.limits);
    let config = ModelConfig::read(folder)?;
    let max_tokens = max_tokens(limits, &config)?;
    let tokenizer = Tokenizer::load(folder, max_tokens, config.vocab_size)?;
    let size = Size {
        heads: config.num_attention_heads,
        head_dim: config.head_dim(),
        tokens: limits.max_batch_tokens as usize,
        sentences: limits.max_batch_sentences as usize,
        longest: max_tokens,
    };
    let attention = attention::open(options.device, size, limits.room())
        .map_err(|error| ServiceError::Device { device: options.device.to_string(), source: Box::new(error) })?;
    let device = attention.describe();
    let encoder = Encoder::load(folder, &config, attention)?;
    Ok(State {
        engine: Engine::start(encoder, Bounds::from(limits)).map_err(ServiceError::Thread)?,
        tokenizer,
        limits: limits.clone(),
        requests: Semaphore::new(limits.max_requests as usize),
        prometheus: metrics::install()?,
        name: name(folder),
        dimensions: config.hidden_size,
        device,
        stopping: AtomicBool::new(false),
    })
}

/// Tokens that sentences are cut off at.
fn max_tokens(limits: &Limits, config: &ModelConfig) -> Result<usize, ServiceError> {
    let got = limits.max_tokens.map_or(config.max_tokens, |tokens| tokens as usize);
    if !(3..=config.max_tokens).contains(&got) {
        let allowed = format!("3 to the model's {}", config.max_tokens);
        return Err(ServiceError::Option { option: "--max-tokens", got, allowed });
    }
    let batch = limits.max_batch_tokens as usize;
    if batch < got {
        let allowed = format!("at least {got}, the tokens of one sentence (--max-tokens)");
        return Err(ServiceError::Option { option: "--max-batch-tokens", got: batch, allowed });
    }
    Ok(got)
}

/// The name of the model's folder.
fn name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
