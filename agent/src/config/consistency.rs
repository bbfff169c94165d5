//! Checks that concern several sections at once.

use std::ops::Range;

use agent_common::Mark;
use agent_common::origin::rule_id;
use agent_common::steer::MAX_RANGES;
use agent_common::trust::Statement;

use super::fields::{Names, show_ports};
use super::interfaces::Interfaces;
use super::loops::{self, share};
use super::problem::Problems;
use super::relay::{Accept, LocatedRelay, Send};
use super::steer::{LocatedSteer, Steer};
use super::toa::Toa;
use super::trust::{LocatedTrust, Speakers, Trust, TrustedSenders};
use super::unwrap::{LocatedUnwrap, Unwrap};
use super::whole::Config;

/// Notes everything in which steers contradict each other.
pub(super) fn steers(steers: &[LocatedSteer], problems: &mut Problems) {
    names(steers, problems);
    let mut namespaces: Vec<(_, Vec<&LocatedSteer>)> = Vec::new();
    for located in steers {
        let netns = &located.steer.netns;
        match namespaces.iter_mut().find(|(known, _)| *known == netns) {
            Some((_, members)) => members.push(located),
            None => namespaces.push((netns, vec![located])),
        }
    }
    for (_, members) in &namespaces {
        marks(members, problems);
        overlaps(members, problems);
        size(members, problems);
    }
}

/// Notes names that two steers have, and those that the data path could not tell apart.
fn names(steers: &[LocatedSteer], problems: &mut Problems) {
    let mut names = Names::of("steers");
    for located in steers {
        let name = located.steer.name.as_str();
        names.add(rule_id(name), name, located.name.clone(), problems);
    }
}

/// Notes it unless the sidecars of a namespace share one mark and one table, its gateways do too, and their marks
/// tell the two apart.
fn marks(members: &[&LocatedSteer], problems: &mut Problems) {
    let (gateways, sidecars): (Vec<&LocatedSteer>, Vec<&LocatedSteer>) = members
        .iter()
        .partition(|located| located.steer.answers.is_some());
    for (kind, group) in [("sidecar", &sidecars), ("gateway", &gateways)] {
        let Some((first, others)) = group.split_first() else {
            continue;
        };
        for other in others {
            let (a, b) = (&first.steer, &other.steer);
            let mut differ = |span: &Range<usize>, key, common: String| {
                problems.add(
                    span.clone(),
                    format!(
                        "the {kind} steers \"{}\" and \"{}\" share a namespace but not their {key}",
                        a.name, b.name
                    ),
                    Some(format!("write `{key} = {common}` in both")),
                );
            };
            if a.mark != b.mark {
                let common = format!("\"{:#x}/{:#x}\"", a.mark.value, a.mark.mask);
                differ(&other.mark, "mark", common);
            }
            if a.table != b.table {
                differ(&other.table, "table", a.table.to_string());
            }
        }
    }
    if let (Some(sidecar), Some(gateway)) = (sidecars.first(), gateways.first()) {
        let (a, b) = (sidecar.steer.mark, gateway.steer.mark);
        let common = a.mask & b.mask;
        if (a.value ^ b.value) & common == 0 {
            let other = another_mark(a);
            problems.add(
                gateway.mark.clone(),
                format!(
                    "\"{}\" is a sidecar and \"{}\" a gateway in one namespace, and their marks cannot be told apart",
                    sidecar.steer.name, gateway.steer.name
                ),
                Some(format!(
                    "write `mark = \"{:#x}/{:#x}\"` for the gateway, for example",
                    other.value, other.mask
                )),
            );
        }
    }
}

/// A mark that no packet can have together with `mark`.
fn another_mark(mark: Mark) -> Mark {
    let flipped = (0..u32::BITS)
        .map(|i| 1 << i)
        .filter(|bit| mark.mask & bit != 0)
        .map(|bit| mark.value ^ bit)
        .find(|value| *value != 0);
    match flipped {
        Some(value) => Mark { value, ..mark },
        None => {
            let value = mark.value.rotate_left(1);
            Mark {
                value,
                mask: mark.mask | value,
            }
        }
    }
}

/// Notes ports for which a packet could meet two steers.
fn overlaps(members: &[&LocatedSteer], problems: &mut Problems) {
    for (i, located) in members.iter().enumerate() {
        let steer = &located.steer;
        for (j, range) in steer.ports.iter().enumerate() {
            let within = steer.ports[..j].iter().map(|earlier| (steer, earlier));
            let before = members[..i]
                .iter()
                .map(|other| &other.steer)
                .filter(|other| same_packets(steer, other))
                .flat_map(|other| other.ports.iter().map(move |earlier| (other, earlier)));
            for (other, earlier) in within.chain(before) {
                let first = *range.start().max(earlier.start());
                let last = *range.end().min(earlier.end());
                if first > last {
                    continue;
                }
                let ports = if first == last {
                    format!("port {first}")
                } else {
                    format!("ports {first}-{last}")
                };
                let message = if std::ptr::eq(steer, other) {
                    format!("steer \"{}\" names {ports} twice", steer.name)
                } else {
                    format!(
                        "steers \"{}\" and \"{}\" both want {ports}",
                        other.name, steer.name
                    )
                };
                problems.add(
                    located.ports[j].clone(),
                    message,
                    Some(format!("take {ports} out of one of the two")),
                );
            }
        }
    }
}

/// Whether a packet could meet both of two steers of one namespace.
fn same_packets(a: &Steer, b: &Steer) -> bool {
    match (&a.interface, &b.interface) {
        (Some(a), Some(b)) => a.share(b),
        _ => true,
    }
}

/// Notes it if the steers of a namespace are too many for the data path.
fn size(members: &[&LocatedSteer], problems: &mut Problems) {
    // What stands for several interfaces may turn out to be more.
    let count =
        |interfaces: &Option<Interfaces>| interfaces.as_ref().map_or(0, |it| it.selectors().len());
    let ranges =
        |steer: &Steer| steer.ports.len() * count(&steer.interface).max(1) + count(&steer.answers);
    let total: usize = members.iter().map(|located| ranges(&located.steer)).sum();
    if total > MAX_RANGES
        && let Some(last) = members.last()
    {
        problems.add(
            last.span.clone(),
            format!(
                "the namespace's steers have {total} port ranges and `answers` interfaces together, {MAX_RANGES} are possible"
            ),
            Some("join neighbouring ports into ranges, such as \"9000-9010\"".into()),
        );
    }
}

/// Notes rules that demand a signature which nothing could verify.
pub(super) fn signatures(rules: &[LocatedTrust], toa: &Toa, problems: &mut Problems) {
    for located in rules {
        let is_signed = matches!(
            located.rule.speakers,
            Speakers::Sources { signed: true, .. }
        );
        if is_signed && toa.keys.is_none() {
            problems.add(
                located.span.clone(),
                "there are no keys by which signed TOA could be verified",
                Some(
                    "add a section `[toa]` with a line such as `keys = \"/etc/truepeer/keys\"`"
                        .into(),
                ),
            );
        }
    }
}

/// Notes unwraps that would refuse every connection, as nobody is believed.
pub(super) fn unwraps(unwraps: &[LocatedUnwrap], trust: &[Trust], problems: &mut Problems) {
    let senders = TrustedSenders::new(trust);
    for LocatedUnwrap { unwrap, span } in unwraps {
        let mut ports = unwrap.ports.iter().cloned().flatten();
        if !unwrap.ports.is_empty() && !ports.any(|port| senders.believe(Statement::Proxy, port)) {
            let ports: Vec<_> = unwrap.ports.iter().map(show_ports).collect();
            unheard(span, &format!("to {}", ports.join(", ")), problems);
        }
    }
}

/// Notes that nobody is believed to send the PROXY headers that something waits for.
fn unheard(span: &Range<usize>, target: &str, problems: &mut Problems) {
    problems.add(
        span.clone(),
        format!("nobody is believed to send a PROXY header {target}: every connection would be refused"),
        Some("add a section `[[trust]]` with the senders, such as `source = [\"10.0.0.0/8\"]`, and `says = [\"proxy\"]`".into()),
    );
}

/// Notes everything in which relays contradict each other or other sections.
pub(super) fn relays(
    relays: &[LocatedRelay],
    steers: &[LocatedSteer],
    config: &Config,
    problems: &mut Problems,
) {
    let senders = TrustedSenders::new(&config.trust);
    loops(relays, steers, problems);
    for (i, located) in relays.iter().enumerate() {
        let relay = &located.relay;
        listens_alone(located, &relays[..i], config, problems);
        let port = relay.listen.port();
        let ports = || relay.ports(steers.iter().map(|located| &located.steer));
        if relay.accept == Accept::Proxy && !ports().any(|p| senders.believe(Statement::Proxy, p)) {
            unheard(&located.accept, &format!("to port {port}"), problems);
        }
        let takes = |unwrap: &&Unwrap| {
            let is_unwrapped = |port| unwrap.ports.iter().any(|ports| ports.contains(&port));
            unwrap.netns == relay.netns && ports().any(is_unwrapped)
        };
        if relay.accept == Accept::Proxy
            && let Some(unwrap) = config.unwrap.iter().find(takes)
        {
            problems.add(
                located.accept.clone(),
                format!(
                    "{} takes the PROXY headers off before the relay reads them: every connection would be refused",
                    unwrap.title()
                ),
                Some("write `accept = \"plain\"`, or take the port out of the [[unwrap]]".into()),
            );
        }
        for upstream in &relay.upstream {
            let to = &config.carry_toa.to;
            let knows_toa = to.iter().any(|prefix| prefix.contains(&upstream.ip()));
            if relay.send == Send::Toa && !knows_toa {
                problems.add(
                    located.send.clone(),
                    format!("TOA is not sent to {}", upstream.ip()),
                    Some(format!(
                        "add it to `[carry.toa]`: `to = [\"{}\"]`",
                        ipnet::IpNet::from(upstream.ip())
                    )),
                );
            }
        }
    }
}

/// Notes it if another relay or the metrics have the relay's address.
fn listens_alone(
    located: &LocatedRelay,
    earlier: &[LocatedRelay],
    config: &Config,
    problems: &mut Problems,
) {
    let LocatedRelay { relay, listen, .. } = located;
    let is_taken = |other: &&LocatedRelay| {
        other.relay.netns == relay.netns && share(other.relay.listen, relay.listen)
    };
    if let Some(other) = earlier.iter().find(is_taken) {
        let message = match other.relay.listen == relay.listen {
            true => format!("two relays listen on {}", relay.listen),
            false => format!(
                "{} takes the connections to {}",
                other.relay.name(),
                relay.listen
            ),
        };
        let hint = "join them, or give one another address or port";
        problems.add(listen.clone(), message, Some(hint.into()));
    }
    let metrics = config.agent.metrics.filter(|_| relay.netns.is_none());
    if let Some(metrics) = metrics.filter(|metrics| share(*metrics, relay.listen)) {
        problems.add(
            listen.clone(),
            format!("the agent's metrics are served on {metrics}"),
            Some(
                "give the relay another port, or set `metrics` of [agent] to another or to \"off\""
                    .into(),
            ),
        );
    }
}

/// Notes relays whose connections come back to them.
fn loops(located: &[LocatedRelay], steers: &[LocatedSteer], problems: &mut Problems) {
    let relays: Vec<_> = located
        .iter()
        .map(|located| located.relay.clone())
        .collect();
    let steers: Vec<_> = steers.iter().map(|located| located.steer.clone()).collect();
    for found in loops::loops(&relays, &steers, &|_, _| false) {
        let message = match &found.path[..] {
            [_] => "the relay would connect to itself".to_owned(),
            path => {
                let names: Vec<_> = path.iter().map(|relay| relays[*relay].name()).collect();
                format!("connections would go round: {}", names.join(", "))
            }
        };
        problems.add(
            located[found.path[0]].upstream[found.upstream].clone(),
            message,
            Some("`listen` is what clients connect to, `upstream` is where the servers are".into()),
        );
    }
}
