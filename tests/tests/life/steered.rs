//! Connections that are steered no longer, because the agent undoes everything or is told another configuration. What the
//! application or the server answers has no way back to the proxy any more: both of the proxy's connections are ended, and nobody
//! is left waiting.

use anyhow::{Result, ensure};
use tests::agent::{Agent, Config, Steer, truepeer};
use tests::clients::load::Load;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::servers::report::Report;
use tests::topology::{Family, Gateway, Sidecar};
use tests::wait::eventually;

const APPLICATION: u16 = 8080;
/// An application that nobody steers to a proxy.
const BARE: u16 = 8081;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;

#[test]
fn agent_stopped() {
    in_a_sidecar(|agent| {
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn agent_killed_and_detached() {
    in_a_sidecar(|agent| {
        let config = agent.kill()?.write()?;
        let detach = truepeer(&["detach", "--config", &config.display().to_string()])?;
        ensure!(detach.status.success(), "{detach:?}");
        Ok(())
    });
}

#[test]
fn agent_killed_and_started_without_the_steer() {
    scenario(|directory| {
        sidecar(directory, |agent| {
            let config = without_steers(&agent.kill()?);
            Agent::start(directory, config).map(Some)
        })
    });
}

#[test]
fn steer_taken_out_of_the_configuration() {
    scenario(|directory| {
        sidecar(directory, |agent| {
            agent.reload(&without_steers(agent.config()))?;
            Ok(Some(agent))
        })
    });
}

#[test]
fn agent_of_a_gateway_stopped() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _servers = [APPLICATION, BARE].map(|port| Report::start(&gateway.server, any(port)));
        let _proxy = Proxy::gateway(&gateway.gateway, any(PROXY))?;
        let steer = Steer::new("gateway", &gateway.gateway, &["8080"], PROXY)
            .on(Gateway::FRONT)
            .answers(Gateway::BACK);
        let agent = Agent::start(directory, draining(Config::new(directory, [steer])?))?;
        let targets = Family::ALL.map(Gateway::server);
        let stopped = || {
            ensure!(agent.stop()?.success(), "the agent's exit status");
            Ok(())
        };
        let places = [&gateway.gateway, &gateway.server];
        held_until(&gateway.client, places, targets, stopped)
    });
}

/// Has what is steered in a pod end by `ends`.
fn in_a_sidecar(ends: impl FnOnce(Agent) -> Result<()>) {
    scenario(|directory| sidecar(directory, |agent| ends(agent).map(|()| None)));
}

/// Has what is steered in a pod end by `ends`, which returns the agent that still runs.
fn sidecar(
    directory: &std::path::Path,
    ends: impl FnOnce(Agent) -> Result<Option<Agent>>,
) -> Result<()> {
    let sidecar = Sidecar::new()?;
    let pod = &sidecar.pod;
    let _applications = [APPLICATION, BARE].map(|port| Report::start(pod, any(port)));
    let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
    let steer = Steer::new("inbound", pod, &["8080"], PROXY).on(Sidecar::INTERFACE);
    let agent = Agent::start(directory, draining(Config::new(directory, [steer])?))?;
    let targets = Family::ALL.map(Sidecar::address);
    let mut left = None;
    held_until(&sidecar.client, [pod], targets, || {
        left = ends(agent)?;
        Ok(())
    })
}

/// Does not wait for connections to end by themselves.
fn draining(mut config: Config) -> Config {
    config.agent.drain = Some(0);
    config
}

fn without_steers(config: &Config) -> Config {
    Config {
        steer: Vec::new(),
        ..config.clone()
    }
}

/// Holds connections to all targets until `ends` has returned: those that were steered have ended, and those that were not go on.
/// `places`: where nothing else is connected.
fn held_until<const N: usize>(
    client: &Netns,
    places: [&Netns; N],
    targets: [std::net::IpAddr; 2],
    ends: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let to = |port| {
        let load = Load::new(targets.map(|address| (address, port).into()));
        Load {
            concurrent: 20,
            ..load
        }
    };
    let mut bystanders = to(BARE).hold(client)?;
    let before = places.map(established);
    let mut steered = to(APPLICATION).hold(client)?;
    ends()?;
    for connection in &mut steered {
        connection.assert_ended()?;
    }
    for (place, before) in places.into_iter().zip(before) {
        let before = before?;
        eventually("the end of all that was steered", || {
            Ok((established(place)? == before).then_some(()))
        })?;
    }
    bystanders
        .iter_mut()
        .try_for_each(|connection| connection.ping())
}

/// How many sockets are connected in a namespace.
fn established(place: &Netns) -> Result<u64> {
    place.counter("Tcp", "CurrEstab")
}
