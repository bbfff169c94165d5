//! Mark-and-route: what brings packets for addresses that are not local to a local proxy.
//!
//! [`items`] says what a configuration needs, a [`Journal`] installs and removes it. Everything is
//! done through route netlink and `/proc/sys`, and tagged, so that [`sweep`] finds what no journal
//! knows.

mod item;
mod journal;
mod rule;
pub mod sysctl;
mod table;

use anyhow::{Result, anyhow, bail};

pub use self::{
    item::{Item, items},
    journal::Journal,
    rule::{Rule, rules},
    table::{Route, routes},
};
use crate::host::netns::Netns;

/// Preference of truepeer's rules: after the kernel's `local` table, before nearly everything else.
pub const PREFERENCE: u32 = 133;

/// The tag of truepeer's rules and routes: `proto 137` in the output of ip(8).
pub const PROTOCOL: u8 = 137;

/// Fails with the first of `items`, all of `netns`, that is not installed there. Without IPv6 in the namespace, none
/// for IPv6 is expected.
pub fn check(netns: &Netns, items: &[Item]) -> Result<()> {
    let ipv6 = items.is_empty() || sysctl::ipv6_enabled(netns)?;
    for item in items.iter().filter(|item| ipv6 || !item.is_ipv6()) {
        if !item.is_installed(netns)? {
            bail!("the {item} is missing");
        }
    }
    Ok(())
}

/// Removes every rule and route with truepeer's tag from one namespace, and says how many there
/// were. Sysctls carry no tag: only a [`Journal`] can restore them.
pub fn sweep(netns: &Netns) -> Result<usize> {
    let mut removed = 0;
    for ipv6 in [false, true] {
        removed += rule::sweep(netns, ipv6)?;
        removed += table::sweep(netns, ipv6)?;
    }
    Ok(removed)
}

/// [`sweep`] of every namespace that this process can see. One that fails doesn't stop the others.
pub fn sweep_all() -> Result<usize> {
    let mut removed = 0;
    let mut errors = Vec::new();
    for netns in Netns::all()? {
        match sweep(&netns) {
            Ok(n) => removed += n,
            Err(error) => errors.push(format!("{netns}: {error:#}")),
        }
    }
    one_error(errors)?;
    Ok(removed)
}

/// All errors in one.
fn one_error(errors: Vec<String>) -> Result<()> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(errors.join("; ")))
    }
}

/// The error number that the kernel answered with.
fn errno(error: &rtnetlink::Error) -> Option<nix::errno::Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            Some(nix::errno::Errno::from_raw(-message.raw_code()))
        }
        _ => None,
    }
}

/// What the kernel answered, in plain words.
fn explain(error: rtnetlink::Error) -> anyhow::Error {
    use nix::errno::Errno;
    match errno(&error) {
        Some(Errno::EPERM) => anyhow!("CAP_NET_ADMIN is missing: run as root"),
        Some(Errno::ENETDOWN) => {
            anyhow!("the interface `lo` is down: run `ip link set lo up` in that namespace")
        }
        Some(errno) => anyhow!("the kernel answered {errno}"),
        None => anyhow!(error),
    }
}
