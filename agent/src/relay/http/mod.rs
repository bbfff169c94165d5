//! HTTP/1.1 and HTTP/2 without TLS, where each request has a client of its own.
//!
//! hyper parses and frames messages, and is strict about it: an ambiguous head (two lengths, blanks before a
//! colon, folded lines) is an error. What goes on to an upstream is written anew, never copied.

mod answer;
mod body;
mod exchange;
mod expect;
mod headers;
mod hops;
mod io;
mod local_reply;
mod own_answer;
mod pool;
mod session;
mod timeouts;
mod tunnel;

use std::{
    io::Cursor,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use hyper::{server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::watch, time};
use tracing::debug;

use self::{
    answer::Responder,
    headers::MAX_HEAD,
    io::Io,
    session::Session,
    timeouts::{Expired, Timeouts},
};
pub use self::{
    headers::{check, forwarded_for, pass_on},
    hops::Hops,
    local_reply::LocalReply,
};
use super::{
    begin::Beginning, preamble::read_some, reason::RefusalReason, refuse::refuse, service::Service,
};
use crate::config::Http;

/// How many requests of one HTTP/2 connection are answered at a time (Envoy's recommendation for the edge).
const MAX_STREAMS: u32 = 100;
/// The beginning of every connection that speaks HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The answer to a client whose head takes too long, which hyper does not give by itself.
const TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: text/plain\r\n\
    content-length: 31\r\n\r\nthe request's head did not end\n";

/// Serves a connection to its end. Once the relay's settings change or its listener closes, requests in
/// progress are still answered, and then the connection ends.
pub(super) async fn serve(
    service: Arc<Service>,
    http: Http,
    stream: TcpStream,
    beginning: Beginning,
    mut settings: watch::Receiver<Arc<Service>>,
) {
    let relay = &service.relay;
    let (header_timeout, idle_timeout) = (relay.header_timeout, relay.idle_timeout);
    let mut first = beginning.payload().to_vec();
    let is_http2 = match time::timeout(header_timeout, begins_http2(&stream, &mut first)).await {
        Ok(Some(is_http2)) => is_http2,
        Ok(None) => return,
        Err(_) => {
            let sender = beginning.ends.source.socket_addr();
            return refuse(&service, &stream, sender, RefusalReason::Timeout.into());
        }
    };
    let timeouts = Arc::new(Timeouts::start());
    let stream = Arc::new(stream);
    let io = Io {
        stream: stream.clone(),
        first: Cursor::new(first),
        timeouts: timeouts.clone(),
    };
    let session = Arc::new(Session {
        service,
        http,
        beginning,
        timeouts,
    });
    let responder = Arc::new(Responder::new(session.clone()));
    let answers = {
        let responder = responder.clone();
        service_fn(move |request| {
            let responder = responder.clone();
            async move { responder.answer(request).await }
        })
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
            // A client may end its side once it has asked.
            .half_close(true)
            .serve_connection(TokioIo::new(io), answers)
            .with_upgrades();
        let limits = (Some(header_timeout), idle_timeout);
        let end = conn::http1::UpgradeableConnection::graceful_shutdown;
        let expired = drive(connection, end, &session, &mut settings, limits).await;
        if expired == Some(Expired::Head) {
            // This fails when the client is gone.
            let _ = stream.try_write(TIMEOUT);
        }
        responder.tunnel().await;
    }
}

/// Whether the connection begins with HTTP/2's preface; `None` when it ends before that is clear. `first` has
/// the bytes that were read already, and gets those that this reads.
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
        if read_some(stream, first).await.ok()? == 0 {
            return None;
        }
    }
}

/// Drives a connection to its end, by way of `end` once `settings` change. One without a request yet may still make it, for as
/// long as a head may take. Returns what took too long, or `None` when the connection ended by itself.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    end: fn(Pin<&mut C>),
    session: &Session,
    settings: &mut watch::Receiver<Arc<Service>>,
    (header_timeout, idle_timeout): (Option<Duration>, Option<Duration>),
) -> Option<Expired> {
    let mut connection = pin!(connection);
    let mut is_ending = false;
    // A connection without a request yet would be closed, and its first request with it.
    let patience = session.service.relay.header_timeout;
    let mut changed = pin!(async {
        let _ = settings.changed().await;
        let _ = time::timeout(patience, session.timeouts.requested()).await;
    });
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!("{}: {error}", session.service.name);
                }
                return None;
            }
            () = changed.as_mut(), if !is_ending => {
                is_ending = true;
                end(connection.as_mut());
            }
            expired = session.timeouts.expired(header_timeout, idle_timeout) => return Some(expired),
        }
    }
}
