//! HTTP/1.1 and HTTP/2 without TLS: each request has a client of its own.
//!
//! What parses and frames messages is hyper, strictly: a head that is ambiguous (two lengths, blanks
//! before a colon, folded lines) is an error, and what goes on is written anew and never copied.

mod answer;
mod body;
mod client;
mod headers;
mod io;
mod upstream;

use std::{
    io::Cursor,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    time::Duration,
};

use agent_common::{Endpoint, Evidence, Origin, origin::rule_id, proxy::Endpoints};
use futures_util::future::BoxFuture;
use hyper::{HeaderMap, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::watch, time};
use tracing::debug;

use self::{
    client::Hops,
    io::{Expired, Io, Watch},
    upstream::Pool,
};
use super::{
    Service,
    connection::{Beginning, Client, refuse},
    header::{self, Refusal},
};
use crate::config::Http;

/// How long a head may be (Envoy's bound); HTTP/1.1 may have 100 lines.
const MAX_HEAD: usize = 60 << 10;
/// How many requests of one HTTP/2 connection are answered at a time (Envoy's recommendation for the edge).
const MAX_STREAMS: u32 = 100;
/// How every connection with HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// To a client whose head takes too long, which hyper leaves to others.
const TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: text/plain\r\n\
    content-length: 31\r\n\r\nthe request's head did not end\n";

/// A client's connection.
struct Session {
    service: Arc<Service>,
    http: Http,
    begun: Beginning,
    pool: Pool,
    watch: Arc<Watch>,
    /// What goes on when a request has switched to another protocol.
    tunnel: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Session {
    fn hops(&self) -> Hops<'_> {
        match self.http.trusted_hops {
            Some(count) => Hops::Count(count),
            None => Hops::Prefixes(&self.service.sources),
        }
    }

    /// Whose request this is, with these headers as they came in; and the address as it is passed on, where
    /// Envoy leaves IPv4-mapped ones as they are.
    fn client(&self, headers: &HeaderMap) -> (Client, IpAddr) {
        let connects = self.begun.client;
        let peer = connects.endpoints.source.socket_addr();
        let named = self
            .hops()
            .client(&headers::forwarded_for(headers), peer.ip());
        let Some(address) = named else {
            return (connects, peer.ip());
        };
        let by_prefix = self.service.trusting_rule(peer);
        let by_prefix = by_prefix.filter(|_| self.http.trusted_hops.is_none());
        let client = Client {
            endpoints: Endpoints {
                // The header tells no port.
                source: Endpoint::new(address.into(), 0),
                ..connects.endpoints
            },
            evidence: Evidence::Xff,
            rule: rule_id(&by_prefix.unwrap_or_else(|| self.service.name.clone())),
        };
        (client, address)
    }

    /// The record of a request.
    fn origin(&self, client: &Client, since: u64) -> Origin {
        client.origin(self.begun.ends, self.begun.netns, since)
    }

    fn tunnel(&self, tunnel: impl Future<Output = ()> + Send + 'static) {
        *self.tunnel.lock().expect("no holder panics") = Some(Box::pin(tunnel));
    }
}

/// Serves a connection to its end, gracefully when the relay's settings change or it closes.
pub(super) async fn serve(
    service: Arc<Service>,
    http: Http,
    stream: TcpStream,
    begun: Beginning,
    mut settings: watch::Receiver<Arc<Service>>,
) {
    let relay = &service.relay;
    let (header_timeout, idle_timeout) = (relay.header_timeout, relay.idle_timeout);
    let mut first = begun.payload().to_vec();
    let is_http2 = match time::timeout(header_timeout, begins_http2(&stream, &mut first)).await {
        Ok(Some(is_http2)) => is_http2,
        Ok(None) => return,
        Err(_) => {
            let sender = begun.ends.source.socket_addr();
            return refuse(&service, &stream, sender, Refusal::Timeout.into());
        }
    };
    let watch = Arc::new(Watch::new());
    let stream = Arc::new(stream);
    let io = Io {
        stream: stream.clone(),
        first: Cursor::new(first),
        watch: watch.clone(),
    };
    let session = Arc::new(Session {
        service,
        http,
        begun,
        pool: Pool::default(),
        watch,
        tunnel: Mutex::default(),
    });
    let answers = {
        let session = session.clone();
        service_fn(move |request| answer::answer(session.clone(), request))
    };
    if is_http2 {
        let connection = conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD as u32)
            .max_concurrent_streams(MAX_STREAMS)
            .serve_connection(TokioIo::new(io), answers);
        let limits = (None, idle_timeout);
        let end = conn::http2::Connection::graceful_shutdown;
        drive(connection, end, &session, &mut settings, limits).await;
    } else {
        let connection = conn::http1::Builder::new()
            .max_header_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), answers)
            .with_upgrades();
        let limits = (Some(header_timeout), idle_timeout);
        let end = conn::http1::UpgradeableConnection::graceful_shutdown;
        let expired = drive(connection, end, &session, &mut settings, limits).await;
        if expired == Some(Expired::Head) {
            // An error: it is gone.
            let _ = stream.try_write(TIMEOUT);
        }
        let tunnel = session.tunnel.lock().expect("no holder panics").take();
        if let Some(tunnel) = tunnel {
            tunnel.await;
        }
    }
}

/// Whether the connection begins as HTTP/2 does; `None`: it ends before.
async fn begins_http2(stream: &TcpStream, first: &mut Vec<u8>) -> Option<bool> {
    loop {
        let (head, preface) = match first.len() < PREFACE.len() {
            true => (&first[..], &PREFACE[..first.len()]),
            false => (&first[..PREFACE.len()], PREFACE),
        };
        if head != preface {
            return Some(false);
        }
        if head.len() == PREFACE.len() {
            return Some(true);
        }
        if header::read(stream, first).await.ok()? == 0 {
            return None;
        }
    }
}

/// Returns what took too long, unless the connection ended before.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    end: fn(Pin<&mut C>),
    session: &Session,
    settings: &mut watch::Receiver<Arc<Service>>,
    (header_timeout, idle_timeout): (Option<Duration>, Duration),
) -> Option<Expired> {
    let mut connection = pin!(connection);
    let mut is_ending = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!("{}: {error}", session.service.name);
                }
                return None;
            }
            _ = settings.changed(), if !is_ending => {
                is_ending = true;
                end(connection.as_mut());
            }
            expired = session.watch.expired(header_timeout, idle_timeout) => return Some(expired),
        }
    }
}

#[cfg(test)]
mod tests;
