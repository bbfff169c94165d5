//! The relay on a server, behind a load balancer on a gateway, with an application beside it.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use agent_common::proxy::{Endpoints, Peer, write};
use anyhow::{Result, bail};

use crate::agent::{Agent, Config, Relay};
use crate::netns::Netns;
use crate::process::Route;
use crate::proxy::any_of_family;
use crate::report::{Report, Seen};
use crate::topology::{Family, Gateway};

/// Where the load balancer listens for each family, on the gateway.
pub const BALANCER: u16 = 9100;
/// Where the relay listens for each family, on the server.
pub const RELAY: u16 = 9000;
/// Where the application listens, beside the relay.
pub const APPLICATION: u16 = 8080;
/// The gateway's addresses on the server's side.
pub const SOURCES: [&str; 2] = ["10.78.0.0/24", "fd78::/64"];
/// How long an answer may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A relay for each family that sends on to an application beside it.
pub fn relays(netns: &Netns, send: &'static str) -> Vec<Relay> {
    Family::ALL
        .into_iter()
        .zip(RELAY..)
        .map(|(family, port)| {
            let upstream = (family.localhost(), APPLICATION).into();
            Relay::proxy(netns, any_of_family(family, port), upstream, send)
        })
        .collect()
}

/// One application behind each of three addresses.
pub fn three(netns: &Netns) -> Result<HashMap<IpAddr, Report>> {
    (1..=3)
        .map(|n| {
            let ip = Ipv4Addr::new(127, 0, 1, n).into();
            Ok((ip, Report::start(netns, (ip, APPLICATION).into())?))
        })
        .collect()
}

/// An agent with these relays, which believes the gateway.
pub fn agent(directory: &Path, relays: Vec<Relay>) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.sources = SOURCES.iter().map(|s| (*s).into()).collect();
    config.relay = relays;
    Agent::start(directory, config)
}

/// From the load balancer to the relays.
pub fn routes() -> Vec<Route> {
    Family::ALL
        .into_iter()
        .zip(0..)
        .map(|(family, n)| {
            let relay = (Gateway::server(family), RELAY + n).into();
            (any_of_family(family, BALANCER + n), relay)
        })
        .collect()
}

/// Where the clients connect to.
pub fn targets() -> Vec<SocketAddr> {
    Family::ALL
        .into_iter()
        .zip(BALANCER..)
        .map(|(family, port)| (Gateway::front(family), port).into())
        .collect()
}

/// The relay's address for this family, as the gateway reaches it.
pub fn relay_of(family: Family) -> SocketAddr {
    let port = if family == Family::V4 {
        RELAY
    } else {
        RELAY + 1
    };
    (Gateway::server(family), port).into()
}

/// How many connections the relay of this family has refused for this reason.
pub fn refused(agent: &Agent, family: Family, reason: &str) -> Result<u64> {
    let listen = any_of_family(family, relay_of(family).port());
    agent.metric(&format!(
        "truepeer_relay_refused_connections_total{{relay=\"{listen}\",reason=\"{reason}\"}}"
    ))
}

/// A header of version 2 that names this client.
pub fn header(client: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let peer = Peer::Proxied(Endpoints {
        source: client.into(),
        destination: target.into(),
    });
    let mut bytes = Vec::new();
    write::v2(&peer, [].into_iter(), true, &mut bytes).expect("short");
    bytes
}

/// A client that exists in headers only.
pub fn client_of(family: Family) -> SocketAddr {
    (family.client(76), 4711).into()
}

/// A connection from `netns`.
pub fn connect(netns: &Netns, target: SocketAddr) -> Result<TcpStream> {
    let stream = netns.enter(|| TcpStream::connect_timeout(&target, TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first line of an application that reports.
pub fn seen(stream: &mut TcpStream) -> Result<Seen> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok(serde_json::from_slice(&line)?)
}

/// The connection was reset and not ended in order.
pub fn assert_reset(mut stream: TcpStream, what: &str) -> Result<()> {
    match stream.read(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("{what}: {other:?} instead of a reset"),
    }
}

/// Whoever connects from `netns` is reset, be it before the connection is known to be made.
pub fn assert_refused(netns: &Netns, target: SocketAddr, what: &str) -> Result<()> {
    match connect(netns, target) {
        Ok(stream) => assert_reset(stream, what),
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == ErrorKind::ConnectionReset => Ok(()),
            _ => Err(error),
        },
    }
}
