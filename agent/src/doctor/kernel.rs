//! Features of the kernel.

use std::path::Path;

use anyhow::Result;

use super::check::{Check, Outcome, or_failed};
use crate::{
    host::{btf, kernel, netns::Netns},
    route::{self, sysctl},
};

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What an older kernel cannot be made to do.
struct Limit {
    since: kernel::Version,
    reason: &'static str,
    consequence: &'static str,
}

/// The newest come last. What is done in another way on older kernels is not among them.
const LIMITS: [Limit; 3] = [
    Limit {
        since: (5, 17),
        reason: "`sk_lookup` is not told the interface",
        consequence: "a [[steer]] with an interface also takes connections to the host's own addresses that come by another",
    },
    Limit {
        since: (6, 1),
        reason: "a process's cgroup is known where it asks for a client's address, but not the cgroups above",
        consequence: "a [[trust]] of a `cgroup` believes processes that are directly in such a cgroup, and in none below it; a `uid` works",
    },
    Limit {
        since: (6, 6),
        reason: "tc cannot bring connections to listeners that share a port (SO_REUSEPORT)",
        consequence: "a gateway's [[steer]], with `answers`, needs a proxy with one listener, such as Envoy with `enable_reuse_port: false`",
    },
];

pub(super) fn check() -> Vec<Check> {
    let mut checks = or_failed("kernel", kernel::release().map(|release| version(&release)));
    checks.push(btf());
    checks.push(credentials());
    checks.extend(or_failed("kernel", networking()));
    checks
}

/// Judges by the version what cannot be tried without installing something.
fn version(release: &str) -> Vec<Check> {
    let number = kernel::version(release);
    let linux = format!("Linux {release}");
    let upgrade = "install a newer kernel";
    let mut checks = Vec::new();
    if number >= (5, 15) {
        checks.push(Check::ok("kernel", &linux));
    } else if number >= (5, 8) {
        checks.push(Check::wrong(
            Outcome::Warn,
            "kernel",
            format!("{linux}; truepeer is made for 5.15 and later"),
            "the kernel may refuse the data path: sk_lookup came with 5.9, cookies of namespaces \
             with 5.14, and with 5.15 for sockops; distributions add such things to older kernels",
            format!("see what the probe of `truepeer doctor` says; else {upgrade}"),
        ));
    } else {
        checks.push(Check::wrong(
            Outcome::Fail,
            "kernel",
            format!("{linux}; truepeer needs 5.15 or later"),
            "there is no BPF ring buffer before 5.8, and no sk_lookup before 5.9",
            upgrade,
        ));
    }
    checks.extend(
        LIMITS
            .iter()
            .filter(|limit| number < limit.since)
            .map(|limit| {
                let (major, minor) = limit.since;
                let reason = format!("{linux}, before {major}.{minor}: {}", limit.reason);
                Check::wrong(Outcome::Warn, "kernel", reason, limit.consequence, upgrade)
            }),
    );
    checks.push(Check::ok(
        "tc",
        if number >= (6, 6) {
            "TCX, since Linux 6.6"
        } else {
            "clsact filters: Linux before 6.6 has no TCX"
        },
    ));
    checks
}

/// Whether the data path can know what the kernel grants a trusted process.
fn credentials() -> Check {
    let reason = match btf::credentials() {
        Ok(Some(_)) => return Check::ok("kernel", "BPF programs can see a process's capabilities"),
        Ok(None) => "lockdown keeps the kernel's memory from BPF programs".into(),
        Err(error) => format!("BPF programs cannot see a process's capabilities: {error:#}"),
    };
    Check::wrong(
        Outcome::Warn,
        "kernel",
        reason,
        "trusted processes of other users than root set `IP_TRANSPARENT` and `SO_MARK` without effect, even with the capability",
        "run those that need the options as root, or without a [[trust]]",
    )
}

fn btf() -> Check {
    if Path::new(BTF).exists() {
        return Check::ok("BTF", format!("{BTF} is there"));
    }
    Check::wrong(
        Outcome::Fail,
        "BTF",
        format!("{BTF} is missing"),
        "socket storage and the iterator that finds proxies which listen already cannot be loaded",
        "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as the distributions' are",
    )
}

fn networking() -> Result<Vec<Check>> {
    let netns = Netns::current()?;
    let mut checks = Vec::new();
    // A kernel with policy routing has three rules of its own.
    checks.push(if route::rules(&netns, false)?.is_empty() {
        Check::wrong(
            Outcome::Fail,
            "policy routing",
            "the kernel has no routing rules",
            "packets cannot be routed by their mark",
            "use a kernel with CONFIG_IP_MULTIPLE_TABLES=y",
        )
    } else {
        Check::ok("policy routing", "the kernel has routing rules")
    });
    // Only the host's own namespace shows it.
    match sysctl::read(&netns, "net.core.bpf_jit_enable")?.as_deref() {
        Some("0") => checks.push(Check::wrong(
            Outcome::Warn,
            "BPF JIT",
            "net.core.bpf_jit_enable=0",
            "BPF programs are interpreted: every packet takes several times as long",
            "`sysctl -w net.core.bpf_jit_enable=1`",
        )),
        Some(_) => checks.push(Check::ok("BPF JIT", "on")),
        None => {}
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_apart() {
        let outcome = |release| version(release)[0].outcome;
        assert_eq!(outcome("6.6.1"), Outcome::Ok);
        let warnings = |release| {
            let checks = version(release).into_iter();
            checks
                .filter(|check| check.outcome == Outcome::Warn)
                .count()
        };
        assert_eq!(["5.15.0", "6.1.0", "6.6.0"].map(warnings), [3, 1, 0]);
        assert_eq!(outcome("5.14.0-362.el9.x86_64"), Outcome::Warn);
        assert_eq!(outcome("4.19.0"), Outcome::Fail);
        let tc = |release| version(release).last().unwrap().reason.clone();
        assert!(tc("6.1.0").contains("clsact"));
        assert!(tc("6.6.1").contains("TCX"));
    }
}
