//! Servers that cannot be told each client, because they listen on IPv4 alone.

use std::{net::IpAddr, path::Path};

use anyhow::Result;

use super::check::{Check, Outcome};
use crate::{
    config::{Config, Inexpressible, Unwrap, show_ports},
    host::{
        netns::Netns,
        sockets::{self, ListenerInfo},
    },
};

/// `AF_INET` of linux/socket.h.
const AF_INET: u8 = 2;

pub(super) fn check(config: &Config) -> Vec<Check> {
    if !config.reveal.enabled {
        return Vec::new();
    }
    let refuses = config.reveal.inexpressible == Inexpressible::Refuse;
    let relays = config.relay.iter().filter(|relay| relay.speaks());
    let relays = relays.flat_map(|relay| {
        let upstreams = relay.upstream.iter().filter(|up| up.is_ipv4());
        upstreams.map(|up| {
            (
                relay.name(),
                relay.netns.as_deref(),
                Some(up.ip()),
                up.port(),
            )
        })
    });
    let unwraps = config.unwrap.iter().flat_map(|unwrap| {
        let ports = unwrap.ports.iter().filter(|ports| ports.len() <= MOST);
        let ports = ports.cloned().flatten();
        ports.map(|port| (name(unwrap), unwrap.netns.as_deref(), None, port))
    });
    relays
        .chain(unwraps)
        .filter_map(|(name, netns, to, port)| {
            // A namespace or a kernel that cannot be asked is another check's finding.
            let listeners = listeners(netns, port).ok()?;
            let is_v4 = only_v4(&listeners, to)?;
            is_v4.then(|| told(name, port, refuses))
        })
        .collect()
}

/// More ports than a range of one service has are not looked at one by one.
const MOST: usize = 64;

fn name(unwrap: &Unwrap) -> String {
    let ports: Vec<String> = unwrap.ports.iter().map(show_ports).collect();
    format!("[[unwrap]] of {}", ports.join(", "))
}

fn listeners(netns: Option<&Path>, port: u16) -> Result<Vec<ListenerInfo>> {
    sockets::listeners(&Netns::open_or_current(netns)?, port)
}

/// Whether nobody but IPv4 sockets would take a connection `to` this address, or to any; `None` if nobody would.
fn only_v4(listeners: &[ListenerInfo], to: Option<IpAddr>) -> Option<bool> {
    let takes = |listener: &&ListenerInfo| {
        let ip = listener.address.ip().to_canonical();
        !listener.v6only && (ip.is_unspecified() || to.is_none_or(|to| to == ip))
    };
    let mut those = listeners.iter().filter(takes).peekable();
    those.peek()?;
    Some(those.all(|listener| listener.family == AF_INET))
}

fn told(name: String, port: u16, refuses: bool) -> Check {
    let consequence = if refuses {
        "IPv6 clients are refused (`inexpressible`)"
    } else {
        "IPv6 clients look like the last hop, perhaps like 127.0.0.1, which many access rules trust"
    };
    Check::wrong(
        Outcome::Warn,
        name,
        format!(
            "the server on port {port} listens on IPv4 alone and cannot be told an IPv6 client"
        ),
        consequence,
        "let it listen on `[::]`, which takes both IP versions",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(family: u8, address: &str, v6only: bool) -> ListenerInfo {
        ListenerInfo {
            cookie: 1,
            inode: 1,
            family,
            address: address.parse().unwrap(),
            v6only,
            transparent: None,
        }
    }

    #[test]
    fn a_socket_of_ipv4_alone_is_found() {
        let to = Some("127.0.0.1".parse().unwrap());
        let v4 = listener(2, "0.0.0.0:80", false);
        let dual = listener(10, "[::]:80", false);
        let v6 = listener(10, "[::]:80", true);
        let other = listener(2, "10.0.0.1:80", false);
        for (listeners, expected) in [
            (vec![], None),
            (vec![v4.clone()], Some(true)),
            (vec![v4.clone(), v6.clone()], Some(true)),
            (vec![dual], Some(false)),
            (vec![v6], None),
            (vec![other], None),
        ] {
            assert_eq!(only_v4(&listeners, to), expected, "{listeners:?}");
        }
    }
}
