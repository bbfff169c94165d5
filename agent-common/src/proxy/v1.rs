//! Version 1: a line of text (2.1).

use core::{net::IpAddr, str::FromStr};

use super::{Endpoints, Header, Parsed, Peer, Reason, Tlvs};
use crate::Endpoint;

/// "PROXY" and exactly one space.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";
/// `"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"`.
pub(super) const MAX: usize = 107;
/// `"PROXY UNKNOWN\r\n"`, which is the shortest header of both versions.
const MIN: usize = 15;

/// Parses a line that begins like [`SIGNATURE`], as far as it is there.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Reason> {
    let head = &bytes[..bytes.len().min(MAX)];
    // "The receiver must wait for the CRLF sequence before starting to decode the addresses."
    let Some(end) = head.windows(2).position(|two| two == b"\r\n") else {
        return incomplete(head);
    };
    let peer = peer(head.get(SIGNATURE.len()..end).ok_or(Reason::Protocol)?)?;
    Ok(Parsed::Header(Header {
        len: end + 2,
        peer,
        tlvs: Tlvs::default(),
    }))
}

/// What a line without CRLF is.
fn incomplete(head: &[u8]) -> Result<Parsed<'static>, Reason> {
    if head.len() == MAX {
        Err(Reason::LineTooLong)
    } else if head.contains(&b'\n') && !head.starts_with(b"PROXY UNKNOWN ") {
        // Early: no line of addresses has an LF before its CRLF.
        Err(Reason::LineEnd)
    } else {
        let rest = if head.ends_with(b"\r") { 1 } else { 2 };
        Ok(Parsed::Incomplete(MIN.max(head.len() + rest)))
    }
}

/// What the line says behind the signature.
fn peer(line: &[u8]) -> Result<Peer, Reason> {
    if let Some(rest) = line.strip_prefix(b"UNKNOWN") {
        // "The receiver must ignore anything presented before the CRLF is found."
        return match rest.first() {
            None | Some(b' ') => Ok(Peer::Unknown),
            Some(_) => Err(Reason::Protocol),
        };
    }
    let endpoints = if let Some(fields) = line.strip_prefix(b"TCP4 ") {
        endpoints::<core::net::Ipv4Addr>(fields)?
    } else if let Some(fields) = line.strip_prefix(b"TCP6 ") {
        endpoints::<core::net::Ipv6Addr>(fields)?
    } else {
        return Err(Reason::Protocol);
    };
    Ok(Peer::Proxied(endpoints))
}

/// Two addresses of one family and two ports.
fn endpoints<A: FromStr + Into<IpAddr>>(fields: &[u8]) -> Result<Endpoints, Reason> {
    let mut fields = fields.split(|byte| *byte == b' ');
    let mut field = || fields.next().ok_or(Reason::Fields);
    let addresses = [field()?, field()?];
    let ports = [field()?, field()?];
    if fields.next().is_some() {
        return Err(Reason::Fields);
    }
    let end = |i: usize| {
        Ok(Endpoint::new(
            address::<A>(addresses[i])?.into(),
            port(ports[i])?,
        ))
    };
    Endpoints {
        source: end(0)?,
        destination: end(1)?,
    }
    .checked()
}

/// An address as the standard library reads it, which takes exactly what the specification demands:
/// four decimal numbers without leading zeros, or 128 bits in groups of hexadecimal digits with at most
/// one double colon. Like `inet_pton()`, it also takes the canonical form of an IPv4-mapped IPv6
/// address, which dual-stack senders produce.
fn address<A: FromStr + Into<IpAddr>>(field: &[u8]) -> Result<IpAddr, Reason> {
    let text = core::str::from_utf8(field).map_err(|_| Reason::Address)?;
    Ok(A::from_str(text).map_err(|_| Reason::Address)?.into())
}

/// A decimal number in the range of 0 to 65535 without leading zeros.
fn port(field: &[u8]) -> Result<u16, Reason> {
    let is_canonical = matches!(field, [b'0'] | [b'1'..=b'9', ..]);
    let number = core::str::from_utf8(field).ok().filter(|_| is_canonical);
    number
        .and_then(|text| text.parse().ok())
        .ok_or(Reason::Port)
}
