//! Connections to upstreams that serve one client's requests after another.

use std::{collections::VecDeque, sync::Mutex};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::{MAX_HEAD, Session, answer::Problem, body::Body};
use crate::{
    config::Send,
    relay::connection::{self, Client},
};

/// How many a client's connection keeps for further requests.
const KEPT: usize = 64;

/// The upstream connections of a client's connection. They are not shared with others, and each speaks for
/// one client only, unless the relay does not tell its clients.
#[derive(Default)]
pub(super) struct Pool(Mutex<VecDeque<(Client, SendRequest<Body>)>>);

impl Pool {
    /// Sends a request in this client's name; the answer's head.
    pub(super) async fn send(
        session: &Session,
        client: &Client,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Problem> {
        let pool = &session.pool;
        loop {
            let kept = pool.take(client, session.service.relay.send == Send::Plain);
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => connect(session, client).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    pool.keep(*client, sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    // It was closed before the request could be sent.
                    Some(unsent) if is_kept => request = unsent,
                    _ => {
                        debug!("{}: {}", session.service.name, error.error());
                        return Err(Problem(
                            StatusCode::BAD_GATEWAY,
                            "the upstream did not answer in HTTP",
                        ));
                    }
                },
            }
        }
    }

    /// One that waits for a request of this client.
    fn take(&self, client: &Client, is_anyones: bool) -> Option<SendRequest<Body>> {
        let mut kept = self.0.lock().expect("no holder panics");
        kept.retain(|(_, sender)| !sender.is_closed());
        let at = kept
            .iter()
            .rposition(|(its, sender)| sender.is_ready() && (is_anyones || its == client))?;
        Some(kept.remove(at)?.1)
    }

    /// For the next request, once this one is answered; the oldest has to go when there are too many.
    fn keep(&self, client: Client, sender: SendRequest<Body>) {
        let mut kept = self.0.lock().expect("no holder panics");
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((client, sender));
    }
}

async fn connect(session: &Session, client: &Client) -> Result<SendRequest<Body>, Problem> {
    let unavailable = Problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "no upstream can be reached",
    );
    let stream = match connection::upstream(&session.service, &session.begun, client).await {
        Ok(Some(stream)) => stream,
        Ok(None) => return Err(unavailable),
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
