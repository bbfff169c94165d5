//! A local proxy that binds to an IPv6 client and connects to an application with an IPv4 socket, which cannot be told.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use agent_common::Counter;
use anyhow::{Result, ensure};
use nix::errno::Errno;
use tests::agent::{Agent, Config, Reveal, Trust};
use tests::clients::tcp::seen;
use tests::host::kernel;
use tests::host::scenario;
use tests::proxies::own::connect_from;
use tests::proxies::{any, any_v4};
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

/// Of an application with an IPv4 socket; the next port is of one with a dual-stack socket.
const PORT: u16 = 8080;

fn agent(directory: &Path, inexpressible: Option<&'static str>) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.push(Trust::uid(0));
    config.reveal = Reveal {
        inexpressible,
        ..Reveal::default()
    };
    Agent::start(directory, config)
}

/// An IPv4 address as a dual-stack socket connects to it.
fn mapped(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address.to_ipv6_mapped(), port).into()
}

#[test]
fn is_refused_or_passes() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _reports = [
            Report::start(pod, any_v4(PORT))?,
            Report::start(pod, any(PORT + 1))?,
        ];
        let client = SocketAddr::from((Family::V6.client(6), 4711));
        let v4_client = SocketAddr::from((Family::V4.client(6), 4711));
        let own = match Sidecar::address(Family::V4) {
            std::net::IpAddr::V4(own) => own,
            other => anyhow::bail!("{other}"),
        };
        let connect =
            |client, address, port| pod.enter(|| connect_from(client, mapped(address, port), 0));
        {
            let agent = agent(directory, None)?;
            // The kernel chooses whether the pod's own address is bound, unless the socket is truly transparent, as root's.
            let refused = connect(client, Ipv4Addr::LOCALHOST, PORT);
            let error = refused.err().and_then(|error| error.raw_os_error());
            let expected = if kernel::is_at_least(6, 1)? {
                Errno::EAFNOSUPPORT
            } else {
                Errno::EPERM
            };
            ensure!(error == Some(expected as i32), "{error:?}");
            ensure!(agent.counter(Counter::BindInexpressible)? == 1, "counted");
            let line = eventually("the refusal is logged", || Ok(agent.access_log()?.pop()))?;
            ensure!(
                line["refused"] == "inexpressible"
                    && line["client"] == client.to_string()
                    && line["evidence"] == "bind",
                "{line}"
            );
            // What can be told is told.
            for (client, port) in [(v4_client, PORT), (client, PORT + 1), (v4_client, PORT + 1)] {
                for address in [Ipv4Addr::LOCALHOST, own] {
                    let told = seen(&mut connect(client, address, port)?)?.accepted;
                    ensure!(told == client, "{client} on port {port} is told as {told}");
                }
            }
        }
        let agent = agent(directory, Some("pass"))?;
        let told = seen(&mut connect(client, Ipv4Addr::LOCALHOST, PORT)?)?.accepted;
        ensure!(told.ip() == Ipv4Addr::LOCALHOST, "told as {told}");
        ensure!(agent.counter(Counter::BindInexpressible)? == 0, "counted");
        ensure!(
            agent.counter(Counter::RevealInexpressible)? > 0,
            "not counted"
        );
        Ok(())
    });
}
