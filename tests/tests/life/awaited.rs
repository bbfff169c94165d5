//! What the configuration names and the host does not have yet is waited for, with one warning.

use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result, ensure};
use tests::agent::{Agent, Config, Relay, Steer, Trust, truepeer};
use tests::clients::load::Load;
use tests::host::cgroup::Cgroup;
use tests::host::scenario;
use tests::proxies::own::Proxy;
use tests::proxies::{any, local_routes, nginx};
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::{Limit, eventually, within};

const APPLICATION: u16 = 8080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;
/// Where the relay listens.
const RELAY: u16 = 9000;
/// Where the proxy that binds listens, one port for each family.
const BINDING: u16 = 15001;
/// A key of signed TOA.
const KEY: &str = "000102030405060708090a0b0c0d0e0f";

/// What the agent waits for.
fn waiting(agent: &Agent) -> Result<Vec<String>> {
    let status = agent.status()?;
    let waiting = status["agent"]["waiting"].as_array().context("waiting")?;
    let words = waiting.iter().filter_map(|word| word.as_str());
    Ok(words.map(str::to_owned).collect())
}

/// Waits until the agent waits for what these words name, and for nothing else.
fn waits_for(agent: &Agent, words: &[&str]) -> Result<()> {
    eventually(&format!("the agent waits for {words:?} only"), || {
        let waiting = waiting(agent)?;
        let is_named = |(text, word): (&String, &&str)| text.contains(*word);
        let all = waiting.len() == words.len() && waiting.iter().zip(words).all(is_named);
        Ok(all.then_some(()))
    })
}

#[test]
fn namespace_interface_cgroup_and_keys() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        sidecar.unplug()?;
        let pod = &sidecar.pod;
        let _application = Report::start(pod, any(APPLICATION))?;
        let _proxy = Proxy::sidecar(pod, any(PROXY), MARK)?;
        let late = directory.join("late");
        let mut steer = Steer::new("in", pod, &["8080"], PROXY).on(Sidecar::INTERFACE);
        steer.netns = Some(late.clone());
        let cgroup = Cgroup::new("late")?;
        let path = cgroup.path();
        drop(cgroup);
        let mut config = Config::new(directory, [steer])?;
        config.agent.drain = Some(0);
        config.trust.push(Trust::cgroup(path.clone()));
        config.trust.extend(Trust::signers(["192.0.2.0/24"]));
        config
            .trust
            .extend(Trust::saying(&["proxy"], ["198.51.100.0/24"]));
        let keys = directory.join("keys");
        config.toa.keys = Some(keys.clone());
        let upstream = (Family::V4.localhost(), APPLICATION).into();
        let mut relay = Relay::proxy(pod, any(RELAY), upstream, "reveal");
        relay.netns.clone_from(&late);
        config.relay.push(relay);

        let file = config.write()?.display().to_string();
        let said = truepeer(&["config", "check", &file])?;
        ensure!(said.status.success(), "config check fails: {said:?}");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        for word in ["late", &path, "keys"] {
            ensure!(said.contains(word), "no {word} in {said}");
        }
        let agent = Agent::start(directory, config)?;
        waits_for(&agent, &["late", &path, "keys"])?;
        ensure!(
            agent.answer("/readyz")?.contains("waiting for the keys"),
            "readyz"
        );
        ensure!(agent.metric("truepeer_waiting")? == 3, "the metric");

        symlink(pod.path(), &late)?;
        waits_for(&agent, &["eth0", &path, "keys"])?;
        sidecar.plug_in()?;
        std::fs::write(&keys, KEY)?;
        waits_for(&agent, &[&path])?;
        let cgroup = Cgroup::new("late")?;
        ensure!(cgroup.path() == path, "another path");
        waits_for(&agent, &[])?;

        let load =
            Load::new(Family::ALL.map(|family| (Sidecar::address(family), APPLICATION).into()));
        let outcome = load.run(&sidecar.client);
        outcome.all_kept()?;
        ensure!(outcome.exact == 0, "not all through the proxy: {outcome:?}");
        eventually("the relay listens", || {
            Ok(pod.listens(any(RELAY))?.then_some(()))
        })?;
        let log = agent.log()?;
        for word in ["late", "eth0", &path, "keys"] {
            let warnings = log.lines().filter(|line| {
                line.contains("waiting for it") && line.contains(word) && line.contains("WARN")
            });
            ensure!(warnings.count() >= 1, "no warning of {word} in {log}");
        }
        let warnings = log.matches("waiting for it").count();
        ensure!(warnings == 4, "{warnings} warnings in {log}");
        Ok(())
    });
}

/// How long trust and reveal may take to follow a service that restarts: less than it takes to start.
const AT_ONCE: Limit = Limit::secs(1);

#[test]
fn a_service_that_restarts() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let routes = local_routes(BINDING, APPLICATION);
        let cgroup = Cgroup::new("service")?;
        let path = cgroup.path();
        drop(cgroup);
        let mut config = Config::new(directory, [])?;
        config.trust.push(Trust::cgroup(path.clone()));
        config.reveal.cgroups = vec![path.clone()];
        let agent = Agent::start(directory, config)?;
        for restart in 0..3 {
            let cgroup = Cgroup::new("service")?;
            // Nobody waits for truepeer: it follows within the time that a service takes to start.
            within(AT_ONCE, "the new cgroup is known", || {
                let status = agent.status()?;
                Ok(status
                    .to_string()
                    .contains(&format!("cgroup {path}"))
                    .then_some(()))
            })?;
            let (_application, proxy) = cgroup.run(|| {
                let application = Report::start(pod, any(APPLICATION))?;
                Ok((application, nginx::transparent(directory, pod, &routes)?))
            })?;
            for (family, port) in Family::ALL.into_iter().zip(BINDING..) {
                let load = Load::new([(Sidecar::address(family), port).into()]);
                let outcome = load.run(&sidecar.client);
                outcome
                    .all_kept()
                    .with_context(|| format!("after {restart} restarts"))?;
            }
            proxy.stop()?;
        }
        let log = agent.log()?;
        ensure!(!log.contains("ERROR"), "an error in {log}");
        Ok(())
    });
}
