//! Takes away what is no longer wanted, or all of it.

use agent_common::unwrap::{UnwrapPort, Versions};
use anyhow::Result;
use aya::maps::MapError;
use nix::net::if_::if_nameindex;
use tracing::{debug, warn};

use super::{interfaces, object::Datapath, pins::Pins, unwrap};
use crate::host::netns::Netns;

impl Datapath {
    /// Forgets the settings of the namespace with this cookie.
    pub fn forget(&self, netns: u64) -> Result<()> {
        self.carry_node(netns, &[])?;
        match self.pins.namespaces()?.remove(&netns) {
            Err(MapError::KeyNotFound) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Removes what another agent has left, and what the configuration no longer needs: detaches every program
    /// whose pin is not among `names`, forgets the settings of every namespace whose cookie is not among
    /// `cookies`, and takes headers off `ports` only.
    pub fn retain(
        &self,
        names: &[&str],
        cookies: &[u64],
        ports: &[(UnwrapPort, Versions)],
    ) -> Result<()> {
        self.pins.retain_links(|name| {
            let own = self.always.iter().chain(&self.by_need);
            let keep = own.map(String::as_str).chain(names.iter().copied());
            keep.into_iter().any(|n| n == name)
        })?;
        let namespaces = self.pins.namespaces()?;
        let known: Vec<u64> = namespaces.keys().collect::<Result<_, _>>()?;
        for cookie in known.iter().filter(|cookie| !cookies.contains(cookie)) {
            self.forget(*cookie)?;
        }
        self.retain_unwraps(ports)
    }
}

/// Removes the data path pinned at `pins`, whoever left it: programs, maps, and clsact filters in
/// every namespace that can be seen.
pub fn remove(pins: &Pins) -> Result<()> {
    if let Err(error) = unwrap::reset(pins, |_| true) {
        debug!("no translated connections: {error:#}");
    }
    let removed = pins.remove();
    for netns in Netns::all()? {
        let swept = netns.run(|| {
            for interface in if_nameindex()?.iter() {
                interfaces::remove_filters(&interface.name().to_string_lossy());
            }
            Ok(())
        });
        if let Err(error) = swept {
            warn!("clsact filters in {netns} were not looked for: {error:#}");
        }
    }
    removed
}
