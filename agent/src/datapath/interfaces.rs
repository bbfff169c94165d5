//! Attaches packet programs to interfaces of a network namespace, and `sk_lookup` to the namespace.

use std::{fs::File, path::Path};

use agent_common::names::program;
use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{
        SchedClassifier, SkLookup,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

use super::{
    filters,
    jobs::{Job, PacketProgram},
    links,
    object::Datapath,
    pins::Pins,
    programs,
};
use crate::host::netns::Netns;

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
        let (pins, inode) = (&self.pins, netns.inode());
        netns.run(move || {
            let mut names = Vec::new();
            for (interface, job) in jobs {
                for program in PacketProgram::of(*job) {
                    let attached = attach_packets(&mut object, pins, inode, interface, program);
                    names.push(attached.with_context(|| format!("cannot attach to {interface}"))?);
                }
            }
            if steers {
                let attached = attach_lookup(&mut object, pins, inode);
                names.push(attached.context("cannot attach sk_lookup")?);
            }
            Ok(names)
        })
    }

    /// Detaches the programs with these pins.
    ///
    /// # Errors
    ///
    /// When one cannot be detached; the others are all the same.
    pub fn detach<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Result<()> {
        let detached = names.into_iter().map(|name| detach(&self.pins, name));
        detached.fold(Ok(()), Result::and)
    }

    /// Fails when a program with one of these pins is not attached, all of which are in `netns`.
    pub fn check(&self, netns: &Netns, names: &[String]) -> Result<()> {
        netns.run(|| names.iter().try_for_each(|name| check(&self.pins, name)))
    }
}

/// Fails when the program with this pin is not attached in the calling thread's network namespace.
fn check(pins: &Pins, name: &str) -> Result<()> {
    if pins.link(name)?.is_some() {
        return Ok(());
    }
    if let (Some(id), Some((program, _, interface))) = (pins.filter(name)?, links::interface(name))
        && let Some(program) = PacketProgram::named(program)
    {
        if !filters::runs(&interface, program, id)? {
            bail!("the filter {} on {interface} is missing", program.name);
        }
        return Ok(());
    }
    bail!("{} is missing", pins.link_path(name).display());
}

/// Detaches the program with this pin, if there is one, from wherever it is.
pub(super) fn detach(pins: &Pins, name: &str) -> Result<()> {
    if let (Some(_), Some((program, inode, interface))) =
        (pins.filter(name)?, links::interface(name))
        && let Some(program) = PacketProgram::named(program)
    {
        let netns = Netns::all()?.into_iter().find(|n| n.inode() == inode);
        // With a namespace or an interface that is gone, the filter is, too.
        if let Some(netns) = netns
            && netns.find_interface(&interface)?.is_some()
        {
            netns.run(|| filters::remove(pins, &interface, program))?;
        }
        pins.unpin_filter(name)?;
    }
    pins.unpin_link(name)
}

/// Attaches `sk_lookup` to the calling thread's network namespace, whose inode is `netns`. Returns the name of
/// the pin.
fn attach_lookup(object: &mut Ebpf, pins: &Pins, netns: u64) -> Result<String> {
    let here = File::open("/proc/thread-self/ns/net")?;
    programs::load(object, program::LOOKUP)?;
    let lookup: &mut SkLookup = programs::named(object, program::LOOKUP)?;
    let id = lookup.attach(&here)?;
    let link = FdLink::from(lookup.take_link(id)?);
    let pin = links::of_lookup(netns);
    pins.pin_link(&pin, |path| Ok(link.pin(path).map(drop)?))?;
    Ok(pin)
}

/// Attaches a packet program to an interface of the calling thread's network namespace, whose inode is `netns`: by
/// TCX, or before Linux 6.6 by a clsact filter. Returns the name of the pin.
fn attach_packets(
    object: &mut Ebpf,
    pins: &Pins,
    netns: u64,
    interface: &str,
    program: &PacketProgram,
) -> Result<String> {
    programs::load(object, program.name)?;
    let classifier: &mut SchedClassifier = programs::named(object, program.name)?;
    let pin = links::on_interface(program.name, netns, interface);
    if replace(classifier, &pins.link_path(&pin)) {
        return Ok(pin);
    }
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
    match classifier.attach_with_options(interface, program.direction, tcx) {
        Ok(id) => {
            let link = FdLink::try_from(classifier.take_link(id)?)?;
            pins.pin_link(&pin, |path| Ok(link.pin(path).map(drop)?))?;
        }
        // A kernel with TCX tells what an interface has.
        Err(_) if SchedClassifier::query_tcx(interface, program.direction).is_err() => {
            // Pinned first: what is pinned and does not run is attached by the next start, or removed.
            pins.pin_filter(&pin, |path| Ok(classifier.pin(path)?))?;
            let running = filters::run(classifier, pins, interface, program);
            if running.is_err() && !filters::is_there(interface, program)? {
                pins.unpin_filter(&pin)?;
                filters::remove_qdisc(pins, interface)?;
            }
            running?;
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
