//! `/v1/pods` and `/v1/pod`: pods, and what the CNI plugin asks for. Only root may.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, State as Shared},
    http::{Method, StatusCode, Uri},
    response::IntoResponse as _,
};
use tokio::sync::oneshot;

use super::{Answer, Caller, State, View, answer::Failure, query};
use crate::workloads::pods::{Action, PodError, PodRequest};

/// Every attachment that is served.
pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Answer {
    require_root(caller)?;
    let pods = state.pods.all();
    let pods: Vec<_> = pods.iter().map(|attachment| &**attachment).collect();
    Ok(Json(pods).into_response())
}

/// Has the agent take an attachment up (PUT), let it go (DELETE), or see whether all is in place (GET).
pub(super) async fn act(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    method: Method,
    uri: Uri,
) -> Answer {
    require_root(caller)?;
    let (reply, outcome) = oneshot::channel();
    let request = PodRequest {
        id: query::attachment(&uri)?,
        action: match method {
            Method::PUT => Action::TakeUp,
            Method::DELETE => Action::LetGo,
            _ => Action::Check,
        },
        reply,
    };
    let stopping = || {
        let reason = "the agent is stopping";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, reason)
    };
    let sent = state.requests.send(request).await;
    sent.map_err(|_| stopping())?;
    let outcome = outcome.await.map_err(|_| stopping())?;
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

fn require_root(caller: Caller) -> Result<(), Failure> {
    if caller.view()? == View::All {
        return Ok(());
    }
    Err(Failure::new(
        StatusCode::FORBIDDEN,
        "only root may ask about pods",
    ))
}
