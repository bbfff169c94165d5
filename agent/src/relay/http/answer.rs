//! Answers a client's requests.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use hyper::{Request, Response, StatusCode, body::Incoming};
use tracing::debug;

use super::{
    body::Body, exchange::Exchange, expect, headers, local_reply::LocalReply, own_answer,
    pool::Pool, session::Session, tunnel::tunnel,
};
use crate::relay::metrics::Direction;

/// Answers the requests of one client's connection.
pub(super) struct Responder {
    session: Arc<Session>,
    pool: Pool,
    /// What follows a request that has switched to another protocol.
    tunnel: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Responder {
    /// Answers the requests of this session.
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            pool: Pool::default(),
            tunnel: Mutex::default(),
        }
    }

    /// Answers a request: an upstream's answer, or the relay's own that says what is wrong.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let (client, address) = self.session.client(request.headers());
        let exchange = Arc::new(Exchange::begin(&self.session, client, &request));
        let is_grpc = headers::is_grpc(&request);
        let response = match self.pass_on(&exchange, address, request).await {
            Ok(response) => {
                let exchange = exchange.clone();
                response.map(|body| Body::passing(body, exchange, Direction::Downstream))
            }
            Err(reply) => {
                if let Some(reason) = reply.refusal() {
                    exchange.refused(reason);
                }
                let answer = match is_grpc {
                    true => own_answer::of_grpc,
                    false => own_answer::of_http,
                };
                answer(reply, exchange.clone())
            }
        };
        exchange.answered(response.status());
        Ok(response)
    }

    /// Moves what follows a switch to another protocol, if there was one, to its end. Must be called once
    /// HTTP has ended on the connection.
    pub(super) async fn tunnel(&self) {
        let tunnel = self.tunnel.lock().expect("no holder panics").take();
        if let Some(tunnel) = tunnel {
            tunnel.await;
        }
    }

    /// Passes a request on to an upstream, which is told that it comes from `client`; the upstream's answer.
    async fn pass_on(
        &self,
        exchange: &Arc<Exchange>,
        client: IpAddr,
        mut request: Request<Incoming>,
    ) -> Result<Response<Incoming>, LocalReply> {
        let session = &*self.session;
        headers::check(&request)?;
        allow(exchange)?;
        headers::pass_on(
            &mut request,
            &session.http,
            session.hops(),
            client,
            session.peer(),
        )?;
        let from_client = hyper::upgrade::on(&mut request);
        let gate = expect::waits(request.headers()).then(|| expect::gate(&mut request));
        let request = request.map(|body| {
            let body = Body::passing(body, exchange.clone(), Direction::Upstream);
            gate.into_iter().fold(body, Body::behind)
        });
        let idle = session.service.relay.idle_timeout;
        let mut response = tokio::select! {
            response = self.pool.send(session, &exchange.client, request) => response?,
            () = session.timeouts.activity.idle_for(idle) => {
                return Err(if exchange.is_received() {
                    LocalReply(StatusCode::GATEWAY_TIMEOUT, "the upstream does not answer")
                } else {
                    LocalReply(StatusCode::REQUEST_TIMEOUT, "the request does not end")
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
            let tunnel = tunnel(exchange.clone(), from_client, from_upstream);
            *self.tunnel.lock().expect("no holder panics") = Some(Box::pin(tunnel));
        }
        Ok(response)
    }
}

/// Asks the policies of the relay's port about the request's client.
fn allow(exchange: &Exchange) -> Result<(), LocalReply> {
    let service = &exchange.session.service;
    let client = exchange.client.endpoints.source.address;
    let port = exchange.session.beginning.ends.destination.port;
    match service.claims.allows(client, port) {
        Ok(true) => Ok(()),
        Ok(false) => Err(LocalReply::DENIED),
        Err(error) => {
            debug!("{}: {error:#}", service.name);
            let text = "the policy cannot be asked";
            Err(LocalReply(StatusCode::SERVICE_UNAVAILABLE, text))
        }
    }
}
