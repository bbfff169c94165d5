//! Node ports with `externalTrafficPolicy: Cluster`: kube-proxy gives each connection the node's address, and the
//! servers see the client.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, CarryNode, Reveal, Trust, truepeer};
use tests::clients::load::{Application, Connection, Load};
use tests::cluster::kube_proxy::{Mode, Service, cluster_ip};
use tests::cluster::nodes::{Cluster, NODES, Node, REPORT, WEB, agent};
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::servers::web::Web;
use tests::topology::Family;
use tests::wait::eventually;

/// nginx, which is older than the agents, and a plain server.
struct Servers(#[expect(dead_code, reason = "stop on drop")] (Report, Web));

impl Servers {
    fn start(directory: &Path, node: &Node) -> Result<Self> {
        let addresses = Family::ALL.map(|family| (node.pod_address(family), WEB.target).into());
        Ok(Self((
            Report::start(&node.pod, any(REPORT.target))?,
            Web::nginx(directory, &node.pod, &addresses)?,
        )))
    }
}

/// The loads of connections to both Services by the ports of this node.
fn loads(node: &Node) -> [Load; 2] {
    let some = |service, application| Load {
        application,
        connections: 200,
        concurrent: 50,
        ..Load::new(node.targets(service))
    };
    [
        some(REPORT, Application::Report),
        some(WEB, Application::Web),
    ]
}

fn exact(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut loads = loads(node).into_iter();
    loads.try_for_each(|load| load.run(&cluster.client).all_exact().context("exact"))
}

fn lost(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut loads = loads(node).into_iter();
    loads.try_for_each(|load| load.run(&cluster.client).all_lost().context("lost"))
}

/// The client comes by one node, and the endpoint is on the other. Two agents stand for two hosts: the first
/// node's reveals nothing, and the second's trusts the nodes.
fn on_the_other_node(mode: Mode) {
    scenario(|directory| {
        let cluster = Cluster::new(directory, mode, 1)?;
        let [first, second] = &cluster.nodes;
        let _servers = Servers::start(directory, second)?;
        let before = first.netns.enter(Traces::here)?;
        lost(&cluster, first)?;
        let start_first = || {
            agent(directory, &[first], |config| {
                config.reveal = Reveal {
                    enabled: false,
                    ..Reveal::default()
                };
            })
        };
        let start_second = || {
            agent(directory, &[second], |config| {
                config.trust.extend(Trust::saying(&["toa"], NODES));
            })
        };
        let firsts = start_first()?;
        lost(&cluster, first)?;
        let seconds = start_second()?;
        exact(&cluster, first)?;
        let held = loads(first)[0].hold(&cluster.client)?;
        let peers = seconds.peers()?;
        for connection in &held {
            let peer = peers.0.iter().find(|peer| peer.client == connection.client);
            let peer = peer.with_context(|| format!("no {}", connection.client))?;
            let family = Family::of(connection.client);
            ensure!(
                peer.evidence == "toa"
                    && peer.remote.ip() == first.address(family)
                    && peer.trusted_by.starts_with("source "),
                "{peer:?}"
            );
        }
        drop(held);

        // The programs of a killed agent go on; once an agent stops, connections are as they are without truepeer.
        let config = firsts.kill()?;
        exact(&cluster, first)?;
        let firsts = Agent::start(directory, config)?;
        exact(&cluster, first)?;
        ensure!(firsts.stop()?.success(), "the first node's agent");
        before.assert_unchanged(&first.netns.enter(Traces::here)?)?;
        lost(&cluster, first)?;
        let firsts = start_first()?;
        exact(&cluster, first)?;
        no_origins(&seconds)?;
        ensure!(seconds.stop()?.success(), "the second node's agent");
        lost(&cluster, first)?;
        let given = firsts.counter(Counter::NodeToa)?;
        ensure!(given > 0, "no SYN was given TOA");
        for counter in [Counter::NodeNoRoom, Counter::NodeForged] {
            ensure!(firsts.counter(counter)? == 0, "{}", counter.name());
        }
        Ok(())
    });
}

#[test]
fn on_the_other_node_iptables() {
    on_the_other_node(Mode::Iptables);
}

#[test]
fn on_the_other_node_nftables() {
    on_the_other_node(Mode::Nftables);
}

/// Each client is told by this rule of the node's, before whose NAT it was seen.
fn all_told(agent: &Agent, connections: &[Connection], rule: &str) -> Result<()> {
    let peers = agent.peers()?;
    for connection in connections {
        let peer = peers.0.iter().find(|peer| peer.client == connection.client);
        let peer = peer.with_context(|| format!("no {}", connection.client))?;
        ensure!(
            connection.seen.accepted == connection.client
                && peer.evidence == "snat"
                && peer.trusted_by == rule
                && peer.original_dst == connection.target,
            "{:?}, {peer:?}",
            connection.seen
        );
    }
    Ok(())
}

/// The endpoint is on the node that the client comes by, and also connects to itself.
fn on_the_same_node(mode: Mode) {
    scenario(|directory| {
        let cluster = Cluster::new(directory, mode, 0)?;
        let node = &cluster.nodes[0];
        let _servers = Servers::start(directory, node)?;
        lost(&cluster, node)?;
        ensure!(hairpin(node)?.iter().all(|c| c.client != c.seen.accepted));
        let agent = agent(directory, &[node], |config| {
            let carry = config.carry.get_or_insert_default();
            carry.node.push(node.carries(Node::POD));
        })?;
        exact(&cluster, node)?;
        let held = loads(node)[0].hold(&cluster.client)?;
        let own = hairpin(node)?;
        all_told(&agent, &held, "node eth0")?;
        all_told(&agent, &own, "node pod0")?;
        let learnt = agent.counter(Counter::LearntSnat)?;
        ensure!(
            learnt == agent.counter(Counter::NodeToa)?,
            "{learnt} learnt"
        );
        drop((held, own));
        no_origins(&agent)?;
        let config = agent.kill()?.write()?;
        exact(&cluster, node)?;
        let detach = truepeer(&["detach", "--config", &config.display().to_string()])?;
        ensure!(detach.status.success(), "{detach:?}");
        lost(&cluster, node)
    });
}

/// The agent follows sections that come and go with the configuration.
#[test]
fn configuration_read_again() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 0)?;
        let node = &cluster.nodes[0];
        let _servers = Servers::start(directory, node)?;
        let agent = agent(directory, &[], |_| {})?;
        let reload = |sections| {
            let mut config = agent.config().clone();
            config.carry.get_or_insert_default().node = sections;
            agent.reload(&config)
        };
        lost(&cluster, node)?;
        reload(vec![node.carries(Node::UPLINK)])?;
        exact(&cluster, node)?;
        // Two sections for one interface count as one.
        let ports = |service: Service| service.node_port.to_string();
        let section = |ports: &str| CarryNode::new(&node.netns, Node::UPLINK, &[ports]);
        reload(vec![section(&ports(REPORT)), section(&ports(WEB))])?;
        exact(&cluster, node)?;
        reload(vec![section(&ports(WEB))])?;
        let [report, web] = loads(node);
        report.run(&cluster.client).all_lost()?;
        web.run(&cluster.client).all_exact()?;
        reload(vec![])?;
        lost(&cluster, node)?;
        no_origins(&agent)
    });
}

/// The same section for every node, whatever its interfaces are called. Pods come and go.
#[test]
fn interfaces_by_what_they_are() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 0)?;
        let node = &cluster.nodes[0];
        let _servers = Servers::start(directory, node)?;
        let mut section = node.carries("default-route");
        section.interface.push("pods".into());
        let agent = agent(directory, &[], |config| {
            config.carry.get_or_insert_default().node = vec![section];
        })?;
        exact(&cluster, node)?;
        // Whether packets on a bridge pass iptables, too, or only where they leave it.
        for value in ["0", "1"] {
            for tables in ["iptables", "ip6tables"] {
                let key = format!("net/bridge/bridge-nf-call-{tables}");
                node.netns.set_sysctl(&key, value)?;
            }
            all_told(&agent, &hairpin(node)?, "node default-route, pods")?;
        }

        // A pod that is newer than the agent calls the Service.
        let late = node.another_pod(3)?;
        for family in Family::ALL {
            let source = (node.nth_address(3, family), 0).into();
            let target = (node.address(family), REPORT.node_port).into();
            eventually("the new pod's interface is served", || {
                let connect = || Connection::open_from(source, target, Application::Report);
                let connection = late.enter(connect)?;
                Ok((connection.seen.accepted == connection.client).then_some(()))
            })?;
        }

        let links = || anyhow::Ok(agent.status()?["links"].to_string());
        ensure!(links()?.contains("pod3"), "{}", links()?);
        drop(late);
        eventually("nothing is left of the pod", || {
            Ok((!links()?.contains("pod3")).then_some(()))
        })?;
        exact(&cluster, node)?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent");
        lost(&cluster, node)
    });
}

/// An agent starts, reads its configuration again and stops whatever pods begin and end meanwhile.
#[test]
fn pods_that_come_and_go_meanwhile() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 0)?;
        let node = &cluster.nodes[0];
        let _servers = Servers::start(directory, node)?;
        let mut section = node.carries("default-route");
        section.interface.push("pods".into());
        let done = AtomicBool::new(false);
        let made = thread::scope(|scope| {
            let churn = scope.spawn(|| -> Result<usize> {
                let mut made = 0;
                while !done.load(Ordering::Relaxed) {
                    // One that has gone leaves its name a moment later.
                    drop(node.another_pod(3 + (made % 200) as u8)?);
                    made += 1;
                }
                Ok(made)
            });
            let run = || {
                for _ in 0..2 {
                    let agent = agent(directory, &[], |config| {
                        config.carry.get_or_insert_default().node = vec![section.clone()];
                    })?;
                    for _ in 0..3 {
                        agent.reload(agent.config())?;
                    }
                    exact(&cluster, node)?;
                    ensure!(agent.stop()?.success(), "the agent");
                }
                Ok(())
            };
            let outcome = run();
            done.store(true, Ordering::Relaxed);
            let made = churn.join().expect("no panic")?;
            outcome.map(|()| made)
        })?;
        ensure!(made > 10, "{made} pods");
        println!("{made} pods");
        lost(&cluster, node)
    });
}

/// The uplink is where the default routes go: it loses them, and has them again.
#[test]
fn where_default_routes_go() {
    scenario(|directory| {
        let cluster = Cluster::new(directory, Mode::Iptables, 0)?;
        let node = &cluster.nodes[0];
        let _servers = Servers::start(directory, node)?;
        let agent = agent(directory, &[], |config| {
            config.carry.get_or_insert_default().node = vec![node.carries("default-route")];
        })?;
        exact(&cluster, node)?;
        let [v4, v6] = Family::ALL.map(|family| cluster.gateway(family));
        node.netns.ip(&format!(
            "route add 203.0.113.0/24 via {v4}
             -6 route add 2001:db8:c::/64 via {v6}
             route del default
             -6 route del default"
        ))?;
        let [load, _] = loads(node);
        let run = || load.run(&cluster.client);
        eventually("the former uplink is left alone", || {
            Ok(run().all_lost().ok())
        })?;
        eventually("it is said to be waited for", || {
            let waits = agent.status()?["agent"]["waiting"].to_string();
            Ok(waits.contains("default-route").then_some(()))
        })?;
        let back = format!("route add default via {v4}\n-6 route add default via {v6}");
        node.netns.ip(&back)?;
        eventually("the uplink is served again", || Ok(run().all_exact().ok()))?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent");
        lost(&cluster, node)
    });
}

/// The endpoint connects to itself, by the node's port and by the cluster's address.
fn hairpin(node: &Node) -> Result<Vec<Connection>> {
    let targets = Family::ALL.into_iter().flat_map(|family| {
        let source = SocketAddr::new(node.pod_address(family), 0);
        [
            (source, (node.address(family), REPORT.node_port).into()),
            (source, (cluster_ip(family), REPORT.port).into()),
        ]
    });
    let connect = |(source, target)| Connection::open_from(source, target, Application::Report);
    node.pod.enter(|| targets.map(connect).collect())
}

#[test]
fn on_the_same_node_iptables() {
    on_the_same_node(Mode::Iptables);
}

#[test]
fn on_the_same_node_nftables() {
    on_the_same_node(Mode::Nftables);
}
