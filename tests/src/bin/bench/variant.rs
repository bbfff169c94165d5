//! What is between client and application.

use std::net::{IpAddr, SocketAddr};

use agent_common::Counter;
use serde::Serialize;

/// What is between client and application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// Nothing.
    Direct,
    /// Envoy, by Istio's iptables TPROXY rules.
    Iptables,
    /// Envoy, by truepeer's steering, without an access log, as the rules have none.
    Truepeer,
    /// Envoy, by truepeer's steering, with an access log in a file.
    TruepeerLogging,
    /// Nothing, and truepeer, which trusts others.
    Idle,
    /// Nothing, and truepeer takes the client for a proxy that binds to its client's address.
    Bind,
    /// As [`Self::Bind`], and TOA carries the address on the SYN.
    Toa,
    /// Envoy, to which the client connects and which has its own address.
    EnvoyPlain,
    /// Envoy, to which the client connects, and which binds to the client's address.
    EnvoyBinding,
    /// Nothing, and truepeer takes PROXY headers off.
    Unwrap,
    /// truepeer's relay, which takes PROXY headers and tells the application.
    Relay,
    /// Proxies that take PROXY headers and tell nobody, which is the least work.
    HaproxyTold,
    NginxTold,
    EnvoyTold,
    /// A node's own NAT.
    Node,
    /// A node's own NAT, and truepeer before it.
    NodeToa,
}

impl Variant {
    pub(crate) const ALL: [Self; 16] = [
        Self::Direct,
        Self::Iptables,
        Self::Truepeer,
        Self::TruepeerLogging,
        Self::Idle,
        Self::Bind,
        Self::Toa,
        Self::EnvoyPlain,
        Self::EnvoyBinding,
        Self::Unwrap,
        Self::Relay,
        Self::HaproxyTold,
        Self::NginxTold,
        Self::EnvoyTold,
        Self::Node,
        Self::NodeToa,
    ];

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Iptables => "iptables TPROXY",
            Self::Truepeer => "truepeer",
            Self::TruepeerLogging => "truepeer + access log",
            Self::Idle => "idle truepeer",
            Self::Bind => "bind",
            Self::Toa => "TOA",
            Self::EnvoyPlain => "Envoy",
            Self::EnvoyBinding => "Envoy + bind",
            Self::Unwrap => "unwrap",
            Self::Relay => "relay",
            Self::HaproxyTold => "HAProxy accept-proxy",
            Self::NginxTold => "nginx proxy_protocol",
            Self::EnvoyTold => "Envoy proxy_protocol",
            Self::Node => "node port",
            Self::NodeToa => "node port + truepeer",
        }
    }

    /// The counter of the evidence by which truepeer learns; of the others there must be none.
    pub(crate) fn learns(self) -> Option<Counter> {
        match self {
            Self::Truepeer | Self::TruepeerLogging => Some(Counter::LearntWire),
            Self::Bind | Self::EnvoyBinding => Some(Counter::LearntBind),
            Self::Toa => Some(Counter::LearntToa),
            Self::Unwrap | Self::Relay => Some(Counter::LearntProxy),
            Self::NodeToa => Some(Counter::LearntSnat),
            Self::Node | Self::Direct | Self::Iptables | Self::Idle | Self::EnvoyPlain => None,
            Self::HaproxyTold | Self::NginxTold | Self::EnvoyTold => None,
        }
    }

    /// Whether the client connects to the proxy's own port.
    pub(crate) fn is_addressed(self) -> bool {
        matches!(self, Self::EnvoyPlain | Self::EnvoyBinding)
            || self.is_told() && self != Self::Unwrap
    }

    /// Whether connections begin with a PROXY header.
    pub(crate) fn is_told(self) -> bool {
        matches!(
            self,
            Self::Unwrap | Self::Relay | Self::HaproxyTold | Self::NginxTold | Self::EnvoyTold
        )
    }

    /// Whether `seen` is what the application should be told of a client that has this address, and whose
    /// connection has this port.
    pub(crate) fn is_right(self, client: IpAddr, port: u16, seen: SocketAddr) -> bool {
        let same_port = port == seen.port();
        match self {
            Self::Direct | Self::Idle | Self::Bind | Self::Toa | Self::Unwrap | Self::Relay => {
                client == seen.ip() && same_port
            }
            Self::NodeToa => client == seen.ip() && same_port,
            Self::Node => client != seen.ip(),
            // A sidecar's proxy that spoofs has a port of its own: else Envoy was not on the way.
            Self::Iptables | Self::Truepeer | Self::TruepeerLogging => {
                client == seen.ip() && !same_port
            }
            Self::EnvoyPlain | Self::HaproxyTold | Self::NginxTold | Self::EnvoyTold => {
                seen.ip().is_loopback()
            }
            Self::EnvoyBinding => client == seen.ip(),
        }
    }
}
