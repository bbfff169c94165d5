//! `X-Forwarded-For` and `Forwarded`: whom a request's headers name, and what the next hop is told.

use std::{
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

use hyper::{
    HeaderMap, Request, Uri,
    header::{CONNECTION, FORWARDED, HOST, HeaderName, HeaderValue},
};
use truepeer::{
    config::{Config, Http, TrustedSenders},
    relay::http::{Hops, check, forwarded_for, pass_on},
};

use crate::plain;

/// The rules by which hops are trusted.
static SENDERS: LazyLock<TrustedSenders> = LazyLock::new(|| {
    let rules = "[[trust]]\nsource = [\"10.0.0.0/8\", \"fd00::/8\"]\nsays = [\"xff\"]\n";
    TrustedSenders::new(&Config::parse(rules, "rules").expect("they are valid").trust)
});
/// Who may have sent the request: two whom the rules trust, and two whom they do not.
const PEERS: [&str; 4] = ["10.0.0.1", "fd00::1", "192.0.2.1", "2001:db8::1"];
const FORWARDED_FOR: &str = "x-forwarded-for";

/// A byte for the hops that are trusted and the peer, and a request: the target, and a header a line.
pub(crate) fn run(bytes: &[u8]) {
    let Some(((choice, request), peer)) = bytes
        .split_first()
        .map(|choice| (choice, PEERS[usize::from(*choice.0 & 3)]))
    else {
        return;
    };
    let peer: IpAddr = peer.parse().expect("they are addresses");
    let hops = match choice >> 2 & 7 {
        7 => Hops::Trusted {
            senders: &SENDERS,
            port: 80,
        },
        count => Hops::Count(count.into()),
    };
    let Some(request) = read(request) else {
        return;
    };
    let told = forwarded_for(request.headers());
    let named = hops.client(&told, peer);
    assert_eq!(named.map(plain::canonical), client(hops, &told, peer));
    if check(&request).is_ok() {
        let client = named.map_or(peer, |named| named.ip());
        is_passed_on(request, hops, client, peer, choice & 32 != 0);
    }
}

/// The request in these bytes, with whatever lines are headers.
fn read(bytes: &[u8]) -> Option<Request<()>> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut request = Request::new(());
    *request.uri_mut() = Uri::try_from(lines.next()?).ok()?;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':');
        let Some((name, value)) = colon.map(|colon| line.split_at(colon)) else {
            continue;
        };
        let value = HeaderValue::from_bytes(value[1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            request.headers_mut().append(name, value);
        }
    }
    Some(request)
}

/// The client that the entries name, read one after the other from the right.
fn client(hops: Hops<'_>, told: &[u8], peer: IpAddr) -> Option<SocketAddr> {
    let mut entries: Vec<_> = told.split(|byte| *byte == b',').collect();
    entries.reverse();
    let is_trusted = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.octets()[0] == 0xfd,
    };
    match hops {
        Hops::Count(0) => None,
        Hops::Count(count) => entry(entries.get(count as usize - 1)?),
        Hops::Trusted { .. } if !is_trusted(peer) || entries.len() > 20 => None,
        Hops::Trusted { .. } => {
            let entries: Vec<_> = entries.into_iter().map(entry).collect();
            let is_hop = |entry: &Option<SocketAddr>| entry.is_some_and(|e| is_trusted(e.ip()));
            let first = entries.iter().position(|entry| !is_hop(entry));
            entries[first.unwrap_or(entries.len() - 1)]
        }
    }
}

/// The address in an entry: `A`, `A:P`, `[A]` or `[A]:P`, where only IPv6 has brackets.
fn entry(text: &[u8]) -> Option<SocketAddr> {
    let text = text.trim_ascii();
    let (ip, port) = match text.strip_prefix(b"[") {
        Some(text) => {
            let end = text.iter().position(|byte| *byte == b']')?;
            let port = &text[end + 1..];
            let port = match port {
                [] => None,
                port => Some(port.strip_prefix(b":")?),
            };
            (plain::v6(&text[..end])?, port)
        }
        None => match (plain::v6(text), text.iter().position(|byte| *byte == b':')) {
            (Some(ip), _) => (ip, None),
            (None, Some(colon)) => (plain::v4(&text[..colon])?, Some(&text[colon + 1..])),
            (None, None) => (plain::v4(text)?, None),
        },
    };
    let port = port.map_or(Some(0), plain::port)?;
    Some(plain::canonical(SocketAddr::new(ip, port)))
}

/// The next hop learns of this one and of the same client, and of nothing that a stranger says.
fn is_passed_on(
    mut request: Request<()>,
    hops: Hops<'_>,
    client: IpAddr,
    peer: IpAddr,
    forwarded: bool,
) {
    let settings = Http {
        trusted_hops: None,
        external_address: true,
        forwarded,
    };
    let before = request.headers().clone();
    if pass_on(&mut request, &settings, hops, client, peer).is_err() {
        return;
    }
    let headers = request.headers();
    let one = |name: &HeaderName| {
        let mut all = headers.get_all(name).into_iter();
        let first = all.next().map(HeaderValue::as_bytes);
        assert!(all.next().is_none(), "more than one {name}");
        first
    };
    let told = one(&HeaderName::from_static(FORWARDED_FOR)).expect("it tells of the peer");
    assert_eq!(
        Hops::Count(1).client(told, peer).map(|c| c.ip()),
        Some(peer)
    );
    if let Hops::Count(count @ 1..) = hops {
        let of = |count, told: &[u8]| Hops::Count(count).client(told, peer);
        assert_eq!(of(count + 1, told), of(count, &forwarded_for(&before)));
    }
    let external = one(&HeaderName::from_static("x-envoy-external-address"));
    assert_eq!(external, Some(client.to_string().as_bytes()));
    assert!(request.uri().authority().is_none() && one(&HOST).is_some());
    assert!(one(&CONNECTION).is_none_or(|value| value == b"upgrade"));
    if forwarded {
        let host = String::from_utf8_lossy(one(&HOST).unwrap_or_default());
        tells(one(&FORWARDED).expect("it is wanted"), client, peer, &host);
    } else if !hops.trust(peer) {
        assert_eq!(one(&FORWARDED), None);
        assert_eq!(
            one(&HeaderName::from_static("x-forwarded-proto")),
            Some(&b"http"[..])
        );
    } else {
        assert!(same(headers, &before, &FORWARDED));
    }
}

/// Whether both have the same lines of a header.
fn same(a: &HeaderMap, b: &HeaderMap, name: &HeaderName) -> bool {
    a.get_all(name).iter().eq(b.get_all(name).iter())
}

/// Asserts that `Forwarded` (RFC 7239) has the client, if that is not the peer, and the peer with the host that it
/// asked for, and nothing else.
fn tells(forwarded: &[u8], client: IpAddr, peer: IpAddr, host: &str) {
    let node = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let here = vec![
        pair("for", &node(peer)),
        pair("host", host),
        pair("proto", "http"),
    ];
    let mut expected = vec![here];
    if client != peer {
        expected.insert(0, vec![pair("for", &node(client))]);
    }
    assert_eq!(elements(std::str::from_utf8(forwarded).unwrap()), expected);
}

/// The elements of `Forwarded`, each with its pairs.
fn elements(text: &str) -> Vec<Vec<(String, String)>> {
    let mut elements = vec![vec![(String::new(), String::new())]];
    let (mut in_value, mut in_quotes) = (false, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let element = elements.last_mut().expect("there always is one");
        let (name, value) = element.last_mut().expect("there always is one");
        match character {
            '"' => in_quotes = !in_quotes,
            '\\' if in_quotes => value.extend(characters.next()),
            _ if in_quotes => value.push(character),
            ',' => elements.push(vec![(String::new(), String::new())]),
            ';' => element.push((String::new(), String::new())),
            '=' => in_value = true,
            ' ' => {}
            _ if in_value => value.push(character),
            _ => name.push(character),
        }
        in_value &= in_quotes || !matches!(character, ',' | ';');
    }
    elements
}
