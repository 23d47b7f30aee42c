//! Reading a request's body as JSON, within bounds of size and time.

use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::{Map, Value};

use crate::config::Limits;
use crate::error::ApiError;

/// How often the largest body is read and thrown away before the connection is given up. A client that is still sending does not look
/// at the response, and one whose connection is cut off never sees it.
const PATIENCE: usize = 16;

/// The JSON of a request.
///
/// # Errors
/// 415 for another content type, 413 for too large a body, 408 for one that takes too long, 400 for what is not JSON, 422 for JSON of another
/// shape.
pub async fn json<T: DeserializeOwned>(request: Request, limits: &Limits) -> Result<T, ApiError> {
    let content_type =
        request.headers().get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    if let Some(other) = content_type.filter(|value| !is_json(value)) {
        let error = ApiError::ContentType(other.into_owned());
        discard(request, limits).await;
        return Err(error);
    }
    let limit = limits.max_body_bytes as usize;
    let bytes = within(limits, bytes(request.into_body(), limit, limit)).await?;
    let parsed = serde_json::from_slice::<Map<String, Value>>(&bytes);
    // Not at once as `T`, for which a list would do too.
    parsed.and_then(|object| T::deserialize(Value::Object(object))).map_err(|error| match error.classify() {
        Category::Data => ApiError::Invalid(error.to_string()),
        Category::Io | Category::Syntax | Category::Eof => ApiError::Syntax(error),
    })
}

/// Reads the body of a request that is refused whatever is in it, so that the client comes to look at the answer.
pub async fn discard(request: Request, limits: &Limits) {
    // Too large, too slow or cut off: it is refused anyway.
    let _ = within(limits, bytes(request.into_body(), 0, limits.max_body_bytes as usize)).await;
}

/// What is read, if that does not take too long.
async fn within(limits: &Limits, read: impl Future<Output = Result<Vec<u8>, ApiError>>) -> Result<Vec<u8>, ApiError> {
    let seconds = limits.body_timeout_s;
    tokio::time::timeout(Duration::from_secs(seconds), read).await.map_err(|_| ApiError::BodyTimeout(seconds))?
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// The bytes of a body of at most `limit`, if they are at most `kept`.
async fn bytes(mut body: Body, kept: usize, limit: usize) -> Result<Vec<u8>, ApiError> {
    let (mut bytes, mut total) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::Body(error.to_string()))?;
        let Some(data) = frame.data_ref() else { continue };
        total += data.len();
        if total <= kept {
            bytes.extend_from_slice(data);
        } else if total > limit.saturating_mul(PATIENCE) {
            break;
        }
    }
    if total > limit {
        return Err(ApiError::TooLarge(format!("the body has more than {limit} bytes (--max-body-bytes)")));
    }
    Ok(bytes)
}
