//! Node ports by kube-proxy's IPVS mode, which gives each connection the node's address.

use anyhow::{Context, Result};
use tests::agent::{Reveal, Trust};
use tests::clients::load::{Load, Outcome};
use tests::cluster::kube_proxy::Mode;
use tests::cluster::nodes::{Cluster, NODES, REPORT, agent};
use tests::host::scenario;
use tests::proxies::any;
use tests::servers::report::Report;

/// Clients come by the first node.
fn by_the_first(cluster: &Cluster, check: fn(&Outcome) -> Result<()>) -> Result<()> {
    let load = Load {
        connections: 100,
        concurrent: 20,
        ..Load::new(cluster.nodes[0].targets(REPORT))
    };
    check(&load.run(&cluster.client))
}

#[test]
fn endpoint_on_the_same_node() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Ipvs, 0)?;
        let [first, _] = &cluster.nodes;
        let _report = Report::start(&first.pod, any(REPORT.target))?;
        by_the_first(&cluster, Outcome::all_lost).context("without")?;
        let _agent = agent(directory, &[first], |_| {})?;
        by_the_first(&cluster, Outcome::all_exact)
    });
}

#[test]
fn endpoint_on_the_other_node() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Ipvs, 1)?;
        let [first, second] = &cluster.nodes;
        let _report = Report::start(&second.pod, any(REPORT.target))?;
        // Two agents stand for two hosts.
        let _firsts = agent(directory, &[first], |config| {
            config.reveal = Reveal {
                enabled: false,
                ..Reveal::default()
            };
        })?;
        by_the_first(&cluster, Outcome::all_lost).context("by nobody believed")?;
        let _seconds = agent(directory, &[second], |config| {
            config.trust.extend(Trust::saying(&["toa"], NODES));
        })?;
        by_the_first(&cluster, Outcome::all_exact)
    });
}
