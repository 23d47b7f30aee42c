//! What a request may be answered with when it is not answered: a status, a kind and a sentence, as JSON.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::queue::{Failure, Refused};

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    Syntax(serde_json::Error),
    /// The body did not arrive.
    #[error("the body did not arrive: {0}")]
    Body(String),
    /// The body did not arrive in time.
    #[error("the body did not arrive within {0} s")]
    BodyTimeout(u64),
    /// The body is of another type than JSON.
    #[error("the content type is {0:?}; send the header content-type: application/json")]
    ContentType(String),
    /// The JSON is not what the route takes.
    #[error("{0}")]
    Invalid(String),
    /// The body, the request or a sentence is too large.
    #[error("{0}")]
    TooLarge(String),
    /// There is no such route.
    #[error("there is no {0}; the routes are / /embed /v1/embeddings /info /healthz /metrics")]
    NotFound(String),
    /// The route takes another method.
    #[error("{0} is not possible; the header allow says what is")]
    Method(String),
    /// There is too much to do already.
    #[error("too busy: {0}")]
    Overloaded(String),
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
    /// The embeddings were not there in time.
    #[error("the embeddings were not ready within {0} s")]
    Timeout(u64),
    /// The device failed at the batch that the request was in.
    #[error("the device failed: {0}")]
    Device(String),
    /// The computation failed.
    #[error("the computation failed: {0}")]
    Failed(String),
}

impl ApiError {
    /// The status that it is answered with.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::Syntax(_) | ApiError::Body(_) => StatusCode::BAD_REQUEST,
            ApiError::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            ApiError::ContentType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ApiError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ApiError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::Overloaded(_) | ApiError::Stopping | ApiError::Device(_) => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            ApiError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The kind, for programs.
    fn kind(&self) -> &'static str {
        match self {
            ApiError::Overloaded(_) | ApiError::Stopping => "overloaded",
            ApiError::Timeout(_) | ApiError::Failed(_) | ApiError::Device(_) => "backend",
            ApiError::NotFound(_) | ApiError::Method(_) => "route",
            _ => "validation",
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full { .. } => ApiError::Overloaded(refused.to_string()),
            Refused::Closed => ApiError::Stopping,
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Device(words) => ApiError::Device(words),
            Failure::Defect(words) => ApiError::Failed(words),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.to_string(), "error_type": self.kind() });
        let mut response = (self.status(), Json(body)).into_response();
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
