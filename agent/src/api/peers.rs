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
    connections::peers::{Peer, View, Viewer},
    host::{processes::Owners, sockets},
};

/// Answers `/v1/peers`: every connection that the caller may see.
pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
) -> Answer {
    let view = caller.view()?;
    // A connection that begins meanwhile is not among them.
    let origins = state.entries(caller).await?;
    let owners = state.owners(caller).await?;
    let peers = state.blocking(move |state| {
        let mut peers = viewer(state, &owners, view).all(&origins)?;
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
    let unknown = || {
        let reason = format!("no origin is known for {wanted}");
        Failure::new(StatusCode::NOT_FOUND, reason)
    };
    let view = caller.view()?;
    let known = state.blocking(move |state| {
        let cookie = match wanted {
            Wanted::Cookie(cookie) => Some(cookie),
            Wanted::Ends { local, remote } => sockets::cookie(&caller.netns()?, local, remote)?,
        };
        let of = |cookie| Ok(state.origins.get(cookie)?.map(|origin| (cookie, origin)));
        cookie.map_or(Ok(None), of)
    });
    let (cookie, origin) = known.await?.ok_or_else(unknown)?;
    let owners = state.owners(caller).await?;
    let found = state.blocking(move |state| {
        let mut peer = viewer(state, &owners, view).one(cookie, &origin)?;
        peer.iter_mut().for_each(|peer| add_tlvs(state, peer));
        Ok(peer)
    });
    let peer = found.await?.ok_or_else(unknown)?;
    Ok(Json(peer).into_response())
}

fn viewer<'a>(state: &'a State, owners: &'a Owners, view: View) -> Viewer<'a> {
    Viewer {
        names: &state.names,
        containers: &state.containers,
        owners,
        view,
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
