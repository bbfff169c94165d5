//! steer: which connections are brought to which listener.

use agent_common::Namespace;
use anyhow::{Context as _, Result};

use super::{maps::Plain, object::Datapath};
use crate::host::netns::Netns;

impl Datapath {
    /// Tells the data path what to steer in `netns`. Sockets that come to listen from now on are known;
    /// for older ones see [`Datapath::adopt`].
    pub fn steer(&self, netns: &Netns, settings: &Namespace) -> Result<()> {
        let mut namespaces = self.pins.namespaces()?;
        namespaces
            .insert(netns.cookie(), Plain(*settings), 0)
            .with_context(|| format!("cannot configure {netns}"))
    }
}
