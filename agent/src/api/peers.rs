//! `/v1/peers`, `/v1/peer` and `/v1/top`: connections and their clients.

use std::sync::Arc;

use axum::{
    Json,
    extract::{ConnectInfo, State as Shared},
    http::{StatusCode, Uri},
    response::IntoResponse as _,
};

use super::{
    answer::{Answer, Failure},
    caller::Caller,
    query::{Ranking, Wanted},
    state::State,
};
use crate::{
    connections::peers::{self, Peer},
    host::sockets,
};

/// Answers `/v1/peers`: every connection that the caller may see.
pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Answer {
    let peers = state.snapshot(move |state| {
        let mut peers = peers::all(
            &*state.origins,
            &state.names,
            &state.containers,
            caller.view()?,
        )?;
        peers.iter_mut().for_each(|peer| add_tlvs(state, peer));
        Ok(peers)
    });
    Ok(Json(peers.await?).into_response())
}

/// Answers `/v1/peer`: the connection that the query names.
pub(super) async fn find(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    uri: Uri,
) -> Answer {
    let wanted = Wanted::try_from(&uri)?;
    let found = state.snapshot(move |state| -> anyhow::Result<Option<Peer>> {
        let cookie = match wanted {
            Wanted::Cookie(cookie) => Some(cookie),
            Wanted::Ends { local, remote } => sockets::cookie(&caller.netns()?, local, remote)?,
        };
        let Some(cookie) = cookie else {
            return Ok(None);
        };
        let mut peer = peers::one(
            &*state.origins,
            &state.names,
            &state.containers,
            caller.view()?,
            cookie,
        )?;
        peer.iter_mut().for_each(|peer| add_tlvs(state, peer));
        Ok(peer)
    });
    match found.await? {
        Some(peer) => Ok(Json(peer).into_response()),
        None => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("no origin is known for {wanted}"),
        )),
    }
}

/// Adds the TLVs of the connection's PROXY header.
fn add_tlvs(state: &State, peer: &mut Peer) {
    let tlvs = state.tlvs.get(peer.cookie, peer.header);
    peer.proxy = tlvs.map(Arc::unwrap_or_clone);
}

/// Answers `/v1/top`: the busiest prefixes of clients, for root only.
pub(super) async fn top(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    uri: Uri,
) -> Answer {
    let Ranking { by, limit } = Ranking::try_from(&uri)?;
    caller.require_root("only root sees the clients of all: ask for /v1/peers instead")?;
    let top = state.blocking(move |state| state.metrics.statistics.top(&*state.origins, by, limit));
    Ok(Json(top.await?).into_response())
}
