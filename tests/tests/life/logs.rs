//! What operators collect: the agent's own log as JSON, and an access log of some connections only.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Policy, Steer, truepeer};
use tests::clients::load::Load;
use tests::clients::raw::Raw;
use tests::host::scenario;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::eventually;

const APPLICATION: u16 = 8080;
const PROXY: u16 = 15006;
const DENIED: u16 = 8081;

/// A log of an agent's own, a JSON object a line.
fn objects(log: &str) -> Result<Vec<Value>> {
    let lines = log.lines().map(|line| {
        serde_json::from_str(line).with_context(|| format!("a line that is no JSON: {line}"))
    });
    lines.collect()
}

#[test]
fn some_connections_and_json() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _application = Report::start(pod, any(PROXY))?;
        let _denied = Report::start(pod, any(DENIED))?;
        let steer = Steer::new("in", pod, &[&APPLICATION.to_string()], PROXY);
        let mut config = Config::new(directory, [steer])?;
        config.agent.log = Some("json".into());
        config.agent.access_log_of = Some("1/4".into());
        config.policy.push(Policy {
            name: "nobody".into(),
            ports: vec![DENIED.to_string()],
            deny: vec!["0.0.0.0/0".into(), "::/0".into()],
            ..Policy::default()
        });
        let agent = Agent::start(directory, config)?;
        let raw = Raw::new(&sidecar.client)?;
        for family in Family::ALL {
            let target = |port| (Sidecar::address(family), port).into();
            let load = Load {
                connections: 100,
                ..Load::new([target(APPLICATION)])
            };
            load.run(&sidecar.client).all_exact()?;
            for n in 0..10 {
                let source = (family.client(n as usize), 4711).into();
                raw.syn(source, target(DENIED), n, &[])?;
            }
        }
        no_origins(&agent)?;
        let some = eventually(
            "all of the refused have a line, and some of the others",
            || {
                let lines = agent.access_log()?;
                let refused = |line: &&Value| line.get("refused").is_some();
                let refused = lines.iter().filter(refused).count();
                let others = lines.len() - refused;
                Ok((refused == 20 && others >= 20).then_some(others))
            },
        )?;
        ensure!(some <= 90, "{some} of 200");
        agent.reload(agent.config())?;
        let own = objects(&agent.log()?)?;
        let attached = |line: &&Value| {
            let message = line["message"].as_str().unwrap_or_default();
            message.starts_with("attached after")
        };
        let attached = own.iter().find(attached).context("no such line")?;
        ensure!(
            attached["level"] == "INFO" && attached["timestamp"].is_string(),
            "{attached}"
        );
        // What ends an agent is told in the same form.
        let file = agent.config().write()?.display().to_string();
        let second = truepeer(&["run", "--config", &file])?;
        let told = objects(&String::from_utf8(second.stderr)?)?;
        ensure!(
            second.status.code() == Some(1)
                && told.last().is_some_and(|line| line["level"] == "ERROR"),
            "{told:?}"
        );
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
