//! What a valid configuration probably does not mean: `config check` and `doctor` warn of it.

mod doubt;
mod everybody;
mod ports;
mod relay;
mod shadowed;
mod speakers;

use std::collections::HashSet;
use std::net::IpAddr;

use agent_common::trust::Reach;

pub use self::doubt::Doubt;
use super::place::Place;
use super::relay::Relay;
use super::trust::{Speakers, Trust};
use super::whole::Config;

/// All that can be doubted without a look at a host.
pub(super) fn all(config: &Config) -> Vec<Doubt> {
    let mut doubts = speakers::all(config);
    doubts.extend(everybody::all(config));
    doubts.extend(shadowed::all(&config.trust));
    doubts.extend(reveal(config));
    doubts.extend(carry(config));
    doubts.extend(ports::all(config));
    doubts.extend(relay::all(config));
    doubts
}

/// Which relays cannot tell each client to each server. What servers there are decides whether that matters. `own` has
/// the addresses of this host, in all of its network namespaces.
pub(super) fn upstreams(config: &Config, own: &HashSet<IpAddr>) -> Vec<Doubt> {
    let relays = config.relay.iter().enumerate();
    relays
        .flat_map(|(number, relay)| {
            let far = relay::elsewhere(number, relay, own);
            far.into_iter()
                .chain(relay::inexpressible(number, relay, &config.reveal))
        })
        .collect()
}

/// Processes that are told twice over.
fn reveal(config: &Config) -> Vec<Doubt> {
    let cgroups = &config.reveal.cgroups;
    let is_within = |inner: &str, outer: &str| {
        outer == "/"
            || inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let nested = cgroups.iter().enumerate().filter_map(|(at, inner)| {
        let others = cgroups.iter().enumerate().filter(|(other, _)| *other != at);
        // Of two that are the same, the later one is too many.
        let mut outer = others
            .filter(|(other, outer)| is_within(inner, outer) && (inner != *outer || *other < at));
        let (_, outer) = outer.next()?;
        Some(Doubt::new(
            "[reveal]",
            Place::of("reveal").item("cgroups", at),
            format!("the processes of {inner} are in {outer} already"),
            "they are told twice, which takes time and changes nothing",
            "leave it out",
        ))
    });
    nested.collect()
}

/// TOA that nobody sends.
fn carry(config: &Config) -> Option<Doubt> {
    let toa = &config.carry_toa;
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
    let is_sent = config.trust.iter().any(carries) || config.relay.iter().any(is_told);
    (!toa.to.is_empty() && !is_sent).then(|| {
        Doubt::new(
            "[carry.toa]",
            Place::of("carry.toa").key("to"),
            "nobody sends TOA to these destinations: no [[trust]] has `reach = \"carry\"`, and no [[relay]] connects there",
            "they see this host instead of the client",
            "add `reach = \"carry\"` to the [[trust]] of the proxy that connects there, or leave `to` out",
        )
    })
}
