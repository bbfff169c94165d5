//! Rules that believe everybody, and TOA that everybody is sent.

use agent_common::trust::Statement;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::doubt::Doubt;
use crate::config::{
    place::Place,
    trust::{Proxy, Speakers},
    whole::Config,
};

/// Where everybody is: all of IPv4, and the part of IPv6 that is routed between networks (RFC 4291, 2.4).
const V4: IpNet = IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0));
const V6: IpNet = IpNet::V6(Ipv6Net::new_assert(
    std::net::Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0),
    3,
));

/// How many prefixes are named before "and others".
const NAMED: usize = 4;

pub(super) fn all(config: &Config) -> Vec<Doubt> {
    let mut doubts: Vec<Doubt> = [V4, V6]
        .into_iter()
        .flat_map(|world| senders(config, world))
        .collect();
    doubts.extend(proxies(config));
    for world in [V4, V6] {
        let prefixes: Vec<_> = config.carry_toa.to.iter().copied().enumerate().collect();
        let Some((widest, which)) = share(&prefixes, world) else {
            continue;
        };
        doubts.push(Doubt::new(
            "[carry.toa]",
            Place::of("carry.toa").item("to", widest),
            format!("TOA is sent to {which}"),
            "strangers are told who the clients are, and firewalls may drop the SYNs",
            "name only the destinations that read TOA",
        ));
    }
    doubts
}

/// Rules by which most of the addresses of a world are believed, alone or together.
fn senders(config: &Config, world: IpNet) -> Vec<Doubt> {
    let mut found: Vec<((usize, usize), Vec<String>, String)> = Vec::new();
    for statement in Statement::ALL {
        let mut prefixes = Vec::new();
        for (number, rule) in config.trust.iter().enumerate() {
            let Speakers::Sources {
                prefixes: of_rule,
                signed,
                ..
            } = &rule.speakers
            else {
                continue;
            };
            // Of a signature's sender it does not matter where it is.
            if rule.believes(statement) && !(*signed && statement == Statement::Toa) {
                let at = of_rule.iter().enumerate();
                prefixes.extend(at.map(|(item, prefix)| ((number, item), *prefix)));
            }
        }
        let Some((widest, which)) = share(&prefixes, world) else {
            continue;
        };
        let says = format!("\"{}\"", statement.name());
        match found.iter_mut().find(|(place, ..)| *place == widest) {
            Some((_, statements, _)) => statements.push(says),
            None => found.push((widest, vec![says], which)),
        }
    }
    let doubt = |((number, item), statements, which): ((usize, usize), Vec<String>, String)| {
        Doubt::new(
            config.trust[number].title(),
            Place::nth("trust", number).item("source", item),
            format!("{which} are believed to say {}", statements.join(", ")),
            "whoever can reach this host can name any client",
            "name only the prefixes of your load balancers and proxies",
        )
    };
    found.into_iter().map(doubt).collect()
}

/// Where the widest of these prefixes is, and what they are for people, if they hold at least half of a world.
fn share<T: Copy>(prefixes: &[(T, IpNet)], world: IpNet) -> Option<(T, String)> {
    let within: Vec<_> = prefixes
        .iter()
        .filter(|(_, prefix)| world.contains(prefix) || prefix.contains(&world))
        .collect();
    let disjoint = IpNet::aggregate(&within.iter().map(|(_, prefix)| *prefix).collect());
    let part = |prefix: &IpNet| {
        let further = prefix.prefix_len().saturating_sub(world.prefix_len());
        0.5_f64.powi(further.into())
    };
    let share: f64 = disjoint.iter().map(part).sum();
    let (at, _) = within
        .iter()
        .min_by_key(|(_, prefix)| prefix.prefix_len())?;
    let named: Vec<_> = within
        .iter()
        .take(NAMED)
        .map(|(_, prefix)| prefix.to_string())
        .collect();
    let more = if within.len() > NAMED {
        " and others"
    } else {
        ""
    };
    let all = if share >= 1.0 { "all" } else { "most" };
    let family = if world == V4 { "IPv4" } else { "IPv6" };
    let which = format!("{all} addresses of {family} ({}{more})", named.join(", "));
    (share >= 0.5).then_some((*at, which))
}

/// Rules by which every process, or every one of root's, is believed.
fn proxies(config: &Config) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for (number, rule) in config.trust.iter().enumerate() {
        let Speakers::Proxies { proxies, .. } = &rule.speakers else {
            continue;
        };
        for (item, proxy) in proxies.iter().enumerate() {
            let (key, who) = match proxy {
                Proxy::Uid(0) => ("uid", "every process of root is"),
                Proxy::Cgroup(path) if path == "/" => ("cgroup", "all processes are"),
                _ => continue,
            };
            doubts.push(Doubt::new(
                rule.title(),
                Place::nth("trust", number).item(key, item),
                format!("{who} believed to bind to clients' addresses, in containers too"),
                "whichever of them binds to an address that is not the host's own names a client",
                "run the proxy as a user of its own or in a cgroup of its own, and name that",
            ));
        }
    }
    doubts
}
