//! What becomes of the headers of requests and answers on their way (RFC 9110, 7.6.1; RFC 9112, 3.2).

use std::net::IpAddr;

use hyper::{
    HeaderMap, Request, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_TYPE, FORWARDED, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
    http::uri::{PathAndQuery, Uri},
};

use super::{hops::Hops, local_reply::LocalReply};
use crate::config::Http;

/// How many bytes a head may have, which is Envoy's bound. In HTTP/1.1 it may have 100 lines, which is hyper's.
pub(super) const MAX_HEAD: usize = 60 << 10;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
/// Headers that are for one connection only, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The value of `X-Forwarded-For`, its lines joined as Envoy joins them.
pub fn forwarded_for(headers: &HeaderMap) -> Vec<u8> {
    let lines = headers.get_all(FORWARDED_FOR).into_iter();
    let lines: Vec<_> = lines
        .map(HeaderValue::as_bytes)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(&b","[..])
}

/// Refuses requests that hyper accepts but the next hop may read differently.
///
/// # Errors
///
/// What to answer such a request.
pub fn check<B>(request: &Request<B>) -> Result<(), LocalReply> {
    let bad = |text| Err(LocalReply(StatusCode::BAD_REQUEST, text));
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    if request.method() == hyper::Method::CONNECT {
        return Err(LocalReply(
            StatusCode::NOT_IMPLEMENTED,
            "CONNECT is not supported",
        ));
    }
    if is_grpc(request) {
        return Err(LocalReply(
            StatusCode::NOT_IMPLEMENTED,
            "upstreams get HTTP/1.1, which cannot carry gRPC: relay it with protocol = tcp",
        ));
    }
    if hosts > 1 {
        return bad("more than one Host");
    }
    if request.version() == Version::HTTP_11 && hosts == 0 {
        return bad("no Host");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(LocalReply(
            StatusCode::NOT_IMPLEMENTED,
            "no transfer coding but chunked is supported",
        ));
    }
    // A client that names one of these wants the next hop not to get it. Envoy refuses that as well.
    if nominated(headers).any(|name| {
        name.to_ascii_lowercase().starts_with("x-forwarded-")
            || name.eq_ignore_ascii_case("forwarded")
    }) {
        return bad("Connection names a header of the client's address");
    }
    Ok(())
}

/// Whether this is a call of gRPC, which needs HTTP/2 from end to end.
pub(super) fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The protocol that a request or an answer switches to. HTTP/2 does not count, as the requests inside would
/// pass unseen.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let is_meant = nominated(headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let is_http2 = protocol
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|name| name.trim_ascii().to_ascii_lowercase().starts_with(b"h2c"));
    (is_meant && !is_http2).then(|| protocol.clone())
}

/// Removes the headers that are for this connection only, and tells the next one of `upgrade`.
pub(super) fn end_hop(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    let named: Vec<HeaderName> = nominated(headers)
        .filter_map(|name| name.parse().ok())
        .collect();
    // The length and the target of a message are for every hop, whatever `Connection` says.
    let named = named
        .iter()
        .filter(|name| !matches!(**name, HOST | hyper::header::CONTENT_LENGTH));
    for name in named.chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// The headers that `Connection` names.
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(CONNECTION).into_iter();
    let names = lines.filter_map(|line| line.to_str().ok());
    names.flat_map(|line| line.split(',')).map(str::trim)
}

/// Turns a request into the one for the next hop: HTTP/1.1, in origin form, with headers that tell of
/// `client`. `peer` is who sent it.
///
/// # Errors
///
/// What to answer when a header cannot be written.
pub fn pass_on<B>(
    request: &mut Request<B>,
    settings: &Http,
    hops: Hops<'_>,
    client: IpAddr,
    peer: IpAddr,
) -> Result<(), LocalReply> {
    let upgrade = upgrade(request.headers());
    let target = request.uri().path_and_query().cloned();
    let authority = request.uri().authority().map(|authority| {
        let text = authority.as_str();
        text.rsplit_once('@')
            .map_or(text, |(_, host)| host)
            .to_owned()
    });
    *request.uri_mut() = Uri::from(target.unwrap_or(PathAndQuery::from_static("/")));
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    let value = |text: &[u8]| {
        HeaderValue::from_bytes(text)
            .map_err(|_| LocalReply(StatusCode::BAD_REQUEST, "a header cannot be passed on"))
    };

    let mut addresses = forwarded_for(headers);
    end_hop(headers, upgrade);
    match authority {
        Some(authority) => drop(headers.insert(HOST, value(authority.as_bytes())?)),
        // Only a request of HTTP/1.0 may come without one.
        None => drop(headers.entry(HOST).or_insert(HeaderValue::from_static(""))),
    }

    if !addresses.is_empty() {
        addresses.push(b',');
    }
    addresses.extend(peer.to_string().as_bytes());
    headers.insert(FORWARDED_FOR, value(&addresses)?);
    headers.remove(INTERNAL);
    if !hops.trust(peer) {
        for statement in [FORWARDED_PROTO, EXTERNAL_ADDRESS, FORWARDED] {
            headers.remove(statement);
        }
    }
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
    if settings.external_address {
        headers.insert(EXTERNAL_ADDRESS, value(client.to_string().as_bytes())?);
    }
    if settings.forwarded {
        let host = headers
            .get(HOST)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        let forwarded = forwarded(client, peer, &String::from_utf8_lossy(host));
        headers.insert(FORWARDED, value(forwarded.as_bytes())?);
    }
    Ok(())
}

/// The value of `Forwarded` (RFC 7239): the client, and the peer unless it is the client itself.
fn forwarded(client: IpAddr, peer: IpAddr, host: &str) -> String {
    let node = |ip| match ip {
        IpAddr::V4(ip) => format!("for={ip}"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
    };
    let host = host.replace('\\', "\\\\").replace('"', "\\\"");
    let here = format!("{};host=\"{host}\";proto=http", node(peer));
    if client == peer {
        here
    } else {
        format!("{}, {here}", node(client))
    }
}
