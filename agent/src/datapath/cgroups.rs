//! Attaches programs to cgroups.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use agent_common::names::program;
use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, CgroupSockoptAttachType, Program, links::FdLink,
    },
};

use super::{links, ownership, pins::Pins, programs, sys};
use crate::host::cgroups::cgroup_path;

/// The id by which the kernel knows a cgroup, the inode of its directory; `None`: it is not there.
pub(super) fn id(cgroup: &Path) -> Result<Option<u64>> {
    match fs::metadata(cgroup) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("cannot find the cgroup {}", cgroup.display()))
        }
    }
}

/// Attaches programs to the root cgroup, for every process. Returns the names of the pins.
pub(super) fn attach_to_root(
    object: &mut Ebpf,
    pins: &Pins,
    root: &Path,
    programs: &[&str],
) -> Result<Vec<String>> {
    let directory = open(root)?;
    let attach = |name: &&str| attach(object, pins, &directory, name, (*name).to_owned());
    programs.iter().map(attach).collect()
}

/// Attaches programs to a cgroup, for every process below it, unless their pins are `known`. Returns the names of the pins:
/// none, if the cgroup is not there.
pub(super) fn attach_below(
    object: &mut Ebpf,
    pins: &Pins,
    cgroup: &Path,
    programs: &[&str],
    known: &[String],
) -> Result<Vec<String>> {
    let directory = match File::open(cgroup) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        directory => directory.with_context(|| format!("cannot open {}", cgroup.display()))?,
    };
    let id = directory.metadata()?.ino();
    let attach = |name: &&str| {
        let pin = links::on_cgroup(name, id);
        match known.contains(&pin) {
            true => Ok(pin),
            false => attach(object, pins, &directory, name, pin),
        }
    };
    programs.iter().map(attach).collect()
}

fn open(cgroup: &Path) -> Result<File> {
    File::open(cgroup).with_context(|| format!("cannot open the cgroup {}", cgroup.display()))
}

/// Attaches the program with this pin again.
pub(super) fn attach_again(object: &mut Ebpf, pins: &Pins, root: &Path, pin: String) -> Result<()> {
    let (program, id) = links::cgroup(&pin);
    let program = program.to_owned();
    let path = match id {
        Some(id) => cgroup_path(id).with_context(|| format!("the cgroup of {pin} has gone"))?,
        None => String::new(),
    };
    let directory = open(&root.join(path.trim_start_matches('/')))?;
    attach(object, pins, &directory, &program, pin).map(drop)
}

/// Loads a program of the object, attaches it to the cgroup and pins the link as `pin`, which is returned.
fn attach(
    object: &mut Ebpf,
    pins: &Pins,
    directory: &File,
    name: &str,
    pin: String,
) -> Result<String> {
    programs::load(object, name)?;
    let program = object.program_mut(name).context("it was loaded just now")?;
    ownership::mark(pins, program.fd()?.as_fd())?;
    // The types of aya have no trait in common that would attach them.
    macro_rules! link {
        ($program:expr $(, $kind:expr)?) => {{
            let id = $program.attach(directory $(, $kind)?, CgroupAttachMode::Single)?;
            let link = FdLink::try_from($program.take_link(id)?)?;
            pins.pin_link(&pin, |path| Ok(link.pin(path).map(drop)?))?;
        }};
    }
    match program {
        Program::CgroupSkb(program) => link!(program, CgroupSkbAttachType::Ingress),
        Program::SockOps(program) => link!(program),
        Program::CgroupSock(program) => link!(program),
        Program::CgroupSockAddr(program) => link!(program),
        Program::CgroupSockopt(program) => {
            let kind = if name == program::ASK {
                CgroupSockoptAttachType::Set
            } else {
                CgroupSockoptAttachType::Get
            };
            let link = sys::attach_sockopt(program, directory, kind)?;
            pins.pin_link(&pin, |path| sys::pin(&link, path))?;
        }
        _ => bail!("{name} is no program for a cgroup"),
    }
    Ok(pin)
}
