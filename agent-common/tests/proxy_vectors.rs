//! The PROXY protocol parser against the examples and rules of the specification, and the vectors of
//! Envoy's listener filter (test/extensions/filters/listener/proxy_protocol/proxy_protocol_test.cc).

use std::net::SocketAddr;

use agent_common::proxy::{
    Endpoints, Header, Meaning, Parsed, Peer, Reason, Ssl, Tlv, Tlvs, V1_MAX, kind, parse, write,
};

fn endpoints(source: &str, destination: &str) -> Endpoints {
    let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
    Endpoints {
        source: end(source),
        destination: end(destination),
    }
}

fn proxied(source: &str, destination: &str) -> Peer {
    Peer::Proxied(endpoints(source, destination))
}

#[track_caller]
fn header(bytes: &[u8]) -> Header<'_> {
    match parse(bytes) {
        Parsed::Header(header) => header,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// Asserts that `bytes` are a header and "more data", and that each beginning of the header is known
/// to be one, and never to want a byte of the payload.
#[track_caller]
fn assert_peer(bytes: &[u8], peer: Peer) {
    let found = header(bytes);
    assert_eq!(found.peer, peer, "{}", bytes.escape_ascii());
    assert_eq!(&bytes[found.len..], b"more data");
    for end in 0..found.len {
        match parse(&bytes[..end]) {
            Parsed::Incomplete(wanted) => assert!(end < wanted && wanted <= found.len),
            other => panic!("{other:?}: {}", bytes[..end].escape_ascii()),
        }
    }
}

#[track_caller]
fn assert_line(line: &str, peer: Peer) {
    assert_peer(format!("{line}\r\nmore data").as_bytes(), peer);
}

#[track_caller]
fn assert_error(bytes: &[u8], reason: Reason) {
    assert_eq!(
        parse(bytes),
        Parsed::Error(reason),
        "{}",
        bytes.escape_ascii()
    );
}

#[track_caller]
fn assert_bad_line(line: &str, reason: Reason) {
    assert_error(format!("{line}\r\nmore data").as_bytes(), reason);
}

/// A header of version 2 with these bytes behind the signature, the length, the block and payload.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    bytes.extend(block);
    bytes.extend(b"more data");
    bytes
}

/// Envoy's addresses: 1.2.3.4:773 to 0.1.1.2:2, in the order of version 2.
const ENVOY_V4: [u8; 12] = [1, 2, 3, 4, 0, 1, 1, 2, 3, 5, 0, 2];
/// 1:2:3::4 to 1:100:200:3::, ports 8 and 2.
const ENVOY_V6: [u8; 36] = [
    0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 1, 0, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 8, 0, 2,
];

fn envoy_v4() -> Peer {
    proxied("1.2.3.4:773", "0.1.1.2:2")
}

fn with(block: &[u8], more: &[u8]) -> Vec<u8> {
    [block, more].concat()
}

#[test]
fn v1_examples_of_the_specification() {
    let request = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n";
    let found = header(request);
    assert_eq!(found.peer, proxied("192.168.0.1:56324", "192.168.0.11:443"));
    assert_eq!(&request[found.len..], b"GET / HTTP/1.1\r\n");

    let six = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = [
        ("PROXY TCP4 223.255.255.255 223.255.255.255 65535 65535", 56),
        ("PROXY UNKNOWN", 15),
        (&format!("PROXY UNKNOWN {six} {six} 65535 65535"), V1_MAX),
    ];
    for (line, length) in longest {
        let line = format!("{line}\r\n");
        assert_eq!(header(line.as_bytes()).len, length);
    }
    // The specification's own longest TCP6 line has multicast addresses, which name no client.
    let six = "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY TCP6 {six} {six} 65535 65535\r\n");
    assert_eq!(header(line.as_bytes()).len, 104);
}

#[test]
fn v1_addresses_in_every_form_that_is_allowed() {
    assert_line(
        "PROXY TCP4 1.2.3.4 253.253.253.253 65535 1234",
        proxied("1.2.3.4:65535", "253.253.253.253:1234"),
    );
    assert_line(
        "PROXY TCP6 1:2:3::4 5:6::7:8 65535 1234",
        proxied("[1:2:3::4]:65535", "[5:6::7:8]:1234"),
    );
    assert_line(
        "PROXY TCP6 2001:0DB8:0000:0000:0000:ABCD:0000:0001 ::1 0 0",
        proxied("[2001:db8::abcd:0:1]:0", "[::1]:0"),
    );
    // HAProxy, listening on a dual-stack socket.
    assert_line(
        "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2",
        proxied("192.0.2.1:1", "192.0.2.2:2"),
    );
}

#[test]
fn v1_unknown_is_accepted_whatever_follows() {
    assert_line("PROXY UNKNOWN", Peer::Unknown);
    assert_line("PROXY UNKNOWN ", Peer::Unknown);
    assert_line("PROXY UNKNOWN 1.2.3.4 x\ry\nz \0", Peer::Unknown);
    assert_bad_line("PROXY UNKNOWNX", Reason::Protocol);
    assert_bad_line("PROXY unknown", Reason::Protocol);
}

#[test]
fn v1_lines_that_break_a_rule() {
    use Reason::*;
    for (line, reason) in [
        ("PROXY TCP4 01.2.3.4 5.6.7.8 1 2", Address),
        ("PROXY TCP4 1.2.3.256 5.6.7.8 1 2", Address),
        ("PROXY TCP4 1.2.3 5.6.7.8 1 2", Address),
        ("PROXY TCP4 1.2.3.4 5.6.7.8. 1 2", Address),
        ("PROXY TCP4 0x1.2.3.4 5.6.7.8 1 2", Address),
        ("PROXY TCP4 ::1 ::1 1 2", Address),
        ("PROXY TCP6 1.2.3.4 5.6.7.8 1 2", Address),
        ("PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2", Address),
        ("PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2", Address),
        ("PROXY TCP6 1:2:3:4:5:6:7:8:: ::1 1 2", Address),
        ("PROXY TCP6 00001::1 ::1 1 2", Address),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2", Address),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 01 2", Port),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 00 2", Port),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 +1 2", Port),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 65536", Port),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 9.8.7.1 2", Port),
        ("PROXY TCP6 ::1 ::2 1 9.8.7.2", Port),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\t", Port),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r", Port),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 ", Fields),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1", Fields),
        ("PROXY TCP4  1.2.3.4 5.6.7.8 1 2", Fields),
        ("PROXY TCP4", Protocol),
        ("PROXY tcp4 1.2.3.4 5.6.7.8 1 2", Protocol),
        ("PROXY UDP4 1.2.3.4 5.6.7.8 1 2", Protocol),
        ("PROXY ", Protocol),
        ("PROXY  TCP4 1.2.3.4 5.6.7.8 1 2", Protocol),
        ("proxy TCP4 1.2.3.4 5.6.7.8 1 2", NoHeader),
        ("PROXYTCP4 1.2.3.4 5.6.7.8 1 2", NoHeader),
        (" PROXY TCP4 1.2.3.4 5.6.7.8 1 2", NoHeader),
    ] {
        assert_bad_line(line, reason);
    }
    assert_error(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\nmore data", LineEnd);
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX));
    assert_error(long.as_bytes(), LineTooLong);
    assert_error(&long.as_bytes()[..V1_MAX], LineTooLong);
}

#[test]
fn what_is_no_header_is_known_by_its_first_wrong_byte() {
    for bytes in [
        "GET / HTTP/1.1\r\n",
        "\x16\x03\x01",
        "SSH-2.0-x",
        "PROXZ",
        "\r\n\r\n\r",
        "\r\nP",
    ] {
        assert_error(bytes.as_bytes(), Reason::NoHeader);
    }
    assert_eq!(parse(b""), Parsed::Incomplete(15));
}

#[test]
fn v1_vectors_of_envoy() {
    use Reason::*;
    assert_line(
        "PROXY TCP4 254.254.254.254 1.2.3.4 65535 1234",
        proxied("254.254.254.254:65535", "1.2.3.4:1234"),
    );
    for (line, reason) in [
        ("BOGUS", NoHeader),
        ("PROXY TCP6 1:2:3::4 5:6::7:8 1234", Fields),
        ("PROXY UDP6 1:2:3::4 5:6::7:8 1234 5678", Protocol),
        ("PROXY TCP4 230.0.0.1 10.1.1.3 1234 5678", Address),
        ("PROXY TCP4 10.1.1.2 0.0.0.0 1234 5678", Address),
        ("PROXY TCP6 1:2:3::4 5:6::7:8 1234 abc", Port),
        ("PROXY TCP6 1:2:3::4 5:6::7:8 -1 1234", Port),
        ("PROXY TCP6 1:2:3::4 5:6::7:8 66776 1234", Port),
        ("PROXY TCP6 1::2:3::4 5:6::7:8 1234 5678", Address),
        ("PROXY TCP4 [1:2:3::4] 1.2.3.4 1234 5678", Address),
        ("PROXY TCP4 1.2.3.4 [1:2:3: 1234 4]:5678", Address),
    ] {
        assert_bad_line(line, reason);
    }
    let too_long = format!("PROXY TCP4 1.2.3.4 2.3.4.5 100 100{}", " ".repeat(256));
    assert_error(too_long.as_bytes(), LineTooLong);
    assert_error(&b"0123456789".repeat(12), NoHeader);
}

#[test]
fn v2_vectors_of_envoy() {
    assert_peer(&v2(0x21, 0x11, &ENVOY_V4), envoy_v4());
    assert_peer(
        &v2(0x21, 0x21, &ENVOY_V6),
        proxied("[1:2:3::4]:8", "[1:100:200:3::]:2"),
    );
    // Envoy takes UDP's addresses (its own vector for IPv6 says 0x22); the specification wants a TCP
    // receiver to fall back to the connection's own.
    assert_peer(&v2(0x21, 0x22, &ENVOY_V6), Peer::Unknown);
    assert_peer(&v2(0x20, 0x00, &[]), Peer::Local);
    assert_peer(&v2(0x20, 0x00, &[0, 0, 1, 0xff]), Peer::Local);
    // A health check of an AWS network load balancer.
    assert_peer(&v2(0x20, 0x00, &[0, 0, 4, 10, 11, 12, 13]), Peer::Local);
    let tlv = [0, 0, 1, 0xff];
    assert_peer(
        &v2(0x21, 0x11, &[&ENVOY_V4[..], &tlv, &tlv].concat()),
        envoy_v4(),
    );
    let long = [&ENVOY_V4[..], &[2, 0xff, 0xf0], &[b'a'; 65520]].concat();
    assert_eq!(header(&v2(0x21, 0x11, &long)).len, 16 + 65535);

    use Reason::*;
    for (command, family, block, reason) in [
        (0x21, 0x41, &ENVOY_V4[..], Family),
        (0x23, 0x1f, &ENVOY_V4, Command),
        (0x21, 0x21, &[0, 8, 0, 2], Length),
        (0x21, 0x11, &ENVOY_V4[..11], Length),
        (0x21, 0x22, &ENVOY_V6[..20], Length),
        (0x21, 0x22, &ENVOY_V6[..35], Length),
        (0x21, 0x32, &ENVOY_V6[..20], Length),
        (0x29, 0x32, &ENVOY_V6[..20], Command),
        (0x21, 0x93, &ENVOY_V6[..20], Family),
        (0x21, 0x11, &with(&ENVOY_V4, &[0, 0, 2, 0xff]), Tlv),
        (0x21, 0x11, &with(&ENVOY_V4, &[0, 0, 1, 0xff, 1]), Tlv),
    ] {
        assert_error(&v2(command, family, block), reason);
    }
}

#[test]
fn v2_prefixes_that_break_a_rule() {
    for version in (0..16).filter(|version| *version != 2) {
        assert_error(&v2(version << 4 | 1, 0x11, &ENVOY_V4), Reason::Version);
    }
    for command in 2..16 {
        assert_error(&v2(0x20 | command, 0x11, &ENVOY_V4), Reason::Command);
    }
    let known = [0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32];
    let block = [1; 216];
    for family in 0..=u8::MAX {
        let bytes = v2(0x21, family, &block);
        if known.contains(&family) {
            assert!(matches!(
                parse(&bytes),
                Parsed::Header(_) | Parsed::Error(Reason::Tlv)
            ));
        } else {
            assert_error(&bytes, Reason::Family);
        }
        // "The receiver must accept this connection as valid ... including the family which is ignored."
        assert_peer(&v2(0x20, family, &block), Peer::Local);
        assert_peer(&v2(0x20, family, &[]), Peer::Local);
    }
}

#[test]
fn v2_protocols_that_fall_back() {
    assert_peer(&v2(0x21, 0x00, &[]), Peer::Unknown);
    assert_peer(&v2(0x21, 0x00, &[1, 2, 3]), Peer::Unknown);
    assert_peer(&v2(0x21, 0x12, &ENVOY_V4), Peer::Unknown);
    let unix = [&[b'/'; 216][..], &[4, 0, 0]].concat();
    for family in [0x31, 0x32] {
        assert_peer(&v2(0x21, family, &unix), Peer::Unknown);
        assert_eq!(header(&v2(0x21, family, &unix)).tlvs.count(), 1);
    }
}

#[test]
fn v2_addresses_that_no_client_has() {
    for source in [[0; 4], [224, 0, 0, 1], [255; 4]] {
        let mut block = ENVOY_V4;
        block[..4].copy_from_slice(&source);
        assert_error(&v2(0x21, 0x11, &block), Reason::Address);
    }
    let mut block = ENVOY_V6;
    block[16] = 0xff;
    assert_error(&v2(0x21, 0x21, &block), Reason::Address);
}

#[test]
fn the_tlvs_of_the_specification_and_of_the_clouds() {
    let vpc_id = b"\x01vpc-025test2fa6c63ha7";
    let ssl = [&[5, 0, 0, 0, 0, kind::SSL_VERSION, 0, 7][..], b"TLSv1.3"].concat();
    let cases: [(u8, &[u8], Meaning); 11] = [
        (kind::ALPN, b"h2", Meaning::Alpn(b"h2")),
        (kind::AUTHORITY, b"foo.com", Meaning::Authority(b"foo.com")),
        (kind::NOOP, b"...", Meaning::Noop),
        (kind::UNIQUE_ID, &[7; 128], Meaning::UniqueId(&[7; 128])),
        (
            kind::SSL,
            &ssl,
            Meaning::Ssl(Ssl {
                client: Ssl::CLIENT_SSL | Ssl::CLIENT_CERT_SESS,
                verify: 0,
                tlvs: Tlvs::well_formed(&ssl[5..]).unwrap(),
            }),
        ),
        (kind::NETNS, b"blue", Meaning::Netns(b"blue")),
        (kind::AWS, vpc_id, Meaning::AwsVpcEndpoint(&vpc_id[1..])),
        (kind::AWS, b"\x02x", Meaning::Unknown),
        (
            kind::AZURE,
            &[1, 0x78, 0x56, 0x34, 0x12],
            Meaning::AzurePrivateEndpoint(0x1234_5678),
        ),
        (
            kind::GCP,
            &[0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78],
            Meaning::GcpPscConnection(0x1234_5678),
        ),
        (0x0f, &[0xf0, 0, 0x0f], Meaning::Unknown),
    ];
    let tlvs = cases.map(|(kind, value, _)| Tlv { kind, value });
    let mut bytes = Vec::new();
    write::v2(&envoy_v4(), tlvs.into_iter(), true, &mut bytes).unwrap();
    bytes.extend(b"more data");
    assert_peer(&bytes, envoy_v4());
    let found: Vec<_> = header(&bytes).tlvs.collect();
    assert_eq!(found[..tlvs.len()], tlvs);
    assert_eq!(found.last().unwrap().kind, kind::CRC32C);
    for (tlv, (.., meaning)) in found.iter().zip(cases) {
        assert_eq!(tlv.meaning(), Some(meaning));
    }

    for (kind, value) in [
        (kind::CRC32C, &[0; 3][..]),
        (kind::UNIQUE_ID, &[0; 129]),
        (kind::SSL, &[0; 4]),
        (kind::SSL, &[0, 0, 0, 0, 0, kind::SSL_CN, 0, 2, b'x']),
    ] {
        let mut bytes = Vec::new();
        write::v2(
            &envoy_v4(),
            [Tlv { kind, value }].into_iter(),
            false,
            &mut bytes,
        )
        .unwrap();
        assert_error(&bytes, Reason::Tlv);
    }
}

#[test]
fn every_changed_bit_is_found_by_the_checksum() {
    let mut bytes = Vec::new();
    write::v2(&envoy_v4(), [].into_iter(), true, &mut bytes).unwrap();
    assert_eq!(header(&bytes).len, 16 + 12 + 7);
    for bit in 16 * 8..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let is_in_tlv_head = (28..31).contains(&(bit / 8));
        match parse(&changed) {
            Parsed::Error(Reason::Checksum | Reason::Address) if !is_in_tlv_head => {}
            // Without its type or length it is another TLV, or none.
            Parsed::Error(Reason::Tlv) | Parsed::Header(_) if is_in_tlv_head => {}
            other => panic!("bit {bit}: {other:?}"),
        }
    }
    let crc = bytes[28..].to_vec();
    assert_error(
        &v2(0x21, 0x11, &[&ENVOY_V4[..], &crc, &crc].concat()),
        Reason::Tlv,
    );
}

/// Computed bit by bit, as appendix B of RFC 4960 defines it.
#[test]
fn the_checksum_lies_in_network_order() {
    let mut bytes = Vec::new();
    write::v2(&Peer::Local, [].into_iter(), true, &mut bytes).unwrap();
    let mut zeroed = bytes.clone();
    let end = zeroed.len();
    zeroed[end - 4..].fill(0);
    let bitwise = !zeroed.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    });
    assert_eq!(bytes[end - 4..], bitwise.to_be_bytes());
}

#[test]
fn what_is_written() {
    let line = |endpoints: Option<&Endpoints>| {
        let mut out = Vec::new();
        write::v1(endpoints, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(line(None), "PROXY UNKNOWN\r\n");
    let v4 = endpoints("192.0.2.1:1", "192.0.2.2:65535");
    assert_eq!(
        line(Some(&v4)),
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\n"
    );
    let mixed = endpoints("192.0.2.1:1", "[2001:db8::2]:2");
    assert_eq!(
        line(Some(&mixed)),
        "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n"
    );
    let too_long = [Tlv {
        kind: 4,
        value: &[0; 65530],
    }];
    let mut out = Vec::new();
    let written = write::v2(&Peer::Local, too_long.into_iter(), true, &mut out);
    assert_eq!((written, &out[..]), (Err(write::TooLong), &[][..]));
}

#[test]
fn reasons_are_distinct_labels() {
    let names: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    assert!((0..).zip(Reason::ALL).all(|(i, reason)| reason as u8 == i));
}
