//! A device whose packets have no Ethernet header, beside a cable in the same namespace: headers are taken off, connections are
//! steered and refused on both.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Steer, Trust, Unwrap};
use tests::clients::exchange::{serve, with_server};
use tests::clients::load::{self, Load};
use tests::clients::tcp::{assert_reset, connect};
use tests::host::listener::Listener;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::host::tun::Tunnel;
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::proxies::proxy_header::{v2, with_tlv};
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};

/// Ports that are unwrapped, and steered.
const HEADER: u16 = 8443;
const REPORT: u16 = 8080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;
/// A cable between the same namespaces.
const CABLE: &str = "cable";

#[test]
fn without_an_ethernet_header() {
    scenario(|directory| {
        let mut tunnel = None;
        let sidecar = Sidecar::over(|client, pod| {
            tunnel = Some(Tunnel::between(Sidecar::INTERFACE, client, pod)?);
            client.connect(CABLE, pod, CABLE)?;
            client.ip(&format!("addr add 192.0.2.1/30 dev {CABLE}"))?;
            pod.ip(&format!("addr add 192.0.2.2/30 dev {CABLE}"))
        })?;
        let (client, pod) = (&sidecar.client, &sidecar.pod);
        let _server = Listener::start(pod, any(HEADER), false, serve)?;
        let _report = Report::start(pod, any(REPORT))?;
        for family in Family::ALL {
            Load::new([(Sidecar::address(family), REPORT).into()])
                .run(client)
                .all_exact()?;
        }
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        let steer = Steer::new("in", pod, &["8080"], PROXY).on(Sidecar::INTERFACE);
        let mut config = Config::new(directory, [steer])?;
        let networks = Sidecar::networks().into_iter();
        let networks = networks.chain(["192.0.2.0/30".to_owned()]);
        config.trust.extend(Trust::saying(&["proxy"], networks));
        for interface in [Sidecar::INTERFACE, CABLE] {
            config.unwrap.push(Unwrap::new(pod, interface, &["8443"]));
        }
        let agent = Agent::start(directory, config)?;
        for cookies in ["0", "2"] {
            pod.set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
            let cable = SocketAddr::from(([192, 0, 2, 2], HEADER));
            let tunnel = Family::ALL.map(|family| (Sidecar::address(family), HEADER).into());
            for target in tunnel.into_iter().chain([cable]) {
                is_unwrapped(client, target)?;
            }
        }
        pod.set_sysctl("net/ipv4/tcp_syncookies", "1")?;
        let mut made = 0;
        for family in Family::ALL {
            let load = Load::new([(Sidecar::address(family), REPORT).into()]);
            load.run(client).all_kept()?;
            made += load.connections as u64;
            let target = (Sidecar::address(family), HEADER).into();
            let answer = client.enter(|| load::connect((family.client(0), 4711).into(), target));
            let error = answer.err().map(|error| error.kind());
            ensure!(error == Some(ErrorKind::ConnectionRefused), "{error:?}");
        }
        let steered = agent.counter(Counter::Steered)?;
        ensure!(steered == made, "{steered} of {made} were steered");
        no_origins(&agent)
    });
}

/// Headers of the usual length and of another one are taken off, and what is none is refused.
fn is_unwrapped(client: &Netns, target: SocketAddr) -> Result<()> {
    let named = SocketAddr::new(Family::of(target).client(6), 4711);
    for header in [v2(named, target), with_tlv(named, target, Some(9))] {
        let seen = with_server(connect(client, target)?, &header, 20)?;
        ensure!(seen == named, "{seen} instead of {named}");
    }
    let mut stream = connect(client, target)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    assert_reset(stream, "no header")
}
