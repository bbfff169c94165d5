//! Connections to upstreams, each of which serves one client's requests one after another.

use std::{collections::VecDeque, sync::Mutex};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::{body::Body, headers::MAX_HEAD, local_reply::LocalReply, session::Session};
use crate::{
    config::Send,
    relay::{client::Client, reason::RefusalReason, upstream},
};

/// How many connections to upstreams a client's connection keeps for further requests.
const KEPT: usize = 64;

/// The connections to upstreams of one client's connection. No other connection uses them, and each speaks
/// for one client only, unless the relay does not tell upstreams of clients.
#[derive(Default)]
pub(super) struct Pool(Mutex<VecDeque<(Client, SendRequest<Body>)>>);

impl Pool {
    /// Sends a request on the client's behalf, and returns the head of the answer.
    ///
    /// # Errors
    ///
    /// What to answer when no upstream can be reached, or when it does not answer.
    pub(super) async fn send(
        &self,
        session: &Session,
        client: &Client,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, LocalReply> {
        loop {
            let kept = self.take(client, session.service.relay.send == Send::Plain);
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => connect(session, client).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(*client, sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    // The upstream closed a kept connection before the request could be sent.
                    Some(unsent) if is_kept => request = unsent,
                    _ => {
                        debug!("{}: {}", session.service.name, error.error());
                        return Err(LocalReply(
                            StatusCode::BAD_GATEWAY,
                            "the upstream did not answer in HTTP",
                        ));
                    }
                },
            }
        }
    }

    /// Takes a connection that waits for a request of this client, or of any if `is_anyones`.
    fn take(&self, client: &Client, is_anyones: bool) -> Option<SendRequest<Body>> {
        let mut kept = self.0.lock().expect("no holder panics");
        kept.retain(|(_, sender)| !sender.is_closed());
        let at = kept
            .iter()
            .rposition(|(its, sender)| sender.is_ready() && (is_anyones || its == client))?;
        Some(kept.remove(at)?.1)
    }

    /// Keeps a connection for the request after this one. The oldest has to go when there are too many.
    fn keep(&self, client: Client, sender: SendRequest<Body>) {
        let mut kept = self.0.lock().expect("no holder panics");
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((client, sender));
    }
}

/// Connects to an upstream on the client's behalf.
async fn connect(session: &Session, client: &Client) -> Result<SendRequest<Body>, LocalReply> {
    let unavailable = LocalReply::UNAVAILABLE;
    let stream = match upstream::open(&session.service, &session.beginning, client).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(RefusalReason::Denied)) => return Err(LocalReply::DENIED),
        Ok(Err(RefusalReason::Inexpressible)) => return Err(LocalReply::INEXPRESSIBLE),
        Ok(Err(_)) => return Err(unavailable),
        Err(error) => {
            debug!("{}: {error:#}", session.service.name);
            return Err(unavailable);
        }
    };
    let handshake = Builder::new()
        .max_header_size(MAX_HEAD)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(|_| unavailable)?;
    let name = session.service.name.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!("{name}: {error}");
        }
    });
    Ok(sender)
}
