//! The ways to an application, and whom it sees at their end.

use std::net::{IpAddr, SocketAddr};

use crate::addresses::Family;
use crate::topology::Gateway;

/// Where the proxy listens to which connections are steered.
pub(super) const PROXY: u16 = 15006;
/// Where the first of two listeners is, one for each family: of the proxy on the server that binds, of the relays, and of the
/// proxy on the gateway whose host tells the server's.
pub(super) const BINDING: u16 = 15001;
pub(super) const RELAY: u16 = 9000;
pub(super) const HTTP_RELAY: u16 = 9010;
pub(super) const TELLING: u16 = 15011;

/// A way to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Nothing is between.
    Bare,
    /// Connections are steered to a sidecar's transparent proxy.
    Steered,
    /// A proxy beside the application, trusted by its cgroup and without capabilities, binds to the client's address.
    Bound,
    /// The kernel takes a PROXY header off.
    Unwrapped,
    /// A relay takes a PROXY header.
    Relayed,
    /// A relay reads `X-Forwarded-For`.
    Http,
    /// A proxy on another host binds to the client's address, and its host's agent writes TOA.
    Told,
}

/// Whom an application sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The client.
    Right,
    /// Whom it would see without truepeer.
    Unknown,
    /// Somebody else.
    Wrong,
}

impl Way {
    /// All of them, in the order of [`super::promise::may`].
    pub(super) const ALL: [Self; 7] = [
        Self::Bare,
        Self::Steered,
        Self::Bound,
        Self::Unwrapped,
        Self::Relayed,
        Self::Http,
        Self::Told,
    ];

    /// Its name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Steered => "steer",
            Self::Bound => "bind",
            Self::Unwrapped => "unwrap",
            Self::Relayed => "relay",
            Self::Http => "http",
            Self::Told => "toa",
        }
    }

    /// The port of its application.
    pub(super) fn application(self) -> u16 {
        8080 + self as u16
    }

    /// Where its clients connect to.
    pub(super) fn target(self, family: Family) -> SocketAddr {
        let server = Gateway::server(family);
        match self {
            Self::Bare | Self::Steered | Self::Unwrapped => (server, self.application()).into(),
            Self::Bound => (server, of_family(BINDING, family)).into(),
            Self::Relayed => (server, of_family(RELAY, family)).into(),
            Self::Http => (server, of_family(HTTP_RELAY, family)).into(),
            Self::Told => (Gateway::front(family), of_family(TELLING, family)).into(),
        }
    }

    /// Whether whoever connects is a load balancer, which names the client in a header.
    pub(super) fn has_header(self) -> bool {
        matches!(self, Self::Unwrapped | Self::Relayed | Self::Http)
    }

    /// Whom the application sees: `client` is the true one, and `own` is the end that connected.
    pub(super) fn judge(self, client: SocketAddr, own: SocketAddr, seen: SocketAddr) -> Seen {
        let family = Family::of(client);
        let is_right = match self {
            // The sidecar's proxy connects from a port of its own, and the header of HTTP names no port.
            Self::Steered => seen.ip() == client.ip() && seen != own,
            Self::Http => seen.ip() == client.ip(),
            _ => seen == client,
        };
        let is_hop = |hop: IpAddr| seen.ip() == hop;
        let is_unknown = match self {
            Self::Bare => false,
            // Past the proxy.
            Self::Steered | Self::Unwrapped => seen == own,
            Self::Bound | Self::Relayed | Self::Http => is_hop(family.localhost()),
            Self::Told => is_hop(Gateway::back(family)),
        };
        if is_right {
            Seen::Right
        } else if is_unknown {
            Seen::Unknown
        } else {
            Seen::Wrong
        }
    }
}

/// The port for this family, of two that begin with `first`.
fn of_family(first: u16, family: Family) -> u16 {
    first + u16::from(family == Family::V6)
}
