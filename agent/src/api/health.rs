//! `/metrics` and `/readyz`.

use std::sync::Arc;

use axum::{
    extract::State as Shared,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};

use super::{answer::Answer, state::State};
use crate::observe::metrics;

/// Answers `/metrics`.
pub(super) async fn scrape(Shared(state): Shared<Arc<State>>) -> Answer {
    let text = state.blocking(|state| state.metrics.encode()).await?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Answers `/readyz`.
pub(super) async fn readiness(Shared(state): Shared<Arc<State>>) -> Response {
    if state.is_ready() {
        "ready\n".into_response()
    } else {
        let text = "not ready: the agent is starting or draining\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}
