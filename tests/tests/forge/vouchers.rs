//! TOA of a stranger or of a pod that passes by a node which vouches for others' clients, and has an address that others trust.

use std::net::SocketAddr;
use std::path::Path;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use tests::agent::{Agent, Carry, CarryToa, Policy, Reveal, Trust};
use tests::clients::load::Load;
use tests::clients::raw::{Raw, toa};
use tests::clients::tcp::seen;
use tests::cluster::kube_proxy::Mode;
use tests::cluster::nodes::{Cluster, NODES, Node, REPORT, agent};
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::connect_from;
use tests::servers::report::{Report, Seen};
use tests::topology::Family;
use tests::wait::eventually;

/// A port that no section names.
const OTHER: u16 = 2222;
/// A Service's port on the node, without an endpoint.
const DESERTED: u16 = 30_099;
/// All pods of all nodes, and so the addresses that nodes have towards their own pods.
const PODS: [&str; 2] = ["10.81.0.0/16", "fd81::/16"];

/// The client whom others name.
fn victim(family: Family) -> SocketAddr {
    (family.balancer(76), 4711).into()
}

/// Sends a SYN in the victim's name to a port of the node.
fn forge(client: &Raw, node: &Node, family: Family, port: u16, sequence: u32) -> Result<()> {
    let target = (node.address(family), port).into();
    client.syn(victim(family), target, sequence, &[])
}

/// Whom the application sees when `raw` opens a connection with TOA that names the victim.
fn seen_by(raw: &Raw, source: SocketAddr, target: SocketAddr, sequence: u32) -> Result<SocketAddr> {
    let named = toa(254, victim(Family::of(source)));
    let mut connection = raw.connect(source, target, sequence, &named)?;
    let seen: Seen = serde_json::from_str(&connection.receive()?)?;
    connection.reset()?;
    Ok(seen.accepted)
}

/// Clients of this node's port, beside all that.
fn honest(cluster: &Cluster, node: &Node) -> Result<()> {
    let load = Load {
        connections: 40,
        concurrent: 20,
        ..Load::new(node.targets(REPORT))
    };
    load.run(&cluster.client).all_exact().context("the honest")
}

/// A pod of the first node that may send raw packets, with an address of its own that its kernel does not know of.
struct Intruder {
    raw: Raw,
    _pod: Netns,
}

impl Intruder {
    fn new(node: &Node) -> Result<Self> {
        let pod = Netns::new("intruder")?;
        node.netns.connect("pod9", &pod, "eth0")?;
        node.netns.ip("link set pod9 master cni0")?;
        pod.ip("addr add 10.81.1.9/24 dev eth0
             addr add fd81:1::9/64 dev eth0 nodad
             route add default via 10.81.1.1
             -6 route add default via fd81:1::1")?;
        node.netns.ip("route add 10.81.1.66 via 10.81.1.9
             -6 route add fd81:1::66 via fd81:1::9")?;
        Ok(Self {
            raw: Raw::new(&pod)?,
            _pod: pod,
        })
    }

    fn source(family: Family, port: u16) -> SocketAddr {
        let address = match family {
            Family::V4 => "10.81.1.66",
            Family::V6 => "fd81:1::66",
        };
        SocketAddr::new(address.parse().expect("an address"), port)
    }
}

/// A forged SYN to a Service makes a voucher, and a stranger sends another with the same sequence number by a way on which
/// nobody takes TOA off.
#[test]
fn of_ones_own() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 0)?;
        let node = &cluster.nodes[0];
        let [v4, v6] = Family::ALL.map(|family| node.address(family));
        cluster.client.ip(&format!(
            "route add 10.81.1.0/24 via {v4}
             -6 route add fd81:1::/64 via {v6}"
        ))?;
        let _reports = [
            Report::start(&node.netns, any(OTHER))?,
            Report::start(&node.pod, any(REPORT.target))?,
        ];
        let client = Raw::new(&cluster.client)?;
        let _agent = agent(directory, &[node], |config| {
            config.trust.extend(Trust::saying(&["toa"], NODES));
        })?;
        let mut sequence = 0x1122_0000;
        for family in Family::ALL {
            for (port, target) in [
                (40_001, (node.address(family), OTHER).into()),
                (40_002, (node.pod_address(family), REPORT.target).into()),
            ] {
                sequence += 0x10_0000;
                let stranger = (family.balancer(66), port).into();
                forge(&client, node, family, REPORT.node_port, sequence)?;
                let seen = seen_by(&client, stranger, target, sequence)?;
                ensure!(seen == stranger, "{target}: {stranger} was seen as {seen}");
            }
        }
        honest(&cluster, node)
    });
}

/// A pod's own TOA gets the node's address on the way to a pod of the same node.
#[test]
fn of_a_pod_to_the_same_node() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 0)?;
        let node = &cluster.nodes[0];
        let _report = Report::start(&node.pod, any(REPORT.target))?;
        let intruder = Intruder::new(node)?;
        let client = Raw::new(&cluster.client)?;
        let agent = agent(directory, &[node], |config| {
            let all = NODES.into_iter().chain(PODS);
            config.trust.extend(Trust::saying(&["toa"], all));
        })?;
        let mut sequence = 0x2122_0000;
        for family in Family::ALL {
            let target = (node.address(family), REPORT.node_port).into();
            for (port, is_forged) in [(40_001, false), (40_002, true)] {
                sequence += 0x10_0000;
                if is_forged {
                    forge(&client, node, family, DESERTED, sequence)?;
                }
                let source = Intruder::source(family, port);
                let seen = seen_by(&intruder.raw, source, target, sequence)?;
                ensure!(
                    seen.ip() == node.gateway(family),
                    "forged {is_forged}: {source} was seen as {seen}"
                );
            }
        }
        let unanswered = agent.counter(Counter::ToaUnanswered)?;
        ensure!(unanswered == 2, "{unanswered} unanswered");
        honest(&cluster, node)
    });
}

/// No policy that admits the victim admits the pod.
#[test]
fn of_a_pod_to_a_policy() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 0)?;
        let node = &cluster.nodes[0];
        let _reports = [
            Report::start(&node.netns, any(OTHER))?,
            Report::start(&node.pod, any(REPORT.target))?,
        ];
        let intruder = Intruder::new(node)?;
        let client = Raw::new(&cluster.client)?;
        let agent = agent(directory, &[node], |config| {
            config.policy.push(Policy {
                name: "friends".into(),
                ports: vec![REPORT.target.to_string()],
                allow: Family::ALL
                    .map(|family| IpNet::from(victim(family).ip()).to_string())
                    .into(),
                ..Policy::default()
            });
        })?;
        let unanswered = || agent.counter(Counter::ToaUnanswered);
        let mut sequence = 0x3122_0000;
        for family in Family::ALL {
            sequence += 0x10_0000;
            let target = (node.address(family), REPORT.node_port).into();
            // The victim himself is admitted, and by now everybody knows his neighbours.
            let mut honest = client.connect(victim(family), target, sequence, &[])?;
            let seen: Seen = serde_json::from_str(&honest.receive()?)?;
            ensure!(seen.accepted == victim(family), "{seen:?}");
            honest.reset()?;
            let source = Intruder::source(family, 40_001);
            let open = (node.address(family), OTHER).into();
            intruder.raw.connect(source, open, sequence, &[])?.reset()?;
            sequence += 0x8_0000;
            forge(&client, node, family, DESERTED, sequence)?;
            let named = toa(254, victim(family));
            let mut connection = intruder.raw.connect(source, target, sequence, &named)?;
            // What comes later finds the listener still, and no connection.
            for _ in 0..2 {
                let before = unanswered()?;
                connection.send(b"x")?;
                eventually("another segment is refused", || {
                    Ok((unanswered()? > before).then_some(()))
                })?;
            }
            connection.reset()?;
        }
        Ok(())
    });
}

/// Two agents stand for two hosts. The first node's takes its clients' SYNs, and the second's trusts the nodes.
fn hosts(
    directory: &Path,
    cluster: &Cluster,
    trusted: &[&'static str],
    carry: CarryToa,
) -> Result<(Agent, Agent)> {
    let [first, second] = &cluster.nodes;
    let firsts = agent(directory, &[first], |config| {
        config.reveal = Reveal {
            enabled: false,
            ..Reveal::default()
        };
        config.trust.push(Trust::uid(0).reach("carry"));
        let nodes = config.carry.take().unwrap_or_default().node;
        config.carry = Some(Carry {
            toa: carry,
            node: nodes,
        });
    })?;
    let seconds = agent(directory, &[second], |config| {
        let trusted = trusted.iter().copied();
        config.trust.extend(Trust::saying(&["toa"], trusted));
        // Behind this, the other node's TOA goes on to the pod.
        let carry = config.carry.get_or_insert_default();
        carry.node.push(second.carries(Node::POD));
    })?;
    Ok((firsts, seconds))
}

/// A pod's own TOA gets the node's address on the way to another node, which trusts that.
#[test]
fn of_a_pod_to_another_node() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 1)?;
        let [first, second] = &cluster.nodes;
        let _report = Report::start(&second.pod, any(REPORT.target))?;
        let intruder = Intruder::new(first)?;
        let client = Raw::new(&cluster.client)?;
        let (firsts, _seconds) = hosts(directory, &cluster, &NODES, CarryToa::default())?;
        let mut sequence = 0x4122_0000;
        for family in Family::ALL {
            let target = (first.address(family), REPORT.node_port).into();
            for (port, is_forged) in [(40_001, false), (40_002, true)] {
                sequence += 0x10_0000;
                if is_forged {
                    forge(&client, first, family, DESERTED, sequence)?;
                }
                let source = Intruder::source(family, port);
                let seen = seen_by(&intruder.raw, source, target, sequence)?;
                ensure!(
                    seen.ip() == first.address(family),
                    "forged {is_forged}: {source} was seen as {seen}"
                );
            }
        }
        let stripped = firsts.counter(Counter::NodeStripped)?;
        ensure!(stripped >= 4, "{stripped} stripped");
        honest(&cluster, first)
    });
}

/// What a local proxy says by `[carry.toa]` leaves by the node's uplink, and other nodes believe it.
#[test]
fn of_a_local_proxy() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 1)?;
        let [first, second] = &cluster.nodes;
        let _report = Report::start(&second.pod, any(REPORT.target))?;
        let carry = CarryToa {
            to: ["10.81.2.0/24", "fd81:2::/64"].map(String::from).into(),
            ..CarryToa::default()
        };
        let trusted = [NODES, PODS].concat();
        let (firsts, _seconds) = hosts(directory, &cluster, &trusted, carry)?;
        for family in Family::ALL {
            let target = (second.pod_address(family), REPORT.target).into();
            for (n, netns) in [&first.netns, &first.pod].into_iter().enumerate() {
                let client = (family.client(n), 4711).into();
                let mut stream = netns.enter(|| connect_from(client, target, 0))?;
                let seen = seen(&mut stream)?;
                ensure!(seen.accepted == client, "{client} was seen as {seen:?}");
            }
        }
        ensure!(firsts.counter(Counter::CarriedToa)? == 4, "not carried");
        ensure!(firsts.counter(Counter::NodeStripped)? == 0, "stripped");
        honest(&cluster, first)
    });
}
