//! Where relays lead: to servers, to another relay of the configuration, or back to themselves.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use super::{relay::Relay, steer::Steer, unwrap::Unwrap};

/// Tells whether the network namespace at a path (`None`: the agent's own) has an address.
pub(super) type Has<'a> = &'a dyn Fn(Option<&Path>, IpAddr) -> bool;

/// Connections that come back to the relay that made them.
#[derive(Debug, PartialEq, Eq)]
pub struct Loop {
    /// Which of the relay's upstreams leads there.
    pub upstream: usize,
    /// The relays on the way, by their numbers in the configuration. The first one follows the last.
    pub path: Vec<usize>,
}

/// All loops, each once. What is certain without a look at the host is found if `has` knows no address.
pub fn loops(relays: &[Relay], steers: &[Steer], has: Has<'_>) -> Vec<Loop> {
    let mut loops = Vec::new();
    for (first, relay) in relays.iter().enumerate() {
        for (upstream, address) in relay.upstream.iter().enumerate() {
            let next = |from: usize, to: SocketAddr| {
                // Loops through an earlier relay have been found from there.
                let later = relays.iter().enumerate().skip(first);
                let leads = move |other: &Relay| comes_to(&relays[from], to, other, steers, has);
                later.filter_map(move |(number, other)| leads(other).then_some(number))
            };
            let mut ways: Vec<Vec<usize>> =
                next(first, *address).map(|to| vec![first, to]).collect();
            let mut seen = vec![false; relays.len()];
            while let Some(mut way) = ways.pop() {
                let last = way[way.len() - 1];
                if last == first {
                    way.pop();
                    loops.push(Loop {
                        upstream,
                        path: way,
                    });
                    break;
                }
                if std::mem::replace(&mut seen[last], true) {
                    continue;
                }
                for to in &relays[last].upstream {
                    ways.extend(next(last, *to).map(|to| [&way[..], &[to]].concat()));
                }
            }
        }
    }
    loops
}

/// Whether what `relay` sends to this upstream comes to `other`.
pub(super) fn comes_to(
    relay: &Relay,
    upstream: SocketAddr,
    other: &Relay,
    steers: &[Steer],
    has: Has<'_>,
) -> bool {
    let (ip, listen) = (target(upstream.ip()), other.listen.ip().to_canonical());
    let is_here = relay.netns == other.netns;
    let is_there = match (is_here, ip.is_loopback()) {
        (true, true) => true,
        (false, true) => return false,
        _ => has(other.netns.as_deref(), ip),
    };
    let takes = listen == ip || is_there && takes_all_of(listen, ip);
    // What a host connects to on itself is not steered.
    let steers = if is_here { &[] } else { steers };
    takes && other.ports(steers).any(|port| port == upstream.port())
}

/// Whether two sockets of one network namespace cannot both listen on these addresses.
pub(super) fn share(a: SocketAddr, b: SocketAddr) -> bool {
    let (left, right) = (a.ip().to_canonical(), b.ip().to_canonical());
    let is_same = left == right || takes_all_of(left, right) || takes_all_of(right, left);
    is_same && a.port() == b.port()
}

/// Whether a socket that listens on `listen` takes connections to every address of the IP version of `ip`.
fn takes_all_of(listen: IpAddr, ip: IpAddr) -> bool {
    listen.is_unspecified() && (listen.is_ipv6() || ip.is_ipv4())
}

/// Where a connection to this address goes: to an unspecified one, it goes to this host.
fn target(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// The unwrap that takes a PROXY header off what `relay` sends to this upstream. Packets of one network namespace to
/// itself come in by `lo`.
pub fn unwrapped<'a>(
    relay: &Relay,
    upstream: SocketAddr,
    unwraps: &'a [Unwrap],
    has: Has<'_>,
) -> Option<&'a Unwrap> {
    let ip = target(upstream.ip());
    unwraps.iter().find(|unwrap| {
        let is_its_own = || has(unwrap.netns.as_deref(), ip);
        let comes_in = match unwrap.netns == relay.netns {
            true => unwrap.interface.has_loopback() && (ip.is_loopback() || is_its_own()),
            false => unwrap.interface.has_others() && !ip.is_loopback() && is_its_own(),
        };
        comes_in
            && unwrap
                .ports
                .iter()
                .any(|ports| ports.contains(&upstream.port()))
    })
}
