//! The manifests and the chart in `deploy/`, judged by Kubernetes' schemas, Helm and the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::agent::truepeer;
use tests::cluster::manifests::{deploy, helm, kustomize, only, validate};

const AGENT: &str = "/spec/template/spec/containers/0";
const CNI: &str = "/spec/template/spec/initContainers/0";

#[test]
fn the_manifests_are_valid() -> Result<()> {
    for name in ["agent", "monitoring", "remove"] {
        let objects = kustomize(name)?;
        validate(&objects).with_context(|| format!("kustomize/{name}"))?;
    }
    // A mistake in an object must be told.
    let mut wrong = kustomize("agent")?;
    let daemonset = wrong
        .iter_mut()
        .find(|object| object["kind"] == "DaemonSet")
        .context("no DaemonSet")?;
    daemonset["spec"]["template"]["spec"]["hostNetworks"] = json!(true);
    let error = validate(&wrong).unwrap_err().to_string();
    ensure!(error.contains("hostNetworks"), "{error}");
    Ok(())
}

/// What no schema says: the API server takes no port of the node where pods surge, and one agent must follow the other.
#[test]
fn two_pods_have_room_on_a_node() -> Result<()> {
    for name in ["agent", "remove"] {
        let objects = kustomize(name)?;
        let spec = &only(&objects, "DaemonSet")?["spec"];
        let surge = json!({"maxSurge": 1, "maxUnavailable": 0});
        ensure!(spec["updateStrategy"]["rollingUpdate"] == surge, "{spec}");
        let pod = &spec["template"]["spec"];
        for container in ["containers", "initContainers"] {
            let container = &pod[container][0];
            ensure!(container.get("ports").is_none(), "{container}");
        }
        let arguments = &pod["containers"][0]["args"];
        let takes_over = arguments.as_array().context("no arguments")?;
        ensure!(takes_over.contains(&json!("--takeover")), "{arguments}");
    }
    Ok(())
}

#[test]
fn the_chart_installs_what_kustomize_applies() -> Result<()> {
    let values = [
        json!({"monitoring": {"enabled": true}}),
        json!({"remove": true}),
    ];
    let [by_helm, removing] = &helm(&values)?[..] else {
        bail!("not what was asked for");
    };
    let (by_helm, removing) = (normal(by_helm)?, normal(removing)?);
    let image = by_helm["DaemonSet truepeer"].pointer(&format!("{AGENT}/image"));
    let expected = concat!("localhost/truepeer:", env!("CARGO_PKG_VERSION"));
    ensure!(image == Some(&json!(expected)), "{image:?}");
    let mut by_kustomize = normal(&[kustomize("agent")?, kustomize("monitoring")?].concat())?;
    // `helm install --create-namespace` makes it.
    by_kustomize
        .remove("Namespace truepeer")
        .context("no Namespace")?;
    ensure!(
        by_helm == by_kustomize,
        "{by_helm:#?}\ninstead of\n{by_kustomize:#?}"
    );

    let expected = normal(&kustomize("remove")?)?;
    ensure!(removing["DaemonSet truepeer"] == expected["DaemonSet truepeer"]);
    ensure!(removing["DaemonSet truepeer"] != by_helm["DaemonSet truepeer"]);
    Ok(())
}

/// Objects by kind and name, without what tells how they were installed.
fn normal(objects: &[Value]) -> Result<BTreeMap<String, Value>> {
    let text = serde_json::to_string(objects)?;
    let names = objects
        .iter()
        .filter(|object| object["kind"] == "ConfigMap")
        .filter_map(|object| object["metadata"]["name"].as_str());
    // kustomize adds a hash to names.
    let hashed = names
        .filter(|name| name.starts_with("truepeer-") && *name != "truepeer-dashboard")
        .fold(text, |text, name| {
            text.replace(&format!("{name:?}"), "\"truepeer\"")
        });
    let mut objects: Vec<Value> = serde_json::from_str(&hashed)?;
    objects
        .iter_mut()
        .map(|object| {
            let metadata = object["metadata"].as_object_mut().context("no metadata")?;
            metadata.remove("annotations");
            metadata.remove("namespace");
            if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
                labels.remove("app.kubernetes.io/managed-by");
            }
            if metadata.get("labels") == Some(&json!({})) {
                metadata.remove("labels");
            }
            if let Some(annotations) = object.pointer_mut("/spec/template/metadata/annotations") {
                annotations
                    .as_object_mut()
                    .context("no map")?
                    .remove("checksum/config");
            }
            for container in [AGENT, CNI] {
                if let Some(container) = object.pointer_mut(container) {
                    let container = container.as_object_mut().context("no container")?;
                    container.remove("imagePullPolicy");
                }
            }
            let name = object["metadata"]["name"].as_str().context("no name")?;
            let kind = object["kind"].as_str().context("no kind")?;
            Ok((format!("{kind} {name}"), object.clone()))
        })
        .collect()
}

/// A value of the chart other than the default, and where it must be found: a kind, a pointer into it, and what
/// is there. `null`: nothing.
const VALUES: &str = r#"[
    ["image.repository", "example.net/truepeer", "DaemonSet", "/spec/template/spec/containers/0/image", "example.net/truepeer:0.1.0"],
    ["image.repository", "example.net/truepeer", "DaemonSet", "/spec/template/spec/initContainers/0/image", "example.net/truepeer:0.1.0"],
    ["image.tag", "next", "DaemonSet", "/spec/template/spec/containers/0/image", "localhost/truepeer:next"],
    ["image.pullPolicy", "Always", "DaemonSet", "/spec/template/spec/containers/0/imagePullPolicy", "Always"],
    ["imagePullSecrets", [{"name": "registry"}], "DaemonSet", "/spec/template/spec/imagePullSecrets", [{"name": "registry"}]],
    ["config", "[agent]\nkeep = true\n", "ConfigMap", "/data/truepeer.toml", "[agent]\nkeep = true\n"],
    ["cni.enabled", false, "DaemonSet", "/spec/template/spec/initContainers", null],
    ["cni.entry", {"type": "truepeer"}, "ConfigMap", "/data/plugin.json", "{\"type\":\"truepeer\"}"],
    ["cni.binDir", "/elsewhere/bin", "DaemonSet", "/spec/template/spec/volumes/9/hostPath/path", "/elsewhere/bin"],
    ["cni.confDir", "/elsewhere/net.d", "DaemonSet", "/spec/template/spec/volumes/10/hostPath/path", "/elsewhere/net.d"],
    ["runtimeDirectory", "/run/k3s/task", "DaemonSet", "/spec/template/spec/volumes/7/hostPath/path", "/run/k3s/task"],
    ["nodeSelector", {"role": "edge"}, "DaemonSet", "/spec/template/spec/nodeSelector", {"role": "edge"}],
    ["tolerations", [{"key": "a", "operator": "Exists"}], "DaemonSet", "/spec/template/spec/tolerations", [{"key": "a", "operator": "Exists"}]],
    ["priorityClassName", "mine", "DaemonSet", "/spec/template/spec/priorityClassName", "mine"],
    ["resources", {"limits": {"memory": "1Gi"}}, "DaemonSet", "/spec/template/spec/containers/0/resources", {"limits": {"memory": "1Gi"}}],
    ["monitoring.enabled", true, "PodMonitor", "/metadata/name", "truepeer"],
    ["monitoring.labels", {"release": "prometheus"}, "PrometheusRule", "/metadata/labels/release", "prometheus"],
    ["monitoring.labels", {"release": "prometheus"}, "PodMonitor", "/metadata/labels/release", "prometheus"],
    ["remove", true, "DaemonSet", "/spec/template/spec/initContainers/0/args/1", "uninstall"]
]"#;

#[test]
fn every_value_of_the_chart_does_what_it_says() -> Result<()> {
    let cases: Vec<(String, Value, String, String, Value)> = serde_json::from_str(VALUES)?;
    let values: Vec<_> = cases
        .iter()
        .map(|(name, value, ..)| {
            let mut values = nested(name, value);
            if name == "monitoring.labels" {
                values["monitoring"]["enabled"] = json!(true);
            }
            values
        })
        .collect();
    let installed = helm(&values)?;
    validate(&installed.concat())?;
    for ((name, _, kind, pointer, expected), objects) in cases.iter().zip(&installed) {
        let found = only(objects, kind)
            .with_context(|| name.clone())?
            .pointer(pointer);
        ensure!(
            found.unwrap_or(&Value::Null) == expected,
            "{name}: {found:?}"
        );
    }
    let documented: Value = serde_saphyr::from_str(&fs::read_to_string(
        deploy().join("helm/truepeer/values.yaml"),
    )?)?;
    let tried: BTreeSet<_> = cases.into_iter().map(|case| case.0).collect();
    ensure!(
        tried == leaves(&documented),
        "tried {tried:?} of {documented}"
    );
    Ok(())
}

#[test]
fn wrong_values_are_refused() -> Result<()> {
    for (name, value, told) in [
        ("image.repo", json!("x"), "repo"),
        ("cni.binDir", json!("opt/cni"), "binDir"),
        ("remove", json!("yes"), "remove"),
        ("image.pullPolicy", json!("Sometimes"), "pullPolicy"),
    ] {
        let error = helm(&[nested(name, &value)]).unwrap_err().to_string();
        ensure!(error.contains(told), "{name}: {error}");
    }
    Ok(())
}

/// `{"a": {"b": value}}` for `a.b`.
fn nested(name: &str, value: &Value) -> Value {
    name.rsplit('.')
        .fold(value.clone(), |value, key| json!({key: value}))
}

/// The names of all values: maps that are not empty are levels.
fn leaves(values: &Value) -> BTreeSet<String> {
    let Some(map) = values.as_object() else {
        return BTreeSet::new();
    };
    map.iter()
        .flat_map(|(key, value)| match value.as_object() {
            Some(inner) if !inner.is_empty() => leaves(value)
                .into_iter()
                .map(|below| format!("{key}.{below}"))
                .collect(),
            _ => vec![key.clone()],
        })
        .collect()
}

#[test]
fn the_agent_takes_the_configuration() -> Result<()> {
    let path = deploy().join("kustomize/agent/truepeer.toml");
    let output = truepeer(&["config", "check", &path.display().to_string()])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
