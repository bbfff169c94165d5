//! Whoever reads an agent's state while it reloads gets an answer: no reader falls between the old and the new.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use tests::agent::{
    Agent, Carry, CarryToa, Config, Policy, Relay, Reveal, Steer, Trust, Unwrap, truepeer,
};
use tests::host::cgroup::Cgroup;
use tests::host::scenario;
use tests::proxies::any_v4;
use tests::topology::{Family, Sidecar};

/// How often each configuration follows another.
const ROUNDS: usize = 3;

/// Configurations, each of which has the agent attach, detach or replace something else than the one before.
fn configurations(base: &Config, topology: &Sidecar, cgroups: &[Cgroup; 2]) -> Vec<Config> {
    let pod = &topology.pod;
    let with = |change: &dyn Fn(&mut Config)| {
        let mut config = base.clone();
        change(&mut config);
        config
    };
    let policies = |config: &mut Config| {
        config.policy.push(Policy {
            name: "guests".into(),
            ports: vec!["8080".into()],
            deny: vec!["203.0.113.0/24".into(), "2001:db8:c::/64".into()],
            ..Policy::default()
        });
    };
    let trust = |config: &mut Config| {
        config.trust.push(Trust {
            local_source: vec![Family::V4.localhost()],
            ..Trust::uid(1337)
        });
        config.trust.push(Trust::cgroup(cgroups[0].path()));
        config.trust.extend(Trust::sources(["10.77.0.0/24"]));
    };
    let steer = |config: &mut Config| {
        config.steer = vec![
            Steer::new("interface", pod, &["8080"], 15006).on(Sidecar::INTERFACE),
            Steer::new("namespace", pod, &["9000-9099"], 15006),
        ];
    };
    let unwrap = |config: &mut Config| {
        config.trust.extend(Trust::sources(["10.77.0.0/24"]));
        let unwrap = Unwrap::new(pod, Sidecar::INTERFACE, &["8000"]);
        config.unwrap.push(unwrap);
    };
    let carry = |config: &mut Config| {
        config.trust.push(Trust::uid(1337).reach("carry"));
        config.carry = Some(Carry {
            toa: CarryToa {
                to: vec!["10.77.0.0/24".into()],
                ..CarryToa::default()
            },
            ..Carry::default()
        });
    };
    let relay = |config: &mut Config| {
        config.trust.extend(Trust::sources(["10.77.0.0/24"]));
        let upstream = (Family::V4.localhost(), 8080).into();
        let relay = Relay::proxy(pod, any_v4(9000), upstream, "reveal");
        config.relay.push(relay);
    };
    let revealed_to = |cgroup: &Cgroup| Reveal {
        cgroups: vec![cgroup.path()],
        ..Reveal::default()
    };
    vec![
        with(&policies),
        with(&trust),
        with(&|config| config.reveal = revealed_to(&cgroups[0])),
        with(&|config| config.reveal = revealed_to(&cgroups[1])),
        with(&steer),
        with(&unwrap),
        with(&carry),
        with(&relay),
        with(&|config| {
            policies(config);
            steer(config);
            unwrap(config);
            carry(config);
        }),
        with(&|_| {}),
    ]
}

/// How one way of reading has gone.
#[derive(Debug, Default)]
struct Readings {
    all: usize,
    failed: usize,
    /// Why the first of them failed.
    example: Option<String>,
}

impl Readings {
    /// Reads until it is over, without a pause.
    fn until(is_over: &AtomicBool, read: impl Fn() -> Result<()>) -> Self {
        let mut readings = Self::default();
        while !is_over.load(Ordering::Relaxed) {
            readings.all += 1;
            if let Err(error) = read() {
                readings.failed += 1;
                readings.example.get_or_insert(format!("{error:#}"));
            }
        }
        readings
    }
}

/// Runs a command, which has to succeed.
fn command(arguments: &[&str]) -> Result<()> {
    let output = truepeer(arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    Ok(())
}

/// A file with the agent's configuration, but for the socket, where nobody answers: what is pinned is read instead.
fn of_pins_alone(directory: &Path, config: &Config) -> Result<String> {
    let mut config = config.clone();
    config.agent.socket = directory.join("nobody/truepeer.sock");
    Ok(config.write()?.display().to_string())
}

#[test]
fn state_is_read_while_reloads_replace_every_pin() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let cgroups = [Cgroup::new("one")?, Cgroup::new("other")?];
        let base = Config::new(directory, [])?;
        let agent = Agent::start(directory, base.clone())?;
        let socket = base.agent.socket.display().to_string();
        let pins = of_pins_alone(directory, &base)?;
        let paths = ["/v1/status", "/v1/peers", "/metrics"];
        let commands = [
            ["status", "--socket", &socket],
            ["peers", "--socket", &socket],
            ["status", "--config", &pins],
            ["peers", "--config", &pins],
        ];
        let is_over = AtomicBool::new(false);
        let (reloaded, all) = thread::scope(|scope| {
            let (agent, is_over) = (&agent, &is_over);
            let by_api = paths.map(|path| {
                let ask = move || agent.answer(path).map(drop);
                (
                    path.to_owned(),
                    scope.spawn(move || Readings::until(is_over, ask)),
                )
            });
            let by_command = commands.map(|arguments| {
                let run = move || command(&arguments);
                let name = arguments[..2].join(" ");
                (name, scope.spawn(move || Readings::until(is_over, run)))
            });
            let configurations = configurations(&base, &topology, &cgroups);
            let mut all = configurations
                .iter()
                .cycle()
                .take(ROUNDS * configurations.len());
            let reloaded = all.try_for_each(|config| agent.reload(config));
            is_over.store(true, Ordering::Relaxed);
            let readers = by_api.into_iter().chain(by_command);
            let end = |(name, reader): (_, thread::ScopedJoinHandle<'_, _>)| {
                (name, reader.join().expect("no reader panics"))
            };
            (
                reloaded,
                readers.map(end).collect::<Vec<(String, Readings)>>(),
            )
        });
        reloaded?;
        for (name, readings) in &all {
            println!("{name}: {} of {} failed", readings.failed, readings.all);
            ensure!(readings.all > ROUNDS, "{name}: {readings:?}");
        }
        let failed: Vec<_> = all.iter().filter(|(_, r)| r.failed > 0).collect();
        ensure!(failed.is_empty(), "{failed:#?}");
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
