//! Attaches programs to cgroups.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
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

use super::{links, pins::Pins, programs, sys};

/// The id by which the kernel knows a cgroup: the inode of its directory.
pub(super) fn id(cgroup: &Path) -> Result<u64> {
    let metadata = fs::metadata(cgroup)
        .with_context(|| format!("cannot find the cgroup {}", cgroup.display()))?;
    Ok(metadata.ino())
}

/// Attaches programs to the root cgroup, for every process. Returns the names of the pins.
pub(super) fn attach_to_root(
    object: &mut Ebpf,
    pins: &Pins,
    root: &Path,
    programs: &[&str],
) -> Result<Vec<String>> {
    let attach = |name: &&str| attach(object, pins, root, name, (*name).to_owned());
    programs.iter().map(attach).collect()
}

/// Attaches programs to a cgroup, for every process below it. Returns the names of the pins.
pub(super) fn attach_below(
    object: &mut Ebpf,
    pins: &Pins,
    cgroup: &Path,
    programs: &[&str],
) -> Result<Vec<String>> {
    let id = id(cgroup)?;
    let attach = |name: &&str| attach(object, pins, cgroup, name, links::on_cgroup(name, id));
    programs.iter().map(attach).collect()
}

/// Loads a program of the object, attaches it to the cgroup and pins the link as `pin`, which is returned.
fn attach(
    object: &mut Ebpf,
    pins: &Pins,
    cgroup: &Path,
    name: &str,
    pin: String,
) -> Result<String> {
    let directory = File::open(cgroup)
        .with_context(|| format!("cannot open the cgroup {}", cgroup.display()))?;
    programs::load(object, name)?;
    let program = object.program_mut(name).context("it was loaded just now")?;
    // The types of aya have no trait in common that would attach them.
    macro_rules! link {
        ($program:expr $(, $kind:expr)?) => {{
            let id = $program.attach(&directory $(, $kind)?, CgroupAttachMode::Single)?;
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
            let link = sys::attach_sockopt(program, &directory, kind)?;
            pins.pin_link(&pin, |path| sys::pin(&link, path))?;
        }
        _ => bail!("{name} is no program for a cgroup"),
    }
    Ok(pin)
}
