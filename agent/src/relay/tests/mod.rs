//! Relays in the test's own namespace, with a data path that only takes notes.

mod http;
mod tcp;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::BorrowedFd,
    sync::Mutex,
};

use agent_common::{Address, Claim, Origin};
use prometheus_client::metrics::counter::Counter;
use socket2::SockRef;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::{connections::summary::Summary, host::inherited::Inherited};

/// What the relay told the data path.
#[derive(Default)]
struct Notes {
    claims: Mutex<Vec<Claim>>,
    /// The clients that the policy denies.
    denied: Mutex<Vec<Address>>,
    origins: Mutex<Vec<Origin>>,
    /// The sockets that have an origin, by their cookies.
    known: Mutex<HashMap<u64, Origin>>,
}

impl Claims for Notes {
    fn origin(&self, cookie: u64) -> Result<Option<Origin>> {
        Ok(self.known.lock().unwrap().get(&cookie).copied())
    }

    fn learn(&self, cookie: u64, origin: Origin) -> Result<()> {
        self.known.lock().unwrap().insert(cookie, origin);
        self.origins.lock().unwrap().push(origin);
        Ok(())
    }

    fn forget(&self, cookie: u64) -> Result<()> {
        self.known.lock().unwrap().remove(&cookie);
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

/// An address that nobody listens on, until somebody takes it.
fn free() -> SocketAddr {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.local_addr().unwrap()
}

/// A relay in front of a server, and what it tells.
struct Fixture {
    server: TcpListener,
    relay: SocketAddr,
    notes: Arc<Notes>,
    relays: Relays,
    tlvs: Arc<TlvStore>,
    summaries: Receiver<Summary>,
}

impl Fixture {
    /// `more` are further lines of the relay's section.
    fn new(more: &str) -> Self {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (relay, upstream) = (free(), server.local_addr().unwrap());
        let text = format!(
            "[[trust]]\nsource = [\"127.0.0.0/8\", \"127.0.0.0/16\"]\nsays = [\"proxy\", \"xff\"]\n[[relay]]\nlisten = \"{relay}\"\n\
             upstream = [\"{upstream}\"]\n{more}"
        );
        let config = Config::parse(&text, "test").unwrap();
        let notes = Arc::new(Notes::default());
        let tlvs = Arc::new(TlvStore::default());
        let (sender, summaries) = SummarySender::channel(Counter::default());
        let metrics = Metrics::default();
        let mut relays = Relays::new(
            notes.clone(),
            metrics,
            tlvs.clone(),
            sender,
            Inherited::default(),
        );
        relays.apply(&config).unwrap();
        Self {
            server,
            relay,
            notes,
            relays,
            tlvs,
            summaries,
        }
    }

    /// Sends `bytes` on a connection and ends it. Returns what the server got.
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
async fn an_address_that_is_taken_changes_nothing() {
    let mut fixture = Fixture::new("");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let text = format!(
        "[[relay]]\nlisten = \"{}\"\nupstream = [\"127.0.0.1:1\"]\n",
        taken.local_addr().unwrap()
    );
    let config = Config::parse(&text, "test").unwrap();
    let error = format!("{:#}", fixture.relays.apply(&config).unwrap_err());
    assert!(
        error.contains("cannot listen") && error.contains("in use"),
        "{error}"
    );
    assert_eq!(fixture.sent(b"as before"), b"as before");
    fixture.relays.close();
    // The listener is closed by the runtime, soon.
    while TcpStream::connect(fixture.relay).is_ok() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn silent_clients_are_asked_whether_they_are_there() {
    let notes = Notes::default();
    let listener = listener::listen((Ipv4Addr::LOCALHOST, 0).into(), &notes).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let accepted = SockRef::from(&accepted);
    assert!(accepted.keepalive().unwrap());
    assert_eq!(accepted.tcp_keepalive_time().unwrap().as_secs(), 120);
}
