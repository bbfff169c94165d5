//! carry: which next hops are told the client.

use agent_common::{
    Address,
    node::{Interface, Node},
};
use anyhow::Result;

use super::{
    maps::{self, Plain},
    object::Datapath,
};
use crate::config::CarryToa;

impl Datapath {
    /// Says where the clients of local proxies are told as TOA.
    pub(super) fn carry(&self, toa: &CarryToa) -> Result<()> {
        let wanted = toa.to.iter().map(|prefix| (*prefix, toa.kind.into()));
        maps::replace_prefixes(&mut self.pins.carry()?, wanted)
    }

    /// Says which SYNs are given TOA before the node's own NAT, in the namespace with this cookie.
    pub fn carry_node(&self, netns: u64, interfaces: &[(Interface, Node)]) -> Result<()> {
        let mut nodes = self.pins.nodes()?;
        for (interface, node) in interfaces {
            nodes.insert(Plain(*interface), Plain(*node), 0)?;
        }
        let known = nodes.keys().map(|key| Ok(key?.0));
        let mut gone = known.collect::<Result<Vec<Interface>>>()?;
        gone.retain(|i| i.netns == netns && !interfaces.iter().any(|(wanted, _)| wanted == i));
        for interface in gone {
            nodes.remove(&Plain(interface))?;
        }
        Ok(())
    }

    /// Says which addresses are this node's own.
    pub fn node_addresses(&self, addresses: impl IntoIterator<Item = Address>) -> Result<()> {
        let wanted = addresses.into_iter().map(|address| (Plain(address), 0));
        maps::replace(&mut self.pins.node_addresses()?, wanted)
    }
}
