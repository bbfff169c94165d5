//! Client and server on two machines whose network cards take checksums and the cutting of segments from them: packets
//! come in with half a checksum and longer than any wire has them, and each carries what it would without truepeer.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::records::{no_origins, none_refused};
use tests::agent::{Agent, Carry, CarryNode, Config, Steer, Trust, Unwrap, believing, telling};
use tests::clients::exchange::{serve, with_server};
use tests::clients::raw::Raw;
use tests::clients::tcp::connect;
use tests::host::listener::Listener;
use tests::host::netns::Netns;
use tests::host::{iptables, scenario};
use tests::peer::{Task, exchange, start};
use tests::proxies::any;
use tests::proxies::own::{Proxy, connect_from};
use tests::proxies::proxy_header::{v1, v2, with_tlv};
use tests::topology::{Family, Gateway, Pair, Sidecar};

use crate::stage::{HEADER, MARK, PROXY, REPORT, client};

/// 5.2 MB each way.
const BLOCKS: u64 = 80;
/// An ordinary proxy's port.
const PLAIN: u16 = 15001;
/// A node's port for the peer's [`REPORT`].
const NODE_PORT: u16 = 30080;
/// The longest frame that a wire would have.
const FRAME: u64 = 1514;

/// Runs a scenario with this machine's end of the cable, by which whole stretches of the streams must have come in at
/// once, not yet cut into segments.
fn pair(body: impl FnOnce(&Path, &Pair) -> Result<()>) {
    scenario(|directory| {
        let pair = Pair::pod()?;
        let (bytes_before, packets_before) = pair.received()?;
        body(directory, &pair)?;
        let (bytes, packets) = pair.received()?;
        let (bytes, packets) = (bytes - bytes_before, packets - packets_before);
        println!("{bytes} bytes came in {packets} packets");
        ensure!(
            bytes / packets > FRAME,
            "{bytes} bytes came in {packets} packets: they were cut into segments"
        );
        Ok(())
    });
}

/// Whom the server on a port of the pod sees when the peer connects in the name of `source`.
fn seen(pair: &Pair, source: SocketAddr, port: u16, header: &[u8]) -> Result<SocketAddr> {
    let target = (Sidecar::address(Family::of(source)), port).into();
    exchange(pair, source, target, header, BLOCKS)
}

/// The same without truepeer: the server sees another address. The SYN comes in with half a checksum.
fn lost(pair: &Pair, source: SocketAddr, port: u16, to: IpAddr) -> Result<()> {
    let packets = Raw::new(&pair.netns)?;
    is(seen(pair, source, port, &[])?, to)?;
    let target = (Sidecar::address(Family::of(source)), port).into();
    ensure!(
        packets.unfinished_syn(target)?,
        "a network card has completed the SYN's checksum"
    );
    Ok(())
}

fn is(seen: SocketAddr, address: IpAddr) -> Result<()> {
    ensure!(seen.ip() == address, "{seen} was to be {address}");
    Ok(())
}

fn is_client(seen: SocketAddr, client: SocketAddr) -> Result<()> {
    ensure!(seen == client, "{client} was seen as {seen}");
    Ok(())
}

fn forward(netns: &Netns) -> Result<()> {
    netns.set_sysctl("net/ipv4/ip_forward", "1")?;
    netns.set_sysctl("net/ipv6/conf/all/forwarding", "1")
}

#[test]
fn header_is_taken_off() {
    pair(|directory, pair| {
        let _server = Listener::start(&pair.netns, any(HEADER), false, serve)?;
        let sender = |family| SocketAddr::new(Sidecar::sender(family), 0);
        for family in Family::ALL {
            lost(pair, sender(family), HEADER, Sidecar::sender(family))?;
        }
        let mut config = Config::new(directory, [])?;
        config.trust.extend(Trust::sources(Sidecar::networks()));
        let unwrap = Unwrap::new(&pair.netns, Sidecar::INTERFACE, &["8443"]);
        config.unwrap.push(unwrap);
        let agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let client = client(family);
            let target = (Sidecar::address(family), HEADER).into();
            for header in [
                v2(client, target),
                with_tlv(client, target, Some(100)),
                v1(client, target),
            ] {
                is_client(seen(pair, sender(family), HEADER, &header)?, client)?;
            }
        }
        none_refused(&agent)?;
        no_origins(&agent)
    });
}

#[test]
fn told_by_toa() {
    pair(|directory, pair| {
        let _server = Listener::start(&pair.netns, any(REPORT), false, serve)?;
        let _telling = start(pair, &Task::Tell)?;
        for family in Family::ALL {
            lost(pair, client(family), REPORT, Sidecar::sender(family))?;
        }
        let _believing = believing(directory, Sidecar::networks())?;
        for family in Family::ALL {
            is_client(seen(pair, client(family), REPORT, &[])?, client(family))?;
        }
        Ok(())
    });
}

#[test]
fn telling_by_toa() {
    pair(|directory, pair| {
        let _server = start(pair, &Task::Serve(REPORT))?;
        let _telling = telling(directory, Sidecar::networks())?;
        let seen = |family| {
            let target = (Sidecar::sender(family), REPORT).into();
            let stream = pair
                .netns
                .enter(|| connect_from(client(family), target, 0))?;
            with_server(stream, &[], BLOCKS)
        };
        for family in Family::ALL {
            is(seen(family)?, Sidecar::address(family))?;
        }
        let _believing = start(pair, &Task::Believe)?;
        for family in Family::ALL {
            is_client(seen(family)?, client(family))?;
        }
        Ok(())
    });
}

#[test]
fn steered_to_a_proxy_that_spoofs() {
    pair(|directory, pair| {
        let pod = &pair.netns;
        let _server = Listener::start(pod, any(REPORT), false, serve)?;
        for family in Family::ALL {
            let upstream = (family.localhost(), REPORT).into();
            let listen = (Sidecar::address(family), PLAIN).into();
            let _proxy = Proxy::plain(pod, listen, upstream)?;
            lost(pair, client(family), PLAIN, family.localhost())?;
        }
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        let steer = Steer::new("in", pod, &["8080"], PROXY).on(Sidecar::INTERFACE);
        let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
        for family in Family::ALL {
            let seen = seen(pair, client(family), REPORT, &[])?;
            is(seen, client(family).ip())?;
        }
        let steered = agent.counter(Counter::Steered)?;
        ensure!(steered == 2, "{steered} connections were steered");
        no_origins(&agent)
    });
}

/// The pod is a gateway between a client behind it and a server on the peer, whose answers to the client come in by the card
/// and are the proxy's.
#[test]
fn answers_go_back_to_a_proxy_that_spoofs() {
    pair(|directory, pair| {
        let gateway = &pair.netns;
        forward(gateway)?;
        let inside = Netns::new("inside")?;
        inside.connect("eth0", gateway, Gateway::FRONT)?;
        gateway.ip("addr add 10.78.0.2/24 dev front
             addr add fd78::2/64 dev front")?;
        inside.ip("addr add 10.78.0.1/24 dev eth0
             addr add fd78::1/64 dev eth0
             route add default via 10.78.0.2
             -6 route add default via fd78::2")?;
        let _server = start(pair, &Task::Serve(REPORT))?;
        for family in Family::ALL {
            let listen = (Sidecar::address(family), PLAIN).into();
            let _proxy = Proxy::plain(gateway, listen, (Sidecar::sender(family), REPORT).into())?;
            let seen = with_server(connect(&inside, listen)?, &[], BLOCKS)?;
            is(seen, Sidecar::address(family))?;
        }
        let _proxy = Proxy::gateway(gateway, any(PROXY))?;
        let steer = Steer::new("gateway", gateway, &["8080"], PROXY)
            .on(Gateway::FRONT)
            .answers(Sidecar::INTERFACE);
        let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
        for family in Family::ALL {
            let stream = connect(&inside, (Sidecar::sender(family), REPORT).into())?;
            let client = stream.local_addr()?;
            is_client(with_server(stream, &[], BLOCKS)?, client)?;
        }
        let steered = agent.counter(Counter::Steered)?;
        ensure!(steered == 2, "{steered} connections were steered");
        no_origins(&agent)
    });
}

/// The pod is a node whose service is on the peer: SYNs that come in with half a checksum are given TOA, and go out again
/// by the same card. They go out with a whole checksum, as to a wire: of a half, which stays one as far as
/// the server, nobody looks at any part.
#[test]
fn told_before_a_node_port() {
    pair(|directory, pair| {
        let node = &pair.netns;
        forward(node)?;
        iptables::restore(node, directory, |family| {
            let endpoint = SocketAddr::new(Sidecar::sender(family), REPORT);
            format!(
                "*nat
-A PREROUTING -p tcp --dport {NODE_PORT} -j DNAT --to-destination {endpoint}
-A POSTROUTING -p tcp --dport {REPORT} -j MASQUERADE
COMMIT
*mangle
-A POSTROUTING -p tcp --syn -j CHECKSUM --checksum-fill
COMMIT
"
            )
        })?;
        let _server = start(pair, &Task::Serve(REPORT))?;
        let _believing = start(pair, &Task::Believe)?;
        for family in Family::ALL {
            lost(pair, client(family), NODE_PORT, Sidecar::address(family))?;
        }
        let mut config = Config::new(directory, [])?;
        let carry = CarryNode::new(node, Sidecar::INTERFACE, &[&NODE_PORT.to_string()]);
        config.carry = Some(Carry {
            node: vec![carry],
            ..Carry::default()
        });
        let _agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let client = SocketAddr::new(client(family).ip(), 4712);
            is_client(seen(pair, client, NODE_PORT, &[])?, client)?;
        }
        Ok(())
    });
}
