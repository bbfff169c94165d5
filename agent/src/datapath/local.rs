//! What belongs to the namespaces that are served, which the kernel does not tell a program.

use std::collections::HashSet;

use agent_common::{Address, local::Local, node::Interface};
use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;

use super::{
    maps::{self, Plain},
    object::Datapath,
};

impl Datapath {
    /// Says which addresses are the own ones of the namespace with this cookie, and with which Ethernet address comes in what
    /// is for a device above an interface.
    pub fn own(
        &self,
        netns: u64,
        prefixes: &HashSet<IpNet>,
        masters: &[(Interface, u64)],
    ) -> Result<()> {
        let key = |prefix: &IpNet| {
            let address = Local::new(netns, Address::from(prefix.network()));
            Key::new(Local::SCOPE + maps::prefix_length(prefix), Plain(address))
        };
        let mut known = self.pins.local()?;
        for prefix in prefixes {
            known
                .insert(&key(prefix), 0, 0)
                .with_context(|| format!("no room for {prefix} in the map of own addresses"))?;
        }
        let is_wanted = |k: &Key<Plain<Local>>| {
            let same =
                |w: Key<Plain<Local>>| w.prefix_len() == k.prefix_len() && w.data() == k.data();
            k.data().0.netns() != netns || prefixes.iter().map(key).any(same)
        };
        let keys = known.keys().collect::<Result<Vec<_>, _>>()?;
        for gone in keys.iter().filter(|k| !is_wanted(k)) {
            maps::removed(known.remove(gone))?;
        }
        let mut known = self.pins.masters()?;
        for (port, mac) in masters {
            known.insert(Plain(*port), *mac, 0)?;
        }
        let ports = known.keys().collect::<Result<Vec<_>, _>>()?;
        let is_gone = |port: &&Plain<Interface>| {
            port.0.netns == netns && !masters.iter().any(|(wanted, _)| *wanted == port.0)
        };
        for gone in ports.iter().filter(is_gone) {
            maps::removed(known.remove(gone))?;
        }
        Ok(())
    }
}
