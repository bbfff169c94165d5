//! Assertions about the connections that an agent knows, shared by scenarios.

use std::net::SocketAddr;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, Peers};
use crate::clients::load::{Connection, Load, PING};
use crate::host::netns::Netns;
use crate::wait::eventually;

/// Asserts that the API shows a hundred connections while they are open, that the access log shows them once they have
/// closed, and that nothing else is left of them.
pub fn observed(agent: &Agent, client: &Netns, targets: &[SocketAddr]) -> Result<()> {
    let logged = agent.access_log()?.len();
    let mut connections = Load::new(targets.iter().copied()).hold(client)?;
    let peers = agent.peers()?;
    for connection in &connections {
        known(&peers, connection)?;
    }
    for connection in &mut connections {
        connection.ping()?;
    }
    let expected: Vec<_> = connections
        .iter()
        .map(|c| Ok((c.client, c.target, c.seen.line()?.len() as u64)))
        .collect::<Result<_>>()?;
    drop(connections);
    let lines = eventually("every closed connection is in the access log", || {
        let lines = agent.access_log()?.split_off(logged);
        let all = expected
            .iter()
            .all(|(client, ..)| line(&lines, *client).is_some());
        Ok(all.then_some(lines))
    })?;
    for (client, target, reported) in expected {
        let line = line(&lines, client).context("found above")?;
        check_line(line, target, reported).with_context(|| format!("access log: {line}"))?;
    }
    no_origins(agent)
}

/// Asserts that the origin of the proxy's socket of this connection is the client.
pub fn known(peers: &Peers, connection: &Connection) -> Result<()> {
    let Connection { client, target, .. } = *connection;
    let peer = peers
        .find(target, client)
        .with_context(|| format!("no origin for {client} to {target}"))?;
    ensure!(
        peer.client == client
            && peer.original_dst == target
            && peer.evidence == "wire"
            && peer.protocol == "tcp",
        "{client} to {target} is known as {peer:?}"
    );
    Ok(())
}

/// Asserts that the origin of the application's own socket, behind a sidecar's proxy, is the client.
pub fn known_to_application(peers: &Peers, connection: &Connection) -> Result<()> {
    let seen = &connection.seen;
    let peer = peers
        .find(seen.local, seen.accepted)
        .with_context(|| format!("no origin for the application's socket, {seen:?}"))?;
    ensure!(
        peer.client.ip() == connection.client.ip()
            && peer.original_dst == connection.target
            && peer.evidence == "wire",
        "{} is known to the application as {peer:?}",
        connection.client
    );
    Ok(())
}

/// Waits until no origin is left of connections that have all closed.
pub fn no_origins(agent: &Agent) -> Result<()> {
    eventually("every origin is removed", || {
        Ok((agent.origins()? == 0).then_some(()))
    })
    // With the processes that hold the sockets, where there are any.
    .with_context(|| format!("left: {:?}", agent.answer("/v1/peers")))
}

fn line(lines: &[Value], client: SocketAddr) -> Option<&Value> {
    lines
        .iter()
        .find(|line| line["client"] == client.to_string())
}

fn check_line(line: &Value, target: SocketAddr, reported: u64) -> Result<()> {
    ensure!(line["original_dst"] == target.to_string(), "original_dst");
    ensure!(line["evidence"] == "wire", "evidence");
    // Two pings came in; the report and their echoes went out.
    let pings = 2 * PING.len() as u64;
    ensure!(line["bytes_received"] == pings, "bytes_received");
    ensure!(line["bytes_sent"] == reported + pings, "bytes_sent");
    ensure!(
        line["duration_seconds"].as_f64() > Some(0.0),
        "duration_seconds"
    );
    Ok(())
}

/// The counters of connections that unwrap refuses.
pub const REFUSALS: [Counter; 6] = [
    Counter::UnwrapUntrusted,
    Counter::UnwrapNoHeader,
    Counter::UnwrapInvalid,
    Counter::UnwrapSplit,
    Counter::UnwrapLate,
    Counter::UnwrapFull,
];

/// Asserts that unwrap refused no connection.
pub fn none_refused(agent: &Agent) -> Result<()> {
    for counter in REFUSALS {
        let refused = agent.counter(counter)?;
        ensure!(refused == 0, "{}: {refused}", counter.name());
    }
    Ok(())
}
