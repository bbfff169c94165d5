//! Takes away what is no longer wanted, or all of it.

use std::collections::{HashMap, HashSet};

use agent_common::{Namespace, names::map};
use anyhow::Result;
use nix::net::if_::if_nameindex;
use tracing::{debug, warn};

use super::{
    filters, interfaces,
    jobs::PacketProgram,
    maps::removed,
    object::Datapath,
    ownership,
    pins::Pins,
    steer, streams,
    unwrap::{self, Unwrapped},
};
use crate::host::netns::Netns;

impl Datapath {
    /// Forgets the settings of the namespace with this cookie.
    pub fn forget(&self, netns: u64) -> Result<()> {
        self.carry_node(netns, &[])?;
        self.own(netns, &HashSet::new(), &[])?;
        removed(self.pins.namespaces()?.remove(&netns))?;
        Ok(())
    }

    /// Removes what another agent has left, and what the configuration no longer needs: detaches every program
    /// whose pin is not among `names`, forgets the settings of every namespace whose cookie is not among
    /// `cookies`, takes headers off `ports` only, and removes the maps of other versions.
    pub fn retain(&self, names: &[&str], cookies: &[u64], ports: &Unwrapped) -> Result<()> {
        // Programs that translate connections go after these.
        self.retain_unwraps(ports)?;
        let keep: HashSet<&str> = self
            .names()
            .map(String::as_str)
            .chain(names.iter().copied())
            .collect();
        let known = [self.pins.link_names()?, self.pins.filter_names()?];
        for name in known.iter().flatten() {
            if !keep.contains(name.as_str()) {
                interfaces::detach(&self.pins, name)?;
            }
        }
        let mut gone = steer::settings(&self.pins)?;
        gone.retain(|(cookie, _)| !cookies.contains(cookie));
        for (cookie, _) in &gone {
            self.forget(*cookie)?;
        }
        end_steered(&gone);
        self.pins.remove_former_maps()
    }
}

/// Removes the data path pinned at `pins`, whoever left it: programs, maps, and clsact filters in every namespace that
/// can be seen.
///
/// # Errors
///
/// When something could not be removed, or the namespaces cannot be listed; the rest is removed all the same.
pub fn remove(pins: &Pins) -> Result<()> {
    // Those of another version cannot be read, but for what they translate.
    let ended = unwrap::end_all(pins);
    if let Err(error) = &ended {
        debug!("no unwrapped ports: {error:#}");
    }
    let own = pins.map_path(map::TRANSLATED);
    let full = streams::end(pins, |path| ended.is_err() || path != own);
    if let Err(error) = &full {
        debug!("no translated connections: {error:#}");
    }
    let steered = steer::settings(pins).unwrap_or_else(|error| {
        debug!("no steered connections: {error:#}");
        Vec::new()
    });
    // Before the pins go, because they say which qdiscs truepeer added.
    let looked = Netns::all().map(|all| {
        for netns in all {
            if let Err(error) = netns.run(|| remove_filters(pins)) {
                warn!("clsact filters in {netns} were not looked for: {error:#}");
            }
        }
    });
    // Another bpffs may be mounted over the pins, and somebody else may hold a link.
    let detached = ownership::detach_all(pins);
    end_steered(&steered);
    pins.remove().and(looked).and(detached)
}

/// Resets what was steered in namespaces, by their cookies, and is no longer.
fn end_steered(gone: &[(u64, Namespace)]) {
    if gone.is_empty() {
        return;
    }
    let namespaces = streams::namespaces().unwrap_or_else(|error| {
        warn!("connections that were steered hang: {error:#}");
        HashMap::new()
    });
    for (cookie, settings) in gone {
        if let Some(netns) = namespaces.get(cookie) {
            steer::end_steered(netns, settings, &Namespace::default());
        }
    }
}

/// Removes truepeer's clsact filters from all interfaces of the calling thread's network namespace.
fn remove_filters(pins: &Pins) -> Result<()> {
    for interface in if_nameindex()?.iter() {
        let interface = interface.name().to_string_lossy();
        for program in PacketProgram::all() {
            if let Err(error) = filters::remove(pins, &interface, program) {
                debug!("{error:#}");
            }
        }
    }
    Ok(())
}
