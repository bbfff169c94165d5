//! Agents that take PROXY headers off.

use std::path::Path;

use anyhow::Result;
use tests::agent::{Config, Trust, Unwrap};
use tests::host::netns::Netns;
use tests::topology::{Gateway, Sidecar};

/// The networks of the senders: a sidecar's client, and a gateway as its server knows it.
const SENDERS: [&str; 4] = ["10.77.0.0/24", "fd77::/64", "10.78.0.0/24", "fd78::/64"];

/// Takes headers of both versions off connections to `ports` of the pod.
pub(crate) fn in_pod(directory: &Path, topology: &Sidecar, ports: &[&str]) -> Result<Config> {
    config(directory, &topology.pod, Sidecar::INTERFACE, ports)
}

/// Takes headers of both versions off connections to `ports` of the server behind a gateway.
pub(crate) fn on_server(directory: &Path, topology: &Gateway, ports: &[&str]) -> Result<Config> {
    config(directory, &topology.server, "eth0", ports)
}

/// Takes headers of both versions off connections to `ports` of the gateway itself.
pub(crate) fn on_gateway(directory: &Path, topology: &Gateway, ports: &[&str]) -> Result<Config> {
    config(directory, &topology.gateway, Gateway::FRONT, ports)
}

fn config(directory: &Path, netns: &Netns, interface: &str, ports: &[&str]) -> Result<Config> {
    let mut config = Config::new(directory, [])?;
    config.trust.extend(Trust::saying(&["proxy"], SENDERS));
    config.unwrap.push(Unwrap::new(netns, interface, ports));
    Ok(config)
}
