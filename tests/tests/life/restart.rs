//! Proxies and agents that come and go under load.
//!
//! Envoy connects with the client's address and a port of its own. So the application sees whether a
//! connection came through the proxy: with the client's port it came directly.

use std::path::Path;
use std::time::{Duration, Instant};

use agent_common::Counter;
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::agent::records::{known, no_origins};
use tests::agent::version::KNOWN;
use tests::agent::{Agent, Config, Steer, binary, truepeer};
use tests::clients::load::{Load, Outcome};
use tests::host::process::Process;
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::own::Proxy;
use tests::proxies::{any, envoy};
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::{Limit, eventually};

const APPLICATION: u16 = 8080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;
/// How long an agent may take to end that drains for a second.
const ENDS: Limit = Limit::secs(3);

/// A pod with an application and an agent; the proxy comes and goes.
struct Stage<'a> {
    directory: &'a Path,
    sidecar: Sidecar,
    before: Traces,
    _application: Report,
}

impl<'a> Stage<'a> {
    fn new(directory: &'a Path) -> Result<Self> {
        let sidecar = Sidecar::new()?;
        Ok(Self {
            directory,
            before: sidecar.pod.enter(Traces::here)?,
            _application: Report::start(&sidecar.pod, any(APPLICATION))?,
            sidecar,
        })
    }

    fn config(&self) -> Result<Config> {
        let steer = Steer::new("inbound", &self.sidecar.pod, &["8080"], PROXY);
        Config::new(self.directory, [steer.on(Sidecar::INTERFACE)])
    }

    fn envoy(&self) -> Result<Process> {
        envoy::transparent(self.directory, &self.sidecar.pod, PROXY, MARK)
    }

    /// Connections of both families.
    fn load(&self) -> Load {
        Load::new(Family::ALL.map(|family| (Sidecar::address(family), APPLICATION).into()))
    }

    fn all_through_proxy(&self) -> Result<()> {
        let outcome = self.load().run(&self.sidecar.client);
        outcome.all_kept()?;
        ensure!(outcome.exact == 0, "not all through the proxy: {outcome:?}");
        Ok(())
    }

    fn all_direct(&self) -> Result<()> {
        self.load().run(&self.sidecar.client).all_exact()
    }

    /// Runs `body` while connections are made all the time; what became of them.
    fn under_load<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<(T, Outcome)> {
        let load = Load {
            connections: 100,
            concurrent: 20,
            ..self.load()
        };
        load.during(&self.sidecar.client, |_| body())
    }

    /// Nothing of truepeer is left in the pod, and connections go to the application.
    fn as_before(&self) -> Result<()> {
        self.before
            .assert_unchanged(&self.sidecar.pod.enter(Traces::here)?)?;
        self.all_direct()
    }
}

#[test]
fn proxy_killed_and_restarted() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let agent = Agent::start(directory, stage.config()?)?;
        let mut envoy = stage.envoy()?;
        stage.all_through_proxy()?;
        let (_envoy, outcome) = stage.under_load(|| {
            for _ in 0..3 {
                envoy.kill()?;
                // Connections go on as if truepeer were absent, and their clients are unknown rather than wrong.
                let passed = agent.counter(Counter::NoListener)?;
                stage.all_direct()?;
                let load = stage.load();
                let direct = load.hold(&stage.sidecar.client)?;
                let peers = agent.peers()?;
                for connection in &direct {
                    let origin = peers.find(connection.target, connection.client);
                    ensure!(origin.is_none(), "a connection past the proxy: {origin:?}");
                }
                let passed = agent.counter(Counter::NoListener)? - passed;
                let made = (load.connections + direct.len()) as u64;
                ensure!(
                    passed >= made,
                    "{passed} of {made} connections found no listener"
                );
                envoy = stage.envoy()?;
                stage.all_through_proxy()?;
            }
            Ok(envoy)
        })?;
        // Those that were in the killed proxy broke; none came from another address.
        ensure!(outcome.lost == 0, "{outcome:?}");
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        stage.as_before()
    });
}

#[test]
fn agent_stopped() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let _envoy = stage.envoy()?;
        let mut config = stage.config()?;
        // The agent ends because no connection is open any more, and not because it gives up.
        config.agent.drain = Some(3600);
        let mut agent = Agent::start(directory, config)?;
        let mut held = stage.load().hold(&stage.sidecar.client)?;
        let (status, outcome) = stage.under_load(|| {
            agent.signal(Signal::SIGTERM)?;
            eventually("new connections pass the proxy", || {
                Ok(stage.all_direct().is_ok().then_some(()))
            })?;
            ensure!(agent.exited()?.is_none(), "connections are in progress");
            for connection in &mut held {
                connection.ping()?;
            }
            drop(held);
            agent.stop()
        })?;
        ensure!(status.success(), "the agent's exit status");
        outcome.all_kept()?;
        ensure!(outcome.exact > 0 && outcome.address_only > 0, "{outcome:?}");
        stage.as_before()
    });
}

#[test]
fn agent_stopped_with_connections_that_never_end() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let _envoy = stage.envoy()?;
        let mut config = stage.config()?;
        config.agent.drain = Some(1);
        let agent = Agent::start(directory, config)?;
        let _held = stage.load().hold(&stage.sidecar.client)?;
        let start = Instant::now();
        ensure!(agent.stop()?.success(), "the agent's exit status");
        let took = start.elapsed();
        ensure!(
            took >= Duration::from_secs(1) && took < ENDS.here(),
            "a drain of one second took {took:?}; it may take less than {ENDS}"
        );
        stage.as_before()
    });
}

#[test]
fn agent_killed() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let envoy = stage.envoy()?;
        let agent = Agent::start(directory, stage.config()?)?;
        let mut held = stage.load().hold(&stage.sidecar.client)?;
        let (config, outcome) = stage.under_load(|| {
            let config = agent.kill()?;
            for connection in &mut held {
                connection.ping()?;
            }
            stage.all_through_proxy()?;
            Ok(config)
        })?;
        outcome.all_kept()?;
        // Without an agent, a proxy that restarts is found too.
        envoy.stop()?;
        stage.all_direct()?;
        drop(held);
        let _envoy = stage.envoy()?;
        stage.all_through_proxy()?;

        // The next start takes over, with what was learnt meanwhile.
        let mut held = stage.load().hold(&stage.sidecar.client)?;
        let (agent, outcome) = stage.under_load(|| Agent::start(directory, config))?;
        outcome.all_kept()?;
        ensure!(outcome.exact == 0, "not all through the proxy: {outcome:?}");
        let peers = agent.peers()?;
        for connection in &mut held {
            connection.ping()?;
            known(&peers, connection)?;
        }
        drop(held);
        no_origins(&agent)?;

        // `detach` cleans up after a crash.
        let config = agent.kill()?.write()?;
        let detach = truepeer(&["detach", "--config", &config.display().to_string()])?;
        ensure!(detach.status.success(), "{detach:?}");
        stage.as_before()
    });
}

/// The proxy's own connections never come back to it, though the programs of two versions do not share their maps.
#[test]
fn another_version_started() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let _proxy = Proxy::sidecar(&stage.sidecar.pod, any(PROXY), MARK)?;
        let other = KNOWN.another_version(directory)?;
        let agent = Agent::start(directory, stage.config()?)?;
        let (agent, outcome) = stage.under_load(|| {
            let mut agent = agent;
            for version in [&other, &binary()?, &other] {
                agent = Agent::start_binary(version, directory, agent.kill()?)?;
            }
            Ok(agent)
        })?;
        outcome.all_kept()?;
        ensure!(outcome.exact == 0, "not all through the proxy: {outcome:?}");
        ensure!(agent.stop()?.success(), "the agent's exit status");
        stage.as_before()
    });
}
