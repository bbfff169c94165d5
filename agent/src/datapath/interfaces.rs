//! Attaches packet programs to interfaces of a network namespace, and `sk_lookup` to the namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::AsFd as _,
    path::Path,
};

use agent_common::names::program;
use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{
        Program, SchedClassifier, SkLookup, TcAttachType,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

use super::{
    filters,
    jobs::{Job, PacketProgram},
    links,
    object::Datapath,
    ownership,
    pins::Pins,
    programs,
};
use crate::host::netns::{Framing, Netns};

/// The packet programs of one network namespace: the kernel has taken them, and they are attached to nothing yet.
pub struct Packets {
    /// Where IP begins in a frame is fixed when a program is loaded.
    objects: BTreeMap<Framing, Ebpf>,
    netns: Netns,
    /// Interfaces, how their frames begin, and what is done there.
    jobs: Vec<(String, Framing, Job)>,
    /// Whether the namespace has steers, which also look up sockets.
    steers: bool,
}

impl Packets {
    /// Loads them.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub fn load(&mut self) -> Result<()> {
        let loaded = programs::load_all(self.programs());
        loaded.with_context(|| format!("cannot serve {}", self.netns))?;
        self.close();
        Ok(())
    }

    /// The programs that are to be loaded.
    pub(super) fn programs(&mut self) -> impl Iterator<Item = (&str, &mut Program)> {
        // The first object has the one that looks up sockets.
        let mut lookup = self.steers.then_some(program::LOOKUP);
        let jobs = &self.jobs;
        self.objects.iter_mut().flat_map(move |(framing, object)| {
            let jobs = jobs.iter().filter(|(_, of, _)| of == framing);
            let names = jobs.flat_map(|(_, _, job)| PacketProgram::of(*job).map(|p| p.name));
            let names: Vec<_> = names.chain(lookup.take()).collect();
            programs::these(object, &names).collect::<Vec<_>>()
        })
    }

    /// Gives up the maps, which the programs hold when they are loaded: their descriptors would add up over many namespaces.
    pub(super) fn close(&mut self) {
        for object in self.objects.values_mut() {
            let maps: Vec<_> = object.maps().map(|(name, _)| name.to_owned()).collect();
            for map in maps {
                object.take_map(&map);
            }
        }
    }

    /// Names of the pins that they are going to have.
    pub fn pins(&self) -> Vec<String> {
        let inode = self.netns.inode();
        let packets = self.jobs.iter().flat_map(|(interface, _, job)| {
            PacketProgram::of(*job).map(move |p| links::on_interface(p.name, inode, interface))
        });
        let lookup = self.steers.then(|| links::of_lookup(inode));
        packets.chain(lookup).collect()
    }
}

impl Datapath {
    /// The packet programs for interfaces of `netns`, and `sk_lookup` if the namespace has steers. They are not loaded.
    ///
    /// # Errors
    ///
    /// When another agent does the same on an interface, or its packets cannot be read. One that has gone is left out: pods
    /// end at any time, and whoever watches is told.
    pub fn packets(
        &mut self,
        netns: &Netns,
        jobs: &[(&str, Job)],
        steers: bool,
    ) -> Result<Packets> {
        let jobs = netns.run(|| {
            let mut there = Vec::new();
            for (name, job) in jobs {
                let framing = netns.framing(name).and_then(|framing| {
                    refuse_rivals(&self.pins, netns.inode(), name, *job)?;
                    Ok(framing)
                });
                if let Some(framing) = unless_gone(netns, name, framing)? {
                    there.push(((*name).to_owned(), framing, *job));
                }
            }
            anyhow::Ok(there)
        })?;
        let mut framings: BTreeSet<_> = jobs.iter().map(|(_, of, _)| *of).collect();
        if framings.is_empty() && steers {
            framings.insert(Framing::Ethernet);
        }
        let mut objects = BTreeMap::new();
        for framing in framings {
            objects.insert(framing, self.load_for(netns.cookie(), framing)?);
        }
        Ok(Packets {
            objects,
            netns: netns.clone(),
            jobs,
            steers,
        })
    }

    /// The same, loaded.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub fn load_packets(
        &mut self,
        netns: &Netns,
        jobs: &[(&str, Job)],
        steers: bool,
    ) -> Result<Packets> {
        let mut packets = self.packets(netns, jobs, steers)?;
        packets.load()?;
        Ok(packets)
    }

    /// Attaches packet programs; what was attached to the same interfaces is replaced. Returns the names of the pins. Interfaces
    /// that have gone are left out.
    pub fn attach(&self, packets: Packets) -> Result<Vec<String>> {
        let Packets {
            mut objects,
            netns,
            jobs,
            steers,
        } = packets;
        let (pins, inode) = (&self.pins, netns.inode());
        netns.run(|| {
            let mut names = Vec::new();
            for (interface, framing, job) in &jobs {
                let object = objects.get_mut(framing).context("it was loaded")?;
                for program in PacketProgram::of(*job) {
                    let attached = attach_packets(object, pins, inode, interface, program);
                    let attached =
                        attached.with_context(|| format!("cannot attach to {interface}"));
                    names.extend(unless_gone(&netns, interface, attached)?);
                }
            }
            if steers {
                // The first one has it.
                let object = objects.values_mut().next().context("it was loaded")?;
                let attached = attach_lookup(object, pins, inode);
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

    /// Of the programs with these pins, all of which are in `netns`, those that are not attached. `index` says which
    /// interfaces they were attached to: with an interface that has gone, what was attached to it is not missing.
    pub fn missing(
        &self,
        netns: &Netns,
        names: &[String],
        index: impl Fn(&str) -> Option<u32> + Sync,
    ) -> Result<Vec<Missing>> {
        netns.run(|| {
            let mut all = Vec::new();
            for name in names {
                if let Some((_, _, interface)) = links::interface(name)
                    && (index(&interface).is_none()
                        || netns.find_interface(&interface)? != index(&interface))
                {
                    continue;
                }
                all.extend(missing(&self.pins, name)?);
            }
            Ok(all)
        })
    }
}

/// What was done with an interface of the calling thread's network namespace, `netns`; nothing if it has gone.
fn unless_gone<T>(netns: &Netns, interface: &str, done: Result<T>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(_) if netns.find_interface(interface)?.is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A program that is to be attached and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Which, and to what.
    pub what: String,
    /// Whether it was attached by a clsact filter, or else by a link.
    pub is_filter: bool,
}

/// Whether the program with this pin is missing: in the calling thread's network namespace, if it is attached by a filter.
pub(super) fn missing(pins: &Pins, name: &str) -> Result<Option<Missing>> {
    let filter = pins.filter(name)?;
    let is_attached = match (filter, links::interface(name)) {
        (Some(id), Some((program, _, interface))) => match PacketProgram::named(program) {
            Some(program) => filters::runs(&interface, program, id)?,
            None => false,
        },
        _ => pins.link_info(name)?.is_some_and(|link| link.is_attached()),
    };
    let (program, target) = links::describe(name);
    Ok((!is_attached).then(|| Missing {
        what: format!("{program} on {target}"),
        is_filter: filter.is_some(),
    }))
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
    let lookup: &mut SkLookup = programs::named(object, program::LOOKUP)?;
    ownership::mark(pins, lookup.fd()?.as_fd())?;
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
    let classifier: &mut SchedClassifier = programs::named(object, program.name)?;
    ownership::mark(pins, classifier.fd()?.as_fd())?;
    let pin = links::on_interface(program.name, netns, interface);
    if replace(classifier, &pins.link_path(&pin)) {
        return Ok(pin);
    }
    let neighbour = neighbour(pins, netns, interface, program)?;
    let tcx = TcAttachOptions::TcxOrder(order(neighbour.as_ref())?);
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

/// Which of truepeer's own programs a program of the same hook runs next to.
/// Fails when another agent does the same on the interface, which is in the namespace with this inode: two would both change a
/// packet.
fn refuse_rivals(pins: &Pins, netns: u64, interface: &str, job: Job) -> Result<()> {
    for program in PacketProgram::of(job) {
        let pin = links::on_interface(program.name, netns, interface);
        let linked = pins.link_info(&pin)?.map(|link| link.program_id);
        let own = linked.or(pins.filter(&pin)?);
        for (name, id) in in_order(interface, program.direction)? {
            if name != program.name || Some(id) == own {
                continue;
            }
            if let Some(rival) = ownership::other_owner(pins, id)? {
                bail!(
                    "{name} of another agent, whose `bpffs` is {}, runs on {interface} already: stop that agent, or type \
                     `truepeer detach --config FILE` with its configuration",
                    rival.display()
                );
            }
        }
    }
    Ok(())
}

/// Names and ids of the programs of an interface of the calling thread's network namespace: what TCX has, which Linux 6.6
/// brought, runs before filters.
pub(super) fn in_order(interface: &str, direction: TcAttachType) -> Result<Vec<(String, u32)>> {
    let by_tcx = SchedClassifier::query_tcx(interface, direction);
    let by_tcx = by_tcx.map_or_else(|_| Vec::new(), |(_, programs)| programs);
    let mut all: Vec<_> = by_tcx
        .iter()
        .map(|program| {
            let name = program.name_as_str().unwrap_or_default().to_owned();
            (name, program.id())
        })
        .collect();
    all.extend(filters::programs(interface, direction)?);
    Ok(all)
}

enum Neighbour {
    /// This comes behind it.
    Next(SchedClassifierLink),
    /// This comes before it.
    Previous(SchedClassifierLink),
}

/// The neighbour of a program on an interface; `None`: no other of truepeer's is attached to the hook.
fn neighbour(
    pins: &Pins,
    netns: u64,
    interface: &str,
    program: &PacketProgram,
) -> Result<Option<Neighbour>> {
    let (before, behind) = program.neighbours();
    let attached = |other: &PacketProgram| -> Result<Option<SchedClassifierLink>> {
        let pin = links::on_interface(other.name, netns, interface);
        let is_attached = pins.link_info(&pin)?.is_some_and(|link| link.is_attached());
        let link = if is_attached { pins.link(&pin)? } else { None };
        Ok(link.map(SchedClassifierLink::try_from).transpose()?)
    };
    for next in behind {
        if let Some(link) = attached(next)? {
            return Ok(Some(Neighbour::Next(link)));
        }
    }
    for previous in before {
        if let Some(link) = attached(previous)? {
            return Ok(Some(Neighbour::Previous(link)));
        }
    }
    Ok(None)
}

/// Where a program goes among all of its hook: next to truepeer's own, and else before everybody else's. Whoever comes before it
/// could end the walk and have it miss segments whose sequence numbers it translates.
fn order(neighbour: Option<&Neighbour>) -> Result<LinkOrder> {
    Ok(match neighbour {
        Some(Neighbour::Next(link)) => LinkOrder::before_link(link)?,
        Some(Neighbour::Previous(link)) => LinkOrder::after_link(link)?,
        None => LinkOrder::first(),
    })
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
