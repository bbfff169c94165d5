//! What operators collect: the agent's own log as JSON, and an access log of some connections only.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Policy, Steer};
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

/// The agent's own log, a JSON object a line.
fn own(agent: &Agent) -> Result<Vec<Value>> {
    let log = agent.log()?;
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
        config.agent.access_log_of = Some("1/50".into());
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
        let lines = eventually("all lines are written", || {
            let lines = agent.access_log()?;
            Ok((lines.len() >= 20 + 4).then_some(lines))
        })?;
        let (refused, others): (Vec<_>, Vec<_>) =
            lines.iter().partition(|line| line.get("refused").is_some());
        ensure!(
            refused.len() == 20 && others.len() == 4,
            "{} refused, {} others",
            refused.len(),
            others.len()
        );
        agent.reload(agent.config())?;
        let own = own(&agent)?;
        let attached = |line: &&Value| {
            let message = line["message"].as_str().unwrap_or_default();
            message.starts_with("attached after")
        };
        let attached = own.iter().find(attached).context("no such line")?;
        ensure!(
            attached["level"] == "INFO" && attached["timestamp"].is_string(),
            "{attached}"
        );
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
