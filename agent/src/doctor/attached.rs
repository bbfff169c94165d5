//! Whether truepeer's programs run on the interfaces that the configuration names, and in which order.

use std::collections::BTreeMap;
use std::path::Path;
use std::slice;

use anyhow::Result;

use super::check::{Check, Outcome, or_failed};
use crate::{
    config::{Config, Interfaces, Relay, Steer},
    datapath::{Job, Pins, Running, Way},
    host::netns::Netns,
};

/// The jobs of each interface of each network namespace.
type Jobs<'a> = BTreeMap<(Option<&'a Path>, String), Vec<Job>>;

/// Looks at the interfaces of a data path that is in place.
pub(super) fn check(config: &Config) -> Vec<Check> {
    or_failed("programs in place", look(config))
}

fn look(config: &Config) -> Result<Vec<Check>> {
    let pins = Pins::open(&config.agent.bpffs)?;
    let relays: Vec<Steer> = config.relay.iter().filter_map(Relay::route).collect();
    let mut checks = Vec::new();
    // A namespace or an interface that is missing is another check's finding.
    let found = |path: Option<&Path>, interfaces: &Interfaces| {
        let netns = Netns::open_or_current(path);
        let found = netns.and_then(|netns| interfaces.of(&netns));
        found
            .unwrap_or_default()
            .into_iter()
            .map(|i| i.name)
            .collect()
    };
    for ((path, interface), jobs) in jobs(config, &relays, found) {
        let netns = Netns::open_or_current(path)?;
        for way in pins.ways(&netns, &interface, &jobs)? {
            checks.extend(judge(&way, &format!("{} of {interface}", way.name), &netns));
        }
    }
    Ok(checks)
}

/// What is to be done on which interface; `found` says which interfaces of a namespace are selected.
fn jobs<'a>(
    config: &'a Config,
    relays: &'a [Steer],
    found: impl Fn(Option<&Path>, &Interfaces) -> Vec<String>,
) -> Jobs<'a> {
    let steers = config.steer.iter().chain(relays).flat_map(|steer| {
        let interfaces = Steer::interfaces(slice::from_ref(steer));
        interfaces.map(|it| (&steer.netns, it, Job::Steer))
    });
    let unwraps = config.unwrap.iter();
    let unwraps = unwraps.map(|u| (&u.netns, &u.interface, Job::Unwrap));
    let nodes = config.carry_node.iter();
    let nodes = nodes.map(|n| (&n.netns, &n.interface, Job::Node));
    let mut all = Jobs::new();
    for (netns, interfaces, job) in steers.chain(unwraps).chain(nodes) {
        for interface in found(netns.as_deref(), interfaces) {
            let jobs = all.entry((netns.as_deref(), interface)).or_default();
            jobs.push(job);
        }
    }
    all
}

fn judge(way: &Way, title: &str, netns: &Netns) -> Vec<Check> {
    let mut checks = Vec::new();
    let names = |running: &[Running]| {
        let names: Vec<_> = running
            .iter()
            .map(|program| program.name.as_str())
            .collect();
        names.join(", ")
    };
    for missing in &way.missing {
        let instead = match &way.running[..] {
            [] => "nothing runs there".to_owned(),
            running => format!("there are: {}", names(running)),
        };
        checks.push(Check::wrong(
            Outcome::Fail,
            title,
            format!("{missing} does not run in {netns}, {instead}"),
            "what the configuration says of the interface is not done",
            "find out who removed it (`tc filter show`, `bpftool net`), and start the agent anew",
        ));
    }
    let own: Vec<_> = way
        .running
        .iter()
        .filter(|program| program.is_own())
        .collect();
    if let Some([first, second]) = own.windows(2).find(|two| !two[0].precedes(two[1])) {
        checks.push(Check::wrong(
            Outcome::Fail,
            title,
            format!("{} runs before {} in {netns}", first.name, second.name),
            "what the first of them does to a packet, the second was to see before",
            "stop the agent, and start it anew: it attaches its programs in their order",
        ));
    }
    if checks.is_empty() && !own.is_empty() {
        let foreign = way.running.iter().any(|program| !program.is_own());
        let note = if foreign {
            "; who comes first may take or change packets before the others"
        } else {
            ""
        };
        checks.push(Check::ok(
            title,
            format!("{} in {netns}{note}", names(&way.running)),
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(running: &[(&str, Option<usize>)], missing: &[&'static str]) -> String {
        let running = running.iter().map(|(name, own)| Running {
            name: (*name).into(),
            own: *own,
        });
        let way = Way {
            name: "ingress",
            running: running.collect(),
            missing: missing.to_vec(),
        };
        let checks = judge(&way, "ingress of eth0", &Netns::current().unwrap());
        let said = checks
            .iter()
            .map(|c| format!("{:?}: {}; ", c.outcome, c.reason));
        said.collect()
    }

    #[test]
    fn the_order_of_programs_is_told_and_judged() {
        let (unwrap, steer) = (("unwrap", Some(0)), ("steer", Some(4)));
        let other = ("cil_from_netdev", None);
        assert!(found(&[unwrap, steer], &[]).starts_with("Ok: unwrap, steer in"));
        assert!(!found(&[unwrap, steer], &[]).contains("who comes first"));
        let shared = found(&[unwrap, other, steer], &[]);
        assert!(
            shared.starts_with("Ok: unwrap, cil_from_netdev, steer in"),
            "{shared}"
        );
        assert!(shared.contains("who comes first"), "{shared}");
        for wrong in [vec![steer, unwrap], vec![steer, other, unwrap]] {
            let found = found(&wrong, &[]);
            assert!(
                found.starts_with("Fail: steer runs before unwrap"),
                "{found}"
            );
        }
        let gone = found(&[other], &["truepeer_steer"]);
        assert!(
            gone.starts_with("Fail: truepeer_steer does not run"),
            "{gone}"
        );
        assert!(gone.contains("there are: cil_from_netdev"), "{gone}");
        assert_eq!(found(&[other], &[]), "");
    }

    #[test]
    fn the_jobs_of_an_interface_are_all_sections_that_name_it() {
        let text = r#"
            [[trust]]
            source = ["10.0.0.0/8"]
            says = ["proxy"]
            [[unwrap]]
            interface = "eth0"
            ports = ["80"]
            [[steer]]
            name = "gateway"
            interface = "eth0"
            ports = ["80"]
            to = 81
            answers = ["eth1"]
            [[carry.node]]
            netns = "/run/netns/node"
            interface = "eth0"
            ports = ["80"]
        "#;
        let config = Config::parse(text, "test").unwrap();
        let found = |_: Option<&Path>, interfaces: &Interfaces| {
            interfaces.named().map(Into::into).collect()
        };
        let all = jobs(&config, &[], found);
        assert_eq!(all[&(None, "eth0".into())], [Job::Steer, Job::Unwrap]);
        assert_eq!(all[&(None, "eth1".into())], [Job::Steer]);
        let node = Some(Path::new("/run/netns/node"));
        assert_eq!(all[&(node, "eth0".into())], [Job::Node]);
        assert_eq!(all.len(), 3);
    }
}
