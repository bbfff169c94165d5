//! What the CNI plugin remembers of pods, without an agent, through restarts, and of pods that are gone.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::agent::{Agent, Config, Steer};
use tests::cluster::cni::{
    IFNAME, Node, Pod, Runtime, Serving, all_direct, all_through_proxy, code, nothing_left,
    sidecars, targets,
};
use tests::host::netns::run;
use tests::host::scenario;
use tests::host::traces::Traces;
use tests::variables::usual;
use tests::wait::eventually;

#[test]
fn without_an_agent_pods_start_unless_they_must_not() {
    scenario(|directory| {
        let node = Node::new()?;
        let config = Config::new(directory, [])?;
        let plugins = Runtime::ptp(directory);
        let open = Runtime::new(node.netns(), "1.0.0", &config, &plugins, sidecars());
        let mut rules = sidecars();
        rules["onAgentDown"] = "closed".into();
        let closed = Runtime::new(node.netns(), "1.0.0", &config, &plugins, rules);

        let refused = Pod::new("refused", &[])?;
        let outcome = closed.add(&refused);
        ensure!(code(&outcome) == Some(11), "{outcome:?}");
        closed.del(&refused)?;
        let gone = Pod::new("gone", &[])?;
        open.add(&gone)?;
        let pod = Pod::new("pod", &[])?;
        let traces = pod.netns.enter(Traces::here)?;
        let result = open.add(&pod)?;
        let targets = targets(&result)?;
        closed.adopt(&pod, result);
        // Pods start, but nobody knows whether what they ask for is in place.
        let outcome = open.check(&pod);
        ensure!(code(&outcome) == Some(11), "{outcome:?}");
        let outcome = closed.check(&pod);
        ensure!(code(&outcome) == Some(11), "{outcome:?}");
        let _serving = Serving::start(directory, &pod)?;
        all_direct(&node, &targets)?;
        open.del(&gone)?;

        let agent = Agent::start(directory, config)?;
        ensure!(agent.pods()?.len() == 1, "{:?}", agent.pods()?);
        all_through_proxy(&node, &targets)?;
        closed.check(&pod)?;
        let config = agent.kill()?;
        open.del(&pod)?;
        let agent = Agent::start(directory, config)?;
        nothing_left(&agent)?;
        traces.assert_unchanged(&pod.netns.enter(Traces::here)?)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn what_is_stale_goes_and_is_never_anothers() {
    scenario(|directory| {
        let node = Node::new()?;
        let config = Config::new(directory, [])?;
        let runtime = Runtime::new(node.netns(), "1.1.0", &config, &[], sidecars());
        let agent = Agent::start(directory, config)?;
        let valid = added(&runtime, "valid")?;
        let stale = added(&runtime, "stale")?;
        // What somebody has removed comes back.
        stale.netns.ip("rule del pref 133")?;
        eventually("the rule is put back", || {
            Ok(runtime.check(&stale).is_ok().then_some(()))
        })?;
        runtime.gc(&[&valid, &stale])?;
        ensure!(agent.pods()?.len() == 2, "{:?}", agent.pods()?);
        runtime.gc(&[&valid])?;
        ensure!(agent.pods()?.len() == 1, "{:?}", agent.pods()?);
        let outcome = runtime.check(&stale);
        ensure!(code(&outcome) == Some(3), "{outcome:?}");

        // Another namespace at the same path is another pod's.
        let path = valid.netns.path();
        let bind = |from: &Path| run(Command::new("mount").arg("--bind").arg(from).arg(&path));
        bind(&stale.netns.path())?;
        let outcome = runtime.check(&valid);
        ensure!(code(&outcome) == Some(100), "{outcome:?}");
        eventually("the pod goes with its namespace", || {
            Ok(agent.pods()?.is_empty().then_some(()))
        })?;
        nothing_left(&agent)?;
        let traces = Traces::here;
        stale
            .netns
            .enter(traces)?
            .assert_unchanged(&valid.netns.enter(traces)?)?;
        run(Command::new("umount").arg(&path))?;

        // What was recorded before a reboot does not count after it.
        runtime.add(&valid)?;
        let config = agent.kill()?;
        let file = config
            .agent
            .pods
            .join(format!("{}:{IFNAME}.json", valid.id));
        let mut state: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        state["boot_id"] = "of another boot".into();
        std::fs::write(&file, state.to_string())?;
        let agent = Agent::start(directory, config)?;
        nothing_left(&agent)?;
        runtime.del(&valid)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn a_hundred_pods_in_parallel_with_the_agent_restarted_in_between() {
    const PARALLEL: usize = 4;
    scenario(|directory| {
        let number = usual(100) as usize;
        let node = Node::new()?;
        let config = Config::new(directory, [])?;
        let runtime = Runtime::new(node.netns(), "1.1.0", &config, &[], sidecars());
        let agent = Agent::start(directory, config)?;
        let pods = (0..number).map(|n| runtime.made(&format!("pod{n}")));
        let pods = pods.collect::<Result<Vec<_>>>()?;
        let in_parallel = |act: &(dyn Fn(&Pod) -> Result<()> + Sync)| {
            std::thread::scope(|scope| {
                let some = pods.chunks(number.div_ceil(PARALLEL));
                let threads: Vec<_> = some
                    .map(|some| scope.spawn(|| some.iter().try_for_each(act)))
                    .collect();
                let mut outcomes = threads.into_iter().map(|thread| thread.join());
                outcomes.try_for_each(|outcome| outcome.expect("no thread panics"))
            })
        };
        let restarted = std::thread::scope(|scope| {
            let adding = scope.spawn(|| in_parallel(&|pod| runtime.add(pod).map(drop)));
            eventually("pods are being added", || {
                Ok((agent.pods()?.len() > number / 4).then_some(()))
            })?;
            let agent = Agent::start(directory, agent.kill()?)?;
            adding.join().expect("no thread panics")?;
            Ok::<_, anyhow::Error>(agent)
        });
        let agent = restarted?;
        eventually("every pod is served", || {
            let entries = &agent.status()?["maps"][1]["entries"];
            Ok((*entries == number && agent.pods()?.len() == number).then_some(()))
        })?;
        in_parallel(&|pod| runtime.check(pod))?;
        in_parallel(&|pod| runtime.del(pod))?;
        nothing_left(&agent)?;
        for pod in &pods {
            let rules = pod
                .netns
                .enter(|| run(Command::new("ip").args(["rule", "list", "pref", "133"])))?;
            ensure!(rules.is_empty(), "{}: {rules}", pod.id);
        }
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn a_namespace_is_the_configurations_or_a_pods() {
    scenario(|directory| {
        let node = Node::new()?;
        let mut config = Config::new(directory, [])?;
        let runtime = Runtime::new(node.netns(), "1.1.0", &config, &[], sidecars());
        let pod = runtime.made("pod")?;
        let steer = Steer::new("own", &pod.netns, &["8080"], 15007);
        config.steer.push(steer);
        let agent = Agent::start(directory, config)?;
        let outcome = runtime.add(&pod);
        ensure!(code(&outcome) == Some(7), "{outcome:?}");
        let message = format!("{outcome:?}");
        ensure!(
            message.contains("the agent's own configuration names"),
            "{message}"
        );
        ensure!(agent.pods()?.is_empty(), "{:?}", agent.pods()?);
        runtime.del(&pod)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

fn added(runtime: &Runtime<'_>, id: &str) -> Result<Pod> {
    let pod = runtime.made(id)?;
    runtime.add(&pod)?;
    Ok(pod)
}
