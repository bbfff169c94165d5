//! What the scenarios of pods share: a sidecar and an application, and what is left.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::node::{Node, Pod};
use super::plugins::address;
use crate::agent::Agent;
use crate::clients::load::Load;
use crate::host::process::Process;
use crate::proxies::{any, envoy};
use crate::servers::report::Report;

/// Where the application listens.
pub const APPLICATION: u16 = 8080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;

/// Every pod's port is steered to its sidecar.
pub fn sidecars() -> Value {
    json!({"steer": [{"name": "inbound", "ports": ["8080"], "to": PROXY}]})
}

/// A pod's sidecar and application.
pub struct Serving(#[expect(dead_code, reason = "stop on drop")] (Process, Report));

impl Serving {
    /// Starts them.
    pub fn start(directory: &Path, pod: &Pod) -> Result<Self> {
        let application = Report::start(&pod.netns, any(APPLICATION))?;
        let proxy = envoy::transparent(directory, &pod.netns, PROXY, MARK)?;
        Ok(Self((proxy, application)))
    }
}

/// Where clients reach the application of the pod that was added with this result.
pub fn targets(result: &Value) -> Result<Vec<SocketAddr>> {
    [false, true]
        .map(|ipv6| Ok((address(result, ipv6)?, APPLICATION).into()))
        .into_iter()
        .collect()
}

/// Through the proxy, and the application sees the client.
pub fn all_through_proxy(node: &Node, targets: &[SocketAddr]) -> Result<()> {
    let outcome = Load::new(targets.iter().copied()).run(node.client());
    outcome.all_kept()?;
    ensure!(outcome.exact == 0, "not all through the proxy: {outcome:?}");
    Ok(())
}

/// Past the proxy, as if truepeer were absent.
pub fn all_direct(node: &Node, targets: &[SocketAddr]) -> Result<()> {
    Load::new(targets.iter().copied())
        .run(node.client())
        .all_exact()
}

/// No pod is known, in no network namespace is anything to be done, and no file is there.
pub fn nothing_left(agent: &Agent) -> Result<()> {
    ensure!(agent.pods()?.is_empty(), "{:?}", agent.pods()?);
    let status = agent.status()?;
    ensure!(status["maps"][1]["entries"] == 0, "{status}");
    let links = status["links"].as_array().context("links")?;
    let inside = links
        .iter()
        .find(|link| link["target"].to_string().contains("network namespace"));
    ensure!(inside.is_none(), "{inside:?}");
    let files: Vec<_> = std::fs::read_dir(&agent.config().agent.pods)?.collect();
    ensure!(files.is_empty(), "{files:?}");
    Ok(())
}
