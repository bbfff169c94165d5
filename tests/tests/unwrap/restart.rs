//! Agents that come and go while PROXY headers are taken off.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use tests::agent::records::{no_origins, none_refused};
use tests::agent::{Agent, truepeer};
use tests::clients::load::Load;
use tests::clients::raw::{LINUX, Raw};
use tests::clients::tcp::{assert_reset, connect};
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::proxy_header::with_tlv;
use tests::proxies::{any, gateway_routes, haproxy};
use tests::servers::report::Report;
use tests::topology::{Family, Gateway, Sidecar};
use tests::wait::eventually;

use crate::stage::{Established, PORT, in_pod, on_server};

const SENDER: u16 = 15001;

/// Native connections go on when `end` has taken everything away; translated ones are reset at once, and
/// the server is as it was without truepeer.
fn outlived(end: impl FnOnce(Agent, &Path) -> Result<()>) {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let before = sidecar.pod.enter(Traces::here)?;
        let _report = Report::start(&sidecar.pod, any(PORT))?;
        let mut config = in_pod(directory, &sidecar, &["8080"])?;
        config.agent.drain = Some(1);
        let agent = Agent::start(directory, config)?;
        let mut native = Vec::new();
        let mut translated = Vec::new();
        for family in Family::ALL {
            native.push(Established::new(&sidecar, family, None)?);
            translated.push(Established::new(&sidecar, family, Some(9))?);
            // From now on, the agent expects headers of this length.
            native.push(Established::new(&sidecar, family, Some(9))?);
            translated.push(Established::new(&sidecar, family, None)?);
        }
        let count = agent.counter(Counter::UnwrapTranslated)?;
        ensure!(count == 4, "{count} connections are translated");
        end(agent, directory)?;
        for connection in &mut native {
            connection.echoes()?;
        }
        for connection in &mut translated {
            connection.is_reset()?;
        }
        before.assert_unchanged(&sidecar.pod.enter(Traces::here)?)?;
        let targets = Family::ALL.map(|family| (Sidecar::address(family), PORT).into());
        Load::new(targets).run(&sidecar.client).all_exact()
    });
}

#[test]
fn agent_stopped() {
    outlived(|agent, _| {
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn agent_killed_and_detached() {
    outlived(|agent, _| {
        let config = agent.kill()?.write()?;
        let detach = truepeer(&["detach", "--config", &config.display().to_string()])?;
        ensure!(detach.status.success(), "{detach:?}");
        Ok(())
    });
}

/// A port is taken out of the configuration: only its own translated connections are reset.
#[test]
fn configuration_read_again() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _report = Report::start(&sidecar.pod, any(PORT))?;
        let agent = Agent::start(directory, in_pod(directory, &sidecar, &["8080"])?)?;
        let mut native = Established::new(&sidecar, Family::V4, None)?;
        let mut translated = Established::new(&sidecar, Family::V4, Some(9))?;
        let mut config = agent.config().clone();
        config.unwrap[0].ports = vec!["8080-8090".into()];
        agent.reload(&config)?;
        native.echoes()?;
        translated.echoes()?;
        config.unwrap[0].ports = vec!["8081".into()];
        agent.reload(&config)?;
        native.echoes()?;
        translated.is_reset()?;
        let target = (Sidecar::address(Family::V4), PORT).into();
        Load::new([target]).run(&sidecar.client).all_exact()
    });
}

/// The header has not come yet when the port is given up, and is not as long as the server was told: it never gets a part
/// of it.
fn waits(give_up: impl Fn(Agent) -> Result<Option<Agent>>) {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let _report = Report::start(&sidecar.pod, any(PORT))?;
        let mut config = in_pod(directory, &sidecar, &["8080"])?;
        config.agent.drain = Some(0);
        let agent = Agent::start(directory, config)?;
        let target = |family| SocketAddr::new(Sidecar::address(family), PORT);
        let waiting = Family::ALL.map(|family| connect(&sidecar.client, target(family)));
        let _agent = give_up(agent)?;
        for (stream, family) in waiting.into_iter().zip(Family::ALL) {
            let mut stream = stream?;
            let client = SocketAddr::new(family.client(6), 4711);
            stream.write_all(&with_tlv(client, target(family), Some(9)))?;
            assert_reset(stream, "a header to a port that was given up")?;
        }
        Load::new(Family::ALL.map(target))
            .run(&sidecar.client)
            .all_exact()
    });
}

#[test]
fn port_given_up_before_the_header() {
    waits(|agent| {
        let mut config = agent.config().clone();
        config.unwrap[0].ports = vec!["8081".into()];
        agent.reload(&config)?;
        Ok(Some(agent))
    });
}

#[test]
fn agent_stopped_before_the_header() {
    waits(|agent| {
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(None)
    });
}

/// Half-open connections of a namespace, of both families.
fn half_open(pod: &Netns) -> Result<usize> {
    // proc_pid_net(5): the fourth field is the state; 03 is SYN_RECV.
    const SYN_RECV: &str = "03";
    let tables = pod.enter(|| {
        ["tcp", "tcp6"].map(|name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")))
    });
    let mut count = 0;
    for table in tables {
        let table = table?;
        let states = table
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3));
        count += states.filter(|state| *state == SYN_RECV).count();
    }
    Ok(count)
}

/// Handshakes with another port are none of the agent's.
#[test]
fn agent_stopped_during_another_ports_handshake() {
    const OTHER: u16 = PORT + 1;
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _others = [PORT, OTHER].map(|port| Report::start(pod, any(port)));
        let agent = Agent::start(directory, in_pod(directory, &sidecar, &["8080"])?)?;
        let raw = Raw::new(&sidecar.client)?;
        for family in Family::ALL {
            let target = (Sidecar::address(family), OTHER).into();
            raw.syn((family.balancer(1), 4711).into(), target, 0x1000, &LINUX)?;
        }
        eventually("both are half open", || {
            Ok((half_open(pod)? == Family::ALL.len()).then_some(()))
        })?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        let left = half_open(pod)?;
        ensure!(left == Family::ALL.len(), "{left} are half open");
        Ok(())
    });
}

/// Killed and started again under load: no wrong answer, and what is established goes on.
#[test]
fn agent_killed_and_started() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _report = Report::start(&gateway.server, any(PORT))?;
        let options = "send-proxy-v2 proxy-v2-options unique-id";
        let routes = gateway_routes(SENDER, PORT);
        let _sender = haproxy::telling(directory, &gateway.gateway, options, &routes)?;
        let load = Load {
            connections: 100,
            concurrent: 20,
            ..Load::new(Gateway::targets(SENDER))
        };
        let mut agent = Agent::start(directory, on_server(directory, &gateway, &["8080"])?)?;
        let mut held = load.hold(&gateway.client)?;
        let (agent, outcome) = load.during(&gateway.client, |progress| {
            for _ in 0..3 {
                progress.more("with an agent")?;
                let config = agent.kill()?;
                progress.more("without an agent")?;
                agent = Agent::start(directory, config)?;
            }
            Ok(agent)
        })?;
        outcome.all_exact().context("under load")?;
        ensure!(outcome.exact > 500, "{outcome:?}");
        for connection in &mut held {
            connection.ping()?;
        }
        drop(held);
        none_refused(&agent)?;
        no_origins(&agent)
    });
}
