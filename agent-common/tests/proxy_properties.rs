//! Properties of the PROXY protocol parser, with the crate proxy-header as its oracle.

use std::net::{IpAddr, SocketAddr};

use agent_common::proxy::{
    Endpoints, Parsed, Peer, Reason, Tlv, block, kind, line, parse, v2, write,
};
use proptest::{collection::vec, prelude::*};
use proxy_header::{ParseConfig, Protocol, ProxyHeader};

/// What the oracle says: the length of the header and for whom the sender speaks; `None`: not a header, or
/// not a whole one.
fn oracle(bytes: &[u8]) -> Option<(usize, Option<(SocketAddr, SocketAddr)>)> {
    let (header, len) = ProxyHeader::parse(bytes, ParseConfig::default()).ok()?;
    let addresses = header.proxied_address();
    let tcp = addresses.filter(|a| a.protocol == Protocol::Stream);
    Some((
        len,
        tcp.map(|a| (canonical(a.source), canonical(a.destination))),
    ))
}

/// IPv4-mapped addresses are IPv4 addresses here.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn addresses(peer: Peer) -> Option<(SocketAddr, SocketAddr)> {
    match peer {
        Peer::Proxied(Endpoints {
            source,
            destination,
        }) => Some((source.socket_addr(), destination.socket_addr())),
        Peer::Local | Peer::Unknown => None,
    }
}

/// Where the oracle is laxer than the specification, and so may accept what is refused here.
fn is_stricter_than_oracle(bytes: &[u8], reason: Reason) -> bool {
    match reason {
        // It takes any byte after "PROXY".
        Reason::NoHeader => !bytes.starts_with(b"PROXY "),
        // It takes "UNKNOWN" as the beginning of a word; and more than 107 bytes.
        Reason::Protocol => bytes.starts_with(b"PROXY UNKNOWN"),
        Reason::LineTooLong => bytes.len() > 107,
        // It takes leading zeros and a plus sign.
        Reason::Port => true,
        // It leaves addresses, TLVs and checksums to the caller.
        Reason::Address | Reason::Tlv | Reason::Checksum => true,
        _ => false,
    }
}

/// Asserts that the parser and the oracle agree on `bytes`, so far as the oracle keeps to the
/// specification.
fn agrees(bytes: &[u8]) -> Result<(), TestCaseError> {
    match parse(bytes) {
        Parsed::Header(header) => {
            prop_assert!(header.len <= bytes.len());
            match oracle(bytes) {
                Some((len, told)) => {
                    prop_assert_eq!((header.len, addresses(header.peer)), (len, told));
                }
                // It does not ignore what `LOCAL` and `UNKNOWN` demand to be ignored.
                None => prop_assert!(matches!(header.peer, Peer::Local | Peer::Unknown)),
            }
        }
        Parsed::Incomplete(wanted) => {
            prop_assert!(wanted > bytes.len());
            prop_assert_eq!(oracle(bytes), None);
        }
        Parsed::Error(reason) => {
            let is_accepted = oracle(bytes).is_some();
            prop_assert!(
                !is_accepted || is_stricter_than_oracle(bytes, reason),
                "{:?}",
                reason
            );
        }
    }
    Ok(())
}

/// Asserts that a line is for the kernel what it is for the parser; the kernel may see earlier that it is
/// none.
fn is_the_same_line(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut room = [0; line::ROOM];
    let length = bytes.len().min(107);
    room[..length].copy_from_slice(&bytes[..length]);
    let read = line::read(&room, bytes.len(), &mut line::Fields::default());
    match parse(bytes) {
        Parsed::Header(header) => {
            let ends = match header.peer {
                Peer::Proxied(ends) => Some(ends),
                Peer::Local | Peer::Unknown => None,
            };
            let len = header.len;
            prop_assert_eq!(read, Ok(Some(line::Line { len, ends })));
        }
        Parsed::Incomplete(_) => prop_assert!(!matches!(read, Ok(Some(_))), "{:?}", read),
        // The kernel may have to see more of it.
        Parsed::Error(_) => {
            let is_refused = read.is_err() || bytes.len() < 107 && read == Ok(None);
            prop_assert!(is_refused, "{:?}", read);
        }
    }
    Ok(())
}

/// Asserts that what a whole header of version 2 has behind the addresses is for the kernel what it is for the
/// parser.
fn is_the_same_block(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Some(Ok(preface)) = bytes.first_chunk().map(v2::Preface::read) else {
        return Ok(());
    };
    let start = v2::PREFACE + preface.family.len();
    let Some(header) = bytes.get(..preface.len()) else {
        return Ok(());
    };
    if header.len() > block::MAX {
        return Ok(());
    }
    let mut room = [0xaa; block::ROOM];
    room[..header.len()].copy_from_slice(header);
    let is_free = preface.is_local || preface.family.is_empty();
    let checked = block::check(&mut room, start, header.len(), is_free);
    prop_assert_eq!(&room[..header.len()], header);
    match parse(header) {
        Parsed::Header(header) => {
            let is_told = |tlv: Tlv<'_>| tlv.kind != kind::CRC32C && tlv.kind != kind::NOOP;
            prop_assert_eq!(checked, Ok({ header.tlvs }.any(is_told)));
        }
        Parsed::Error(reason @ (Reason::Tlv | Reason::Checksum)) => {
            prop_assert_eq!(checked, Err(reason));
        }
        // Found before the TLVs are looked at.
        Parsed::Error(_) => {}
        Parsed::Incomplete(_) => prop_assert!(false, "it was whole"),
    }
    Ok(())
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
    let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
    // Runs of zeros, which text abbreviates.
    let sparse = (any::<[u8; 16]>(), any::<u16>()).prop_map(|(mut octets, zero)| {
        for (i, octet) in octets.iter_mut().enumerate() {
            *octet *= u8::from(zero >> i & 1 == 0);
        }
        IpAddr::from(octets)
    });
    prop_oneof![v4, v6, sparse].prop_filter("of a host", |ip| {
        agent_common::Address::from(*ip).is_unicast()
    })
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    (address(), address(), any::<(u16, u16)>()).prop_map(|(source, destination, ports)| Endpoints {
        source: SocketAddr::new(source, ports.0).into(),
        destination: SocketAddr::new(destination, ports.1).into(),
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        8 => endpoints().prop_map(Peer::Proxied),
        1 => Just(Peer::Local),
        1 => Just(Peer::Unknown),
    ]
}

/// Types whose value is free, with their values.
fn tlvs() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let kind = any::<u8>().prop_filter("of free value", |kind| {
        ![kind::CRC32C, kind::UNIQUE_ID, kind::SSL].contains(kind)
    });
    vec((kind, vec(any::<u8>(), 0..200)), 0..8)
}

fn written(peer: &Peer, tlvs: &[(u8, Vec<u8>)], with_checksum: bool) -> Vec<u8> {
    let tlvs = tlvs.iter().map(|(kind, value)| Tlv { kind: *kind, value });
    let mut out = Vec::new();
    write::v2(peer, tlvs, with_checksum, &mut out).unwrap();
    out
}

/// Something that looks like what a header has behind the addresses, with the types whose values are checked,
/// TLVs within TLVs, and now and then a byte too many.
fn block() -> impl Strategy<Value = Vec<u8>> {
    let kind = || {
        prop::sample::select(vec![
            kind::CRC32C,
            kind::NOOP,
            kind::UNIQUE_ID,
            kind::SSL,
            0xea,
        ])
    };
    let value = || prop_oneof![vec(any::<u8>(), 0..9), vec(any::<u8>(), 120..136)];
    let tlv = |(kind, value): (u8, Vec<u8>)| {
        let length = (value.len() as u16).to_be_bytes();
        [&[kind, length[0], length[1]], &value[..]].concat()
    };
    let inner = vec((kind(), value()).prop_map(tlv), 0..4).prop_map(|tlvs| tlvs.concat());
    let ssl =
        inner.prop_map(move |inner| tlv((kind::SSL, [&[1, 0, 0, 0, 0], &inner[..]].concat())));
    let any_tlv = prop_oneof![(kind(), value()).prop_map(tlv), ssl];
    (vec(any_tlv, 0..6), prop_oneof![4 => Just(0), 1 => Just(1)])
        .prop_map(|(tlvs, more)| [tlvs.concat(), vec![0; more]].concat())
}

/// Something that looks like a line of version 1.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        4 => address().prop_map(|ip| ip.to_string()),
        2 => any::<u16>().prop_map(|port| port.to_string()),
        1 => "[0-9a-f.:+]{0,6}",
        1 => Just("UNKNOWN".to_owned()),
        1 => "[0-9a-f]{1,4}(::?[0-9a-f]{1,4}){1,8}",
        1 => "(::|[0-9a-f]{1,4}:){1,7}[0-9]{1,3}(\\.[0-9]{1,3}){3}",
    ];
    let protocol = prop_oneof!["TCP4 ", "TCP6 ", "UNKNOWN", "UDP4 ", "[A-Z]{4} "];
    let end = prop_oneof![8 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
    (protocol, vec(words, 3..6), end).prop_map(|(protocol, words, end)| {
        format!("PROXY {protocol}{}{end}", words.join(" ")).into()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_in_version_1_is_read(endpoints in endpoints(), payload in vec(any::<u8>(), 0..9)) {
        let mut bytes = Vec::new();
        write::v1(Some(&endpoints), &mut bytes);
        let len = bytes.len();
        bytes.extend(payload);
        let Parsed::Header(header) = parse(&bytes) else {
            return Err(TestCaseError::fail(format!("{:?}", parse(&bytes))));
        };
        prop_assert_eq!((header.len, header.peer), (len, Peer::Proxied(endpoints)));
        agrees(&bytes)?;
        is_the_same_line(&bytes)?;
    }

    #[test]
    fn what_is_written_in_version_2_is_read(
        peer in peer(), tlvs in tlvs(), with_checksum: bool, payload in vec(any::<u8>(), 0..9)
    ) {
        let mut bytes = written(&peer, &tlvs, with_checksum);
        let len = bytes.len();
        bytes.extend(payload);
        let Parsed::Header(header) = parse(&bytes) else {
            return Err(TestCaseError::fail(format!("{:?}", parse(&bytes))));
        };
        prop_assert_eq!((header.len, header.peer), (len, peer));
        let read: Vec<_> = header.tlvs.map(|tlv| (tlv.kind, tlv.value.to_vec())).collect();
        prop_assert_eq!(&read[..tlvs.len()], &tlvs[..]);
        prop_assert_eq!(read.len(), tlvs.len() + usize::from(with_checksum));
        is_the_same_block(&bytes)?;
        agrees(&bytes)?;
    }

    #[test]
    fn a_block_is_judged_by_the_kernel_as_by_the_parser(
        peer in peer(), block in block(), with_checksum: bool
    ) {
        let mut bytes = written(&peer, &[], with_checksum);
        let length = bytes.len() - 16 + block.len();
        bytes[14..16].copy_from_slice(&(length as u16).to_be_bytes());
        bytes.extend(block);
        is_the_same_block(&bytes)?;
    }

    /// Who reads as many bytes as are wanted never takes one of the payload.
    #[test]
    fn a_cut_header_is_incomplete(peer in peer(), tlvs in tlvs(), with_checksum: bool, is_v1: bool) {
        let mut bytes = Vec::new();
        match peer {
            Peer::Proxied(endpoints) if is_v1 => write::v1(Some(&endpoints), &mut bytes),
            _ => bytes = written(&peer, &tlvs, with_checksum),
        }
        for end in 0..bytes.len() {
            let Parsed::Incomplete(wanted) = parse(&bytes[..end]) else {
                return Err(TestCaseError::fail(format!("{end}: {:?}", parse(&bytes[..end]))));
            };
            prop_assert!(end < wanted && wanted <= bytes.len());
        }
    }

    #[test]
    fn a_changed_header_is_judged_as_the_oracle_does(
        peer in peer(), tlvs in tlvs(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut bytes = written(&peer, &tlvs, true);
        for (at, byte) in changes {
            // The head is hit as often as all that follows.
            let end = if byte % 2 == 0 { 16 } else { bytes.len() };
            let at = at.index(end);
            bytes[at] = byte;
        }
        is_the_same_block(&bytes)?;
        agrees(&bytes)?;
    }

    #[test]
    fn a_line_is_judged_as_the_oracle_does(line in line()) {
        agrees(&line)?;
        is_the_same_line(&line)?;
    }

    #[test]
    fn any_bytes_are_judged_as_the_oracle_does(bytes in vec(any::<u8>(), 0..600), start in 0..3) {
        let start = [&b"PROXY "[..], b"\r\n\r\n\0\r\nQUIT\n", b""][start as usize];
        is_the_same_block(&[start, &bytes].concat())?;
        agrees(&[start, &bytes].concat())?;
    }
}
