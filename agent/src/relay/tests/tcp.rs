//! Connections over TCP: what the relay learns from them, and what it tells.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use agent_common::{
    Evidence,
    origin::rule_id,
    proxy::{self, Endpoints, Parsed, Peer, Tlv, kind, write},
};

use tokio::time::sleep;

use super::Fixture;

const CLIENT: &str = "203.0.113.7:4711";

fn proxied() -> Peer {
    Peer::Proxied(Endpoints {
        source: CLIENT.parse::<SocketAddr>().unwrap().into(),
        destination: "192.0.2.1:443".parse::<SocketAddr>().unwrap().into(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_becomes_a_claim() {
    let fixture = Fixture::new("accept = \"proxy\"");
    let mut bytes = Vec::new();
    write::v2(&proxied(), [].into_iter(), true, &mut bytes).unwrap();
    bytes.extend(b"payload");
    assert_eq!(fixture.sent(&bytes), b"payload");
    let claims = fixture.notes.claims.lock().unwrap();
    let origins = fixture.notes.origins.lock().unwrap();
    // The longest prefix is the rule.
    let rule = rule_id("source 127.0.0.0/16");
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].client.socket_addr().to_string(), CLIENT);
    assert_eq!(
        (claims[0].rule, claims[0].evidence),
        (rule, Evidence::Proxy as u8)
    );
    assert_eq!(origins.len(), 1);
    assert_eq!(origins[0].client, claims[0].client);
    assert_eq!(origins[0].local.socket_addr(), fixture.relay);
    assert_eq!(
        (origins[0].rule, origins[0].evidence),
        (rule, Evidence::Proxy as u8)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_connection_is_its_own_clients() {
    let fixture = Fixture::new("");
    assert_eq!(fixture.sent(b"PROXY UNKNOWN\r\n"), b"PROXY UNKNOWN\r\n");
    let claims = fixture.notes.claims.lock().unwrap();
    assert!(claims[0].client.socket_addr().ip().is_loopback());
    assert_eq!(claims[0].evidence, Evidence::Wire as u8);
    assert_eq!(claims[0].rule, rule_id(&format!("relay {}", fixture.relay)));
    assert!(fixture.notes.origins.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_header_says_what_the_first_said() {
    let tlvs = [
        Tlv {
            kind: kind::AUTHORITY,
            value: b"example.com",
        },
        Tlv {
            kind: kind::AWS,
            value: b"\x01vpce-1",
        },
        Tlv {
            kind: 0xf0,
            value: &[1, 2, 3],
        },
    ];
    let fixture = Fixture::new("accept = \"proxy\"\nsend = \"proxy-v2\"");
    for (peer, has_checksum) in [(proxied(), true), (proxied(), false), (Peer::Local, true)] {
        let mut bytes = Vec::new();
        write::v2(&peer, tlvs.into_iter(), has_checksum, &mut bytes).unwrap();
        bytes.extend(b"payload");
        // Byte for byte, with the checksum where it was.
        assert_eq!(fixture.sent(&bytes), bytes);
    }
    let from_text = fixture.sent(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\npayload");
    let Parsed::Header(header) = proxy::parse(&from_text) else {
        panic!("{from_text:?}");
    };
    assert_eq!(header.peer, proxied());
    assert_eq!(&from_text[header.len..], b"payload");
    assert!(fixture.notes.claims.lock().unwrap().is_empty());

    let fixture = Fixture::new("accept = \"proxy\"\nsend = \"proxy-v1\"");
    let mut bytes = Vec::new();
    write::v2(&proxied(), tlvs.into_iter(), true, &mut bytes).unwrap();
    let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n";
    assert_eq!(fixture.sent(&bytes), line);
    assert_eq!(fixture.sent(b"PROXY UNKNOWN x\r\n"), b"PROXY UNKNOWN\r\n");
    // Version 1 has no word for a health check, and names the ends of the connection.
    let mut local = Vec::new();
    write::v2(&Peer::Local, [].into_iter(), false, &mut local).unwrap();
    let told = String::from_utf8(fixture.sent(&local)).unwrap();
    let end = format!(" {}\r\n", fixture.relay.port());
    assert!(
        told.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && told.ends_with(&end),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_header_says_is_kept_with_its_origin() {
    let fixture = Fixture::new("accept = \"proxy\"");
    let authority = Tlv {
        kind: kind::AUTHORITY,
        value: b"example.com",
    };
    let mut bytes = Vec::new();
    write::v2(&proxied(), [authority].into_iter(), true, &mut bytes).unwrap();
    let mut client = TcpStream::connect(fixture.relay).unwrap();
    client.write_all(&bytes).unwrap();
    let _accepted = fixture.server.accept().unwrap();
    let known = fixture.notes.known.lock().unwrap();
    let (cookie, _) = known.iter().next().unwrap();
    let tlvs = fixture.tlvs.take(*cookie).unwrap();
    assert_eq!(tlvs.authority.as_deref(), Some("example.com"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_it_refuses_is_told_with_the_client_if_it_is_known() {
    let mut fixture = Fixture::new("accept = \"proxy\"");
    let mut header = Vec::new();
    write::v2(&proxied(), [].into_iter(), true, &mut header).unwrap();
    let Fixture { server, relay, .. } = &fixture;
    let upstream = server.local_addr().unwrap();
    let relay = *relay;
    fixture.server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert!(TcpStream::connect(upstream).is_err());
    for (bytes, why) in [
        (&b"GET / HTTP/1.1\r\n"[..], "no_header"),
        (&header, "upstream"),
    ] {
        let mut client = TcpStream::connect(relay).unwrap();
        client.write_all(bytes).unwrap();
        let summary = fixture.summaries.recv().await.unwrap();
        assert_eq!(summary.refused, Some(why));
        let origin = summary.closed.origin;
        let own = client.local_addr().unwrap();
        assert_eq!(origin.remote.socket_addr(), own);
        let is_known = why == "upstream";
        assert_eq!(Evidence::from_u8(origin.evidence).is_some(), is_known);
        let shown = if is_known {
            CLIENT.into()
        } else {
            own.to_string()
        };
        assert_eq!(origin.client.socket_addr().to_string(), shown);
    }
    // The origin is forgotten, or else the data path would report the end as well.
    assert!(fixture.notes.known.lock().unwrap().is_empty());
}

/// The relay runs on this thread, and so only while the test waits.
#[tokio::test]
async fn an_answer_before_the_requests_end_reaches_the_client() {
    let fixture = Fixture::new("");
    // Which direction has its turn first depends on how often it was theirs.
    for turns in 0..4 {
        let mut client = TcpStream::connect(fixture.relay).unwrap();
        client.set_nonblocking(true).unwrap();
        fixture.server.set_nonblocking(true).unwrap();
        let mut server = loop {
            match fixture.server.accept() {
                Ok((server, _)) => break server,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        };
        server.set_nonblocking(true).unwrap();
        for _ in 0..=turns {
            client.write_all(b"more").unwrap();
            while server.peek(&mut [0]).is_err() {
                sleep(Duration::from_millis(1)).await;
            }
        }
        client.write_all(b"still more").unwrap();
        server.write_all(b"too long").unwrap();
        // With bytes left unread, this resets the connection.
        drop(server);
        let mut answer = Vec::new();
        loop {
            match client.read(&mut [0; 8]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(1)).await;
                }
                Ok(bytes) if bytes > 0 => answer.push(bytes),
                _ => break,
            }
        }
        assert_eq!(answer, [8], "after {turns} turns");
    }
}
