//! Another agent follows one that was killed: another version, or one with another configuration. Each connection goes on
//! byte by byte, or is reset at both ends.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use tests::agent::version::{KNOWN, NEEDED};
use tests::agent::{Agent, Config, binary};
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use crate::stage::{Established, PORT, in_pod};

/// Connections of both families.
struct Connections {
    native: Vec<Established>,
    translated: Vec<Established>,
}

impl Connections {
    fn new(sidecar: &Sidecar) -> Result<Self> {
        let (mut native, mut translated) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            // What the agent expects next is as long as the last.
            Established::new(sidecar, family, None)?;
            native.push(Established::new(sidecar, family, None)?);
            translated.push(Established::new(sidecar, family, Some(9))?);
        }
        Ok(Self { native, translated })
    }

    fn all_go_on(&mut self) -> Result<()> {
        let mut all = self.native.iter_mut().chain(&mut self.translated);
        all.try_for_each(Established::echoes)
    }

    /// Those that are translated end, and only those.
    fn translated_are_reset(&mut self) -> Result<()> {
        let reset = self
            .translated
            .iter_mut()
            .try_for_each(Established::is_reset);
        reset.context("translated")?;
        let on = self.native.iter_mut().try_for_each(Established::echoes);
        on.context("native")
    }
}

/// An agent is killed; `follows` starts another, or does something else, with its configuration.
fn killed(follows: impl FnOnce(Config, &Path, &mut Connections, &Sidecar) -> Result<()>) {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let before = sidecar.pod.enter(Traces::here)?;
        let _report = Report::start(&sidecar.pod, any(PORT))?;
        let mut config = in_pod(directory, &sidecar, &["8080"])?;
        config.agent.drain = Some(1);
        let agent = Agent::start(directory, config)?;
        let mut connections = Connections::new(&sidecar)?;
        connections.all_go_on()?;
        follows(agent.kill()?, directory, &mut connections, &sidecar)?;
        before.assert_unchanged(&sidecar.pod.enter(Traces::here)?)
    });
}

#[test]
fn other_origins() {
    killed(|mut config, directory, connections, sidecar| {
        config.agent.origins = Some(4096);
        let agent = Agent::start(directory, config)?;
        connections.all_go_on()?;
        Connections::new(sidecar)?.all_go_on()?;
        agent.stop().map(drop)
    });
}

#[test]
fn no_section() {
    killed(|mut config, directory, connections, _| {
        config.unwrap.clear();
        let agent = Agent::start(directory, config)?;
        connections.translated_are_reset()?;
        agent.stop().map(drop)
    });
}

#[test]
fn a_version_that_knows_other_things() {
    killed(|config, directory, connections, sidecar| {
        let other = KNOWN.another_version(directory)?;
        let agent = Agent::start_binary(&other, directory, config)?;
        connections.all_go_on()?;
        let mut later = Connections::new(sidecar)?;
        let agent = Agent::start(directory, agent.kill()?)?;
        connections.all_go_on()?;
        later.all_go_on()?;
        agent.stop().map(drop)
    });
}

#[test]
fn a_version_that_translates_otherwise() {
    killed(|config, directory, connections, sidecar| {
        let other = NEEDED.another_version(directory)?;
        let agent = Agent::start_binary(&other, directory, config)?;
        connections.translated_are_reset()?;
        let mut later = Connections::new(sidecar)?;
        let agent = Agent::start(directory, agent.kill()?)?;
        later.translated_are_reset()?;
        Connections::new(sidecar)?.all_go_on()?;
        agent.stop().map(drop)
    });
}

#[test]
fn detached_by_another_version() {
    killed(|config, directory, connections, _| {
        let other = NEEDED.another_version(directory)?;
        let config = config.write()?;
        let detach = std::process::Command::new(other)
            .args(["detach", "--config"])
            .arg(config)
            .output()?;
        ensure!(detach.status.success(), "{detach:?}");
        connections.translated_are_reset()
    });
}

/// Newer and older follow each other while connections come and go, each with a header of another length than the last:
/// connections may be reset, but nobody reads a wrong byte or sees a wrong client.
#[test]
fn versions_that_follow_each_other_under_load() {
    for field in [KNOWN, NEEDED] {
        scenario(|directory| {
            let sidecar = Sidecar::new()?;
            let _report = Report::start(&sidecar.pod, any(PORT))?;
            let mut config = in_pod(directory, &sidecar, &["8080"])?;
            config.agent.drain = Some(1);
            let other = field.another_version(directory)?;
            let agent = Agent::start(directory, config)?;
            let (is_done, good) = (AtomicBool::new(false), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..4)
                    .map(|worker| {
                        let (sidecar, is_done, good) = (&sidecar, &is_done, &good);
                        let family = Family::ALL[worker % 2];
                        scope.spawn(move || come_and_go(sidecar, family, is_done, good))
                    })
                    .collect();
                let last = take_turns(agent, directory, &other, &good);
                is_done.store(true, Ordering::Relaxed);
                for worker in workers {
                    worker.join().expect("no worker panics")?;
                }
                last?.stop().map(drop)
            })
        });
    }
}

/// Kills an agent and starts the other version, and the other way round, while connections come and go.
fn take_turns(
    mut agent: Agent,
    directory: &Path,
    other: &Path,
    good: &AtomicUsize,
) -> Result<Agent> {
    let this = binary()?;
    for version in [other, &this, other, &this] {
        agent = Agent::start_binary(version, directory, agent.kill()?)?;
        let before = good.load(Ordering::Relaxed);
        eventually("connections come and go", || {
            Ok((good.load(Ordering::Relaxed) > before + 100).then_some(()))
        })?;
    }
    Ok(agent)
}

/// Opens connections until it is done, counts those that are good, and fails when one is neither good nor reset.
fn come_and_go(
    sidecar: &Sidecar,
    family: Family,
    is_done: &AtomicBool,
    good: &AtomicUsize,
) -> Result<()> {
    for n in 0.. {
        if is_done.load(Ordering::Relaxed) {
            break;
        }
        let opened = Established::open(sidecar, family, Some(n % 7 * 5));
        let used = opened.and_then(|(mut connection, seen)| {
            (0..3).try_for_each(|_| connection.echoes())?;
            Ok((seen.accepted, connection.sender()?))
        });
        match used {
            Ok((seen, _)) if seen == Established::client(family) => {
                good.fetch_add(1, Ordering::Relaxed);
            }
            // What the agent before knew went with it: the client is unknown.
            Ok((seen, sender)) => ensure!(seen == sender, "{seen} instead of {sender}"),
            Err(error) => {
                use ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset};
                let kind = error
                    .downcast_ref::<std::io::Error>()
                    .map(std::io::Error::kind);
                let is_reset =
                    matches!(kind, Some(BrokenPipe | ConnectionRefused | ConnectionReset));
                ensure!(is_reset, "{error:#}");
            }
        }
    }
    Ok(())
}
