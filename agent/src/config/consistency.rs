//! Checks that concern several sections at once.

use std::ops::Range;

use agent_common::Mark;
use agent_common::origin::rule_id;
use agent_common::steer::MAX_RANGES;
use agent_common::trust::Statement;

use super::carry::CarryToa;
use super::fields::Names;
use super::problem::Problems;
use super::relay::{Accept, LocatedRelay, Send};
use super::steer::{LocatedSteer, Steer};
use super::toa::Toa;
use super::trust::{LocatedTrust, Speakers, Trust, TrustedSenders};

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
    a.interface.is_none() || b.interface.is_none() || a.interface == b.interface
}

/// Notes it if the steers of a namespace are too many for the data path.
fn size(members: &[&LocatedSteer], problems: &mut Problems) {
    let ranges = |steer: &Steer| steer.ports.len() + steer.answers.as_ref().map_or(0, Vec::len);
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

/// Notes everything in which relays contradict each other or other sections.
pub(super) fn relays(
    relays: &[LocatedRelay],
    steers: &[LocatedSteer],
    trust: &[Trust],
    toa: &CarryToa,
    problems: &mut Problems,
) {
    let senders = TrustedSenders::new(trust);
    for (i, located) in relays.iter().enumerate() {
        let relay = &located.relay;
        let is_same = |other: &&LocatedRelay| {
            (&other.relay.netns, other.relay.listen) == (&relay.netns, relay.listen)
        };
        if relays[..i].iter().any(|other| is_same(&other)) {
            problems.add(
                located.listen.clone(),
                format!("two relays listen on {}", relay.listen),
                Some("join them, or give one another address or port".into()),
            );
        }
        let port = relay.listen.port();
        let mut ports = relay.ports(steers.iter().map(|located| &located.steer));
        if relay.accept == Accept::Proxy && !ports.any(|p| senders.believe(Statement::Proxy, p)) {
            problems.add(
                located.accept.clone(),
                format!("nobody is believed to send a PROXY header to port {port}: every connection would be refused"),
                Some("add a section `[[trust]]` with the senders, such as `source = [\"10.0.0.0/8\"]`, and `says = [\"proxy\"]`".into()),
            );
        }
        for (upstream, span) in relay.upstream.iter().zip(&located.upstream) {
            if *upstream == relay.listen {
                problems.add(
                    span.clone(),
                    "the relay would connect to itself",
                    Some(
                        "`listen` is what clients connect to, `upstream` is where the servers are"
                            .into(),
                    ),
                );
            }
            let knows_toa = toa.to.iter().any(|prefix| prefix.contains(&upstream.ip()));
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
