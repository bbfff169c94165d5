//! Attaches packet programs to interfaces of a network namespace, and `sk_lookup` to the namespace.

use std::{fmt, fs::File, path::Path};

use agent_common::names::program;
use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{
        ProgramError, SchedClassifier, SkLookup, TcAttachType,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program,
        },
    },
};
use nix::libc;

use super::{
    links,
    object::{self, Datapath},
    pins::Pins,
};
use crate::host::netns::Netns;

/// What is done on an interface. Jobs on one interface run in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// PROXY headers are taken off, before anything else sees them.
    Unwrap,
    /// SYNs are given TOA before the node's own NAT.
    Node,
    /// Connections are brought to a proxy, or its own to it.
    Steer,
}

impl Job {
    const ALL: [Self; 3] = [Self::Unwrap, Self::Node, Self::Steer];

    /// The programs that do it.
    fn programs(self) -> &'static [(&'static str, TcAttachType)] {
        match self {
            Self::Unwrap => &[
                (program::UNWRAP, TcAttachType::Ingress),
                (program::ANSWER, TcAttachType::Egress),
            ],
            Self::Node => &[(program::NODE, TcAttachType::Ingress)],
            Self::Steer => &[(program::STEER, TcAttachType::Ingress)],
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unwrap => "unwrap on",
            Self::Node => "carry on",
            Self::Steer => "steer on",
        })
    }
}

impl Datapath {
    /// Attaches the packet programs to interfaces of `netns`, and `sk_lookup` to the namespace if it has
    /// steers; what was attached there is replaced. Returns the names of the pins.
    pub fn attach(
        &mut self,
        netns: &Netns,
        jobs: &[(&str, Job)],
        steers: bool,
    ) -> Result<Vec<String>> {
        let mut object = self.load_for(netns.cookie())?;
        let pins = &self.pins;
        netns.run(move || {
            let mut names = Vec::new();
            for (interface, job) in jobs {
                for (name, direction) in job.programs() {
                    let place = Place {
                        netns: netns.inode(),
                        interface,
                        name,
                        direction: *direction,
                    };
                    let attached = attach_packets(&mut object, pins, &place);
                    names.push(attached.with_context(|| format!("cannot attach to {interface}"))?);
                }
            }
            if steers {
                let attached = attach_lookup(&mut object, pins, netns.inode());
                names.push(attached.context("cannot attach sk_lookup")?);
            }
            Ok(names)
        })
    }

    /// Detaches the programs with these pins.
    pub fn detach<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Result<()> {
        let mut names = names.into_iter();
        names.try_for_each(|name| self.pins.unpin_link(name))
    }

    /// Fails when one of these pins is missing.
    pub fn check(&self, names: &[String]) -> Result<()> {
        for name in names {
            let link = self.pins.link(name)?;
            link.with_context(|| format!("{} is missing", self.pins.link_path(name).display()))?;
        }
        Ok(())
    }
}

/// Where a packet program is attached.
struct Place<'a> {
    /// Inode of the calling thread's network namespace.
    netns: u64,
    interface: &'a str,
    /// The program's.
    name: &'a str,
    direction: TcAttachType,
}

/// Attaches `sk_lookup` to the calling thread's network namespace, whose inode is `netns`. Returns the name of
/// the pin.
fn attach_lookup(object: &mut Ebpf, pins: &Pins, netns: u64) -> Result<String> {
    let here = File::open("/proc/thread-self/ns/net")?;
    let lookup: &mut SkLookup = object::program(object, program::LOOKUP)?;
    lookup.load()?;
    let id = lookup.attach(&here)?;
    let link = FdLink::from(lookup.take_link(id)?);
    let pin = links::of_lookup(netns);
    pins.pin_link(&pin, |path| Ok(link.pin(path).map(drop)?))?;
    Ok(pin)
}

/// Attaches a packet program: by TCX, or before Linux 6.6 by a clsact filter, which needs no pin to stay.
/// Returns the name of the pin.
fn attach_packets(object: &mut Ebpf, pins: &Pins, place: &Place<'_>) -> Result<String> {
    let classifier: &mut SchedClassifier = object::program(object, place.name)?;
    if classifier.fd().is_err() {
        classifier.load()?;
    }
    let pin = links::on_interface(place.name, place.netns, place.interface);
    if replace(classifier, &pins.link_path(&pin)) {
        return Ok(pin);
    }
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
    match classifier.attach_with_options(place.interface, place.direction, tcx) {
        Ok(id) => {
            let link = FdLink::try_from(classifier.take_link(id)?)?;
            pins.pin_link(&pin, |path| Ok(link.pin(path).map(drop)?))?;
        }
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::EINVAL) =>
        {
            add_filter(classifier, place)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(pin)
}

/// Has the link that is pinned at `path` run this program instead of another from one packet to the next: two at
/// a time would both change sequence numbers. `false`: there is no such link, or its interface has gone.
fn replace(classifier: &mut SchedClassifier, path: &Path) -> bool {
    PinnedLink::from_pin(path).is_ok_and(|pinned| {
        SchedClassifierLink::try_from(FdLink::from(pinned))
            .ok()
            .and_then(|link| classifier.attach_to_link(link).ok())
            // Dropped, it stays pinned.
            .is_some_and(|id| classifier.take_link(id).is_ok())
    })
}

/// Adds a clsact filter, instead of the one that may be there.
fn add_filter(classifier: &mut SchedClassifier, place: &Place<'_>) -> Result<()> {
    let Place {
        interface,
        name,
        direction,
        ..
    } = *place;
    // Fails when the interface has a clsact already, which serves as well.
    let _ = qdisc_add_clsact(interface);
    let _ = qdisc_detach_program(interface, direction, name);
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let id = classifier
        .attach_with_options(interface, direction, options)
        .with_context(|| format!("cannot add a clsact filter to {interface}"))?;
    // The filter is to outlive the agent; dropping the link would remove it.
    std::mem::forget(classifier.take_link(id)?);
    Ok(())
}

/// Removes truepeer's clsact filters from `interface` of the calling thread's network namespace, where
/// there are any.
pub(super) fn remove_filters(interface: &str) {
    for (name, direction) in Job::ALL.into_iter().flat_map(Job::programs) {
        // An error says that there is no such filter, as on nearly every interface.
        let _ = qdisc_detach_program(interface, *direction, name);
    }
}
