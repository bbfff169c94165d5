//! One request: from whom, to whom, and its answer.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tracing::debug;

use super::{
    Session,
    body::{Body, Exchange},
    headers,
    upstream::Pool,
};
use crate::relay::{header::Refusal, metrics::Direction};

/// Why the relay answers itself, with a text for people.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem(pub(super) StatusCode, pub(super) &'static str);

/// Answers a request, by an upstream or with what is wrong.
pub(super) async fn answer(
    session: Arc<Session>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (client, told) = session.client(request.headers());
    let exchange = Arc::new(Exchange::begin(&session, client, &request));
    let response = match pass_on(&exchange, told, request).await {
        Ok(response) => {
            let exchange = exchange.clone();
            response.map(|body| Body::passing(body, exchange, Direction::Downstream))
        }
        Err(Problem(status, text)) => {
            let body = Body::text(format!("{text}\n"), exchange.clone());
            let mut response = Response::new(body);
            *response.status_mut() = status;
            let plain = HeaderValue::from_static("text/plain");
            response.headers_mut().insert(CONTENT_TYPE, plain);
            response
        }
    };
    exchange.answered(response.status());
    Ok(response)
}

async fn pass_on(
    exchange: &Arc<Exchange>,
    client: IpAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>, Problem> {
    let session = &*exchange.session;
    headers::check(&request)?;
    allow(exchange)?;
    let peer = session.begun.client.endpoints.source.socket_addr().ip();
    headers::pass_on(&mut request, &session.http, session.hops(), client, peer)?;
    let from_client = hyper::upgrade::on(&mut request);
    let request = request.map(|body| Body::passing(body, exchange.clone(), Direction::Upstream));
    let idle = session.service.relay.idle_timeout;
    let mut response = tokio::select! {
        response = Pool::send(session, &exchange.client, request) => response?,
        () = session.watch.moved.long_ago(idle) => {
            return Err(if exchange.is_complete() {
                Problem(StatusCode::GATEWAY_TIMEOUT, "the upstream does not answer")
            } else {
                Problem(StatusCode::REQUEST_TIMEOUT, "the request does not end")
            });
        }
    };
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = switches
        .then(|| headers::upgrade(response.headers()))
        .flatten();
    headers::end_hop(response.headers_mut(), upgrade);
    if switches {
        let from_upstream = hyper::upgrade::on(&mut response);
        session.tunnel(tunnel(exchange.clone(), from_client, from_upstream));
    }
    Ok(response)
}

/// Asks the policy of the relay's port about the request's client.
fn allow(exchange: &Exchange) -> Result<(), Problem> {
    let service = &exchange.session.service;
    let client = exchange.client.endpoints.source.address;
    let port = exchange.session.begun.ends.destination.port;
    match service.claims.allows(client, port) {
        Ok(true) => Ok(()),
        Ok(false) => {
            service.metrics.refused(Refusal::Denied);
            Err(Problem(StatusCode::FORBIDDEN, "a policy denies the client"))
        }
        Err(error) => {
            debug!("{}: {error:#}", service.name);
            let text = "the policy cannot be asked";
            Err(Problem(StatusCode::SERVICE_UNAVAILABLE, text))
        }
    }
}

/// Moves bytes both ways after an upgrade, until both ends are done or nothing moves.
async fn tunnel(exchange: Arc<Exchange>, client: OnUpgrade, upstream: OnUpgrade) {
    let session = &*exchange.session;
    let copy = async {
        let (client, upstream) = tokio::try_join!(client, upstream)?;
        let io = |upgraded: Upgraded| TokioIo::new(upgraded);
        let (mut client, mut upstream) = (io(client), io(upstream));
        let moved = copy_bidirectional(&mut client, &mut upstream).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(moved)
    };
    tokio::select! {
        copied = copy => match copied {
            Ok((up, down)) => {
                exchange.moved(Direction::Upstream, up as usize);
                exchange.moved(Direction::Downstream, down as usize);
            }
            Err(error) => debug!("{}: {error}", session.service.name),
        },
        () = session.watch.moved.long_ago(session.service.relay.idle_timeout) => {}
    }
}
