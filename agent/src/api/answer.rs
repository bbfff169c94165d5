//! Answers that are errors: JSON with the reason.

use axum::{
    Json,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// A request that failed.
pub(super) struct Failure {
    status: StatusCode,
    reason: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
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
        (self.status, Json(json!({ "error": self.reason }))).into_response()
    }
}

pub(super) async fn unknown_path(uri: Uri) -> Failure {
    let reason = format!("there is nothing at {}", uri.path());
    Failure::new(StatusCode::NOT_FOUND, reason)
}

pub(super) async fn unknown_method(method: Method) -> Failure {
    let reason = format!("{method} is not possible here");
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, reason)
}
