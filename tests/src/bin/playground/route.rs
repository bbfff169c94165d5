//! One way from a client to an application.

use std::net::SocketAddr;

use tests::host::netns::Netns;
use tests::topology::Family;

/// What hides the client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// An ordinary proxy, with this address.
    Proxy(SocketAddr),
    /// A proxy to which iptables redirect the client.
    Redirect,
    /// kube-proxy's rules.
    Nat,
}

/// One way from a client to an application.
pub(crate) struct Route<'a> {
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    pub(crate) client: &'a Netns,
    /// Where the proxy runs.
    pub(crate) proxy: &'a Netns,
    /// What is between client and application without truepeer.
    pub(crate) hop: Hop,
    /// What the ordinary proxy connects to.
    pub(crate) upstream: SocketAddr,
    /// The application, as the client knows it.
    pub(crate) target: SocketAddr,
    /// How truepeer knows the client.
    pub(crate) evidence: &'static str,
    /// Whether the application sees the client's port too.
    pub(crate) keeps_port: bool,
}
