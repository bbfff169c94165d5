//! A rule about some ports believes its senders on these only, in the kernel and in the relay.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::{Agent, Config, Trust, Unwrap, telling};
use tests::clients::tcp::{connect, seen};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::connect_from;
use tests::proxies::proxy_header::v2;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};

/// A port of each kind that a rule names; it does not name the next.
const TOA: u16 = 8080;
const HEADERS: u16 = 9000;

#[test]
fn toa_and_headers_on_other_ports() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let ports = [TOA, TOA + 1, HEADERS, HEADERS + 1];
        let _reports = ports.map(|port| Report::start(pod, any(port)));
        let _tells = telling(directory, Sidecar::networks())?;
        let mut config = Config::new(directory, [])?;
        for (says, port) in [("toa", TOA), ("proxy", HEADERS)] {
            config.trust.push(Trust {
                name: Some(says),
                source: Sidecar::networks(),
                says: vec![says],
                ports: vec![port.to_string()],
                ..Trust::default()
            });
        }
        config.unwrap = vec![Unwrap::new(pod, Sidecar::INTERFACE, &["9000-9001"])];
        let agent = Agent::start(directory, config)?;
        for family in Family::ALL {
            let named = SocketAddr::from((family.client(6), 4711));
            let target = |port| SocketAddr::from((Sidecar::address(family), port));
            let by_toa = |port| -> Result<(TcpStream, SocketAddr)> {
                let mut stream = sidecar
                    .client
                    .enter(|| connect_from(named, target(port), 0))?;
                let told = seen(&mut stream)?.accepted;
                Ok((stream, told))
            };
            let (_, told) = by_toa(TOA)?;
            ensure!(told == named, "{named} is told as {told}");
            let before = agent.counter(Counter::ToaUntrusted)?;
            let (stream, told) = by_toa(TOA + 1)?;
            ensure!(told == stream.local_addr()?, "on another port: {told}");
            ensure!(
                agent.counter(Counter::ToaUntrusted)? > before,
                "TOA on another port is not counted"
            );

            let mut stream = connect(&sidecar.client, target(HEADERS))?;
            stream.write_all(&v2(named, target(HEADERS)))?;
            let told = seen(&mut stream)?.accepted;
            ensure!(told == named, "{named} is told as {told}");
            let refused = connect(&sidecar.client, target(HEADERS + 1));
            let error = refused.err().and_then(|error| error.downcast().ok());
            let error = error.map(|error: std::io::Error| error.kind());
            ensure!(
                error == Some(ErrorKind::ConnectionRefused),
                "on another port: {error:?}"
            );
        }
        let refused = agent.counter(Counter::UnwrapUntrusted)?;
        ensure!(refused == 2, "{refused} headers were refused");
        Ok(())
    });
}
