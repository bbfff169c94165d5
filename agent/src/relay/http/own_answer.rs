//! The relay's own answers, as the client's protocol has them.

use std::sync::Arc;

use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};

use super::{body::Body, exchange::Exchange, local_reply::LocalReply};

/// The answer to an HTTP request.
pub(super) fn of_http(reply: LocalReply, exchange: Arc<Exchange>) -> Response<Body> {
    let LocalReply(status, text) = reply;
    let mut response = Response::new(Body::text(format!("{text}\n"), exchange));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// The answer to a call of gRPC, whose clients look for a status of their own ("Trailers-Only" of the protocol over
/// HTTP/2).
pub(super) fn of_grpc(reply: LocalReply, exchange: Arc<Exchange>) -> Response<Body> {
    let LocalReply(status, text) = reply;
    // What gRPC's own clients make of a status of HTTP (doc/http-grpc-status-mapping.md), but for the one that is sent
    // where gRPC has a better one.
    let code = match status {
        StatusCode::NOT_IMPLEMENTED => "12",
        StatusCode::BAD_REQUEST => "13",
        StatusCode::FORBIDDEN => "7",
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            "14"
        }
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
