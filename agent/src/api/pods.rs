//! `/v1/pods` and `/v1/pod`: attachments of pods, for root only.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, State as Shared},
    http::{Method, StatusCode, Uri},
    response::IntoResponse as _,
};

use super::{
    answer::{Answer, Failure},
    caller::Caller,
    query,
    state::{Request, State},
};
use crate::workloads::pods::{Action, PodError, PodRequest};

const ROOT_ONLY: &str = "only root may ask about pods";

/// Answers `/v1/pods`: every attachment that the agent serves.
pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Answer {
    caller.require_root(ROOT_ONLY)?;
    let pods = state.pods.all();
    let pods: Vec<_> = pods.iter().map(|attachment| &**attachment).collect();
    Ok(Json(pods).into_response())
}

/// Answers `/v1/pod`: asks the agent to take up an attachment (PUT), to let it go (DELETE), or to check that all is in
/// place (GET).
pub(super) async fn act(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    method: Method,
    uri: Uri,
) -> Answer {
    caller.require_root(ROOT_ONLY)?;
    let id = query::attachment(&uri)?;
    let action = match method {
        Method::PUT => Action::TakeUp,
        Method::DELETE => Action::LetGo,
        _ => Action::Check,
    };
    let request = |reply| Request::Pod(PodRequest { id, action, reply });
    let outcome = state.ask_agent(request).await?;
    outcome.map_err(|refusal| match refusal {
        PodError::Unknown(error) => Failure::new(StatusCode::NOT_FOUND, format!("{error:#}")),
        PodError::Unfit(error) => {
            Failure::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}"))
        }
        PodError::Amiss(error) => Failure::new(StatusCode::CONFLICT, format!("{error:#}")),
        PodError::Failed(error) => error.into(),
    })?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
