//! The routes.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State as Of};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;
use tracing::{debug, warn};

use crate::body;
use crate::embed::{Embedded, How, Sentences, embed};
use crate::error::ApiError;
use crate::service::State;
use crate::{memory, metrics};

/// All routes.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/embed", post(embed_route))
        .route("/v1/embeddings", post(openai_route))
        .route("/info", get(info))
        .route("/healthz", get(health))
        .route("/health", get(health))
        .route("/metrics", get(prometheus))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn(measured))
        .with_state(state)
}

/// Counts and logs a request.
async fn measured(request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Paths that are no route count as one, or anybody could make as many series as they like.
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let (status, seconds) = (response.status(), start.elapsed().as_secs_f64());
    metrics::request(&route, status.as_u16(), seconds);
    if status.is_server_error() {
        warn!(%method, path, status = status.as_u16(), ms = seconds * 1e3, "request");
    } else {
        debug!(%method, path, status = status.as_u16(), ms = seconds * 1e3, "request");
    }
    response
}

async fn no_route(Of(state): Of<Arc<State>>, request: Request) -> ApiError {
    let error = ApiError::NotFound(request.uri().path().to_owned());
    body::discard(request, &state.limits).await;
    error
}

async fn no_method(Of(state): Of<Arc<State>>, request: Request) -> ApiError {
    let error = ApiError::Method(format!("{} {}", request.method(), request.uri().path()));
    body::discard(request, &state.limits).await;
    error
}

/// What a request asks for, and its place among those that may be under way.
async fn admit<T: DeserializeOwned>(state: &State, request: Request) -> Result<(SemaphorePermit<'_>, T), ApiError> {
    let Ok(place) = state.requests.try_acquire() else {
        body::discard(request, &state.limits).await;
        return Err(ApiError::Overloaded(format!("{} requests are under way", state.limits.max_requests)));
    };
    Ok((place, body::json(request, &state.limits).await?))
}

/// What `/embed` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmbedRequest {
    inputs: Sentences,
    #[serde(default = "yes")]
    truncate: bool,
    #[serde(default = "yes")]
    normalize: bool,
}

fn yes() -> bool {
    true
}

/// What `/embed` gives.
#[derive(Serialize)]
struct EmbedResponse<'a> {
    embeddings: Vec<Vec<f32>>,
    tokens: Vec<usize>,
    truncated: Vec<bool>,
    model: &'a str,
}

async fn embed_route(Of(state): Of<Arc<State>>, request: Request) -> Result<Response, ApiError> {
    let (_place, EmbedRequest { inputs, truncate, normalize }) = admit(&state, request).await?;
    let Embedded { embeddings, tokens, truncated } = embed(&state, inputs, How { truncate, normalize }).await?;
    Ok(Json(EmbedResponse { embeddings, tokens, truncated, model: &state.name }).into_response())
}

/// What `/v1/embeddings` takes: OpenAI's shape.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenAiRequest {
    input: Sentences,
    /// There is one model, whatever a client calls it.
    #[serde(rename = "model")]
    _model: Option<String>,
    #[serde(rename = "user")]
    _user: Option<String>,
    #[serde(default)]
    encoding_format: Format,
    dimensions: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    Base64,
}

/// An embedding as it was asked for. Not as a JSON value, which would write digits that f32 does not have.
#[derive(Serialize)]
#[serde(untagged)]
enum OpenAiEmbedding {
    Float(Vec<f32>),
    Base64(String),
}

impl Format {
    fn of(self, embedding: Vec<f32>) -> OpenAiEmbedding {
        match self {
            Format::Float => OpenAiEmbedding::Float(embedding),
            Format::Base64 => {
                let bytes: Vec<u8> = embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
                OpenAiEmbedding::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
        }
    }
}

/// One of `/v1/embeddings`' embeddings.
#[derive(Serialize)]
struct OpenAiItem {
    object: &'static str,
    index: usize,
    embedding: OpenAiEmbedding,
}

/// What `/v1/embeddings` gives.
#[derive(Serialize)]
struct OpenAiResponse<'a> {
    object: &'static str,
    data: Vec<OpenAiItem>,
    model: &'a str,
    usage: Value,
}

async fn openai_route(Of(state): Of<Arc<State>>, request: Request) -> Result<Response, ApiError> {
    let (_place, request): (_, OpenAiRequest) = admit(&state, request).await?;
    if let Some(other) = request.dimensions.filter(|&dimensions| dimensions != state.dimensions) {
        return Err(ApiError::Invalid(format!("dimensions is {other}, the model has {}", state.dimensions)));
    }
    let Embedded { embeddings, tokens, .. } =
        embed(&state, request.input, How { truncate: true, normalize: true }).await?;
    let total: usize = tokens.iter().sum();
    let item = |(index, embedding): (usize, Vec<f32>)| OpenAiItem {
        object: "embedding",
        index,
        embedding: request.encoding_format.of(embedding),
    };
    let data = embeddings.into_iter().enumerate().map(item).collect();
    let usage = json!({ "prompt_tokens": total, "total_tokens": total });
    Ok(Json(OpenAiResponse { object: "list", data, model: &state.name, usage }).into_response())
}

async fn info(Of(state): Of<Arc<State>>) -> Json<Value> {
    Json(json!({
        "model": state.name,
        "dimensions": state.dimensions,
        "max_tokens": state.tokenizer.max_tokens(),
        "max_sentences": state.limits.max_sentences,
        "max_body_bytes": state.limits.max_body_bytes,
        "max_batch_tokens": state.limits.max_batch_tokens,
        "device": state.device,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// 200 while requests are answered, 503 while the service is stopping or computes nothing that is right.
async fn health(Of(state): Of<Arc<State>>) -> (StatusCode, Json<Value>) {
    let status = match (state.is_stopping(), state.engine.is_failing()) {
        (true, _) => "stopping",
        (false, true) => "failing",
        (false, false) => "ok",
    };
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "status": status, "waiting": state.engine.waiting() })))
}

async fn prometheus(Of(state): Of<Arc<State>>) -> impl IntoResponse {
    metrics::live(memory::live());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.prometheus.render())
}
