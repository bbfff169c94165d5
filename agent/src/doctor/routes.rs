//! The rules and routes of mark-and-route, which somebody may have removed.

use anyhow::Result;

use super::check::{Check, Outcome, or_failed};
use crate::{
    config::Steer,
    host::netns::Netns,
    route::{self, Item, sysctl},
};

/// Looks for what the agent has installed in a namespace for these steers. Sysctls have a check of their own.
pub(super) fn check(netns: &Netns, steers: &[Steer]) -> Vec<Check> {
    or_failed("rules and routes", look(netns, steers))
}

fn look(netns: &Netns, steers: &[Steer]) -> Result<Vec<Check>> {
    let ipv6 = sysctl::ipv6_enabled(netns)?;
    let mut items = route::items(steers, &Steer::links(steers, netns)?);
    items.retain(|item| !matches!(item, Item::Sysctl { .. }) && (ipv6 || !item.is_ipv6()));
    let mut checks = Vec::new();
    for item in route::missing(netns, &items)? {
        checks.push(Check::wrong(
                Outcome::Fail,
                "rules and routes",
                format!("{item} is missing in {netns}"),
                "answers to clients whose address a proxy uses leave the host instead of going to the proxy",
                "find out who removed it, and start the agent anew, which installs it again",
            ));
    }
    if checks.is_empty() && !items.is_empty() {
        let all = format!("all {} of truepeer's are installed in {netns}", items.len());
        checks.push(Check::ok("rules and routes", all));
    }
    Ok(checks)
}
