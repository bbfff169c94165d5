//! What a configuration does, in plain sentences: one for each section.

use std::ops::RangeInclusive;
use std::path::Path;

use agent_common::{guard::Verdict, trust::Reach, unwrap::Versions};
use ipnet::IpNet;

use crate::config::{
    Accept, AccessLogTarget, AgentSettings, Balance, CarryNode, CarryToa, Config, Inexpressible,
    Policy, Protocol, Proxy, Relay, Reveal, Send, Speakers, Steer, Toa, Trust, Unwrap, show_ports,
};

/// Everything that the configuration does, a line for each section.
pub(super) fn of(config: &Config) -> String {
    let mut lines = vec![agent(&config.agent)];
    lines.extend(config.trust.iter().map(trust));
    lines.extend(toa(&config.toa));
    lines.push(reveal(&config.reveal));
    lines.extend(config.steer.iter().map(steer));
    lines.extend(config.unwrap.iter().map(unwrap));
    lines.extend(carry_toa(&config.carry_toa));
    let kind = config.carry_toa.kind;
    lines.extend(config.carry_node.iter().map(|node| carry_node(node, kind)));
    lines.extend(config.relay.iter().map(relay));
    lines.extend(config.policy.iter().map(policy));
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn agent(agent: &AgentSettings) -> String {
    let metrics = match agent.metrics {
        Some(address) => format!("serves metrics at {address}"),
        None => "serves no metrics over TCP".into(),
    };
    let log = match &agent.access_log {
        AccessLogTarget::Stdout => "writes the access log to standard output".into(),
        AccessLogTarget::Off => "writes no access log".into(),
        AccessLogTarget::File(path) => format!("writes the access log to {}", path.display()),
    };
    let end = if agent.keep {
        "leaves all but relays in place when it stops".into()
    } else {
        format!(
            "lets connections end for {} s when it stops, and then undoes everything",
            agent.drain.as_secs()
        )
    };
    format!(
        "agent: answers at {}, {metrics}, {log}, pins its programs at {}, and {end}",
        agent.socket.display(),
        agent.bpffs.display()
    )
}

fn trust(rule: &Trust) -> String {
    let title = rule.title();
    let title = title.trim_start_matches("[[").replacen("]]", "", 1);
    let on = match &rule.ports[..] {
        [] => String::new(),
        ports => format!(" on connections to {}", ports_of(ports)),
    };
    match &rule.speakers {
        Speakers::Sources {
            prefixes,
            says,
            signed,
        } => {
            let from = list(prefixes);
            if says.is_empty() {
                return format!("{title}: whoever sends from {from} is believed nothing{on}");
            }
            let says = list(says.iter().map(|said| format!("\"{}\"", said.name())));
            let signed = if *signed { "; TOA must be signed" } else { "" };
            format!("{title}: whoever sends from {from} is believed to say {says}{on}{signed}")
        }
        Speakers::Proxies {
            proxies,
            reach,
            local_source,
        } => {
            let who = list(proxies.iter().map(|proxy| match proxy {
                Proxy::Uid(uid) => format!("user {uid}"),
                Proxy::Cgroup(path) => format!("cgroup {path}"),
            }));
            let whom = match reach {
                Reach::Namespace => "in their own network namespace",
                Reach::Host => "on this host",
                Reach::Carry => "on this host, and by TOA on others",
            };
            let source = match &local_source[..] {
                [] => String::new(),
                sources => format!(", which they reach from {}", list(sources)),
            };
            format!(
                "{title}: processes of {who} that bind to a client's address are believed{on} by applications {whom}{source}"
            )
        }
    }
}

fn toa(toa: &Toa) -> Option<String> {
    let keys = toa.keys.as_ref()?;
    Some(format!(
        "toa: is signed and verified with the keys in {}",
        keys.display()
    ))
}

fn reveal(reveal: &Reveal) -> String {
    let who = match &reveal.cgroups[..] {
        _ if !reveal.enabled => {
            return "reveal: no process is told the client by `accept()`".into();
        }
        [] => "all processes are".to_owned(),
        cgroups => format!("the processes of {} are", list(cgroups)),
    };
    let otherwise = match reveal.inexpressible {
        Inexpressible::Refuse => "are refused",
        Inexpressible::Pass => "pass, and look like the last hop",
    };
    format!(
        "reveal: {who} told the client by `accept()`; IPv6 clients of sockets that take IPv4 alone {otherwise}"
    )
}

fn steer(steer: &Steer) -> String {
    let by = steer
        .interface
        .iter()
        .map(|interfaces| format!(" that come in by {interfaces}"));
    let answers = match &steer.answers {
        None => String::new(),
        Some(interfaces) if interfaces.is_empty() => ", as a gateway".into(),
        Some(interfaces) => format!(", as a gateway that is answered by {interfaces}"),
    };
    let one = if steer.to.start() == steer.to.end() {
        "the proxy"
    } else {
        "one of the proxies"
    };
    format!(
        "steer \"{}\": connections to {}{}{} are brought to {one} on {}{answers}",
        steer.name,
        ports_of(&steer.ports),
        by.collect::<String>(),
        inside(steer.netns.as_deref()),
        ports_of(std::slice::from_ref(&steer.to)),
    )
}

fn unwrap(unwrap: &Unwrap) -> String {
    let versions = [(Versions::V1, "1"), (Versions::V2, "2")];
    let versions = versions
        .into_iter()
        .filter(|(version, _)| unwrap.versions.has(*version));
    format!(
        "unwrap on {}{}: PROXY headers of version {} are taken off connections to {}",
        unwrap.interface,
        inside(unwrap.netns.as_deref()),
        versions
            .map(|(_, name)| name)
            .collect::<Vec<_>>()
            .join(" and "),
        ports_of(&unwrap.ports)
    )
}

fn carry_toa(toa: &CarryToa) -> Option<String> {
    let (to, kind) = (list(&toa.to), toa.kind);
    let is_used = !toa.to.is_empty();
    is_used.then(|| {
        format!(
            "carry.toa: {to} are told the client as TCP option {kind} by relays and trusted proxies"
        )
    })
}

fn carry_node(node: &CarryNode, kind: u8) -> String {
    format!(
        "carry.node on {}{}: SYNs to {} are given the client as TCP option {kind}, before the node's own NAT",
        node.interface,
        inside(node.netns.as_deref()),
        ports_of(&node.ports)
    )
}

fn relay(relay: &Relay) -> String {
    let accept = match relay.accept {
        Accept::Plain => "connections",
        Accept::Proxy => "connections that begin with a PROXY header",
    };
    let protocol = match relay.protocol {
        Protocol::Tcp => String::new(),
        Protocol::Http(http) => match http.trusted_hops {
            Some(0) => " with HTTP requests of whoever connects".into(),
            Some(hops) => {
                format!(" with HTTP requests, whose client is behind {hops} trusted proxies")
            }
            None => " with HTTP requests, whose client `X-Forwarded-For` names".into(),
        },
    };
    let balance = match relay.balance {
        _ if relay.upstream.len() == 1 => "",
        Balance::RoundRobin => ", in turn,",
        Balance::ClientIp => ", by the client's address,",
    };
    let send = match relay.send {
        Send::Reveal => "tells it the client by `accept()`",
        Send::Transparent => "connects with the client's address",
        Send::ProxyV1 => "tells it the client by a PROXY header of version 1",
        Send::ProxyV2 => "tells it the client by a PROXY header of version 2",
        Send::Toa => "tells it the client by TOA",
        Send::Plain => "does not tell it the client",
    };
    format!(
        "{}{}: takes {accept}{protocol}, sends them to {}{balance} and {send}",
        relay.name(),
        inside(relay.netns.as_deref()),
        list(&relay.upstream),
    )
}

fn policy(policy: &Policy) -> String {
    let of = |verdict| {
        policy
            .prefixes
            .iter()
            .filter(move |(_, v)| *v == verdict)
            .map(|(prefix, _)| prefix)
    };
    let verdicts = [(Verdict::Allow, "may"), (Verdict::Deny, "may not")];
    let clauses = verdicts
        .into_iter()
        .filter(|(verdict, _)| of(*verdict).next().is_some());
    let clauses: Vec<_> = clauses
        .map(|(verdict, may)| format!("clients in {} {may}", some(of(verdict))))
        .collect();
    let others = if policy.otherwise == Verdict::Allow {
        "may"
    } else {
        "may not"
    };
    format!(
        "policy \"{}\": {} connect to {}, all others {others}",
        policy.name,
        clauses.join(" and "),
        ports_of(&policy.ports)
    )
}

fn inside(netns: Option<&Path>) -> String {
    netns.map_or_else(String::new, |path| format!(" in {}", path.display()))
}

fn ports_of(ranges: &[RangeInclusive<u16>]) -> String {
    let is_one = matches!(ranges, [one] if one.start() == one.end());
    format!(
        "{} {}",
        if is_one { "port" } else { "ports" },
        list(ranges.iter().map(show_ports))
    )
}

/// Prefixes for people, who do not read thousands.
fn some<'a>(prefixes: impl Iterator<Item = &'a IpNet>) -> String {
    const SHOWN: usize = 8;
    let prefixes: Vec<_> = prefixes.collect();
    let more = prefixes.len().saturating_sub(SHOWN);
    let shown = list(prefixes.into_iter().take(SHOWN));
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more prefixes")
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_a_sentence() {
        let text = r#"
            [agent]
            metrics = "off"
            [toa]
            keys = "/etc/truepeer/keys"
            [reveal]
            cgroups = ["/shop.slice"]
            [[trust]]
            name = "edge"
            source = ["192.0.2.0/28", "2001:db8::/32"]
            says = ["toa", "proxy"]
            ports = ["443", "8000-8099"]
            [[trust]]
            uid = [1337]
            reach = "carry"
            [[steer]]
            name = "inbound"
            netns = "/run/netns/pod"
            interface = "eth0"
            ports = ["8080"]
            to = 15006
            [[unwrap]]
            interface = "eth1"
            ports = ["443"]
            versions = ["v2"]
            [carry.toa]
            to = ["10.0.0.0/8"]
            [[carry.node]]
            interface = "eth2"
            ports = ["30000-32767"]
            [[relay]]
            listen = "[::]:80"
            upstream = ["10.0.0.1:80", "10.0.0.2:80"]
            send = "toa"
            protocol = "http"
            [[policy]]
            ports = ["8080"]
            allow = ["10.0.0.0/8"]
            deny = ["10.1.0.0/16"]
        "#;
        let summary = of(&Config::parse(text, "test").unwrap());
        let lines: Vec<_> = summary.lines().map(str::trim).collect();
        for (line, expected) in lines.iter().zip([
            "agent: answers at /run/truepeer/truepeer.sock, serves no metrics over TCP, writes the access log to \
             standard output, pins its programs at /sys/fs/bpf/truepeer, and lets connections end for 30 s when it \
             stops, and then undoes everything",
            "trust \"edge\": whoever sends from 192.0.2.0/28, 2001:db8::/32 is believed to say \"toa\", \"proxy\" on \
             connections to ports 443, 8000-8099",
            "trust of uid 1337: processes of user 1337 that bind to a client's address are believed by applications on \
             this host, and by TOA on others",
            "toa: is signed and verified with the keys in /etc/truepeer/keys",
            "reveal: the processes of /shop.slice are told the client by `accept()`; IPv6 clients of sockets that take \
             IPv4 alone are refused",
            "steer \"inbound\": connections to port 8080 that come in by eth0 in /run/netns/pod are brought to the \
             proxy on port 15006",
            "unwrap on eth1: PROXY headers of version 2 are taken off connections to port 443",
            "carry.toa: 10.0.0.0/8 are told the client as TCP option 254 by relays and trusted proxies",
            "carry.node on eth2: SYNs to ports 30000-32767 are given the client as TCP option 254, before the node's \
             own NAT",
            "relay [::]:80: takes connections with HTTP requests, whose client `X-Forwarded-For` names, sends them to \
             10.0.0.1:80, 10.0.0.2:80, in turn, and tells it the client by TOA",
            "policy \"8080\": clients in 10.0.0.0/8 may and clients in 10.1.0.0/16 may not connect to port 8080, all \
             others may not",
        ]) {
            assert_eq!(*line, expected);
        }
        assert_eq!(lines.len(), 11);
    }
}
