//! Relays of the test's own namespace, with a data path that only takes notes.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::BorrowedFd,
    sync::Mutex,
};

use agent_common::{
    Address, Claim, Evidence, Origin,
    origin::rule_id,
    proxy::{self, Endpoints, Parsed, Peer, Tlv, kind, write},
};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::connections::summary::Summary as Ended;

#[derive(Default)]
pub(super) struct Notes {
    pub(super) claims: Mutex<Vec<Claim>>,
    /// Whom the policy denies.
    pub(super) denied: Mutex<Vec<Address>>,
    origins: Mutex<Vec<Origin>>,
    /// Of the sockets that have an origin.
    cookies: Mutex<Vec<u64>>,
}

impl Claims for Notes {
    fn origin(&self, _: u64) -> Result<Option<Origin>> {
        Ok(None)
    }

    fn learn(&self, cookie: u64, origin: Origin) -> Result<()> {
        self.cookies.lock().unwrap().push(cookie);
        self.origins.lock().unwrap().push(origin);
        Ok(())
    }

    fn forget(&self, cookie: u64) -> Result<()> {
        self.cookies
            .lock()
            .unwrap()
            .retain(|known| *known != cookie);
        Ok(())
    }

    fn allows(&self, client: Address, _: u16) -> Result<bool> {
        Ok(!self.denied.lock().unwrap().contains(&client))
    }

    fn follow(&self, _: BorrowedFd<'_>) -> Result<()> {
        Ok(())
    }

    fn claim(&self, _: BorrowedFd<'_>, claim: Claim) -> Result<()> {
        self.claims.lock().unwrap().push(claim);
        Ok(())
    }
}

const CLIENT: &str = "203.0.113.7:4711";

fn proxied() -> Peer {
    Peer::Proxied(Endpoints {
        source: CLIENT.parse::<SocketAddr>().unwrap().into(),
        destination: "192.0.2.1:443".parse::<SocketAddr>().unwrap().into(),
    })
}

/// An address that nobody listens on, for as long as nobody else takes it.
fn free() -> SocketAddr {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.local_addr().unwrap()
}

/// A relay in front of a server, and what it notes.
pub(super) struct Setting {
    pub(super) server: TcpListener,
    pub(super) relay: SocketAddr,
    pub(super) notes: Arc<Notes>,
    pub(super) relays: Relays,
    details: Arc<Kept>,
    refused: Receiver<Ended>,
}

impl Setting {
    /// `more` is what the relay's section has besides.
    pub(super) fn new(more: &str) -> Self {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (relay, upstream) = (free(), server.local_addr().unwrap());
        let text = format!(
            "[trust]\nsources = [\"127.0.0.0/8\", \"127.0.0.0/16\"]\n[[relay]]\nlisten = \"{relay}\"\n\
             upstream = [\"{upstream}\"]\n{more}"
        );
        let config = Config::parse(&text, "test").unwrap();
        let notes = Arc::new(Notes::default());
        let details = Arc::new(Kept::default());
        let (refusals, refused) = Refusals::channel(Counter::default());
        let metrics = Metrics::default();
        let mut relays = Relays::new(notes.clone(), metrics, details.clone(), refusals);
        relays.apply(&config).unwrap();
        Self {
            server,
            relay,
            notes,
            relays,
            details,
            refused,
        }
    }

    /// Sends `bytes` on a connection and ends it; what the server got.
    fn sent(&self, bytes: &[u8]) -> Vec<u8> {
        let mut client = TcpStream::connect(self.relay).unwrap();
        client.write_all(bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let (mut accepted, _) = self.server.accept().unwrap();
        let mut got = Vec::new();
        accepted.read_to_end(&mut got).unwrap();
        got
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_becomes_a_claim() {
    let setting = Setting::new("accept = \"proxy\"");
    let mut bytes = Vec::new();
    write::v2(&proxied(), [].into_iter(), true, &mut bytes).unwrap();
    bytes.extend(b"payload");
    assert_eq!(setting.sent(&bytes), b"payload");
    let claims = setting.notes.claims.lock().unwrap();
    let origins = setting.notes.origins.lock().unwrap();
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
    assert_eq!(origins[0].local.socket_addr(), setting.relay);
    assert_eq!(
        (origins[0].rule, origins[0].evidence),
        (rule, Evidence::Proxy as u8)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_connection_is_its_own_clients() {
    let setting = Setting::new("");
    assert_eq!(setting.sent(b"PROXY UNKNOWN\r\n"), b"PROXY UNKNOWN\r\n");
    let claims = setting.notes.claims.lock().unwrap();
    assert!(claims[0].client.socket_addr().ip().is_loopback());
    assert_eq!(claims[0].evidence, Evidence::Wire as u8);
    assert_eq!(claims[0].rule, rule_id(&format!("relay {}", setting.relay)));
    assert!(setting.notes.origins.lock().unwrap().is_empty());
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
    let setting = Setting::new("accept = \"proxy\"\nsend = \"proxy-v2\"");
    for (peer, has_checksum) in [(proxied(), true), (proxied(), false), (Peer::Local, true)] {
        let mut bytes = Vec::new();
        write::v2(&peer, tlvs.into_iter(), has_checksum, &mut bytes).unwrap();
        bytes.extend(b"payload");
        // The same bytes: also the checksum is where it was.
        assert_eq!(setting.sent(&bytes), bytes);
    }
    let from_text = setting.sent(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\npayload");
    let Parsed::Header(header) = proxy::parse(&from_text) else {
        panic!("{from_text:?}");
    };
    assert_eq!(header.peer, proxied());
    assert_eq!(&from_text[header.len..], b"payload");
    assert!(setting.notes.claims.lock().unwrap().is_empty());

    let setting = Setting::new("accept = \"proxy\"\nsend = \"proxy-v1\"");
    let mut bytes = Vec::new();
    write::v2(&proxied(), tlvs.into_iter(), true, &mut bytes).unwrap();
    let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n";
    assert_eq!(setting.sent(&bytes), line);
    assert_eq!(setting.sent(b"PROXY UNKNOWN x\r\n"), b"PROXY UNKNOWN\r\n");
    // Version 1 has no word for a health check: it names the ends of the connection.
    let mut local = Vec::new();
    write::v2(&Peer::Local, [].into_iter(), false, &mut local).unwrap();
    let told = String::from_utf8(setting.sent(&local)).unwrap();
    let end = format!(" {}\r\n", setting.relay.port());
    assert!(
        told.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && told.ends_with(&end),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_header_says_is_kept_with_its_origin() {
    let setting = Setting::new("accept = \"proxy\"");
    let authority = Tlv {
        kind: kind::AUTHORITY,
        value: b"example.com",
    };
    let mut bytes = Vec::new();
    write::v2(&proxied(), [authority].into_iter(), true, &mut bytes).unwrap();
    let mut client = TcpStream::connect(setting.relay).unwrap();
    client.write_all(&bytes).unwrap();
    let _accepted = setting.server.accept().unwrap();
    let cookies = setting.notes.cookies.lock().unwrap();
    let details = setting.details.take(cookies[0]).unwrap();
    assert_eq!(details.authority.as_deref(), Some("example.com"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_it_refuses_is_told_with_the_client_if_it_is_known() {
    let mut setting = Setting::new("accept = \"proxy\"");
    let mut header = Vec::new();
    write::v2(&proxied(), [].into_iter(), true, &mut header).unwrap();
    let Setting { server, relay, .. } = &setting;
    let upstream = server.local_addr().unwrap();
    let relay = *relay;
    setting.server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert!(TcpStream::connect(upstream).is_err());
    for (bytes, why) in [
        (&b"GET / HTTP/1.1\r\n"[..], "no_header"),
        (&header, "upstream"),
    ] {
        let mut client = TcpStream::connect(relay).unwrap();
        client.write_all(bytes).unwrap();
        let ended = setting.refused.recv().await.unwrap();
        assert_eq!(ended.refused, Some(why));
        let origin = ended.closed.origin;
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
    // Its origin is forgotten, so that its end is not told as well.
    assert!(setting.notes.cookies.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_changes_nothing() {
    let mut setting = Setting::new("");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let text = format!(
        "[[relay]]\nlisten = \"{}\"\nupstream = [\"127.0.0.1:1\"]\n",
        taken.local_addr().unwrap()
    );
    let config = Config::parse(&text, "test").unwrap();
    let error = format!("{:#}", setting.relays.apply(&config).unwrap_err());
    assert!(
        error.contains("cannot listen") && error.contains("in use"),
        "{error}"
    );
    assert_eq!(setting.sent(b"as before"), b"as before");
    setting.relays.close();
    // The listener is closed by the runtime, soon.
    while TcpStream::connect(setting.relay).is_ok() {
        tokio::task::yield_now().await;
    }
}
