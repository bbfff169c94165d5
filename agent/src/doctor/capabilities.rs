//! Capabilities of this process.

use anyhow::{Context, Result};

use super::check::{Check, Outcome, or_failed};

const NAME: &str = "capabilities";
const AS_ROOT: &str = "run as root, or add it to the container's capabilities";

/// A capability: its bit (capabilities(7)), its name and what needs it.
pub(crate) struct Capability(u8, pub(crate) &'static str, &'static str);

impl Capability {
    /// Whether it is among the `effective` capabilities.
    pub(crate) fn is_in(&self, effective: u64) -> bool {
        effective & (1 << self.0) != 0
    }
}

pub(crate) const NET_ADMIN: Capability = Capability(
    12,
    "CAP_NET_ADMIN",
    "attach programs to interfaces, add rules and routes",
);
/// Includes the two capabilities for BPF, but not the one for networks.
pub(crate) const SYS_ADMIN: Capability = Capability(
    21,
    "CAP_SYS_ADMIN",
    "enter network namespaces and mount bpffs",
);
const FOR_BPF: [Capability; 2] = [
    Capability(39, "CAP_BPF", "load BPF programs"),
    Capability(38, "CAP_PERFMON", "load BPF programs that read sockets"),
];
const WANTED: [Capability; 2] = [
    Capability(19, "CAP_SYS_PTRACE", "tell the process of a connection"),
    Capability(2, "CAP_DAC_READ_SEARCH", "tell the cgroup of a connection"),
];

/// The effective capabilities of this process, a bit each.
pub(crate) fn effective() -> Result<u64> {
    let status = procfs::process::Process::myself()
        .and_then(|process| process.status())
        .context("cannot read /proc/self/status: mount it with `mount -t proc proc /proc`")?;
    Ok(status.capeff)
}

pub(super) fn check() -> Vec<Check> {
    or_failed(NAME, look())
}

fn look() -> Result<Vec<Check>> {
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    Ok(judge(effective()?, is_initial(&users)))
}

/// Whether a `uid_map` is that of the initial user namespace, which maps each user id to itself.
fn is_initial(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn judge(effective: u64, initial_users: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let lacks = |outcome, capability: &Capability| {
        let Capability(_, name, purpose) = capability;
        let consequence = format!("truepeer cannot {purpose}");
        Check::wrong(
            outcome,
            NAME,
            format!("{name} is missing"),
            consequence,
            AS_ROOT,
        )
    };
    if !initial_users {
        checks.push(Check::wrong(
            Outcome::Fail,
            NAME,
            "this is root of a user namespace, not of the host",
            "the kernel accepts BPF programs from the host's root only",
            "run in the host's user namespace: `sudo`, or `hostUsers: true` in a pod",
        ));
    }
    let mut needed = Vec::new();
    if !SYS_ADMIN.is_in(effective) {
        needed.push(&SYS_ADMIN);
        needed.extend(&FOR_BPF);
    }
    needed.push(&NET_ADMIN);
    for (outcome, capabilities) in [
        (Outcome::Fail, needed),
        (Outcome::Warn, WANTED.iter().collect()),
    ] {
        let missing = capabilities.into_iter().filter(|c| !c.is_in(effective));
        checks.extend(missing.map(|c| lacks(outcome, c)));
    }
    if checks.is_empty() {
        checks.push(Check::ok(NAME, "all that is needed are there"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(effective: u64) -> Vec<String> {
        let checks = judge(effective, true).into_iter();
        checks
            .filter(|c| c.outcome == Outcome::Fail)
            .map(|c| c.reason)
            .collect()
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(judge(u64::MAX, true)[0].outcome, Outcome::Ok);
        assert_eq!(missing(!(1 << 12)), ["CAP_NET_ADMIN is missing"]);
        // An old kernel's root has CAP_SYS_ADMIN instead.
        assert!(missing(!(1 << 38 | 1 << 39)).is_empty());
        assert_eq!(missing(0).len(), 4);
        assert_eq!(judge(u64::MAX, false)[0].outcome, Outcome::Fail);
    }

    #[test]
    fn the_initial_user_namespace_is_known_by_its_map() {
        assert!(is_initial("         0          0 4294967295\n"));
        assert!(!is_initial("         0       1000          1\n"));
    }
}
