//! clsact filters, by which packet programs run on an interface before Linux 6.6 has TCX.
//!
//! A filter stays until it is removed, whoever added it. Its program is pinned by the name that a link would have:
//! that tells which filters there are to be, and which program each of them runs. All functions act in the calling
//! thread's network namespace.

use anyhow::{Context as _, Result, bail};
use aya::programs::{
    Link as _, SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
};
use futures_util::TryStreamExt as _;
use netlink_packet_route::tc::{
    TcAttribute, TcFilterBpfOption, TcHandle as Handle, TcMessage, TcOption,
};
use nix::net::if_::if_nametoindex;

use super::{jobs::PacketProgram, pins::Pins};
use crate::host::netns::Netns;

/// The handle of truepeer's filter among those of its priority.
const HANDLE: u32 = 1;

/// A filter that the kernel has.
struct Filter {
    priority: u16,
    /// Its handle among those of its priority. The kernel also lists each priority itself, with 0.
    handle: u32,
    /// What the filter is, for example `bpf`.
    kind: String,
    /// What whoever added it calls its program; empty unless it is a BPF filter.
    name: String,
    /// The kernel's id of its program; 0 unless it is a BPF filter.
    program_id: u32,
}

/// Has a filter of the interface run this program, instead of the one that the filter ran before: from one packet to
/// the next.
///
/// # Errors
///
/// When somebody else's filter has the priority, or the kernel refuses.
pub(super) fn run(
    classifier: &mut SchedClassifier,
    pins: &Pins,
    interface: &str,
    program: &PacketProgram,
) -> Result<()> {
    let PacketProgram {
        name,
        direction,
        priority,
        ..
    } = *program;
    add_qdisc(pins, interface)?;
    let filters = on(interface, direction)?;
    let is_in_place = |f: &Filter| (f.priority, f.handle) == (priority, HANDLE);
    // The filters of one priority are all of one kind.
    let stands_in_the_way =
        |f: &&Filter| f.priority == priority && f.kind != "bpf" || is_in_place(f) && f.name != name;
    if let Some(filter) = filters.iter().find(stands_in_the_way) {
        bail!(
            "the filter of priority {priority} on {interface} is not truepeer's, but \"{}\": give it another priority \
             (`tc filter show dev {interface} {}`)",
            format!("{} {}", filter.kind, filter.name).trim_end(),
            word(direction),
        );
    }
    // Two at a time would both change a packet.
    for misplaced in filters.iter().filter(|f| f.name == name && !is_in_place(f)) {
        link(interface, direction, misplaced.priority, misplaced.handle)?.detach()?;
    }
    let id = match filters.iter().find(|f| is_in_place(f)) {
        Some(_) => classifier.attach_to_link(link(interface, direction, priority, HANDLE)?),
        None => {
            let options = NlOptions {
                priority,
                handle: HANDLE.into(),
                ..NlOptions::default()
            };
            classifier.attach_with_options(interface, direction, TcAttachOptions::Netlink(options))
        }
    };
    let id = id.with_context(|| format!("cannot add a clsact filter to {interface}"))?;
    // The filter is to outlive the agent; dropping the link would remove it.
    std::mem::forget(classifier.take_link(id)?);
    Ok(())
}

/// Whether a filter of the interface runs a program of this name.
pub(super) fn is_there(interface: &str, program: &PacketProgram) -> Result<bool> {
    let filters = on(interface, program.direction)?;
    Ok(filters.iter().any(|f| f.name == program.name))
}

/// Whether truepeer's filter for this program is there, and runs the program with this id.
pub(super) fn runs(interface: &str, program: &PacketProgram, id: u32) -> Result<bool> {
    let filters = on(interface, program.direction)?;
    let is_it = |f: &Filter| (f.priority, f.handle, f.program_id) == (program.priority, HANDLE, id);
    Ok(filters.iter().any(is_it))
}

/// Removes every filter that runs a program of this name, and the qdisc if truepeer added it and nobody else needs
/// it by now.
pub(super) fn remove(pins: &Pins, interface: &str, program: &PacketProgram) -> Result<()> {
    let PacketProgram {
        name, direction, ..
    } = *program;
    for filter in on(interface, direction)? {
        if filter.name == name {
            link(interface, direction, filter.priority, filter.handle)?.detach()?;
        }
    }
    remove_qdisc(pins, interface)
}

fn link(
    interface: &str,
    direction: TcAttachType,
    priority: u16,
    handle: u32,
) -> Result<SchedClassifierLink> {
    let handle = TcHandle::from(handle);
    Ok(SchedClassifierLink::attached(
        interface, direction, priority, handle, None,
    )?)
}

/// Names of the filters of an interface and ids of their programs, 0 without one, in the order in which they run.
pub(super) fn programs(interface: &str, direction: TcAttachType) -> Result<Vec<(String, u32)>> {
    let mut filters = on(interface, direction)?;
    // A priority itself is listed, too.
    filters.retain(|filter| filter.handle != 0);
    filters.sort_by_key(|filter| filter.priority);
    let named = |filter: Filter| match filter.name.is_empty() {
        true => (format!("a filter ({})", filter.kind), filter.program_id),
        false => (filter.name, filter.program_id),
    };
    Ok(filters.into_iter().map(named).collect())
}

/// The filters of an interface.
fn on(interface: &str, direction: TcAttachType) -> Result<Vec<Filter>> {
    let filters = dump(interface, direction)?;
    Ok(filters.iter().map(Filter::read).collect())
}

/// All filters of an interface.
fn dump(interface: &str, direction: TcAttachType) -> Result<Vec<TcMessage>> {
    let index = if_nametoindex(interface)?;
    let filters = Netns::current()?.netlink(async |handle| {
        let filters = handle.traffic_filter(index as i32).get();
        let filters = match direction {
            TcAttachType::Egress => filters.egress(),
            _ => filters.ingress(),
        };
        Ok(filters.execute().try_collect().await?)
    });
    filters.with_context(|| format!("cannot list the {} filters of {interface}", word(direction)))
}

impl Filter {
    fn read(message: &TcMessage) -> Self {
        let mut filter = Self {
            // The upper half of `tcm_info` (TC_H_MAJ of linux/pkt_sched.h).
            priority: (message.header.info >> 16) as u16,
            handle: message.header.handle.into(),
            kind: String::new(),
            name: String::new(),
            program_id: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
                TcAttribute::Options(options) => filter.read_options(options),
                _ => {}
            }
        }
        filter
    }

    fn read_options(&mut self, options: &[TcOption]) {
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => self.name.clone_from(name),
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => self.program_id = *id,
                _ => {}
            }
        }
    }
}

/// Makes sure that the interface has a clsact qdisc, and notes whether truepeer added it.
fn add_qdisc(pins: &Pins, interface: &str) -> Result<()> {
    let mark = pins.qdisc_mark(Netns::current()?.inode(), if_nametoindex(interface)?);
    // The kernel reuses inodes and indices, so a mark may be that of an interface that has gone with its qdisc.
    let was_set = mark.is_set();
    if !was_set {
        // Before the qdisc is added, lest a crash in between leave one that nobody removes.
        mark.set()?;
    }
    // Fails when the interface has a clsact already, which serves as well. Where it fails for another reason,
    // the filter does, too.
    if qdisc_add_clsact(interface).is_err() && !was_set {
        mark.clear()?;
    }
    Ok(())
}

/// Removes the clsact qdisc if truepeer added it and it has no filter any more.
pub(super) fn remove_qdisc(pins: &Pins, interface: &str) -> Result<()> {
    let netns = Netns::current()?;
    let index = if_nametoindex(interface)?;
    let mark = pins.qdisc_mark(netns.inode(), index);
    if !mark.is_set() {
        return Ok(());
    }
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        if !dump(interface, direction)?.is_empty() {
            return Ok(());
        }
    }
    let removed = netns.netlink(async |handle| {
        let mut qdisc = handle.qdisc().del(index as i32);
        qdisc.message_mut().header.parent = Handle::CLSACT;
        Ok(qdisc.execute().await?)
    });
    removed.with_context(|| format!("cannot remove the clsact qdisc of {interface}"))?;
    mark.clear()
}

/// What `tc` calls it.
pub(super) fn word(direction: TcAttachType) -> &'static str {
    match direction {
        TcAttachType::Egress => "egress",
        _ => "ingress",
    }
}
