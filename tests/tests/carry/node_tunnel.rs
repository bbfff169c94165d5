//! Node ports where packets have no Ethernet header, as in a cluster whose nodes speak WireGuard with each other: clients come in
//! by such a device, and what one node forwards to the other leaves by one.

use std::net::SocketAddr;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::Trust;
use tests::agent::records::no_origins;
use tests::clients::load::Load;
use tests::cluster::kube_proxy::Mode;
use tests::cluster::nodes::{Cluster, REPORT, agent};
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::host::tun::Tunnel;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::Family;

/// The devices between the client and the first node, and between the nodes.
const OUTER: &str = "outer";
const INNER: &str = "inner";
/// The first node's addresses on the device between the nodes, and the other's.
const ENDS: [[&str; 2]; 2] = [
    ["192.0.2.5/30", "fd82::5/126"],
    ["192.0.2.6/30", "fd82::6/126"],
];
/// The network between the nodes, for a rule that says `toa`.
const BETWEEN: [&str; 2] = ["192.0.2.4/30", "fd82::4/126"];

#[test]
fn no_packet_has_an_ethernet_header() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 1)?;
        let [first, second] = &cluster.nodes;
        let client = &cluster.client;
        let _outer = Tunnel::between(OUTER, client, &first.netns)?;
        let _inner = Tunnel::between(INNER, &first.netns, &second.netns)?;
        route(
            client,
            OUTER,
            Family::ALL.map(|family| first.address(family).to_string()),
        )?;
        route(
            &first.netns,
            OUTER,
            ["203.0.113.0/24", "2001:db8:c::/112"].map(Into::into),
        )?;
        for (node, addresses) in cluster.nodes.iter().zip(ENDS) {
            for address in addresses {
                node.netns
                    .ip(&format!("addr add {address} dev {INNER} nodad"))?;
            }
        }
        let pod = Family::ALL.map(|family| second.pod_address(family).to_string());
        route(&first.netns, INNER, pod)?;
        let _server = Report::start(&second.pod, any(REPORT.target))?;
        let load = Load::new(first.targets(REPORT));
        load.run(client).all_lost()?;

        let firsts = agent(directory, &[], |config| {
            let carry = config.carry.get_or_insert_default();
            carry.node = [OUTER, INNER].map(|device| first.carries(device)).into();
        })?;
        let seconds = agent(directory, &[], |config| {
            let carry = config.carry.get_or_insert_default();
            carry.node = vec![second.carries(INNER)];
            config.trust.extend(Trust::saying(&["toa"], BETWEEN));
        })?;
        load.run(client).all_exact()?;
        let held = load.hold(client)?;
        let peers = seconds.peers()?;
        for connection in &held {
            let is_told = |remote: SocketAddr| BETWEEN.iter().any(|network| is_in(network, remote));
            let peer = peers.0.iter().find(|peer| peer.client == connection.client);
            ensure!(
                peer.is_some_and(|peer| peer.evidence == "toa" && is_told(peer.remote)),
                "{peer:?}"
            );
        }
        let made = (load.connections + held.len()) as u64;
        drop(held);
        let given = firsts.counter(Counter::NodeToa)?;
        ensure!(given == made, "{given} of {made} SYNs were given TOA");
        no_origins(&seconds)?;
        ensure!(firsts.stop()?.success(), "the first node's agent");
        load.run(client).all_lost()
    });
}

/// Has what goes to these destinations, one for each family, leave by a device.
fn route(netns: &Netns, device: &str, destinations: [String; 2]) -> Result<()> {
    let mut destinations = destinations.into_iter();
    destinations.try_for_each(|to| netns.ip(&format!("route replace {to} dev {device}")))
}

fn is_in(network: &str, address: SocketAddr) -> bool {
    let network: ipnet::IpNet = network.parse().expect("a network");
    network.contains(&address.ip())
}
