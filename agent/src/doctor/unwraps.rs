//! Where the data path takes PROXY headers off: the interface, and the servers behind it.

use anyhow::Result;

use super::{
    check::{Check, Outcome, or_failed},
    namespace,
};
use crate::{
    config::{Config, Unwrap, show_ports},
    host::{netns::Netns, sockets},
};

pub(super) fn check(config: &Config) -> Vec<Check> {
    let each = config.unwrap.iter();
    each.flat_map(|unwrap| or_failed(&unwrap.title(), look(unwrap, config)))
        .collect()
}

fn look(unwrap: &Unwrap, config: &Config) -> Result<Vec<Check>> {
    let path = unwrap.netns.as_deref();
    let netns = match Netns::open_or_current(path) {
        Ok(netns) => netns,
        Err(error) => return Ok(vec![namespace::missing(path, &error)]),
    };
    let title = unwrap.title();
    let interfaces = match namespace::selected(&unwrap.interface, &netns) {
        Ok(names) if names.is_empty() => {
            return Ok(vec![namespace::none(&title, &unwrap.interface, &netns)]);
        }
        Ok(names) => names,
        Err(error) => {
            return Ok(vec![Check::wrong(
                Outcome::Fail,
                title,
                format!("{error:#}"),
                namespace::WAITS,
                "correct `interface` of [[unwrap]], or create the interface",
            )]);
        }
    };
    let mut checks = Vec::new();
    for interface in unwrap.interface.named() {
        if !netns.is_up(interface)? {
            checks.push(Check::wrong(
                Outcome::Warn,
                &title,
                format!("{interface} is down in {netns}"),
                "no sender comes in by it",
                format!("`ip link set {interface} up` in that namespace"),
            ));
        }
    }
    let listening = sockets::listeners(&netns, 0)?;
    let serves = |port: u16| {
        // Steered connections keep the port that the client chose.
        let steers = config
            .steer
            .iter()
            .filter(|steer| steer.netns == unwrap.netns);
        let mut steers =
            steers.filter(|steer| steer.ports.iter().any(|ports| ports.contains(&port)));
        let is_there = |port: u16| {
            listening
                .iter()
                .any(|listener| listener.address.port() == port)
        };
        is_there(port) || steers.any(|steer| steer.to.clone().any(is_there))
    };
    for ports in unwrap
        .ports
        .iter()
        .filter(|ports| !(*ports).clone().any(serves))
    {
        checks.push(Check::wrong(
            Outcome::Warn,
            &title,
            format!("nobody listens on port {} in {netns}", show_ports(ports)),
            "connections are refused, unless they are forwarded to another host or network namespace",
            "start the server, or correct `ports` or `netns`",
        ));
    }
    if checks.is_empty() {
        let ports: Vec<_> = unwrap.ports.iter().map(show_ports).collect();
        let ports = ports.join(", ");
        checks.push(Check::ok(
            title,
            format!(
                "{} in {netns}, and there are servers on {ports}",
                interfaces.join(", ")
            ),
        ));
    }
    Ok(checks)
}
