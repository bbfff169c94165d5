//! `/metrics` and `/readyz`.

use std::sync::Arc;

use axum::{
    extract::{ConnectInfo, State as Shared},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};

use super::{answer::Answer, caller::Caller, state::State};
use crate::observe::metrics;

/// Answers `/metrics`.
pub(super) async fn scrape(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Answer {
    let text = state.metrics_text(caller).await?;
    let text = String::clone(&text);
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Answers `/readyz`. An agent that waits for something serves what is there, and is ready.
pub(super) async fn readiness(Shared(state): Shared<Arc<State>>) -> Response {
    if state.is_ready() {
        let waiting = state.metrics.upkeep.waiting().into_iter();
        let waiting: String = waiting
            .map(|thing| format!("waiting for {thing}\n"))
            .collect();
        format!("ready\n{waiting}").into_response()
    } else {
        let text = "not ready: the agent is starting or draining\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}
