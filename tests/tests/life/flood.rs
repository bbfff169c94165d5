//! Many refused connections at once.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::records::observed;
use tests::agent::{Agent, Config, Policy, Steer};
use tests::host::scenario;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

const SERVICE: u16 = 8080;
const LISTENER: u16 = 15006;
const REFUSED: u64 = 4000;
/// How many refused connections the access log shows at once, and how many in each further second.
const BURST: u64 = 1000;
const RATE: u64 = 100;

/// Sends a SYN from an address that is denied, and waits for nothing, above all not until the kernel repeats it.
fn knock(n: u64) -> Result<()> {
    let socket = Socket::new(
        Domain::IPV4,
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    let denied = Family::V4.client(n as usize % 100);
    socket.bind(&SocketAddr::new(denied, 0).into())?;
    let service = SocketAddr::new(Sidecar::address(Family::V4), SERVICE);
    match socket.connect(&service.into()) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(()),
        connected => Err(connected
            .err()
            .unwrap_or(io::ErrorKind::Other.into())
            .into()),
    }
}

/// All are counted, the log grows by some of them, and those who are welcome notice nothing.
#[test]
fn refused_connections_do_not_fill_the_access_log() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let (pod, client) = (&topology.pod, &topology.client);
        let _report = Report::start(pod, any(LISTENER))?;
        let service = SERVICE.to_string();
        let steer = Steer::new("inbound", pod, &[&service], LISTENER);
        let mut config = Config::new(directory, [steer])?;
        config.policy = vec![Policy {
            name: "guests".into(),
            ports: vec![service],
            deny: vec!["203.0.113.0/24".into()],
            ..Policy::default()
        }];
        let agent = Agent::start(directory, config)?;
        let start = Instant::now();
        client.enter(|| (0..REFUSED).try_for_each(knock))?;
        let denied = agent.tally("guests")?.1;
        ensure!(denied == REFUSED, "{denied} were refused");

        let lines = eventually("the refused are logged, or counted", || {
            let omitted = agent.metric("truepeer_access_log_omissions_total")?;
            let lines = agent.access_log()?.len() as u64;
            Ok((lines + omitted == REFUSED).then_some(lines))
        })?;
        // The agent allows a burst, and then a rate.
        let most = BURST + start.elapsed().as_millis() as u64 * RATE / 1000 + 1;
        ensure!(
            (BURST / 2..=most).contains(&lines),
            "{lines} lines, of {most}"
        );
        observed(
            &agent,
            client,
            &[(Sidecar::address(Family::V6), SERVICE).into()],
        )?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
