//! PROXY headers of version 1: the parser and the kernel's reader, against the C library's reading of addresses.

use std::net::SocketAddr;

use agent_common::proxy::{Endpoints, Parsed, Peer, V1_MAX, line, parse, write};

use crate::plain;

/// What a connection begins with.
pub(crate) fn run(bytes: &[u8]) {
    // Version 2 has a fuzzer of its own.
    if bytes.starts_with(b"\r") {
        return;
    }
    let parsed = parse(bytes);
    let expected = read(bytes);
    match parsed {
        Parsed::Header(header) => {
            let ends = match header.peer {
                Peer::Proxied(ends) => Some(ends),
                Peer::Unknown => None,
                Peer::Local => panic!("version 1 has no LOCAL"),
            };
            let told = ends.map(|ends| [ends.source, ends.destination].map(|e| e.socket_addr()));
            assert_eq!(Some((header.len, told)), expected);
            assert_eq!(header.tlvs.count(), 0);
            is_read_at_any_speed(&bytes[..header.len], bytes);
            is_read_when_written(ends.as_ref());
        }
        Parsed::Incomplete(wanted) => {
            assert!(wanted > bytes.len());
            assert_eq!(expected, None);
        }
        Parsed::Error(_) => {
            assert_eq!(expected, None);
            // Nothing that comes later makes a header of it.
            let ended = [bytes, b"\r\n"].concat();
            assert!(matches!(parse(&ended), Parsed::Error(_)));
        }
    }
    is_the_same_to_the_kernel(bytes, &parsed);
}

/// A line as the specification describes it (2.1): its length, and the ends that it names.
fn read(bytes: &[u8]) -> Option<(usize, Option<[SocketAddr; 2]>)> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let length = end + 2;
    if length > V1_MAX {
        return None;
    }
    let mut words = bytes[..end].split(|byte| *byte == b' ');
    if words.next()? != b"PROXY" {
        return None;
    }
    let address = match words.next()? {
        b"TCP4" => plain::v4,
        b"TCP6" => plain::v6,
        b"UNKNOWN" => return Some((length, None)),
        _ => return None,
    };
    let port = |text: &[u8]| plain::port(text).filter(|_| text == b"0" || text[0] != b'0');
    let ips = [address(words.next()?)?, address(words.next()?)?];
    let ports = [port(words.next()?)?, port(words.next()?)?];
    let ends = [0, 1].map(|i| plain::canonical(SocketAddr::new(ips[i], ports[i])));
    let is_whole = words.next().is_none() && ends.into_iter().all(plain::is_of_a_host);
    is_whole.then_some((length, Some(ends)))
}

/// A line that comes in pieces is incomplete until it ends, and never is a byte of the payload asked for.
fn is_read_at_any_speed(line: &[u8], bytes: &[u8]) {
    let end = plain::cut(bytes, line.len() - 1);
    match parse(&line[..end]) {
        Parsed::Incomplete(wanted) => assert!(end < wanted && wanted <= line.len()),
        other => panic!("the first {end} bytes are {other:?}"),
    }
}

/// What this agent would tell the next hop is what it was told.
fn is_read_when_written(ends: Option<&Endpoints>) {
    let mut written = Vec::new();
    write::v1(ends, &mut written);
    match parse(&written) {
        Parsed::Header(header) => {
            let expected = ends.map_or(Peer::Unknown, |ends| Peer::Proxied(*ends));
            assert_eq!((header.len, header.peer), (written.len(), expected));
        }
        other => panic!("{other:?}"),
    }
}

/// The kernel takes the same lines, and no others; that something is none, either may see first.
fn is_the_same_to_the_kernel(bytes: &[u8], parsed: &Parsed<'_>) {
    let mut room = [0; line::ROOM];
    let length = bytes.len().min(V1_MAX);
    room[..length].copy_from_slice(&bytes[..length]);
    let read = line::read(&room, bytes.len(), &mut line::Fields::default());
    match parsed {
        Parsed::Header(header) => {
            let ends = match header.peer {
                Peer::Proxied(ends) => Some(ends),
                Peer::Local | Peer::Unknown => None,
            };
            let len = header.len;
            assert_eq!(read, Ok(Some(line::Line { len, ends })));
        }
        Parsed::Incomplete(_) => assert!(!matches!(read, Ok(Some(_))), "{read:?}"),
        Parsed::Error(_) => {
            let is_refused = read.is_err() || bytes.len() < V1_MAX && read == Ok(None);
            assert!(is_refused, "{read:?}");
        }
    }
}
