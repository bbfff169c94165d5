//! What is asked of a running agent.

use std::net::SocketAddr;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api::{Peer, Peers, get};
use super::running::Agent;
use crate::host::netns::{Netns, run};

impl Agent {
    /// Live connections with an origin.
    pub fn peers(&self) -> Result<Peers> {
        self.read("/v1/peers").map(Peers)
    }

    /// What `truepeer peer` tells inside `netns` of the connection between these two ends.
    pub fn ask_inside(&self, netns: &Netns, local: SocketAddr, remote: SocketAddr) -> Result<Peer> {
        let binary = self.binary.display().to_string();
        let mut command = netns.command(&binary)?;
        command
            .args(["peer", "--output", "json", "--socket"])
            .arg(&self.config.agent.socket)
            .args(["--local", &local.to_string()])
            .args(["--remote", &remote.to_string()]);
        Ok(serde_json::from_str(&run(&mut command)?)?)
    }

    /// The busiest prefixes of clients, by connections, bytes or refused ones.
    pub fn top(&self, by: &str) -> Result<Value> {
        self.read(&format!("/v1/top?by={by}"))
    }

    /// The attachments of pods that it serves.
    pub fn pods(&self) -> Result<Vec<Value>> {
        self.read("/v1/pods")
    }

    /// Programs, maps and counters.
    pub fn status(&self) -> Result<Value> {
        self.read("/v1/status")
    }

    /// One of the data path's counters.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let status = self.status()?;
        status["counters"][counter.name()]
            .as_u64()
            .with_context(|| format!("no counter {} in {status}", counter.name()))
    }

    /// The value of a metric, named with its labels: `truepeer_relay_bytes_total{relay="…"}`.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let text = self.metrics()?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .with_context(|| format!("no metric {name} in {text}"))
    }

    /// All metrics.
    pub fn metrics(&self) -> Result<String> {
        self.answer("/metrics")
    }

    /// How many connections a policy let in, and how many it refused.
    pub fn tally(&self, policy: &str) -> Result<(u64, u64)> {
        let status = self.status()?;
        let tally = status["policies"]
            .as_array()
            .and_then(|policies| policies.iter().find(|tally| tally["policy"] == policy))
            .with_context(|| format!("no policy {policy} in {status}"))?;
        let number = |key: &str| {
            tally[key]
                .as_u64()
                .with_context(|| format!("{key}: {tally}"))
        };
        Ok((number("allowed")?, number("denied")?))
    }

    /// How many origins are in the map.
    pub fn origins(&self) -> Result<u64> {
        self.entries("ORIGINS")
    }

    /// How many entries a map has, as `/v1/status` shows it.
    pub fn entries(&self, map: &str) -> Result<u64> {
        let status = self.status()?;
        status["maps"]
            .as_array()
            .and_then(|maps| maps.iter().find(|entry| entry["name"] == map))
            .and_then(|map| map["entries"].as_u64())
            .with_context(|| format!("no map {map} in {status}"))
    }

    /// The access log so far.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.config.agent.access_log)?;
        // The last line may be half written.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("access log: {line}")))
            .collect()
    }

    /// What the API answers at a path.
    pub fn answer(&self, path: &str) -> Result<String> {
        let (status, body) = get(&self.config.agent.socket, path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(body)
    }

    fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let body = self.answer(path)?;
        serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))
    }
}
