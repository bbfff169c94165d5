//! Sysctls that decide whether steered packets arrive.

use anyhow::Result;

use super::check::{Check, Outcome, or_failed};
use crate::{
    config::{Interfaces, Steer},
    host::netns::{Links, Netns},
    route::{self, Item, sysctl},
};

/// `in_place` says whether an agent has set what it sets.
pub(super) fn check(netns: &Netns, steers: &[Steer], in_place: bool) -> Vec<Check> {
    or_failed("sysctls", look(netns, steers, in_place))
}

fn look(netns: &Netns, steers: &[Steer], in_place: bool) -> Result<Vec<Check>> {
    let (gateways, sidecars): (Vec<_>, Vec<_>) = steers
        .iter()
        .cloned()
        .partition(|steer| steer.answers.is_some());
    let links = &Steer::links(steers, netns)?;
    let mut checks = installed(netns, links, steers, in_place)?;
    for interface in Interfaces::names(Steer::interfaces(&sidecars), links) {
        checks.push(martians(netns, interface)?);
    }
    for interface in Interfaces::names(Steer::interfaces(&gateways), links) {
        checks.push(reverse_path(netns, interface)?);
        checks.extend(forwarding(netns, interface)?);
    }
    Ok(checks)
}

/// The sysctls that the agent sets.
fn installed(netns: &Netns, links: &Links, steers: &[Steer], in_place: bool) -> Result<Vec<Check>> {
    let ipv6 = sysctl::ipv6_enabled(netns)?;
    let mut checks = Vec::new();
    for item in route::items(steers, links) {
        let is_ipv6 = item.is_ipv6();
        let Item::Sysctl { key, value, .. } = item else {
            continue;
        };
        if is_ipv6 && !ipv6 {
            continue;
        }
        let found = sysctl::read(netns, &key)?;
        let consequence = "answers to spoofed clients leave the host instead of going to the proxy";
        checks.push(match found {
            Some(found) if found == value || !in_place => {
                let reason = if found == value {
                    "is set"
                } else {
                    "the agent will set it"
                };
                Check::ok(key, format!("{reason} in {netns}"))
            }
            Some(found) => Check::wrong(
                Outcome::Fail,
                &key,
                format!("is {found} in {netns}, though truepeer has set it to {value}"),
                consequence,
                format!("find out who changes it, then `sysctl -w {key}={value}`"),
            ),
            None => Check::wrong(
                Outcome::Fail,
                key,
                format!("the kernel has no such sysctl in {netns}"),
                consequence,
                "use Linux 3.16 or later",
            ),
        });
    }
    Ok(checks)
}

/// `src_valid_mark`, which turns marked packets into martians.
///
/// The rule for the proxy's answers has `iif lo`, and the kernel's reverse look-up of a packet's source uses `lo` too.
/// With `src_valid_mark` that look-up has the packet's mark. For a packet that comes in marked, it finds truepeer's local
/// route, so the source counts as the host's own.
fn martians(netns: &Netns, interface: &str) -> Result<Check> {
    let key = conf("ipv4", interface, "src_valid_mark");
    if effective(netns, interface, "src_valid_mark")? == 0 {
        return Ok(Check::ok(key, format!("is 0 in {netns}")));
    }
    Ok(Check::wrong(
        Outcome::Warn,
        &key,
        format!("is 1 in {netns}, for {interface} or for `all`"),
        format!(
            "packets that somebody else has marked with the steer's mark before they come in by \
             {interface} are dropped as martians, without a log line"
        ),
        format!("`sysctl -w {key}=0 net.ipv4.conf.all.src_valid_mark=0`, or set another `mark`"),
    ))
}

/// `rp_filter`, which drops packets on asymmetric routes.
fn reverse_path(netns: &Netns, interface: &str) -> Result<Check> {
    let key = conf("ipv4", interface, "rp_filter");
    let value = effective(netns, interface, "rp_filter")?;
    if value != 1 {
        return Ok(Check::ok(key, format!("is {value} in {netns}")));
    }
    Ok(Check::wrong(
        Outcome::Warn,
        &key,
        format!("is 1 (strict) in {netns}, for {interface} or for `all`"),
        format!(
            "packets whose source is not reached by {interface} are dropped: no asymmetric routes"
        ),
        format!("if there are any, `sysctl -w {key}=2` (loose)"),
    ))
}

/// `forwarding`: a gateway forwards what its proxy does not take.
fn forwarding(netns: &Netns, interface: &str) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let families: &[_] = if sysctl::ipv6_enabled(netns)? {
        &["ipv4", "ipv6"]
    } else {
        &["ipv4"]
    };
    for family in families {
        let key = conf(family, interface, "forwarding");
        checks.push(match sysctl::read(netns, &key)?.as_deref() {
            // Another check reports a missing interface.
            Some("1") | None => Check::ok(key, format!("is on in {netns}")),
            Some(_) => Check::wrong(
                Outcome::Warn,
                &key,
                format!("is off in {netns}"),
                "when the proxy has no listener, connections are dropped instead of passing (fail \
                 open)",
                format!("`sysctl -w {key}=1`"),
            ),
        });
    }
    Ok(checks)
}

/// The value that applies to IPv4 on an interface: the greater of its own and that for `all`.
fn effective(netns: &Netns, interface: &str, name: &str) -> Result<u32> {
    let mut greatest = 0;
    for of in [interface, "all"] {
        let value = sysctl::read(netns, &conf("ipv4", of, name))?;
        greatest = greatest.max(value.and_then(|v| v.parse().ok()).unwrap_or(0));
    }
    Ok(greatest)
}

/// Key of an interface's sysctl.
fn conf(family: &str, interface: &str, name: &str) -> String {
    format!("net.{family}.conf.{}.{name}", interface.replace('.', "/"))
}
