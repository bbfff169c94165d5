//! Proxies that are made for REDIRECT: they ask `SO_ORIGINAL_DST` where the client wanted to go.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use tests::agent::{Agent, Config, Steer};
use tests::clients::load::{Application, Connection};
use tests::host::listener::Listener;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::own::{original_dst, relay};
use tests::proxies::{any, any_of_family, any_v4};
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};

const APPLICATION: u16 = 8080;
/// The proxy's port.
const PROXY: u16 = 15001;

#[test]
fn original_destination() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _report = Report::start(pod, any(APPLICATION))?;
        let usual = direct(&sidecar)?;

        let steer = Steer::new("inbound", pod, &["8080"], PROXY).on(Sidecar::INTERFACE);
        let agent = Agent::start(directory, Config::new(directory, [steer])?)?;
        for (listen, families) in [
            (any_v4(PROXY), &[Family::V4][..]),
            (any(PROXY), &Family::ALL),
        ] {
            let _proxy = redirected(pod, listen)?;
            for family in families {
                let target = (Sidecar::address(*family), APPLICATION).into();
                for n in 0..100 {
                    through_proxy(&sidecar, n, target)?;
                }
            }
        }
        let with_truepeer = direct(&sidecar)?;
        ensure!(
            with_truepeer == usual,
            "{with_truepeer:?} instead of {usual:?}"
        );
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// The proxy connected in its own name to where the client wanted to go.
fn through_proxy(sidecar: &Sidecar, n: usize, target: SocketAddr) -> Result<()> {
    let connection = sidecar
        .client
        .enter(|| Connection::open(n, target, Application::Report))?;
    let seen = &connection.seen;
    ensure!(
        seen.local == target && seen.accepted.ip() == target.ip(),
        "{target} became {seen:?}"
    );
    Ok(())
}

/// What a proxy is told on connections to its own port, one of each family.
fn direct(sidecar: &Sidecar) -> Result<[i32; 2]> {
    let told = Family::ALL.map(|family| {
        let _proxy = redirected(&sidecar.pod, any_of_family(family, PROXY))?;
        let stream = sidecar
            .client
            .enter(|| TcpStream::connect((Sidecar::address(family), PROXY)))?;
        let said = io::read_to_string(stream)?;
        let errno = said.parse().with_context(|| format!("{said:?}"))?;
        let usual = [Errno::ENOENT, Errno::ENOPROTOOPT].map(|errno| errno as i32);
        ensure!(usual.contains(&errno), "{family:?}: {said:?}");
        Ok(errno)
    });
    let [v4, v6] = told;
    Ok([v4?, v6?])
}

/// Connects to where the client wanted to go; if there is no answer, sends the client the error number.
fn redirected(netns: &Netns, listen: SocketAddr) -> Result<Listener> {
    Listener::start(
        netns,
        listen,
        false,
        |mut client, peer| match original_dst(&client, peer) {
            Ok(destination) => relay(&client, &TcpStream::connect(destination)?),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or_default();
                client.write_all(errno.to_string().as_bytes())
            }
        },
    )
}
