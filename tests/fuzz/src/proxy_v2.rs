//! PROXY headers of version 2, with TLVs and checksums: the parser and the kernel's reader, against a plain one.

use std::net::SocketAddr;

use agent_common::proxy::{
    Endpoints, Header, Parsed, Peer, Reason, Tlv, block, kind, parse, v2, write,
};
use serde_json::Value;
use truepeer::connections::proxy_tlvs::ProxyTlvs;

use crate::plain;

/// What a connection begins with.
pub(crate) fn run(bytes: &[u8]) {
    // Version 1 has a fuzzer of its own.
    if !bytes.starts_with(b"\r") {
        return;
    }
    judge(bytes);
    // No engine guesses a checksum.
    let mut bytes = bytes.to_vec();
    if let Some(Plain {
        checksum: Some((at, right)),
        ..
    }) = Plain::read(&bytes)
    {
        bytes[at..at + 4].copy_from_slice(&right.to_be_bytes());
        assert_ne!(parse(&bytes), Parsed::Error(Reason::Checksum));
        judge(&bytes);
    }
}

fn judge(bytes: &[u8]) {
    let plain = Plain::read(bytes);
    match parse(bytes) {
        Parsed::Header(header) => {
            let expected = plain.expect("it is none");
            assert_eq!((header.len, header.peer), (expected.length, expected.peer));
            let tlvs: Vec<_> = header.tlvs.map(|tlv| (tlv.kind, tlv.value)).collect();
            assert_eq!(tlvs, expected.tlvs);
            assert!(
                expected
                    .checksum
                    .is_none_or(|(at, right)| bytes[at..at + 4] == right.to_be_bytes())
            );
            is_read_at_any_speed(&bytes[..header.len], bytes);
            is_read_when_written(&header);
            is_shown(&header);
        }
        Parsed::Incomplete(wanted) => {
            assert!(wanted > bytes.len());
            assert_eq!(plain, None);
        }
        Parsed::Error(reason) => {
            let is_forged = |(at, right): (usize, u32)| bytes[at..at + 4] != right.to_be_bytes();
            let is_forged = plain.is_some_and(|plain| plain.checksum.is_some_and(is_forged));
            assert_eq!(reason == Reason::Checksum, is_forged);
            assert!(is_forged || Plain::read(bytes).is_none());
        }
    }
    is_the_same_to_the_kernel(bytes);
}

/// A header as the specification describes it (2.2), whether its checksum is right or not.
#[derive(Debug, PartialEq)]
struct Plain<'a> {
    length: usize,
    peer: Peer,
    tlvs: Vec<(u8, &'a [u8])>,
    /// Where the checksum is, and what it has to be.
    checksum: Option<(usize, u32)>,
}

impl<'a> Plain<'a> {
    /// `None` if it is no header, or not a whole one.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(16)?;
        if !head.starts_with(b"\r\n\r\n\0\r\nQUIT\n") || head[12] >> 4 != 2 {
            return None;
        }
        let block = rest.get(..usize::from(head[14]) << 8 | usize::from(head[15]))?;
        let header = &bytes[..16 + block.len()];
        let is_local = match head[12] & 0xf {
            0 => true,
            1 => false,
            _ => return None,
        };
        let addresses = match head[13] {
            0x11 | 0x12 => 12,
            0x21 | 0x22 => 36,
            0x31 | 0x32 => 216,
            0 => 0,
            _ if is_local => 0,
            _ => return None,
        };
        // Addresses of a header that has none need not be there, and what follows need not be TLVs.
        let is_free = is_local || addresses == 0;
        let after = match block.get(addresses..) {
            None if !is_local => return None,
            after => after,
        };
        let peer = match (is_local, head[13]) {
            (true, _) => Peer::Local,
            (_, 0x11) => proxied(block.split_at(4), 4)?,
            (_, 0x21) => proxied(block.split_at(16), 16)?,
            _ => Peer::Unknown,
        };
        let tlvs = after.and_then(tlvs);
        if tlvs.is_none() && !is_free {
            return None;
        }
        let tlvs = tlvs.unwrap_or_default();
        let mut at = 16 + addresses;
        let mut checksum = None;
        for (kind, value) in &tlvs {
            at += 3;
            if *kind == kind::CRC32C {
                checksum = Some((at, crc32c(header, at)));
            }
            at += value.len();
        }
        Some(Self {
            length: header.len(),
            peer,
            tlvs,
            checksum,
        })
    }
}

/// The ends whose addresses have so many bytes.
fn proxied((source, rest): (&[u8], &[u8]), length: usize) -> Option<Peer> {
    let (destination, ports) = rest.split_at(length);
    let end = |address: &[u8], port: &[u8]| {
        let port = u16::from_be_bytes([port[0], port[1]]);
        let ip = match <[u8; 4]>::try_from(address) {
            Ok(octets) => octets.into(),
            Err(_) => <[u8; 16]>::try_from(address).unwrap().into(),
        };
        Some(SocketAddr::new(ip, port)).filter(|end| plain::is_of_a_host(*end))
    };
    Some(Peer::Proxied(Endpoints {
        source: end(source, &ports[..2])?.into(),
        destination: end(destination, &ports[2..4])?.into(),
    }))
}

/// TLVs that fill these bytes, each with a value that its type allows.
fn tlvs(bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let found = split(bytes)?;
    let is_valid = |(kind, value): &(u8, &[u8])| match *kind {
        kind::CRC32C => value.len() == 4,
        kind::UNIQUE_ID => value.len() <= 128,
        kind::SSL => value.get(5..).is_some_and(|inner| split(inner).is_some()),
        _ => true,
    };
    let checksums = found.iter().filter(|(kind, _)| *kind == kind::CRC32C);
    (checksums.count() < 2 && found.iter().all(is_valid)).then_some(found)
}

fn split(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(*bytes.get(1)?) << 8 | usize::from(*bytes.get(2)?);
        let (value, rest) = bytes[3..].split_at_checked(length)?;
        found.push((bytes[0], value));
        bytes = rest;
    }
    Some(found)
}

/// The checksum of a header with zeros for the one at `at`, bit by bit (RFC 4960, appendix B).
fn crc32c(header: &[u8], at: usize) -> u32 {
    let mut remainder = !0_u32;
    for (i, byte) in header.iter().enumerate() {
        let byte = if (at..at + 4).contains(&i) { 0 } else { *byte };
        remainder ^= u32::from(byte);
        for _ in 0..8 {
            let is_odd = remainder & 1 != 0;
            remainder >>= 1;
            if is_odd {
                remainder ^= 0x82f6_3b78;
            }
        }
    }
    !remainder
}

/// A header that comes in pieces is incomplete until it ends, and never is a byte of the payload asked for.
fn is_read_at_any_speed(header: &[u8], bytes: &[u8]) {
    let end = plain::cut(bytes, header.len() - 1);
    match parse(&header[..end]) {
        Parsed::Incomplete(wanted) => assert!(end < wanted && wanted <= header.len()),
        other => panic!("the first {end} bytes are {other:?}"),
    }
}

/// The relay can tell the next hop all that it was told.
fn is_read_when_written(header: &Header<'_>) {
    let is_checksum = |tlv: &Tlv<'_>| tlv.kind == kind::CRC32C;
    let mut tlvs: Vec<_> = header.tlvs.collect();
    let checksums = tlvs.extract_if(.., |tlv| is_checksum(tlv)).count();
    let mut written = Vec::new();
    write::v2(
        &header.peer,
        tlvs.iter().copied(),
        checksums > 0,
        &mut written,
    )
    .expect("it fits");
    match parse(&written) {
        Parsed::Header(again) => {
            assert_eq!((again.len, again.peer), (written.len(), header.peer));
            let others: Vec<_> = again.tlvs.filter(|tlv| !is_checksum(tlv)).collect();
            assert_eq!(others, tlvs);
            assert_eq!(again.tlvs.filter(is_checksum).count(), checksums);
        }
        other => panic!("{other:?}"),
    }
}

/// What people and programs are shown of it is plain text, and is read as it was written.
fn is_shown(header: &Header<'_>) {
    let Some(shown) = ProxyTlvs::read(header.tlvs) else {
        return;
    };
    let json = serde_json::to_value(&shown).unwrap();
    let is_plain = |value: &Value| !value.as_str().is_some_and(|t| t.contains(char::is_control));
    let tls = json.get("tls").and_then(Value::as_object);
    let texts = json.as_object().into_iter().chain(tls);
    assert!(texts.flat_map(|map| map.values()).all(is_plain), "{json}");
    assert_eq!(serde_json::from_value::<ProxyTlvs>(json).unwrap(), shown);
}

/// The kernel judges what stands behind the addresses as the parser does.
fn is_the_same_to_the_kernel(bytes: &[u8]) {
    let Some(Ok(preface)) = bytes.first_chunk().map(v2::Preface::read) else {
        return;
    };
    let Some(header) = bytes.get(..preface.len()).filter(|h| h.len() <= block::MAX) else {
        return;
    };
    // What lies behind it in a packet is the payload.
    let mut room = [0xaa; block::ROOM];
    room[..header.len()].copy_from_slice(header);
    let start = v2::PREFACE + preface.family.len();
    let is_free = preface.is_local || preface.family.is_empty();
    let checked = block::check(&mut room, start, header.len(), is_free);
    assert_eq!(&room[..header.len()], header, "it was changed");
    if header
        .get(start..)
        .is_some_and(|tlvs| pieces(tlvs) > block::TLVS)
    {
        let refused = if is_free { Ok(false) } else { Err(Reason::Tlv) };
        assert_eq!(checked, refused, "the kernel cannot have read them all");
        return;
    }
    match parse(header) {
        Parsed::Header(header) => {
            let is_told = |tlv: Tlv<'_>| tlv.kind != kind::CRC32C && tlv.kind != kind::NOOP;
            assert_eq!(checked, Ok({ header.tlvs }.any(is_told)));
        }
        Parsed::Error(reason @ (Reason::Tlv | Reason::Checksum)) => {
            assert_eq!(checked, Err(reason));
        }
        // Found before the TLVs are looked at.
        Parsed::Error(_) => {}
        Parsed::Incomplete(_) => panic!("it was whole"),
    }
}

/// How many TLVs stand in these bytes, including those within others, as far as they can be read.
fn pieces(mut bytes: &[u8]) -> usize {
    let mut number = 0;
    while let [kind, high, low, rest @ ..] = bytes {
        let length = usize::from(*high) << 8 | usize::from(*low);
        let Some((value, rest)) = rest.split_at_checked(length) else {
            break;
        };
        let inner = value.get(5..).filter(|_| *kind == kind::SSL);
        number += 1 + inner.map_or(0, |inner| split(inner).map_or(0, |tlvs| tlvs.len()));
        bytes = rest;
    }
    number
}
