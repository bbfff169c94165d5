//! Devices other than a cable: each carries what it would carry without truepeer, and the client is kept.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::{Agent, Config, Policy, Steer, Trust, Unwrap};
use tests::clients::exchange::{serve, with_server};
use tests::clients::load::{Load, Outcome};
use tests::clients::tcp::connect;
use tests::host::listener::Listener;
use tests::host::netns::{Netns, run};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::proxies::proxy_header::v2;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::Limit;

use crate::stage::{HEADER, MARK, PROXY, REPORT, denied_clients, toa_arrives};

/// A port that some clients are denied.
const GUARDED: u16 = 8090;
const INTERFACE: &str = Sidecar::INTERFACE;

/// Puts a device on a cable's ends by this command of `ip`, which gets the other end's address.
fn on_cable(client: &Netns, pod: &Netns, kind: impl Fn(&str) -> String) -> Result<()> {
    client.connect("cable", pod, "cable")?;
    for (netns, own, other) in [
        (client, "192.0.2.1", "192.0.2.2"),
        (pod, "192.0.2.2", "192.0.2.1"),
    ] {
        netns.ip(&format!(
            "addr add {own}/30 dev cable
             link add name eth0 {}
             link set {INTERFACE} up",
            kind(other)
        ))?;
    }
    Ok(())
}

/// Few connections to a port over each IP version.
fn few(client: &Netns, port: u16, check: fn(&Outcome) -> Result<()>) -> Result<()> {
    Family::ALL.into_iter().try_for_each(|family| {
        let target = (Sidecar::address(family), port).into();
        let load = Load {
            connections: 20,
            concurrent: 10,
            ..Load::new([target])
        };
        check(&load.run(client)).with_context(|| format!("to {target}"))
    })
}

/// Who is denied does not get through, and others do.
fn is_guarded(client: &Netns) -> Result<()> {
    few(client, GUARDED, Outcome::all_exact)?;
    for family in Family::ALL {
        let target: SocketAddr = (Sidecar::address(family), GUARDED).into();
        let denied = client.enter(|| {
            let socket = Socket::new(
                Domain::for_address(target),
                Type::STREAM,
                Some(Protocol::TCP),
            )?;
            socket.bind(&SocketAddr::new(family.client(99), 0).into())?;
            socket.connect_timeout(&target.into(), Limit::millis(1500).here())
        });
        let error = denied.err().context("who is denied was let in")?;
        ensure!(error.kind() == ErrorKind::TimedOut, "{error}");
    }
    Ok(())
}

fn policy() -> Policy {
    Policy {
        name: "few".into(),
        ports: vec![GUARDED.to_string()],
        deny: denied_clients(|family| family.client(99)),
        ..Policy::default()
    }
}

/// Steers, takes headers off, judges and reads TOA on what comes in by the device.
fn every_verb(connect_by: impl FnOnce(&Netns, &Netns) -> Result<()>) {
    every_verb_in(|_, client, pod| connect_by(client, pod));
}

/// The same with a device that needs files.
fn every_verb_in(connect_by: impl FnOnce(&Path, &Netns, &Netns) -> Result<()>) {
    scenario(|directory| {
        let sidecar = Sidecar::over(|client, pod| connect_by(directory, client, pod))?;
        let (client, pod) = (&sidecar.client, &sidecar.pod);
        let _report = Report::start(pod, any(REPORT))?;
        let _guarded = Report::start(pod, any(GUARDED))?;
        toa_arrives(directory, client)?;

        let _server = Listener::start(pod, any(HEADER), false, serve)?;
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        let steer = Steer::new("in", pod, &["8080"], PROXY).on(INTERFACE);
        let mut config = Config::new(directory, [steer])?;
        config.trust.extend(Trust::sources(Sidecar::networks()));
        config.unwrap.push(Unwrap::new(pod, INTERFACE, &["8443"]));
        config.policy.push(policy());
        let agent = Agent::start(directory, config)?;
        few(client, REPORT, Outcome::all_kept)?;
        let steered = agent.counter(Counter::Steered)?;
        ensure!(steered == 40, "{steered} connections were steered");
        headers_are_taken_off(client, 40)?;
        is_guarded(client)
    });
}

/// A server behind a header is told the client, and so many blocks arrive each way.
fn headers_are_taken_off(sender: &Netns, blocks: u64) -> Result<()> {
    for family in Family::ALL {
        let target: SocketAddr = (Sidecar::address(family), HEADER).into();
        let client = SocketAddr::new(family.client(6), 4711);
        let stream = connect(sender, target)?;
        let seen = with_server(stream, &v2(client, target), blocks)
            .with_context(|| format!("to {target}"))?;
        ensure!(seen == client, "{client} was seen as {seen}");
    }
    Ok(())
}

#[test]
fn vlan() {
    every_verb(|client, pod| on_cable(client, pod, |_| "link cable type vlan id 7".into()));
}

#[test]
fn vlan_with_priority_tags_and_802_1ad() {
    every_verb(|client, pod| {
        on_cable(client, pod, |_| {
            "link cable type vlan proto 802.1ad id 7 egress-qos-map 0:5".into()
        })
    });
}

#[test]
fn macvlan() {
    every_verb(|client, pod| {
        on_cable(client, pod, |_| {
            "link cable type macvlan mode bridge".into()
        })
    });
}

#[test]
fn ipvlan() {
    every_verb(|client, pod| on_cable(client, pod, |_| "link cable type ipvlan mode l2".into()));
}

#[test]
fn vxlan() {
    every_verb(|client, pod| {
        on_cable(client, pod, |other| {
            format!("type vxlan id 7 remote {other} dstport 4789 dev cable")
        })
    });
}

#[test]
fn geneve() {
    every_verb(|client, pod| {
        on_cable(client, pod, |other| {
            format!("type geneve id 7 remote {other}")
        })
    });
}

/// Packets of WireGuard have no Ethernet header.
#[test]
fn wireguard() {
    every_verb_in(tunnel);
}

/// Those of GRE between two ends have none, either.
#[test]
fn gre() {
    every_verb(|client, pod| on_cable(client, pod, |other| format!("type gre remote {other}")));
}

fn tunnel(directory: &Path, client: &Netns, pod: &Netns) -> Result<()> {
    on_cable(client, pod, |_| "type wireguard".into())?;
    let keys = [client, pod].map(|_| -> Result<String> {
        Ok(run(Command::new("wg").arg("genkey"))?.trim().to_owned())
    });
    let [ours, theirs] = keys;
    let keys = [ours?, theirs?];
    for (n, (netns, other)) in [(client, "192.0.2.2"), (pod, "192.0.2.1")]
        .into_iter()
        .enumerate()
    {
        let own = directory.join(format!("wireguard-{n}"));
        std::fs::write(&own, &keys[n])?;
        let public = directory.join("wireguard-peer");
        std::fs::write(&public, &keys[1 - n])?;
        let public = run(Command::new("sh")
            .args(["-c", "wg pubkey < \"$1\"", "sh"])
            .arg(&public))?;
        run(netns
            .command("wg")?
            .args(["set", INTERFACE, "listen-port", "51820", "private-key"])
            .arg(&own)
            .args(["peer", public.trim(), "endpoint", &format!("{other}:51820")])
            .args(["allowed-ips", "0.0.0.0/0,::/0"]))?;
    }
    Ok(())
}
