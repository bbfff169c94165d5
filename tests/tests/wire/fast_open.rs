//! TCP Fast Open (RFC 7413): what comes with the SYN reaches the application only from whom it may, and as whose it is.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use tests::agent::{Agent, Config, Policy, Steer, Trust, Unwrap, believing, telling};
use tests::clients::fast_open::{Cookies, allow, connect, opened};
use tests::clients::load::PING;
use tests::clients::tcp::seen;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::proxies::proxy_header::v2;
use tests::servers::report::{Report, Seen};
use tests::topology::{Family, Sidecar};
use tests::wait::Limit;

use crate::stage::{HEADER, MARK, PROXY, REPORT, client, denied_clients};

fn sidecar() -> Result<Sidecar> {
    let sidecar = Sidecar::new()?;
    for netns in [&sidecar.client, &sidecar.pod] {
        allow(netns, Cookies::Unasked)?;
    }
    Ok(sidecar)
}

/// Sends a ping with the SYN, and returns whom the application sees when its echo has come.
fn ping(netns: &Netns, source: Option<SocketAddr>, target: SocketAddr) -> Result<Seen> {
    let mut stream = connect(netns, source, target, PING)?;
    let seen = seen(&mut stream)?;
    let mut echo = [0; PING.len()];
    stream
        .read_exact(&mut echo)
        .context("the echo of what came with the SYN")?;
    ensure!(echo == PING, "{echo:?}");
    Ok(seen)
}

#[test]
fn steered() {
    scenario(|directory| {
        let sidecar = sidecar()?;
        let pod = &sidecar.pod;
        let _report = Report::start(pod, any(REPORT))?;
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        let steer = Steer::new("in", pod, &["8080"], PROXY).on(Sidecar::INTERFACE);
        let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
        for family in Family::ALL {
            let target = (Sidecar::address(family), REPORT).into();
            let seen = ping(&sidecar.client, Some(client(family)), target)?;
            ensure!(seen.accepted.ip() == client(family).ip(), "{seen:?}");
        }
        ensure!(opened(pod)? == 2, "no data came with the SYN");
        ensure!(agent.counter(Counter::Steered)? == 2, "not steered");
        Ok(())
    });
}

#[test]
fn told_by_toa() {
    scenario(|directory| {
        let sidecar = sidecar()?;
        let _report = Report::start(&sidecar.pod, any(REPORT))?;
        let _telling = telling(directory, Sidecar::networks())?;
        let _believing = believing(directory, Sidecar::networks())?;
        let _younger = Report::start(&sidecar.pod, any(REPORT + 1))?;
        for port in [REPORT, REPORT + 1] {
            for family in Family::ALL {
                let target = (Sidecar::address(family), port).into();
                let seen = ping(&sidecar.client, Some(client(family)), target)?;
                ensure!(
                    seen.accepted == client(family) && seen.peername == client(family),
                    "{} was seen as {seen:?}",
                    client(family)
                );
            }
        }
        ensure!(opened(&sidecar.pod)? == 4, "no data came with the SYN");
        Ok(())
    });
}

#[test]
fn header_on_the_syn() {
    scenario(|directory| {
        let sidecar = sidecar()?;
        let _report = Report::start(&sidecar.pod, any(HEADER))?;
        let mut config = Config::new(directory, [])?;
        config.trust.extend(Trust::sources(Sidecar::networks()));
        let unwrap = Unwrap::new(&sidecar.pod, Sidecar::INTERFACE, &["8443"]);
        config.unwrap.push(unwrap);
        let _agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let target = (Sidecar::address(family), HEADER).into();
            let header = v2(client(family), target);
            let mut stream = connect(&sidecar.client, None, target, &header)?;
            let seen = seen(&mut stream)?;
            ensure!(seen.accepted == client(family), "{seen:?}");
            stream.write_all(PING)?;
            let mut echo = [0; PING.len()];
            stream.read_exact(&mut echo)?;
            ensure!(echo == PING, "{echo:?}");
        }
        ensure!(opened(&sidecar.pod)? == 0, "a header came with the SYN");
        Ok(())
    });
}

#[test]
fn denied() {
    scenario(|directory| {
        let sidecar = sidecar()?;
        let _report = Report::start(&sidecar.pod, any(REPORT))?;
        let mut config = Config::new(directory, [])?;
        config.policy.push(Policy {
            name: "few".into(),
            ports: vec![REPORT.to_string()],
            deny: denied_clients(|family| client(family).ip()),
            ..Policy::default()
        });
        let _agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let target = (Sidecar::address(family), REPORT).into();
            let admitted = SocketAddr::new(family.client(6), 4711);
            let seen = ping(&sidecar.client, Some(admitted), target)?;
            ensure!(seen.accepted == admitted, "{seen:?}");
            // Where the kernel has seen SYNs with data vanish, it connects without data and waits for that.
            let heard = connect(&sidecar.client, Some(client(family)), target, PING).and_then(
                |mut denied| {
                    denied.set_read_timeout(Some(Limit::millis(1500).here()))?;
                    Ok(denied.read(&mut [0; 64])?)
                },
            );
            let error = heard.as_ref().err();
            let silent = error
                .and_then(|error| error.downcast_ref::<io::Error>())
                .is_some_and(|error| {
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                });
            ensure!(silent, "who is denied got {heard:?}");
        }
        ensure!(
            opened(&sidecar.pod)? == 2,
            "data of who is denied was taken"
        );
        Ok(())
    });
}
