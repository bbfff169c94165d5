//! What is in place in one network namespace, or is to be.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use agent_common::{
    Address, Namespace,
    node::{Interface, Node},
};
use anyhow::Result;
use ipnet::IpNet;
use tokio::{sync::mpsc::Sender, task::JoinHandle};
use tracing::debug;

use super::plan::{self, Place, Rules};
use crate::{
    datapath::{Job, Packets, Unwrapped},
    host::netns::{Device, Netns},
    route::{self, sysctl},
};

/// A network namespace in which something is to be done.
pub(super) struct Served {
    pub(super) netns: Netns,
    pub(super) settings: Namespace,
    pub(super) unwraps: Unwrapped,
    pub(super) nodes: Vec<(Interface, Node)>,
    /// The namespace's addresses that other hosts may know, if it has nodes.
    pub(super) addresses: HashSet<Address>,
    /// The prefixes of all addresses that are its own.
    pub(super) own: HashSet<IpNet>,
    /// Interfaces that are attached to and are ports of others, with the Ethernet address ([`agent_common::local::mac`]) of the topmost one.
    pub(super) masters: Vec<(Interface, u64)>,
    /// Name of each interface that is attached to, for what, and its index.
    pub(super) interfaces: Vec<(String, Job, u32)>,
    /// Whether the namespace has steers, which also look up sockets.
    pub(super) steers: bool,
    /// Ports on which proxies listen.
    pub(super) proxies: BTreeSet<u16>,
    /// Rules, routes and sysctls.
    pub(super) routes: Vec<route::Item>,
    /// What is to be attached, unless it is already.
    pub(super) packets: Option<Packets>,
    /// Names of the pins of what is attached.
    pub(super) pins: Vec<String>,
    watch: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// The devices that these interfaces are ports of, by the interfaces' indices. One that has gone is port of none.
fn topmost(netns: &Netns, interfaces: &[(String, Job, u32)]) -> Result<BTreeMap<u32, Device>> {
    let mut devices = BTreeMap::new();
    let each: BTreeMap<_, _> = interfaces
        .iter()
        .map(|(name, _, index)| (index, name))
        .collect();
    for (index, name) in each {
        match netns.topmost(*index) {
            Ok(device) if device.index != *index => drop(devices.insert(*index, device)),
            Ok(_) => {}
            Err(_) if netns.find_interface(name)? != Some(*index) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(devices)
}

/// Whether a namespace or an interface that is missing is an error, or comes later.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Fails,
    Waits,
}

impl Served {
    /// Looks at a namespace, and says what is to be there. From now on, `changed` is told `place` when one of its
    /// interfaces or addresses changes, and when somebody may have taken away what is in place. `kind` is that of the TOA which
    /// nodes write.
    ///
    /// # Errors
    ///
    /// When an interface is missing that may not be, or the steers do not fit.
    pub(super) fn survey(
        place: &Place,
        netns: Netns,
        rules: &Rules,
        kind: u8,
        missing: Missing,
        changed: &Sender<Place>,
    ) -> Result<Self> {
        // Before looking, so that no change goes by unseen.
        let changed = changed.clone();
        let watched = place.clone();
        let mut changes = netns.watch()?;
        let watch = tokio::spawn(async move {
            while changes.recv().await.is_some() && changed.send(watched.clone()).await.is_ok() {}
        });
        let links = netns.links(rules.need_routes())?;
        let mut interfaces = Vec::new();
        for (name, job) in rules.jobs(&links) {
            match links.index(name) {
                Some(index) => {
                    interfaces.push((name.to_owned(), job, index));
                }
                None if missing == Missing::Fails => drop(netns.interface_index(name)?),
                None => debug!("interface {name} of {netns} is missing"),
            }
        }
        let topmost = topmost(&netns, &interfaces)?;
        let cookie = netns.cookie();
        let nodes = plan::nodes(&rules.nodes, kind, cookie, &links, |index| {
            topmost.get(&index).map_or(index, |device| device.index)
        });
        let addresses = if nodes.is_empty() {
            HashSet::new()
        } else {
            netns.addresses()?.into_iter().map(Address::from).collect()
        };
        Ok(Self {
            settings: Namespace {
                local_ports: sysctl::local_ports(&netns)?,
                ..plan::settings(&rules.steers, &links)?
            },
            unwraps: plan::unwraps(&rules.unwraps, rules.refuses, netns.cookie(), &links),
            nodes,
            addresses,
            own: netns.own_prefixes()?,
            masters: plan::masters(cookie, &topmost),
            netns,
            interfaces,
            steers: !rules.steers.is_empty(),
            proxies: rules.steers.iter().flat_map(|s| s.to.clone()).collect(),
            routes: route::items(&rules.steers, &links),
            packets: None,
            pins: Vec::new(),
            watch,
        })
    }

    /// What is done on which interface.
    pub(super) fn jobs(&self) -> Vec<(&str, Job)> {
        let interfaces = self.interfaces.iter();
        interfaces
            .map(|(name, job, _)| (name.as_str(), *job))
            .collect()
    }

    /// The index by which an interface is attached to.
    pub(super) fn index(&self, interface: &str) -> Option<u32> {
        let mut known = self.interfaces.iter();
        let known = known.find(|(name, _, _)| name == interface);
        known.map(|(_, _, index)| *index)
    }

    /// Whether the same programs are attached to the same of the namespace as in `before`.
    pub(super) fn is_attached_in(&self, before: &Self) -> bool {
        let attached = |served: &Self| (served.netns.inode(), served.steers);
        attached(self) == attached(before) && self.interfaces == before.interfaces
    }
}
