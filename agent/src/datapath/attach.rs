//! Attaches programs, and names what they are attached to.

use std::{
    fmt,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use agent_common::names::program;
use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, CgroupSockoptAttachType, Program, ProgramError,
        SchedClassifier, SkLookup, TcAttachType,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program,
        },
    },
};

use super::{pins::Pins, sys};

/// Attaches what learns origins to the cgroup, for every process below it. Returns the names of the
/// pins.
pub(super) fn learn(object: &mut Ebpf, pins: &Pins, cgroup: &Path) -> Result<Vec<String>> {
    by_name(object, pins, cgroup, &[program::LEARN])
}

/// Attaches what notes who gives a socket up, likewise.
pub(super) fn release(object: &mut Ebpf, pins: &Pins, cgroup: &Path) -> Result<Vec<String>> {
    by_name(object, pins, cgroup, &[program::RELEASE])
}

/// Attaches what takes binds as evidence, likewise.
pub(super) fn bind(object: &mut Ebpf, pins: &Pins, cgroup: &Path) -> Result<Vec<String>> {
    by_name(
        object,
        pins,
        cgroup,
        &[program::ASK, program::BIND4, program::BIND6],
    )
}

/// Attaches what chooses the source of their connections, likewise.
pub(super) fn source(object: &mut Ebpf, pins: &Pins, cgroup: &Path) -> Result<Vec<String>> {
    by_name(object, pins, cgroup, &[program::SOURCE4, program::SOURCE6])
}

/// Attaches what judges connections, likewise.
pub(super) fn guard(object: &mut Ebpf, pins: &Pins, cgroup: &Path) -> Result<Vec<String>> {
    by_name(object, pins, cgroup, &[program::GUARD])
}

fn by_name(object: &mut Ebpf, pins: &Pins, cgroup: &Path, names: &[&str]) -> Result<Vec<String>> {
    let attach = |name: &&str| {
        cgroup_program(object, pins, name, name, cgroup)?;
        Ok(name.to_string())
    };
    names.iter().map(attach).collect()
}

/// The id by which the kernel knows a cgroup: the inode of its directory.
pub(super) fn cgroup_id(cgroup: &Path) -> Result<u64> {
    let metadata = fs::metadata(cgroup)
        .with_context(|| format!("cannot find the cgroup {}", cgroup.display()))?;
    Ok(metadata.ino())
}

/// Attaches what reveals clients to the cgroup, for every process below it. Returns the names of the
/// pins.
pub(super) fn reveal(object: &mut Ebpf, pins: &Pins, cgroup: &Path) -> Result<Vec<String>> {
    let id = cgroup_id(cgroup)?;
    [program::PEER4, program::PEER6, program::ORIGINAL_DST]
        .into_iter()
        .map(|name| {
            let pin = reveal_name(name, id);
            cgroup_program(object, pins, name, &pin, cgroup)?;
            Ok(pin)
        })
        .collect()
}

/// Loads a program of the object, attaches it to the cgroup and pins the link as `pin`.
fn cgroup_program(
    object: &mut Ebpf,
    pins: &Pins,
    name: &str,
    pin: &str,
    cgroup: &Path,
) -> Result<()> {
    let directory = File::open(cgroup)
        .with_context(|| format!("cannot open the cgroup {}", cgroup.display()))?;
    let program = object
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program {name}"))?;
    let is_loaded = program.fd().is_ok();
    macro_rules! load {
        ($program:expr) => {
            if !is_loaded {
                $program
                    .load()
                    .with_context(|| format!("cannot load {name}"))?;
            }
        };
    }
    macro_rules! link {
        ($program:expr) => {{
            load!($program);
            let id = $program.attach(&directory, CgroupAttachMode::Single)?;
            let link = FdLink::try_from($program.take_link(id)?)?;
            pins.pin_link(pin, |path| Ok(link.pin(path).map(drop)?))
        }};
    }
    match program {
        Program::CgroupSkb(program) => {
            load!(program);
            let kind = CgroupSkbAttachType::Ingress;
            let id = program.attach(&directory, kind, CgroupAttachMode::Single)?;
            let link = FdLink::try_from(program.take_link(id)?)?;
            pins.pin_link(pin, |path| Ok(link.pin(path).map(drop)?))
        }
        Program::SockOps(program) => link!(program),
        Program::CgroupSock(program) => link!(program),
        Program::CgroupSockAddr(program) => link!(program),
        Program::CgroupSockopt(program) => {
            load!(program);
            let kind = if name == program::ASK {
                CgroupSockoptAttachType::Set
            } else {
                CgroupSockoptAttachType::Get
            };
            let link = sys::attach_sockopt(program, &directory, kind)?;
            pins.pin_link(pin, |path| sys::pin(&link, path))
        }
        _ => bail!("{name} is no program for a cgroup"),
    }
}

/// Attaches `sk_lookup` to the calling thread's network namespace, whose inode is `netns`. Returns the name of
/// the pin.
pub(super) fn lookup(object: &mut Ebpf, pins: &Pins, netns: u64) -> Result<String> {
    let here = File::open("/proc/thread-self/ns/net")?;
    let lookup: &mut SkLookup = program(object, program::LOOKUP)?;
    lookup.load()?;
    let id = lookup.attach(&here)?;
    let link = lookup.take_link(id)?;
    let link = FdLink::from(link);
    let pin = lookup_name(netns);
    pins.pin_link(&pin, |path| Ok(link.pin(path).map(drop)?))?;
    Ok(pin)
}

/// What is done on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// PROXY headers are taken off; before anything else sees them.
    Unwrap,
    /// SYNs are given TOA before the node's own NAT.
    Node,
    /// Connections are brought to a proxy, or its own to it.
    Steer,
}

impl Job {
    /// Every job.
    const ALL: [Self; 3] = [Self::Unwrap, Self::Node, Self::Steer];

    /// The programs for it.
    pub(super) fn programs(self) -> &'static [(&'static str, TcAttachType)] {
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

/// Attaches a tc program to `interface` of the calling thread's network namespace, whose inode is
/// `netns`: by TCX, or before Linux 6.6 by a clsact filter, which needs no pin to stay. Returns the name of
/// the pin.
pub(super) fn packets(
    object: &mut Ebpf,
    pins: &Pins,
    netns: u64,
    interface: &str,
    name: &str,
    direction: TcAttachType,
) -> Result<String> {
    let classifier: &mut SchedClassifier = program(object, name)?;
    if classifier.fd().is_err() {
        classifier.load()?;
    }
    let pin = packets_name(name, netns, interface);
    if replace(classifier, &pins.link_path(&pin)) {
        return Ok(pin);
    }
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
    match classifier.attach_with_options(interface, direction, tcx) {
        Ok(id) => {
            let link = classifier.take_link(id)?;
            let link = FdLink::try_from(link)?;
            pins.pin_link(&pin, |path| Ok(link.pin(path).map(drop)?))?;
        }
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(nix::libc::EINVAL) =>
        {
            clsact(classifier, interface, name, direction)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(pin)
}

/// Has the link that is pinned at `path` run this program instead of another from one packet to the next: of
/// two at a time, both would change sequence numbers. `false`: there is none, or its interface has gone.
fn replace(classifier: &mut SchedClassifier, path: &Path) -> bool {
    PinnedLink::from_pin(path).is_ok_and(|pinned| {
        SchedClassifierLink::try_from(FdLink::from(pinned))
            .ok()
            .and_then(|link| classifier.attach_to_link(link).ok())
            // Dropped, it stays pinned.
            .is_some_and(|id| classifier.take_link(id).is_ok())
    })
}

fn clsact(
    classifier: &mut SchedClassifier,
    interface: &str,
    name: &str,
    direction: TcAttachType,
) -> Result<()> {
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
pub(super) fn detach_clsact(interface: &str) {
    for (name, direction) in Job::ALL.into_iter().flat_map(Job::programs) {
        // An error: there is no such filter, as usual.
        let _ = qdisc_detach_program(interface, *direction, name);
    }
}

/// Name of the pin of an interface's link. bpffs takes no dots, which names of interfaces may have;
/// a colon they may not.
fn packets_name(program: &str, netns: u64, interface: &str) -> String {
    format!("{program}:{netns}:{}", interface.replace('.', ":"))
}

/// Name of the pin of a namespace's `sk_lookup` link.
fn lookup_name(netns: u64) -> String {
    format!("{}:{netns}", program::LOOKUP)
}

/// Name of the pin of a program that reveals clients to the cgroup with this id.
fn reveal_name(program: &str, cgroup: u64) -> String {
    format!("{program}:cgroup:{cgroup}")
}

/// Program and target that a pin's name tells, for people.
pub(super) fn describe(pin: &str) -> (String, String) {
    let mut parts = pin.splitn(3, ':');
    let program = parts.next().unwrap_or_default().to_owned();
    let target = match (parts.next(), parts.next()) {
        (Some("cgroup"), Some(id)) => id
            .parse()
            .ok()
            .and_then(crate::host::processes::cgroup_path)
            .map_or_else(|| format!("cgroup {id}"), |path| format!("cgroup {path}")),
        (Some(netns), Some(interface)) => {
            format!(
                "{} in network namespace {netns}",
                interface.replace(':', ".")
            )
        }
        (Some(netns), None) => format!("network namespace {netns}"),
        _ => "the root cgroup".to_owned(),
    };
    (program, target)
}

fn program<'a, P>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = object
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program {name}"))?;
    Ok(program.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_tells_its_interface_even_with_a_dot() {
        let (name, target) = describe(&packets_name(program::STEER, 4_026_531_840, "eth0.100"));
        assert_eq!(name, "truepeer_steer");
        assert_eq!(target, "eth0.100 in network namespace 4026531840");
        assert_eq!(describe(&lookup_name(7)).1, "network namespace 7");
        assert_eq!(describe("truepeer_learn").1, "the root cgroup");
    }
}
