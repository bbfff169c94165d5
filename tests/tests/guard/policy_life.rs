//! guard: many prefixes, reloads, and policies without an agent.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Policy, Trust, truepeer};
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::connect_from;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

use crate::stage::{JUDGED, Many, PORT, Random, client, is_admitted, nested, policy, seen, target};

#[test]
fn a_hundred_thousand_prefixes() {
    const PREFIXES: usize = 100_000;
    const SAMPLES: usize = 2000;
    scenario(|directory| {
        let pod = Netns::new("pod")?;
        let _report = Report::start(&pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        // This test itself is the proxy.
        config.trust.push(Trust::uid(0));
        let few = Agent::start(directory, config)?;
        let without = few.ready_after;
        let each = |many: &Many| {
            let mut random = Random(2);
            let prefixes: Vec<_> = many.0.keys().copied().collect();
            pod.enter(|| -> Result<(Duration, usize)> {
                let start = Instant::now();
                let mut admitted = 0;
                for n in 0..SAMPLES {
                    let client = random.within(prefixes[n * prefixes.len() / SAMPLES]);
                    let is = is_admitted(client)?;
                    ensure!(is == many.allows(client), "{client}: {is}");
                    admitted += usize::from(is);
                }
                Ok((start.elapsed() / SAMPLES as u32, admitted))
            })
        };
        let many = Many::new(PREFIXES);
        let mut config = few.config().clone();
        few.stop()?;
        config.policy.push(Policy {
            name: "many".into(),
            ports: vec![PORT.to_string()],
            allow: many.texts(true),
            deny: many.texts(false),
        });
        let agent = Agent::start(directory, config.clone())?;
        let (took, admitted) = each(&many)?;
        ensure!(
            admitted > SAMPLES / 4 && admitted < SAMPLES * 3 / 4,
            "{admitted}"
        );

        // Every verdict is turned round.
        let other = Many(many.0.iter().map(|(prefix, is)| (*prefix, !is)).collect());
        config.policy[0].allow = other.texts(true);
        config.policy[0].deny = other.texts(false);
        let start = Instant::now();
        agent.reload(&config)?;
        let reloaded = start.elapsed();
        each(&other)?;
        println!(
            "{PREFIXES} prefixes: ready after {:?}, without them {without:?}; reloaded in {reloaded:?}; \
             {took:?} a connection",
            agent.ready_after
        );
        no_origins(&agent)
    });
}

#[test]
fn reloads_under_load() {
    const RELOADS: usize = 12;
    const CONNECTIONS: u64 = 1000;
    scenario(|directory| {
        let pod = Netns::new("pod")?;
        let _report = Report::start(&pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.trust.push(Trust::uid(0));
        let with_many = |number: usize| {
            let mut policy = nested();
            policy.deny.extend(Many::new(number).texts(false));
            policy
        };
        config.policy.push(with_many(0));
        let agent = Agent::start(directory, config.clone())?;
        let localhost = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
        let source = SocketAddr::new(client(Family::V4, 1), 0);
        let held = pod.enter(|| connect_from(source, localhost, 0))?;
        let (done, judged) = (AtomicBool::new(false), AtomicU64::new(0));
        let reloads = std::thread::scope(|scope| {
            let loads: Vec<_> = Family::ALL
                .into_iter()
                .map(|family| {
                    let (pod, done, judged) = (&pod, &done, &judged);
                    scope.spawn(move || {
                        pod.join()?;
                        while !done.load(Ordering::Relaxed) {
                            for (last, allowed) in JUDGED {
                                let client = client(family, last);
                                ensure!(is_admitted(client)? == allowed, "{client}: {}", !allowed);
                                judged.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            let mut reloads = 0;
            let outcome = loop {
                reloads += 1;
                config.policy[0] = with_many(reloads % 3 * 2000);
                let reloaded = agent.reload(&config);
                let is_enough = reloads >= RELOADS && judged.load(Ordering::Relaxed) > CONNECTIONS;
                if is_enough || reloaded.is_err() || loads.iter().any(|load| load.is_finished()) {
                    break reloaded.map(|()| reloads);
                }
            };
            done.store(true, Ordering::Relaxed);
            for load in loads {
                load.join().expect("no load panics")?;
            }
            outcome
        })?;
        let judged = judged.into_inner();
        println!("{reloads} reloads, {judged} connections: wrong 0");

        // A connection that was admitted goes on, even where a new one would be refused.
        config.policy[0] = policy("nobody", &[], &["0.0.0.0/0", "::/0"]);
        config.write()?;
        agent.signal(Signal::SIGHUP)?;
        eventually("nobody is admitted", || {
            let admitted = pod.enter(|| is_admitted(source.ip()))?;
            Ok((!admitted).then_some(()))
        })?;
        let mut held = BufReader::new(held);
        held.read_line(&mut String::new())?;
        held.get_mut().write_all(b"ping\n")?;
        let mut echo = String::new();
        held.read_line(&mut echo)?;
        ensure!(echo == "ping\n", "{echo:?}");
        drop(held);

        // Without policies, the agent attaches no program that judges.
        config.policy.clear();
        config.write()?;
        agent.signal(Signal::SIGHUP)?;
        eventually("everybody is admitted", || {
            Ok(pod
                .enter(|| is_admitted(client(Family::V4, 64)))?
                .then_some(()))
        })?;
        eventually("nothing judges", || {
            let status = agent.status()?.to_string();
            Ok((!status.contains("truepeer_guard")).then_some(()))
        })?;
        no_origins(&agent)
    });
}

#[test]
fn without_an_agent() {
    scenario(|directory| {
        let topology = Sidecar::new()?;
        let _report = Report::start(&topology.pod, any(PORT))?;
        let mut config = Config::new(directory, [])?;
        config.policy.push(nested());
        let agent = Agent::start(directory, config)?;
        let connect = |family, last| {
            let seen = seen(&topology, client(family, last), target(family, PORT), b"")?;
            anyhow::Ok(seen.is_some())
        };
        let config = agent.kill()?;
        for family in Family::ALL {
            ensure!(connect(family, 1)? && !connect(family, 64)?, "{family:?}");
        }
        let file = config.write()?.display().to_string();
        let status = truepeer(&["status", "-o", "json", "--config", &file])?;
        let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
        let tally = &status["policies"][0];
        ensure!(
            tally["policy"] == "nested" && tally["denied"] == 2 && tally["allowed"] == 2,
            "{status}"
        );
        let detach = truepeer(&["detach", "--config", &file])?;
        ensure!(detach.status.success(), "{detach:?}");
        for family in Family::ALL {
            ensure!(connect(family, 64)?, "{family:?}: refused by nobody");
        }
        Ok(())
    });
}
