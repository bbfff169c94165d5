//! PROXY headers that come to a pod by a node port: behind the node's NAT all have the node's address, but each is judged by
//! whoever truly sent it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use agent_common::Counter;
use agent_common::proxy::Peer;
use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use tests::agent::{Agent, Config, Relay, Reveal, Trust, Unwrap};
use tests::clients::http::Request;
use tests::clients::load;
use tests::clients::tcp::{assert_reset, seen};
use tests::cluster::kube_proxy::{Mode, Service};
use tests::cluster::nodes::{Cluster, NODES, Node, REPORT, WEB, agent};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::{anonymous, v2};
use tests::servers::report::{Report, Seen};
use tests::servers::web::Web;
use tests::topology::{Family, Gateway};
use tests::wait::SOON;

/// Port of the application behind the relay.
const BEHIND: u16 = 9000;
/// The number of the client's address from which the load balancer sends.
const BALANCER: usize = 50;
/// The number of the address from which a stranger sends.
const STRANGER: usize = 51;
/// The number of the client whom headers name.
const NAMED: usize = 6;

/// Adds what the pod's node has to do: headers are taken off before one Service's endpoint, and by a relay before the
/// other's.
fn take_off(config: &mut Config, node: &Node) {
    let balancers = Family::ALL.map(|family| IpNet::from(family.client(BALANCER)));
    config.trust.extend(Trust::saying(&["toa"], NODES));
    config.trust.push(Trust {
        name: Some("edge"),
        source: balancers.map(|prefix| prefix.to_string()).into(),
        says: vec!["proxy"],
        ..Trust::default()
    });
    let port = REPORT.target.to_string();
    config.unwrap.push(Unwrap::new(&node.pod, "eth0", &[&port]));
    let upstream = (Family::V6.localhost(), BEHIND).into();
    let relay = Relay::proxy(&node.pod, any(WEB.target), upstream, "reveal");
    config.relay.push(relay);
}

/// Sends a header that names [`NAMED`] to a Service, from this address.
fn send(cluster: &Cluster, from: usize, family: Family, service: Service) -> Result<TcpStream> {
    let target: SocketAddr = (cluster.nodes[0].address(family), service.node_port).into();
    send_first(cluster, from, family, service, &v2(named(family), target))
}

/// Connects to a Service from this address, and sends these bytes.
fn send_first(
    cluster: &Cluster,
    from: usize,
    family: Family,
    service: Service,
    first: &[u8],
) -> Result<TcpStream> {
    let target: SocketAddr = (cluster.nodes[0].address(family), service.node_port).into();
    let source = (family.client(from), 0).into();
    let mut stream = cluster.client.enter(|| load::connect(source, target))?;
    stream.write_all(first)?;
    Ok(stream)
}

/// Asserts that a header which was sent is refused: unwrap refuses the SYN, and the relay resets the connection, perhaps before
/// the header is written.
fn assert_unheard(sent: Result<TcpStream>, what: &str) -> Result<()> {
    let error = match sent {
        Ok(stream) => return assert_reset(stream, what),
        Err(error) => error,
    };
    let kind = error.downcast_ref().map(io::Error::kind);
    let is_refused = matches!(
        kind,
        Some(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
    );
    ensure!(is_refused, "{what}: {error:#}");
    Ok(())
}

fn named(family: Family) -> SocketAddr {
    (family.client(NAMED), 4711).into()
}

fn told(cluster: &Cluster, family: Family, service: Service) -> Result<Seen> {
    let mut stream = send(cluster, BALANCER, family, service)?;
    seen(&mut stream).with_context(|| format!("the balancer, {family:?}, {}", service.name))
}

/// The load balancer is believed, and a stranger is not, whichever of them had the way to himself before.
fn judged_by_the_sender(cluster: &Cluster, agent: &Agent) -> Result<()> {
    let by_relay = format!(
        "truepeer_relay_refused_connections_total{{relay=\"{}\",reason=\"untrusted\"}}",
        any(WEB.target)
    );
    let untrusted =
        || anyhow::Ok(agent.metric(&by_relay)? + agent.counter(Counter::UnwrapUntrusted)?);
    for _ in 0..3 {
        for family in Family::ALL {
            for service in [REPORT, WEB] {
                let what = format!("a stranger's header, {family:?}, {}", service.name);
                let before = untrusted()?;
                assert_unheard(send(cluster, STRANGER, family, service), &what)?;
                ensure!(untrusted()? > before, "{what} is not counted");
                let seen = told(cluster, family, service)?;
                ensure!(
                    seen.accepted == named(family),
                    "{what}, the balancer's: {seen:?}"
                );
            }
        }
    }
    let peers = agent.peers()?;
    ensure!(
        peers
            .0
            .iter()
            .all(|peer| peer.evidence != "proxy" || peer.trusted_by == "edge"),
        "{peers:?}"
    );
    Ok(())
}

/// A header that names nobody is about the load balancer itself, and not about the node, and a stranger's is refused as any.
fn health_checks(cluster: &Cluster) -> Result<()> {
    let local = anonymous(&Peer::Local);
    for family in Family::ALL {
        for service in [REPORT, WEB] {
            let what = format!("a health check, {family:?}, {}", service.name);
            let sent = send_first(cluster, STRANGER, family, service, &local);
            assert_unheard(sent, &what)?;
            let mut stream = send_first(cluster, BALANCER, family, service, &local)?;
            let own = stream.local_addr()?;
            let seen = seen(&mut stream).with_context(|| what.clone())?;
            ensure!(seen.accepted == own, "{what}, from {own}: {seen:?}");
        }
    }
    Ok(())
}

fn behind_nat(mode: Mode, endpoint: usize) {
    scenario(|directory| {
        let cluster = Cluster::new(directory, mode, endpoint)?;
        let [first, second] = &cluster.nodes;
        let node = &cluster.nodes[endpoint];
        let _report = Report::start(&node.pod, any(REPORT.target))?;
        let _behind = Report::start(&node.pod, (Family::V6.localhost(), BEHIND).into())?;
        if endpoint == 0 {
            let agent = agent(directory, &[first], |config| take_off(config, first))?;
            judged_by_the_sender(&cluster, &agent)?;
            return health_checks(&cluster);
        }
        // Two agents stand for two hosts.
        let _firsts = agent(directory, &[first], |config| {
            config.reveal = Reveal {
                enabled: false,
                ..Reveal::default()
            };
        })?;
        let seconds = agent(directory, &[second], |config| take_off(config, second))?;
        judged_by_the_sender(&cluster, &seconds)?;
        health_checks(&cluster)
    });
}

#[test]
fn on_the_nodes_own_pod() {
    behind_nat(Mode::Nftables, 0);
}

#[test]
fn on_another_nodes_pod() {
    behind_nat(Mode::Iptables, 1);
}

/// A relay that passes on what it gets, in the name of whoever sent it, is no load balancer.
#[test]
fn behind_a_relay() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _report = Report::start(&gateway.server, any(REPORT.target))?;
        let mut config = Config::new(directory, [])?;
        let hosts = Family::ALL.map(|family| IpNet::from(Gateway::back(family)));
        let balancers = Family::ALL.map(|family| IpNet::from(family.client(BALANCER)));
        let trusted = hosts.into_iter().chain(balancers);
        config.trust.extend(Trust::saying(&["proxy"], trusted));
        let port = REPORT.target.to_string();
        config
            .unwrap
            .push(Unwrap::new(&gateway.server, "eth0", &[&port]));
        for family in Family::ALL {
            let listen = (Gateway::front(family), BEHIND).into();
            let upstream = (Gateway::server(family), REPORT.target).into();
            let relay = Relay::proxy(&gateway.gateway, listen, upstream, "reveal");
            config.relay.push(Relay {
                accept: "plain",
                ..relay
            });
        }
        let agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let target: SocketAddr = (Gateway::front(family), BEHIND).into();
            let connect = |from: usize| -> Result<TcpStream> {
                let source = (family.client(from), 0).into();
                let mut stream = gateway.client.enter(|| load::connect(source, target))?;
                stream.write_all(&v2(named(family), target))?;
                Ok(stream)
            };
            assert_unheard(connect(STRANGER), "a stranger's header")?;
            let seen = seen(&mut connect(BALANCER)?)?;
            ensure!(seen.accepted == named(family), "the balancer's: {seen:?}");
        }
        ensure!(agent.counter(Counter::UnwrapUntrusted)? > 0, "not counted");
        Ok(())
    });
}

/// Behind a node, too, `X-Forwarded-For` is believed of the gateway that TOA or the node names, and not of the node.
#[test]
fn requests_behind_a_node() {
    scenario(|directory| {
        for endpoint in [0, 1] {
            let cluster = Cluster::new(directory, Mode::Nftables, endpoint)?;
            let [first, second] = &cluster.nodes;
            let node = &cluster.nodes[endpoint];
            let _web = Web::echo(directory, &node.pod, BEHIND)?;
            let relays = |config: &mut Config| {
                let gateways = Family::ALL.map(|family| IpNet::from(family.client(BALANCER)));
                config.trust.extend(Trust::saying(&["xff"], gateways));
                config.trust.extend(Trust::saying(&["toa"], NODES));
                let upstream = (Family::V6.localhost(), BEHIND).into();
                config.relay.push(Relay {
                    accept: "plain",
                    protocol: Some("http"),
                    ..Relay::proxy(&node.pod, any(WEB.target), upstream, "reveal")
                });
            };
            // Two agents stand for two hosts.
            let _agents = if endpoint == 0 {
                vec![agent(directory, &[first], relays)?]
            } else {
                let hidden = |config: &mut Config| {
                    config.reveal = Reveal {
                        enabled: false,
                        ..Reveal::default()
                    };
                };
                vec![
                    agent(directory, &[first], hidden)?,
                    agent(directory, &[second], relays)?,
                ]
            };
            for family in Family::ALL {
                for (from, client) in [(BALANCER, NAMED), (STRANGER, STRANGER)] {
                    let request = format!(
                        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {}\r\nConnection: close\r\n\r\n",
                        family.client(NAMED)
                    );
                    let mut stream = send_first(&cluster, from, family, WEB, request.as_bytes())?;
                    let mut answer = String::new();
                    SOON.await_io("an answer", stream.read_to_string(&mut answer))?;
                    let (_, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
                    let told = Request::parse(body)?.ip();
                    ensure!(
                        told == family.client(client),
                        "node {endpoint}, {family:?}, from {from}: told as {told}"
                    );
                }
            }
        }
        Ok(())
    });
}
