//! Rules, marks and routing tables of others that conflict with truepeer's.

use agent_common::Mark;
use anyhow::Result;

use super::check::{Check, Outcome, or_failed};
use crate::{
    config::Steer,
    host::netns::Netns,
    route::{self, PREFERENCE, Rule},
};

/// Software that is known to use bits of the mark, and these bits.
const KNOWN: [(&str, u32); 6] = [
    ("Kubernetes", 0xc000),
    ("Istio", 0x539),
    ("the AWS CNI plugin", 0x80),
    ("Cilium", 0xffff_0f00),
    ("Calico", 0x0100_0000),
    ("Tailscale", 0x000c_0000),
];

pub(super) fn check(netns: &Netns, steers: &[Steer]) -> Vec<Check> {
    or_failed("routing", look(netns, steers))
}

fn look(netns: &Netns, steers: &[Steer]) -> Result<Vec<Check>> {
    let mut used: Vec<_> = steers
        .iter()
        .map(|steer| (steer.mark, steer.table))
        .collect();
    used.sort_unstable_by_key(|(mark, table)| (mark.value, mark.mask, *table));
    used.dedup();
    let mut checks = Vec::new();
    for ipv6 in [false, true] {
        let rules = route::rules(netns, ipv6)?;
        let foreign: Vec<_> = rules.iter().filter(|rule| !rule.is_ours()).collect();
        for &(mark, table) in &used {
            checks.extend(foreign.iter().filter_map(|rule| overlap(netns, mark, rule)));
            let routes = route::routes(netns, ipv6, table)?;
            if let Some(route) = routes.iter().find(|route| !route.is_ours()) {
                checks.push(Check::wrong(
                    Outcome::Fail,
                    format!("table {table}"),
                    format!("somebody else has a route there in {netns}: `{route}`"),
                    "packets for the proxy may take it; the agent does not start",
                    "set another `table` in the configuration, or remove the route",
                ));
            }
        }
        checks.extend(
            foreign
                .iter()
                .filter(|rule| rule.preference == PREFERENCE)
                .map(|rule| {
                    Check::wrong(
                        Outcome::Warn,
                        "rules",
                        format!(
                            "somebody else has a rule where truepeer's are, in {netns}: `{rule}`"
                        ),
                        "which of them comes first depends on who started first",
                        format!("give that rule a preference other than {PREFERENCE}"),
                    )
                }),
        );
    }
    if checks.is_empty() {
        checks.push(Check::ok(
            "marks, rules and tables",
            format!("free for use in {netns}"),
        ));
    }
    Ok(checks)
}

/// The finding that somebody else's rule depends on bits of the steer's mark.
fn overlap(netns: &Netns, mark: Mark, rule: &Rule) -> Option<Check> {
    let shared = mark.mask & rule.mask;
    if shared == 0 {
        return None;
    }
    let owners: Vec<_> = KNOWN
        .iter()
        .filter(|(_, bits)| rule.mark != 0 && bits & rule.mark == rule.mark)
        .map(|(owner, _)| *owner)
        .collect();
    let owner = match owners.as_slice() {
        [] => String::new(),
        owners => format!(", known from {}", owners.join(" or ")),
    };
    let consequence = if mark.value & shared == rule.mark & shared {
        "packets with truepeer's mark may match that rule too, and the other way round"
    } else {
        "who sets his mark last erases the other's"
    };
    Some(Check::wrong(
        Outcome::Warn,
        "marks",
        format!(
            "{:#x}/{:#x} shares the bits {shared:#x} with a rule in {netns}{owner}: `{rule}`",
            mark.value, mark.mask
        ),
        consequence,
        "set a `mark` in the configuration whose mask has none of these bits",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(mark: u32, mask: u32) -> Rule {
        Rule {
            preference: 9,
            mark,
            mask,
            iif: None,
            table: 2004,
            protocol: 0,
        }
    }

    #[test]
    fn a_rule_that_looks_at_our_bits_is_named_with_its_likely_owner() {
        let netns = Netns::current().unwrap();
        let ours = Mark {
            value: 0x539,
            mask: 0xfff,
        };
        let check = overlap(&netns, ours, &rule(0x200, 0xf00)).unwrap();
        assert!(
            check.reason.contains("0xf00") && check.reason.contains("Cilium"),
            "{check:?}"
        );
        assert!(check.consequence.contains("erases"));
        let check = overlap(&netns, ours, &rule(0x539, 0xffff_ffff)).unwrap();
        assert!(
            check.reason.contains("Istio") && check.consequence.contains("match"),
            "{check:?}"
        );
        assert_eq!(overlap(&netns, ours, &rule(0x80000, 0xff0000)), None);
        assert_eq!(overlap(&netns, ours, &rule(0, 0)), None);
    }
}
