//! Answers of the relay's own.

use std::sync::Arc;

use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};

use super::{body::Body, exchange::Exchange};
use crate::relay::{reason::RefusalReason, service::Service};

/// What the relay answers itself instead of an upstream: the status, and a text for people that says why.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalReply(pub(super) StatusCode, pub(super) &'static str);

/// Counts a request whose client a policy denies, and says what to answer.
pub(super) fn denied(service: &Service) -> LocalReply {
    service.metrics.refused(RefusalReason::Denied);
    LocalReply(StatusCode::FORBIDDEN, "a policy denies the client")
}

impl LocalReply {
    /// The answer to an HTTP request.
    pub(super) fn to_http(self, exchange: Arc<Exchange>) -> Response<Body> {
        let Self(status, text) = self;
        let mut response = Response::new(Body::text(format!("{text}\n"), exchange));
        *response.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        response
    }

    /// The answer to a call of gRPC, whose clients look for a status of their own ("Trailers-Only" of the protocol over
    /// HTTP/2).
    pub(super) fn to_grpc(self, exchange: Arc<Exchange>) -> Response<Body> {
        let Self(status, text) = self;
        // What gRPC's own clients make of a status of HTTP (doc/http-grpc-status-mapping.md), but for the one that is sent
        // where gRPC has a better one.
        let code = match status {
            StatusCode::NOT_IMPLEMENTED => "12",
            StatusCode::BAD_REQUEST => "13",
            StatusCode::FORBIDDEN => "7",
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => "14",
            _ => "2",
        };
        let mut response = Response::new(Body::text(String::new(), exchange));
        for (name, value) in [
            ("content-type", "application/grpc"),
            ("grpc-status", code),
            ("grpc-message", text),
        ] {
            let headers = response.headers_mut();
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
