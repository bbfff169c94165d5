//! Network namespaces that the configuration names, and their interfaces.

use std::path::Path;

use anyhow::{Error, Result};

use super::check::{Check, Outcome, or_failed};
use crate::{
    config::{Interfaces, Selector, Steer},
    host::netns::Netns,
    route::sysctl,
};

/// The consequence of what is missing.
pub(super) const WAITS: &str = "the agent waits for it, and does nothing there until it comes";

/// The finding that a namespace is missing.
pub(super) fn missing(path: Option<&Path>, error: &Error) -> Check {
    let name = path.map_or("network namespace".into(), |p| {
        format!("network namespace {}", p.display())
    });
    let remedy = "create it, correct `netns` in the configuration, or run as root";
    Check::wrong(Outcome::Fail, name, format!("{error:#}"), WAITS, remedy)
}

/// The names of the interfaces that a section is about now.
///
/// # Errors
///
/// When one that is named is missing, or the data path does not read its packets.
pub(super) fn selected(interfaces: &Interfaces, netns: &Netns) -> Result<Vec<String>> {
    for name in interfaces.named() {
        netns.framing(name)?;
    }
    let selected = interfaces.of(netns)?.into_iter();
    Ok(selected.map(|interface| interface.name).collect())
}

/// The finding that a section is about no interface now.
pub(super) fn none(title: &str, interfaces: &Interfaces, netns: &Netns) -> Check {
    if interfaces.selectors() == [Selector::Pods] {
        return Check::ok(
            title,
            format!("no pods are behind interfaces of {netns} now"),
        );
    }
    Check::wrong(
        Outcome::Warn,
        title,
        format!("no interface of {netns} is meant by {interfaces} now"),
        WAITS,
        "correct `interface`, unless one is to come",
    )
}

pub(super) fn check(netns: &Netns, steers: &[Steer]) -> Vec<Check> {
    or_failed("interfaces", look(netns, steers))
}

fn look(netns: &Netns, steers: &[Steer]) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let links = Steer::links(steers, netns)?;
    for name in Interfaces::names(Steer::interfaces(steers), &links) {
        let title = format!("interface {name}");
        checks.push(match netns.interface_index(name) {
            Ok(index) => Check::ok(title, format!("is number {index} in {netns}")),
            Err(error) => Check::wrong(
                Outcome::Fail,
                title,
                format!("{error:#}"),
                WAITS,
                "correct `interface` or `answers` in the configuration, or create the interface",
            ),
        });
    }
    for interfaces in Steer::interfaces(steers) {
        if !interfaces.is_empty()
            && interfaces.among(&links).is_empty()
            && interfaces.named().next().is_none()
        {
            checks.push(none("interfaces", interfaces, netns));
        }
    }
    if !netns.is_up("lo")? {
        checks.push(Check::wrong(
            Outcome::Fail,
            "interface lo",
            format!("is down in {netns}"),
            "the agent does not start",
            "`ip link set lo up` in that namespace",
        ));
    }
    let ipv6 = if sysctl::ipv6_enabled(netns)? {
        "on"
    } else {
        "off: IPv4 only"
    };
    checks.push(Check::ok("IPv6", format!("{ipv6} in {netns}")));
    Ok(checks)
}
