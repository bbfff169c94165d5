//! What a valid configuration probably does not mean: `config check` and `doctor` warn of it.

use std::ops::RangeInclusive;

use agent_common::trust::{Reach, Statement};

use super::carry::CarryToa;
use super::fields::show_ports;
use super::relay::{Accept, Protocol, Relay};
use super::reveal::{Inexpressible, Reveal};
use super::steer::Steer;
use super::trust::{Speakers, Trust};
use super::unwrap::Unwrap;

/// Something in a valid configuration that probably is not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The section that it is about.
    pub section: String,
    /// What is odd.
    pub reason: String,
    /// What follows.
    pub consequence: String,
    /// What to do about it.
    pub remedy: String,
}

impl Doubt {
    fn new(
        section: impl Into<String>,
        reason: impl Into<String>,
        consequence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            section: section.into(),
            reason: reason.into(),
            consequence: consequence.into(),
            remedy: remedy.into(),
        }
    }
}

/// TOA that nobody sends.
pub(super) fn carry(toa: &CarryToa, trust: &[Trust], relays: &[Relay]) -> Option<Doubt> {
    let carries = |rule: &Trust| {
        let reach = match &rule.speakers {
            Speakers::Proxies { reach, .. } => Some(*reach),
            Speakers::Sources { .. } => None,
        };
        reach == Some(Reach::Carry)
    };
    let is_told = |relay: &Relay| {
        let mut upstreams = relay.upstream.iter();
        relay.speaks() && upstreams.any(|up| toa.to.iter().any(|to| to.contains(&up.ip())))
    };
    let is_sent = trust.iter().any(carries) || relays.iter().any(is_told);
    (!toa.to.is_empty() && !is_sent).then(|| {
        Doubt::new(
            "[carry.toa]",
            "nobody sends TOA to these destinations: no [[trust]] has `reach = \"carry\"`, and no [[relay]] connects there",
            "they see this host instead of the client",
            "add `reach = \"carry\"` to the [[trust]] of the proxy that connects there, or leave `to` out",
        )
    })
}

/// Ports whose every connection is refused, because nobody may send the header with which it must begin.
pub(super) fn unwrap(unwrap: &Unwrap, trust: &[Trust]) -> Option<Doubt> {
    let unheard = unwrap.ports.iter().cloned().flatten();
    let unheard: Vec<u16> = unheard
        .filter(|port| !is_believed(trust, Statement::Proxy, *port))
        .collect();
    (!unheard.is_empty()).then(|| {
        Doubt::new(
            format!("[[unwrap]] on {}", unwrap.interface),
            format!(
                "nobody is believed to send a PROXY header to {}",
                show(&unheard)
            ),
            "every connection to it is refused",
            "add a [[trust]] with the senders as `source`, `says = [\"proxy\"]`, and these `ports` or none",
        )
    })
}

/// A relay that believes nobody's `X-Forwarded-For`, or everybody's.
pub(super) fn hops(relay: &Relay, steers: &[Steer], trust: &[Trust]) -> Option<Doubt> {
    let Protocol::Http(http) = relay.protocol else {
        return None;
    };
    let says_xff = |port| is_believed(trust, Statement::Xff, port);
    if relay.ports(steers).any(says_xff) {
        return None;
    }
    let believe = "add a [[trust]] with the proxies in front as `source` and `says = [\"xff\"]`";
    let port = relay.listen.port();
    match http.trusted_hops {
        Some(0) => None,
        Some(_) if relay.listen.ip().is_loopback() => None,
        Some(_) => Some(Doubt::new(
            relay.name(),
            format!("no [[trust]] says who may send `X-Forwarded-For` to port {port}"),
            "with `trusted_hops`, whoever can connect can name any client",
            format!("{believe}, or let nobody but these reach the relay"),
        )),
        None => Some(Doubt::new(
            relay.name(),
            format!("nobody is believed to send `X-Forwarded-For` to port {port}"),
            "the client of each request is whoever connects",
            format!("{believe}; or write `trusted_hops = 0`, if that is meant"),
        )),
    }
}

/// A relay whose upstream may be unable to express a client.
pub(super) fn inexpressible(relay: &Relay, reveal: &Reveal) -> Option<Doubt> {
    let names_clients = relay.accept == Accept::Proxy
        || matches!(relay.protocol, Protocol::Http(http) if http.trusted_hops != Some(0));
    let has_v6_clients = relay.listen.is_ipv6() || names_clients;
    let upstream = relay.upstream.iter().find(|up| up.is_ipv4())?;
    (reveal.enabled && relay.speaks() && has_v6_clients).then(|| {
        let consequence = match reveal.inexpressible {
            Inexpressible::Refuse => "IPv6 clients are refused (`inexpressible`)".into(),
            Inexpressible::Pass => format!("IPv6 clients look like this host{}", loopback(upstream.ip().is_loopback())),
        };
        Doubt::new(
            relay.name(),
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

/// Whether a rule believes a statement on connections to this port.
fn is_believed(trust: &[Trust], statement: Statement, port: u16) -> bool {
    trust.iter().any(|rule| {
        let mut ports = rule.ports.iter();
        rule.believes(statement) && (rule.ports.is_empty() || ports.any(|p| p.contains(&port)))
    })
}

/// Ports as people write them: `port 80`, `ports 80, 8000-8010`.
fn show(ports: &[u16]) -> String {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(port) => *last = *last.start()..=port,
            _ => ranges.push(port..=port),
        }
    }
    let shown: Vec<String> = ranges.iter().map(show_ports).collect();
    let word = if ports.len() == 1 { "port" } else { "ports" };
    format!("{word} {}", shown.join(", "))
}
