//! Connections whose sequence numbers are translated: without the data path, the server would take other
//! bytes than the sender's for the next ones. They are reset before that.

use std::collections::HashMap;

use agent_common::Connection;
use anyhow::Result;
use tracing::warn;

use super::Pins;
use crate::{netns::Netns, sockets};

/// Resets those that are `gone`: at both ends, at once.
pub(super) fn reset(pins: &Pins, gone: impl Fn(&Connection) -> bool) -> Result<()> {
    let mut translated = pins.translated()?;
    let keys = translated.keys().collect::<Result<Vec<_>, _>>()?;
    let connections: Vec<_> = keys.iter().filter(|key| gone(&key.0)).collect();
    if connections.is_empty() {
        return Ok(());
    }
    let namespaces: HashMap<_, _> = Netns::all()?.into_iter().map(|n| (n.cookie(), n)).collect();
    for key in connections {
        let Connection {
            netns,
            source,
            destination,
        } = key.0;
        let (local, remote) = (destination.socket_addr(), source.socket_addr());
        if let Some(netns) = namespaces.get(&netns)
            && let Err(error) = sockets::abort(netns, local, remote)
        {
            warn!("the connection from {remote} to {local} will break: {error:#}");
        }
        // The end of the socket removed it, if there was one.
        let _ = translated.remove(key);
    }
    Ok(())
}
