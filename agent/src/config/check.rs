//! What steers must agree on with each other.

use std::collections::HashMap;

use agent_common::Mark;
use agent_common::origin::rule_id;
use agent_common::steer::MAX_RANGES;

use super::problem::Problems;
use super::steer::{Located, Steer};

/// Notes everything in which steers contradict each other.
pub(super) fn steers(steers: &[Located], problems: &mut Problems) {
    names(steers, problems);
    let mut namespaces: Vec<(_, Vec<&Located>)> = Vec::new();
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

fn names(steers: &[Located], problems: &mut Problems) {
    let mut seen: HashMap<u32, &str> = HashMap::new();
    for located in steers {
        let name = located.steer.name.as_str();
        let Some(earlier) = seen.insert(rule_id(name), name) else {
            continue;
        };
        let message = if earlier == name {
            format!("two steers have the name \"{name}\"")
        } else {
            format!("the names \"{earlier}\" and \"{name}\" have the same number in the records")
        };
        problems.add(
            located.name.clone(),
            message,
            Some(format!("write \"{name}-2\", for example")),
        );
    }
}

/// One mark and one table for the sidecars of a namespace, one of each for its gateways, and marks
/// that tell the two apart.
fn marks(members: &[&Located], problems: &mut Problems) {
    let (gateways, sidecars): (Vec<&Located>, Vec<&Located>) = members
        .iter()
        .partition(|located| located.steer.answers.is_some());
    for (kind, group) in [("sidecar", &sidecars), ("gateway", &gateways)] {
        let Some((first, others)) = group.split_first() else {
            continue;
        };
        for other in others {
            let (a, b) = (&first.steer, &other.steer);
            if a.mark != b.mark {
                problems.add(
                    other.mark.clone(),
                    format!(
                        "the {kind} steers \"{}\" and \"{}\" share a namespace but not their mark",
                        a.name, b.name
                    ),
                    Some(format!(
                        "write `mark = \"{:#x}/{:#x}\"` in both",
                        a.mark.value, a.mark.mask
                    )),
                );
            }
            if a.table != b.table {
                problems.add(
                    other.table.clone(),
                    format!(
                        "the {kind} steers \"{}\" and \"{}\" share a namespace but not their table",
                        a.name, b.name
                    ),
                    Some(format!("write `table = {}` in both", a.table)),
                );
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

/// A mark that cannot be taken for `mark`.
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

fn overlaps(members: &[&Located], problems: &mut Problems) {
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

/// Whether a packet could meet both steers of one namespace.
fn same_packets(a: &Steer, b: &Steer) -> bool {
    a.interface.is_none() || b.interface.is_none() || a.interface == b.interface
}

fn size(members: &[&Located], problems: &mut Problems) {
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
