//! `/v1/reload`: has the agent read its configuration again, for root only.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, State as Shared},
    http::StatusCode,
    response::IntoResponse as _,
};

use super::{
    answer::{Answer, Failure},
    caller::Caller,
    state::{Request, State},
};

/// Answers when the agent has taken the configuration up, or with the reason why it goes on as before.
pub(super) async fn act(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Answer {
    caller.require_root("only root may have the agent read its configuration again")?;
    let outcome = state.ask_agent(Request::Reload).await?;
    let reloaded = outcome
        .map_err(|error| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}")))?;
    Ok(Json(reloaded).into_response())
}
