//! Starts Envoy.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::host::netns::Netns;
use crate::host::process::{Process, find, unique};
use crate::host::user;

/// Starts Envoy with these listeners and clusters, as this user, and waits until it listens on all of `listen`.
pub(super) fn start(
    directory: &Path,
    netns: &Netns,
    uid: Option<u32>,
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    listen: Vec<SocketAddr>,
) -> Result<Process> {
    let bootstrap = json!({
        "static_resources": { "listeners": listeners, "clusters": clusters },
    });
    let program = find("ENVOY_BIN", "envoy")?;
    let mut command = user::command_of(netns, uid, &program)?;
    // JSON is YAML.
    command
        .args(["--config-yaml", &bootstrap.to_string()])
        .args(["--concurrency", "2", "--log-level", "warning"])
        .arg("--disable-hot-restart");
    let mut process = Process::start(&unique("envoy"), command, directory)?;
    process.wait_until_it_listens(netns, listen)?;
    Ok(process)
}
