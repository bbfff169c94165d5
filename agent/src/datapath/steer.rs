//! steer: which connections are brought to which listener, and the end of those that need it.
//!
//! A proxy's connection from an address that is not this host's, such as its client's, has what its other end sends brought to it
//! by steering alone. Without it both ends would wait for ever, and so they are reset once nothing brings it any more.

use agent_common::Namespace;
use anyhow::{Context as _, Result};
use tracing::{info, warn};

use super::{
    maps::{Plain, found},
    object::Datapath,
    pins::Pins,
};
use crate::host::{
    netns::Netns,
    sockets::{self, SocketInfo},
};

impl Datapath {
    /// Tells the data path what to steer in `netns`. Sockets that come to listen from now on are known;
    /// for older ones see [`Datapath::adopt`].
    pub fn steer(&self, netns: &Netns, settings: &Namespace) -> Result<()> {
        let mut namespaces = self.pins.namespaces()?;
        namespaces
            .insert(netns.cookie(), Plain(*settings), 0)
            .with_context(|| format!("cannot configure {netns}"))
    }

    /// What is steered in `netns`, by whichever agent.
    pub fn steered(&self, netns: &Netns) -> Result<Option<Namespace>> {
        let settings = found(self.pins.namespaces()?.get(&netns.cookie(), 0))?;
        Ok(settings.map(|Plain(settings)| settings))
    }
}

/// The settings of each namespace, by its cookie.
pub(super) fn settings(pins: &Pins) -> Result<Vec<(u64, Namespace)>> {
    let namespaces = pins.namespaces()?;
    let settings = namespaces.iter().map(|entry| {
        let (cookie, Plain(settings)) = entry?;
        Ok((cookie, settings))
    });
    settings.collect()
}

/// How often sockets are listed: the kernel's list may leave one out whose neighbours come or go meanwhile.
const LISTS: usize = 4;

/// Resets those connections of proxies in `netns` that were steered as `before` says, and are not as `now` says. To be called
/// when it is so. What cannot be reset is told in the log.
pub fn end_steered(netns: &Netns, before: &Namespace, now: &Namespace) {
    if before.ranges == now.ranges && before.spoofed == now.spoofed {
        return;
    }
    if let Err(error) = end_lost(netns, before, now) {
        warn!("connections that were steered in {netns} hang: {error:#}");
    }
}

fn end_lost(netns: &Netns, before: &Namespace, now: &Namespace) -> Result<()> {
    for _ in 0..LISTS {
        let lost = lost(netns, before, now)?;
        let number = lost.len();
        if number != 0 {
            info!(
                "{number} connections of proxies in {netns} are reset, which are steered no longer"
            );
        }
        let mut all = lost.iter();
        all.try_for_each(|socket| sockets::abort(netns, socket.local, socket.remote))?;
    }
    Ok(())
}

/// The sockets of connections that nothing brings any more what their other ends send.
fn lost(netns: &Netns, before: &Namespace, now: &Namespace) -> Result<Vec<SocketInfo>> {
    let carries = |settings: &Namespace, socket: &SocketInfo| {
        settings.carries(socket.local.port(), socket.remote.port(), socket.mark)
    };
    let mut lost = sockets::connections(netns)?;
    lost.retain(|socket| carries(before, socket) && !carries(now, socket));
    if !lost.is_empty() {
        let own = netns.own_prefixes()?;
        lost.retain(|socket| !own.iter().any(|prefix| prefix.contains(&socket.local.ip())));
    }
    Ok(lost)
}
