//! Relays that do not do what they seem to.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use agent_common::trust::Statement;

use super::doubt::{Doubt, is_believed};
use crate::config::{
    loops::{comes_to, unwrapped},
    place::Place,
    relay::{Accept, Protocol, Relay, Send},
    reveal::{Inexpressible, Reveal},
    whole::Config,
};

pub(super) fn all(config: &Config) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for (number, relay) in config.relay.iter().enumerate() {
        doubts.extend(hops(config, number, relay));
        if relay.send == Send::Reveal && !config.reveal.enabled {
            doubts.push(Doubt::new(
                relay.name(),
                Place::nth("relay", number).key("send"),
                "`send = \"reveal\"`, and [reveal] is not enabled",
                "the server sees this host instead of the client",
                "leave `enabled = false` of [reveal] out, or choose another `send`",
            ));
        }
        for (item, upstream) in relay.upstream.iter().enumerate() {
            let place = Place::nth("relay", number).item("upstream", item);
            doubts.extend(header(config, relay, *upstream, place));
        }
    }
    doubts
}

/// An upstream that is another relay or an unwrapped port, and is not sent the PROXY header that it takes, or is sent one
/// that it does not take.
fn header(config: &Config, relay: &Relay, upstream: SocketAddr, place: Place) -> Option<Doubt> {
    let sends = matches!(relay.send, Send::ProxyV1 | Send::ProxyV2);
    let mut others = config.relay.iter();
    let next = others.find(|other| comes_to(relay, upstream, other, &config.steer, &|_, _| false));
    let unwrap = unwrapped(relay, upstream, &config.unwrap, &|_, _| false);
    let (who, takes) = match (next, unwrap) {
        (_, Some(unwrap)) => (unwrap.title(), true),
        (Some(next), None) => (next.name(), next.accept == Accept::Proxy),
        (None, None) => return None,
    };
    let (reason, consequence, remedy) = match (sends, takes) {
        (false, true) => (
            format!("{upstream} takes PROXY headers ({who}), and none is sent"),
            "every connection is refused there",
            "write `send = \"proxy-v2\"`, or let the upstream take none",
        ),
        (true, false) => (
            format!("{upstream} takes no PROXY header ({who}), and one is sent"),
            "the header reaches the server as payload",
            "write `accept = \"proxy\"` there, or another `send` here",
        ),
        _ => return None,
    };
    Some(Doubt::new(relay.name(), place, reason, consequence, remedy))
}

/// A relay that believes nobody's `X-Forwarded-For`, or everybody's.
fn hops(config: &Config, number: usize, relay: &Relay) -> Option<Doubt> {
    let Protocol::Http(http) = relay.protocol else {
        return None;
    };
    let says_xff = |port| is_believed(&config.trust, Statement::Xff, port);
    if relay.ports(&config.steer).any(says_xff) {
        return None;
    }
    let believe = "add a [[trust]] with the proxies in front as `source` and `says = [\"xff\"]`";
    let port = relay.listen.port();
    let place = Place::nth("relay", number);
    match http.trusted_hops {
        Some(0) => None,
        Some(_) if relay.listen.ip().is_loopback() => None,
        Some(_) => Some(Doubt::new(
            relay.name(),
            place.key("trusted_hops"),
            format!("no [[trust]] says who may send `X-Forwarded-For` to port {port}"),
            "with `trusted_hops`, whoever can connect can name any client",
            format!("{believe}, or let nobody but these reach the relay"),
        )),
        None => Some(Doubt::new(
            relay.name(),
            place.key("protocol"),
            format!("nobody is believed to send `X-Forwarded-For` to port {port}"),
            "the client of each request is whoever connects",
            format!("{believe}; or write `trusted_hops = 0`, if that is meant"),
        )),
    }
}

/// An upstream that cannot be told by what concerns this host alone, as it is on another one. `own` has the addresses of
/// this one.
pub(super) fn elsewhere(number: usize, relay: &Relay, own: &HashSet<IpAddr>) -> Vec<Doubt> {
    let consequence = match relay.send {
        Send::Reveal => {
            "its `accept()` is not this host's to answer: it sees this host instead of the client"
        }
        Send::Transparent => {
            "its answers go to the client, who does not expect them: connections hang"
        }
        _ => return Vec::new(),
    };
    let is_own = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified() || own.contains(&ip);
    let upstreams = relay.upstream.iter().enumerate();
    let far = upstreams.filter(|(_, upstream)| !is_own(upstream.ip().to_canonical()));
    let doubt = |(item, upstream): (usize, &SocketAddr)| {
        Doubt::new(
            relay.name(),
            Place::nth("relay", number).item("upstream", item),
            format!(
                "no network namespace of this host has the address {}",
                upstream.ip()
            ),
            consequence,
            "write `send = \"toa\"` (and [carry.toa]) or `send = \"proxy-v2\"` for a server on another host",
        )
    };
    far.map(doubt).collect()
}

/// A relay whose upstream may be unable to express a client.
pub(super) fn inexpressible(number: usize, relay: &Relay, reveal: &Reveal) -> Option<Doubt> {
    let names_clients = relay.accept == Accept::Proxy
        || matches!(relay.protocol, Protocol::Http(http) if http.trusted_hops != Some(0));
    let has_v6_clients = relay.listen.is_ipv6() || names_clients;
    let mut upstreams = relay.upstream.iter().enumerate();
    let (item, upstream) = upstreams.find(|(_, up)| up.is_ipv4())?;
    (reveal.enabled && relay.speaks() && has_v6_clients).then(|| {
        let consequence = match reveal.inexpressible {
            Inexpressible::Refuse => "IPv6 clients are refused (`inexpressible`)".into(),
            Inexpressible::Pass => format!(
                "IPv6 clients look like this host{}",
                loopback(upstream.ip().is_loopback())
            ),
        };
        Doubt::new(
            relay.name(),
            Place::nth("relay", number).item("upstream", item),
            format!("a server at {upstream} that listens on IPv4 alone cannot be told an IPv6 client"),
            consequence,
            "let the server listen on `[::]`, and `accept()` tells it the clients of both IP versions",
        )
    })
}

fn loopback(is_loopback: bool) -> &'static str {
    if is_loopback {
        ": a loopback address, which many access rules trust"
    } else {
        ""
    }
}
