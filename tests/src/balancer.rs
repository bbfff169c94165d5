//! The relay on a server, behind a load balancer on a gateway, with an application beside it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;

use crate::agent::{Agent, Config, Relay, Trust};
use crate::clients::load::Load;
use crate::host::netns::Netns;
use crate::proxies::{Route, any_of_family};
use crate::servers::report::Report;
use crate::topology::{Family, Gateway};

/// Where the load balancer listens for each family, on the gateway.
pub const BALANCER: u16 = 9100;

/// Where the relay listens for each family, on the server.
pub const RELAY: u16 = 9000;

/// Where the application listens, beside the relay.
pub const APPLICATION: u16 = 8080;

/// The gateway's addresses on the server's side.
pub const SOURCES: [&str; 2] = ["10.78.0.0/24", "fd78::/64"];

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

/// A relay for each family that takes plain connections and has the application beside it see the client.
pub fn plain(topology: &Gateway) -> Vec<Relay> {
    let mut relays = relays(&topology.server, "reveal");
    for relay in &mut relays {
        relay.accept = "plain";
    }
    relays
}

/// Twenty clients at a time, by both relays.
pub fn crowd() -> Load {
    Load {
        connections: 100,
        concurrent: 20,
        ..Load::new(Family::ALL.map(relay_of))
    }
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

/// Of an agent with these relays, which believes the gateway.
pub fn config(directory: &Path, relays: Vec<Relay>) -> Result<Config> {
    let mut config = Config::new(directory, [])?;
    config.trust.extend(Trust::sources(SOURCES));
    config.relay = relays;
    Ok(config)
}

/// An agent with this configuration.
pub fn agent(directory: &Path, relays: Vec<Relay>) -> Result<Agent> {
    Agent::start(directory, config(directory, relays)?)
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

/// A client that exists in headers only.
pub fn client_of(family: Family) -> SocketAddr {
    (family.client(76), 4711).into()
}
