//! Answers of handlers.

use std::time::Duration;

use axum::{
    Json,
    http::{Method, StatusCode, Uri, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// What a handler returns.
pub(super) type Answer = Result<Response, Failure>;

/// A request that failed: a status, and JSON with the reason.
#[derive(Debug)]
pub struct Failure {
    /// The status of the answer.
    pub status: StatusCode,
    /// What is wrong, for people.
    pub reason: String,
    /// When another attempt may do better.
    retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            retry_after: None,
        }
    }

    /// The same, with the advice to try again after this time.
    pub(super) fn retry_after(self, time: Duration) -> Self {
        Self {
            retry_after: Some(time),
            ..self
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        tracing::warn!("a request to the API failed: {error:#}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after.map(|time| [(RETRY_AFTER, time.as_secs())]);
        let body = Json(json!({ "error": self.reason }));
        (self.status, retry_after, body).into_response()
    }
}

/// Answers a request for a path that does not exist.
pub(super) async fn unknown_path(uri: Uri) -> Failure {
    let reason = format!("there is nothing at {}", uri.path());
    Failure::new(StatusCode::NOT_FOUND, reason)
}

/// Answers a request with a method that the path does not have.
pub(super) async fn unknown_method(method: Method) -> Failure {
    let reason = format!("{method} is not possible here");
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, reason)
}
