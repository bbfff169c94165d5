//! Connections whose sequence numbers are translated.
//!
//! The server would take other bytes than the sender's for the next ones without the data path: such connections are reset
//! before their port is given up, or the programs go.

use std::{collections::HashMap, net::SocketAddr};

use agent_common::{Connection, unwrap::Handshake};
use anyhow::Result;
use tracing::warn;

use super::{
    maps::{Plain, Translated, found, removed},
    pins::Pins,
};
use crate::host::{netns::Netns, sockets};

/// Entries without a socket, with what was known of the handshake.
pub type Orphans = HashMap<Connection, Option<Handshake>>;

/// Forgets connections that never got a socket, and never will: no end of a socket does. They were orphans the
/// last time, too, and no other connection has begun between the same ends. Returns those to look at the next
/// time.
pub(super) fn sweep(pins: &Pins, before: &Orphans) -> Result<Orphans> {
    let mut translated = pins.translated()?;
    let keys = translated.keys().collect::<Result<Vec<_>, _>>()?;
    let mut orphans = Orphans::new();
    if keys.is_empty() {
        return Ok(orphans);
    }
    let handshakes = pins.unwrapping()?;
    let handshake = |key: &Plain<Connection>| -> Result<Option<Handshake>> {
        let handshake = found(handshakes.get(key, 0))?;
        Ok(handshake.map(|Plain(handshake)| handshake))
    };
    let namespaces = namespaces()?;
    let mut by_netns: HashMap<u64, Vec<_>> = HashMap::new();
    for key in keys {
        by_netns.entry(key.0.netns).or_default().push(key);
    }
    for (cookie, keys) in by_netns {
        let ends: Vec<_> = keys.iter().map(|key| ends(&key.0)).collect();
        // Before the sockets are looked for: what begins later is not taken for what was there.
        let noted = keys.iter().map(handshake).collect::<Result<Vec<_>>>()?;
        let exist = match namespaces.get(&cookie) {
            Some(netns) => sockets::exist(netns, &ends)?,
            None => vec![false; keys.len()],
        };
        let all = keys.iter().zip(noted).zip(exist);
        for ((key, noted), _) in all.filter(|(_, exists)| !exists) {
            if before.get(&key.0) != Some(&noted) {
                orphans.insert(key.0, noted);
                continue;
            }
            removed(translated.remove(key))?;
            if handshake(key)? != noted {
                // One that has begun at this very moment may have lost its entry.
                abort(&namespaces, &key.0);
            }
        }
    }
    Ok(orphans)
}

/// Resets those that are `gone`: at both ends, at once.
pub(super) fn reset(translated: &mut Translated, gone: impl Fn(&Connection) -> bool) -> Result<()> {
    let keys = translated.keys().collect::<Result<Vec<_>, _>>()?;
    let connections: Vec<_> = keys.iter().filter(|key| gone(&key.0)).collect();
    if connections.is_empty() {
        return Ok(());
    }
    let namespaces = namespaces()?;
    for key in connections {
        abort(&namespaces, &key.0);
        // The end of the socket removed it, if there was one.
        let _ = translated.remove(key);
    }
    Ok(())
}

fn abort(namespaces: &HashMap<u64, Netns>, connection: &Connection) {
    let (local, remote) = ends(connection);
    if let Some(netns) = namespaces.get(&connection.netns)
        && let Err(error) = sockets::abort(netns, local, remote)
    {
        warn!("the connection from {remote} to {local} will break: {error:#}");
    }
}

/// The server's end, and the sender's.
fn ends(connection: &Connection) -> (SocketAddr, SocketAddr) {
    let Connection {
        source,
        destination,
        ..
    } = connection;
    (destination.socket_addr(), source.socket_addr())
}

/// Those of the host, by their cookies.
fn namespaces() -> Result<HashMap<u64, Netns>> {
    Ok(Netns::all()?.into_iter().map(|n| (n.cookie(), n)).collect())
}
