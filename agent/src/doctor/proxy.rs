//! The listeners of proxies.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::check::{Check, Outcome, or_failed};
use crate::{
    config::{Steer, show_ports},
    host::{
        netns::Netns,
        sockets::{self, ListenerInfo},
    },
    route::sysctl,
};

pub(super) fn check(netns: &Netns, steers: &[Steer]) -> Vec<Check> {
    or_failed("proxies", look(netns, steers))
}

fn look(netns: &Netns, steers: &[Steer]) -> Result<Vec<Check>> {
    let ipv6 = sysctl::ipv6_enabled(netns)?;
    let mut checks = Vec::new();
    for steer in steers {
        let listeners = steer.to.clone().map(|port| sockets::listeners(netns, port));
        let listeners = listeners.collect::<Result<Vec<_>>>()?.concat();
        checks.extend(judge(steer, &listeners, ipv6));
    }
    Ok(checks)
}

fn judge(steer: &Steer, listeners: &[ListenerInfo], ipv6: bool) -> Vec<Check> {
    let name = format!("proxy of steer {}", steer.name);
    let port = show_ports(&steer.to);
    let wrong = |outcome, reason: String, consequence: &str, remedy: String| {
        Check::wrong(outcome, &name, reason, consequence, remedy)
    };
    if listeners.is_empty() {
        return vec![wrong(
            Outcome::Warn,
            format!("nobody listens on port {port}"),
            "connections go to the application as if truepeer were absent",
            format!(
                "start the proxy, or correct `to`; `ss -ltn sport = :{port}` shows its listener"
            ),
        )];
    }
    let mut checks = Vec::new();
    let takes_ipv4 = listeners.iter().any(|l| l.address.is_ipv4() || !l.v6only);
    let takes_ipv6 = listeners.iter().any(|l| l.address.is_ipv6());
    for (taken, family, any) in [
        (takes_ipv4, "IPv4", "0.0.0.0"),
        (takes_ipv6 || !ipv6, "IPv6", "[::]"),
    ] {
        if !taken {
            checks.push(wrong(
                Outcome::Warn,
                format!("its listener on port {port} takes no {family}"),
                &format!("{family} connections go to the application as if truepeer were absent"),
                format!("let the proxy listen on {any}:{port} as well"),
            ));
        }
    }
    for listener in listeners {
        if steer.answers.is_some() && listener.transparent == Some(false) {
            checks.push(wrong(
                Outcome::Fail,
                format!("its listener on {} is not transparent", listener.address),
                "it cannot answer for addresses that are not the gateway's own: connections hang",
                "set IP_TRANSPARENT: `transparent` on HAProxy's and Envoy's listeners".into(),
            ));
        }
        if steer.interface.is_some() && !serves_any_address(listener) {
            checks.push(wrong(
                Outcome::Warn,
                format!("its listener is bound to {}", listener.address),
                "it is found for connections to that address only",
                format!(
                    "let the proxy listen on any address, or on 127.0.0.1 and [::1], port {port}"
                ),
            ));
        }
    }
    if checks.is_empty() {
        let all: Vec<_> = listeners.iter().map(|l| l.address.to_string()).collect();
        checks.push(Check::ok(&name, format!("listens on {}", all.join(", "))));
    }
    checks
}

/// Whether the tc program finds the listener for every destination.
fn serves_any_address(listener: &ListenerInfo) -> bool {
    let ip = listener.address.ip();
    ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

#[cfg(test)]
mod tests {
    use agent_common::Mark;

    use super::*;
    use crate::config::Interfaces;

    fn steer(answers: Option<Interfaces>) -> Steer {
        Steer {
            name: "inbound".into(),
            netns: None,
            interface: Some("eth0".into()),
            ports: vec![80..=80],
            to: 15006..=15006,
            answers,
            mark: Mark::default(),
            table: 133,
        }
    }

    fn listener(address: &str, v6only: bool) -> ListenerInfo {
        ListenerInfo {
            cookie: 1,
            inode: 1,
            family: 2,
            address: address.parse().unwrap(),
            v6only,
            transparent: Some(false),
        }
    }

    fn reasons(steer: &Steer, listeners: &[ListenerInfo], ipv6: bool) -> String {
        let checks = judge(steer, listeners, ipv6).into_iter();
        checks
            .map(|c| format!("{:?}: {}; ", c.outcome, c.reason))
            .collect()
    }

    #[test]
    fn a_dual_stack_listener_is_all_a_sidecar_needs() {
        let found = reasons(&steer(None), &[listener("[::]:15006", false)], true);
        assert_eq!(found, "Ok: listens on [::]:15006; ");
    }

    #[test]
    fn what_a_listener_lacks_is_told() {
        assert!(reasons(&steer(None), &[], true).starts_with("Warn: nobody listens"));
        let v4 = [listener("0.0.0.0:15006", false)];
        assert!(reasons(&steer(None), &v4, true).contains("takes no IPv6"));
        assert!(reasons(&steer(None), &v4, false).starts_with("Ok"));
        let bound = [listener("10.0.0.3:15006", false)];
        assert!(reasons(&steer(None), &bound, false).contains("bound to 10.0.0.3"));
        assert!(
            reasons(&steer(Some(Interfaces::default())), &v4, false)
                .contains("Fail: its listener on 0.0.0.0")
        );
    }
}
