//! Alerts and dashboard in `deploy/`, judged by Prometheus and by what the agent serves.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::agent::{Agent, Config, Policy, Trust};
use tests::balancer::{APPLICATION, SOURCES, client_of, relay_of, relays};
use tests::clients::tcp::{connect, seen};
use tests::cluster::manifests::{kustomize, only, piped};
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::v2_with_checksum;
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};
use tests::wait::{Limit, eventually};

#[test]
fn alerts_fire_when_they_should() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let groups =
        json!({"groups": only(&kustomize("monitoring")?, "PrometheusRule")?["spec"]["groups"]});
    let rules = directory.path().join("alerts.yaml");
    fs::write(&rules, groups.to_string())?;
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ship/alerts.yaml");
    fs::copy(cases, directory.path().join("cases.yaml"))?;
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "cases.yaml"],
    ] {
        let mut promtool = Command::new("promtool");
        let promtool = promtool.args(arguments).current_dir(directory.path());
        piped(promtool, "").with_context(|| arguments.join(" "))?;
    }
    let tried = fs::read_to_string(directory.path().join("cases.yaml"))?;
    for rule in groups["groups"][0]["rules"]
        .as_array()
        .context("no rules")?
    {
        let name = rule["alert"].as_str().context("no alert")?;
        ensure!(
            tried.contains(&format!("alertname=\"{name}\"")),
            "{name} is not tried"
        );
    }
    Ok(())
}

/// Prometheus finds each agent at its node's address, though its pod declares no port.
#[test]
fn agents_are_scraped_where_they_answer() -> Result<()> {
    let objects = kustomize("monitoring")?;
    let endpoint = &only(&objects, "PodMonitor")?["spec"]["podMetricsEndpoints"][0];
    // As Prometheus' operator writes it for Prometheus, which finds a target without a port for each container.
    let rules = endpoint["relabelings"].to_string();
    let rules = rules
        .replace("sourceLabels", "source_labels")
        .replace("targetLabel", "target_label");
    let rules: Value = serde_json::from_str(&rules)?;
    let targets = [
        ("192.0.2.1", "agent"),
        ("2001:db8::1", "agent"),
        ("192.0.2.1", "cni"),
    ];
    let targets = targets.map(|(ip, container)| {
        json!({"targets": [ip], "labels": {
            "__meta_kubernetes_pod_ip": ip,
            "__meta_kubernetes_pod_container_name": container,
        }})
    });
    let job = json!({"job_name": "some", "static_configs": targets, "relabel_configs": rules});
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("prometheus.yaml");
    fs::write(&path, json!({"scrape_configs": [job]}).to_string())?;
    let mut promtool = Command::new("promtool");
    // It looks for targets for as long as that.
    let looks = format!("--timeout={}s", Limit::secs(2).whole_secs());
    promtool.args(["check", "service-discovery", &looks]);
    let found = piped(promtool.arg(&path).arg("some"), "")?;
    let found: Vec<Value> = serde_json::from_str(&found)?;
    let mut addresses: Vec<_> = found
        .iter()
        .filter_map(|target| target["labels"]["__address__"].as_str())
        .collect();
    addresses.sort_unstable();
    ensure!(
        addresses == ["192.0.2.1:9469", "[2001:db8::1]:9469"],
        "{found:?}"
    );
    Ok(())
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    scenario(|directory| {
        let objects = kustomize("monitoring")?;
        let dashboard = only(&objects, "ConfigMap")?["data"]["dashboard.json"]
            .as_str()
            .context("no dashboard")?;
        let mut expressions = Vec::new();
        collect(&serde_json::from_str(dashboard)?, &mut expressions);
        let panels = expressions.len();
        collect(only(&objects, "PrometheusRule")?, &mut expressions);
        ensure!(
            panels > 20 && expressions.len() > panels + 8,
            "{expressions:?}"
        );
        parse(directory, &expressions)?;
        let asked: BTreeSet<_> = expressions.iter().flat_map(|text| metrics(text)).collect();

        let topology = Gateway::new()?;
        let _report = Report::start(&topology.server, any(APPLICATION))?;
        let agent = agent(directory, &topology)?;
        let mut stream = connect(&topology.gateway, relay_of(Family::V4))?;
        stream.write_all(&v2_with_checksum(
            client_of(Family::V4),
            relay_of(Family::V4),
        ))?;
        seen(&mut stream)?;
        drop(stream);
        // One connection is refused.
        drop(connect(&topology.client, relay_of(Family::V4)));
        eventually("every metric is served", || {
            let served: BTreeSet<_> = agent.metrics()?.lines().flat_map(metrics).collect();
            let missing: Vec<_> = asked.difference(&served).collect();
            Ok(missing.is_empty().then_some(()))
        })
        .with_context(|| format!("asked for {asked:?}, served {:?}", agent.metrics()))?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// An agent with something of each kind that has metrics of its own.
fn agent(directory: &Path, topology: &Gateway) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.trust.extend(Trust::sources(SOURCES));
    config.relay = relays(&topology.server, "reveal");
    for relay in &mut config.relay {
        // A relay checks its upstreams only where it has several.
        relay
            .upstream
            .push(([127, 0, 0, 1], APPLICATION + 1).into());
    }
    config.policy = vec![Policy {
        name: "some".into(),
        ports: vec!["1".into()],
        deny: vec!["192.0.2.0/24".into()],
        ..Policy::default()
    }];
    Agent::start(directory, config)
}

/// Every `expr` below a value.
fn collect(value: &Value, expressions: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if key == "expr" => expressions.push(text.to_owned()),
                    _ => collect(value, expressions),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, expressions)),
        _ => {}
    }
}

/// Prometheus understands them, once Grafana has put in its variables.
fn parse(directory: &Path, expressions: &[String]) -> Result<()> {
    let rules: Vec<_> = expressions
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let text = text
                .replace("$__rate_interval", "5m")
                .replace("$instance", ".*");
            json!({"record": format!("n{n}"), "expr": text})
        })
        .collect();
    let path = directory.join("expressions.yaml");
    let groups = json!({"groups": [{"name": "all", "rules": rules}]});
    fs::write(&path, groups.to_string())?;
    piped(
        Command::new("promtool").args(["check", "rules"]).arg(path),
        "",
    )
    .map(drop)
}

/// The names of truepeer's metrics in a text.
fn metrics(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("truepeer_"))
        .map(str::to_owned)
        .collect()
}
