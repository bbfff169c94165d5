//! The source of connections whose proxy speaks for a client: as configured within the proxy's own
//! namespace, the kernel's choice towards others. None fails for it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use agent_common::names::program;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::agent::{Agent, Config, Trust};
use tests::clients::load::Load;
use tests::host::cgroup::Cgroup;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::host::user::UID;
use tests::proxies::{Route, any, any_of_family, nginx};
use tests::roles;
use tests::servers::report::Report;
use tests::topology::istio::passthrough;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

const APPLICATION: u16 = 8080;
const PROXY: u16 = 15001;

/// Where a proxy connects to, and what its connections come from.
struct Way {
    family: Family,
    upstream: &'static str,
    configured: IpAddr,
    otherwise: &'static str,
}

/// The ways to the pod's own addresses, to loopback, and to another host.
fn ways() -> Vec<Way> {
    let way = |family, upstream, otherwise: &'static str| Way {
        family,
        upstream,
        configured: passthrough(family),
        otherwise,
    };
    let away = |family, upstream, otherwise: &'static str| Way {
        configured: otherwise.parse().expect("an address"),
        ..way(family, upstream, otherwise)
    };
    vec![
        way(Family::V4, "10.77.0.2:8080", "10.77.0.2"),
        way(Family::V4, "127.0.0.1:8080", "127.0.0.1"),
        way(Family::V6, "[fd77::2]:8080", "fd77::2"),
        way(Family::V6, "[::1]:8080", "::1"),
        away(Family::V4, "10.77.0.1:8080", "10.77.0.2"),
        away(Family::V6, "[fd77::1]:8080", "fd77::2"),
        // Last: it is not for every proxy.
        way(Family::V4, "[::ffff:10.77.0.2]:8080", "10.77.0.2"),
    ]
}

fn routes(ways: &[Way]) -> Result<Vec<Route>> {
    ways.iter()
        .zip(PROXY..)
        .map(|(way, port)| Ok((any_of_family(way.family, port), way.upstream.parse()?)))
        .collect()
}

/// Asserts that every client is kept on every way; returns what the connections come from.
fn sources(agent: &Agent, client: &Netns, ways: &[Way]) -> Result<Vec<IpAddr>> {
    ways.iter()
        .zip(PROXY..)
        .map(|(way, port)| {
            let target: SocketAddr = (Sidecar::address(way.family), port).into();
            let load = Load {
                connections: 100,
                concurrent: 10,
                ..Load::new([target])
            };
            load.run(client).all_kept().context(way.upstream)?;
            let held = load.hold(client)?;
            let peers = agent.peers()?;
            let seen = &held.first().context("a connection")?.seen;
            let peer = peers
                .0
                .iter()
                .find(|peer| peer.client == seen.accepted && peer.local == seen.local)
                .with_context(|| format!("no origin for {seen:?}"))?;
            Ok(peer.remote.ip())
        })
        .collect()
}

fn kernels_choice(ways: &[Way]) -> Vec<IpAddr> {
    let parse = |way: &Way| way.otherwise.parse().expect("an address");
    ways.iter().map(parse).collect()
}

/// A pod that has ::6 as one of Istio's has, and applications there and on another host.
fn pod() -> Result<(Sidecar, [Report; 2])> {
    let sidecar = Sidecar::new()?;
    sidecar.pod.ip("-6 addr add ::6/128 dev lo")?;
    let reports = [
        Report::start(&sidecar.pod, any(APPLICATION))?,
        Report::start(&sidecar.client, any(APPLICATION))?,
    ];
    Ok((sidecar, reports))
}

/// A configuration that believes this proxy, and chooses the source of its connections.
fn config(directory: &Path, proxy: Trust) -> Result<Config> {
    let mut config = Config::new(directory, [])?;
    config.trust.push(Trust {
        local_source: Family::ALL.map(passthrough).into(),
        ..proxy
    });
    Ok(config)
}

#[test]
fn as_configured() {
    scenario(|directory| {
        let (sidecar, _reports) = pod()?;
        let (client, ways) = (&sidecar.client, ways());
        let mut config = config(directory, Trust::uid(UID).reach("host"))?;
        let agent = Agent::start(directory, config.clone())?;
        let program = Path::new(env!("CARGO_BIN_EXE_playground"));
        let _proxy = roles::proxy(directory, &sidecar.pod, program, &routes(&ways)?)?;
        let seen = sources(&agent, client, &ways)?;
        let configured: Vec<_> = ways.iter().map(|way| way.configured).collect();
        ensure!(seen == configured, "{seen:?}");

        // A namespace that lets everybody bind any address does not tell which are local.
        for key in ["net/ipv4/ip_nonlocal_bind", "net/ipv6/ip_nonlocal_bind"] {
            sidecar.pod.set_sysctl(key, "1")?;
        }
        let seen = sources(&agent, client, &ways)?;
        ensure!(seen == kernels_choice(&ways), "{seen:?}");
        for key in ["net/ipv4/ip_nonlocal_bind", "net/ipv6/ip_nonlocal_bind"] {
            sidecar.pod.set_sysctl(key, "0")?;
        }

        // An address that is nowhere local cannot be a source.
        sidecar.pod.ip("-6 addr del ::6/128 dev lo")?;
        let seen = sources(&agent, client, &ways)?;
        for (way, seen) in ways.iter().zip(seen) {
            let expected = match way.family {
                Family::V4 => way.configured,
                Family::V6 => way.otherwise.parse()?,
            };
            ensure!(seen == expected, "{}: {seen}", way.upstream);
        }

        ensure!(is_attached(&agent)?, "{}", agent.status()?);
        config.trust[0].local_source.clear();
        // They would stay to refuse clients whom an application cannot express.
        config.reveal.inexpressible = Some("pass");
        config.write()?;
        agent.signal(Signal::SIGHUP)?;
        eventually("the kernel chooses", || {
            Ok((sources(&agent, client, &ways)? == kernels_choice(&ways)).then_some(()))
        })?;
        ensure!(!is_attached(&agent)?, "{}", agent.status()?);
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// Whether the programs are there that choose sources.
fn is_attached(agent: &Agent) -> Result<bool> {
    let status = agent.status()?.to_string();
    let [v4, v6] = [program::SOURCE4, program::SOURCE6].map(|name| status.contains(name));
    ensure!(v4 == v6, "{status}");
    Ok(v4)
}

/// nginx runs as root, whose sockets can bind any address.
#[test]
fn a_proxy_of_root() {
    scenario(|directory| {
        let (sidecar, _reports) = pod()?;
        let mut ways = ways();
        // nginx does not bind to a mapped address.
        ways.pop();
        let cgroup = Cgroup::new("proxy")?;
        let config = config(directory, Trust::cgroup(cgroup.path()).reach("host"))?;
        let agent = Agent::start(directory, config)?;
        let proxy = cgroup.run(|| nginx::transparent(directory, &sidecar.pod, &routes(&ways)?))?;
        let seen = sources(&agent, &sidecar.client, &ways)?;
        ensure!(seen == kernels_choice(&ways), "{seen:?}");
        proxy.stop()?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
