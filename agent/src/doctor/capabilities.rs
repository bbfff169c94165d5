//! What this process may do.

use anyhow::{Context, Result};

use super::{Check, Outcome, or_failed};

const NAME: &str = "capabilities";
const AS_ROOT: &str = "run as root, or add it to the container's capabilities";

/// A capability: its bit (capabilities(7)), its name and what needs it.
struct Capability(u8, &'static str, &'static str);

const SYS_ADMIN: Capability = Capability(
    21,
    "CAP_SYS_ADMIN",
    "enter network namespaces and mount bpffs",
);
const NEEDED: [Capability; 3] = [
    Capability(39, "CAP_BPF", "load BPF programs"),
    Capability(38, "CAP_PERFMON", "load BPF programs that read sockets"),
    Capability(
        12,
        "CAP_NET_ADMIN",
        "attach programs to interfaces, add rules and routes",
    ),
];
const WANTED: [Capability; 2] = [
    Capability(19, "CAP_SYS_PTRACE", "tell the process of a connection"),
    Capability(2, "CAP_DAC_READ_SEARCH", "tell the cgroup of a connection"),
];

pub(super) fn check() -> Vec<Check> {
    or_failed(NAME, look())
}

fn look() -> Result<Vec<Check>> {
    let status = procfs::process::Process::myself()
        .and_then(|process| process.status())
        .context("cannot read /proc/self/status")?;
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    Ok(judge(status.capeff, is_initial(&users)))
}

/// Whether a `uid_map` is that of the initial user namespace: everybody is himself.
fn is_initial(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn judge(effective: u64, initial_users: bool) -> Vec<Check> {
    let has = |capability: &Capability| effective & (1 << capability.0) != 0;
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
    if !has(&SYS_ADMIN) {
        checks.push(lacks(Outcome::Fail, &SYS_ADMIN));
        // CAP_SYS_ADMIN includes the two for BPF, not the one for networks.
        checks.extend(
            NEEDED[..2]
                .iter()
                .filter(|c| !has(c))
                .map(|c| lacks(Outcome::Fail, c)),
        );
    }
    checks.extend(
        NEEDED[2..]
            .iter()
            .filter(|c| !has(c))
            .map(|c| lacks(Outcome::Fail, c)),
    );
    checks.extend(
        WANTED
            .iter()
            .filter(|c| !has(c))
            .map(|c| lacks(Outcome::Warn, c)),
    );
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
