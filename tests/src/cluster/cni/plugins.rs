//! What a runtime does with its plugins.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::node::{IFNAME, Pod};
use crate::agent::{Config, binary};
use crate::host::netns::Netns;

/// Where Debian has the reference plugins.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";

/// Where runtimes pass a pod's annotations.
pub(super) const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// What a plugin says when it fails.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the specification's own names")]
pub struct Failure {
    pub cni_version: String,
    pub code: u32,
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Failure {}

/// The code of the failure that an error is.
pub fn code<T>(outcome: &Result<T>) -> Option<u32> {
    let failure = outcome.as_ref().err()?.downcast_ref::<Failure>()?;
    Some(failure.code)
}

/// A network: a list of plugins, and the results of those that were added.
pub struct Runtime<'a> {
    node: &'a Netns,
    version: &'static str,
    plugins: Vec<Value>,
    results: Mutex<HashMap<String, Value>>,
}

impl<'a> Runtime<'a> {
    /// truepeer behind other plugins, which run inside `node`. `truepeer` is added to its entry.
    pub fn new(
        node: &'a Netns,
        version: &'static str,
        config: &Config,
        before: &[Value],
        truepeer: Value,
    ) -> Self {
        let mut entry = json!({
            "type": "truepeer",
            "capabilities": {ANNOTATIONS: true},
            "socket": config.agent.socket,
            "pods": config.agent.pods,
        });
        merge(&mut entry, truepeer);
        Self {
            node,
            version,
            plugins: [before, &[entry]].concat(),
            results: Mutex::default(),
        }
    }

    /// The reference plugin `bridge`, with addresses of both families, and `portmap`: `host_port` of the node is
    /// `port` of the pod.
    pub fn bridge(directory: &Path) -> Vec<Value> {
        let bridge =
            json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam(directory)});
        vec![
            bridge,
            json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        ]
    }

    /// The reference plugin `ptp`, with addresses of both families.
    pub fn ptp(directory: &Path) -> Vec<Value> {
        vec![json!({"type": "ptp", "ipam": ipam(directory)})]
    }

    /// From now on, the plugins before have this result for the pod.
    pub fn adopt(&self, pod: &Pod, result: Value) {
        self.results().insert(pod.id.clone(), result);
    }

    /// A pod whose interface somebody else has made.
    pub fn made(&self, id: &str) -> Result<Pod> {
        let pod = Pod::new(id, &[])?;
        pod.netns.ip("link add eth0 type veth peer name other")?;
        let interfaces = json!([{"name": IFNAME}]);
        self.adopt(
            &pod,
            json!({"cniVersion": self.version, "interfaces": interfaces}),
        );
        Ok(pod)
    }

    /// Adds a pod; the last plugin's result.
    pub fn add(&self, pod: &Pod) -> Result<Value> {
        // A result that was adopted stands for the plugins that are not run here.
        let mut result = self.result(pod);
        for plugin in &self.plugins {
            let output = self.attachment("ADD", plugin, pod, &result)?;
            result =
                serde_json::from_str(&output).with_context(|| format!("{plugin}: {output}"))?;
        }
        self.results().insert(pod.id.clone(), result.clone());
        Ok(result)
    }

    /// Asks every plugin whether the pod is as it was added; but not portmap 1.1.1, which looks for the rules of IPv4
    /// in the tables of IPv6.
    pub fn check(&self, pod: &Pod) -> Result<()> {
        let result = self.result(pod);
        let mut plugins = self
            .plugins
            .iter()
            .filter(|plugin| plugin["type"] != "portmap");
        plugins.try_for_each(|plugin| self.attachment("CHECK", plugin, pod, &result).map(drop))
    }

    /// Removes a pod.
    pub fn del(&self, pod: &Pod) -> Result<()> {
        let result = self.result(pod);
        let mut plugins = self.plugins.iter().rev();
        plugins.try_for_each(|plugin| self.attachment("DEL", plugin, pod, &result).map(drop))
    }

    /// Has truepeer remove all but these pods: the reference plugins are older than GC.
    pub fn gc(&self, valid: &[&Pod]) -> Result<()> {
        let valid: Vec<_> = valid
            .iter()
            .map(|pod| json!({"containerID": pod.id, "ifname": IFNAME}))
            .collect();
        self.of_truepeer("GC", json!({"cni.dev/valid-attachments": valid}))
    }

    /// Asks truepeer whether pods can be added.
    pub fn status(&self) -> Result<()> {
        self.of_truepeer("STATUS", json!({}))
    }

    pub(super) fn of_truepeer(&self, command: &str, more: Value) -> Result<()> {
        let plugin = self.plugins.last().context("truepeer is the last")?;
        let mut input = self.input(plugin);
        merge(&mut input, more);
        run(self.node, "truepeer", command, &[], &input.to_string()).map(drop)
    }

    pub(super) fn attachment(
        &self,
        command: &str,
        plugin: &Value,
        pod: &Pod,
        result: &Value,
    ) -> Result<String> {
        let mut input = self.input(plugin);
        if !result.is_null() {
            input["prevResult"] = result.clone();
        }
        if !pod.annotations.is_empty() && plugin["capabilities"][ANNOTATIONS] == true {
            input["runtimeConfig"] = json!({ANNOTATIONS: pod.annotations});
        }
        if plugin["capabilities"]["portMappings"] == true {
            let mapping = json!({"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"});
            input["runtimeConfig"] = json!({"portMappings": [mapping]});
        }
        let name = plugin["type"].as_str().context("a plugin has a type")?;
        let environment = [
            ("CNI_CONTAINERID", pod.id.clone()),
            ("CNI_NETNS", pod.netns.path().display().to_string()),
            ("CNI_IFNAME", IFNAME.into()),
            ("CNI_ARGS", pod.arguments()),
        ];
        run(self.node, name, command, &environment, &input.to_string())
    }

    /// What a plugin reads: its entry and what the runtime adds.
    pub(super) fn input(&self, plugin: &Value) -> Value {
        let mut input = plugin.clone();
        merge(
            &mut input,
            json!({"cniVersion": self.version, "name": "tests"}),
        );
        if let Some(fields) = input.as_object_mut() {
            fields.remove("capabilities");
        }
        input
    }

    pub(super) fn result(&self, pod: &Pod) -> Value {
        self.results().get(&pod.id).cloned().unwrap_or_default()
    }

    pub(super) fn results(&self) -> std::sync::MutexGuard<'_, HashMap<String, Value>> {
        self.results.lock().expect("no holder panics")
    }
}

/// Addresses by the reference plugin `host-local`.
pub(crate) fn ipam(directory: &Path) -> Value {
    json!({
        "type": "host-local",
        "dataDir": directory.join("ipam"),
        "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    })
}

/// Lays the fields of one object over those of another.
pub(super) fn merge(under: &mut Value, over: Value) {
    if let (Some(under), Value::Object(over)) = (under.as_object_mut(), over) {
        under.extend(over);
    }
}

/// Runs a plugin inside `node`; what it printed. An error may be a [`Failure`].
pub fn run(
    node: &Netns,
    plugin: &str,
    command: &str,
    environment: &[(&str, String)],
    input: &str,
) -> Result<String> {
    let path = match plugin {
        "truepeer" => binary()?,
        other => PathBuf::from(PLUGINS).join(other),
    };
    let mut process = node.command(&path.display().to_string())?;
    process
        .env("CNI_COMMAND", command)
        .env("CNI_PATH", PLUGINS)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = process
        .spawn()
        .with_context(|| format!("{}", path.display()))?;
    let mut stdin = process.stdin.take().context("it is piped")?;
    // A plugin may answer without reading.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = process.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    if output.status.success() {
        return Ok(text);
    }
    let failure: Failure = serde_json::from_str(&text)
        .with_context(|| format!("{plugin} {command}: {}: {text}", output.status))?;
    Err(failure.into())
}

/// The address of one family in the result of adding a pod.
pub fn address(result: &Value, ipv6: bool) -> Result<std::net::IpAddr> {
    let ips = result["ips"].as_array().context("a result has ips")?;
    let mut texts = ips
        .iter()
        .filter_map(|ip| ip["address"].as_str()?.split('/').next());
    let text = texts.find(|text| text.contains(':') == ipv6);
    Ok(text
        .with_context(|| format!("no address in {result}"))?
        .parse()?)
}
