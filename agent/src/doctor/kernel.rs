//! Features of the kernel.

use std::path::Path;

use anyhow::Result;

use super::check::{Check, Outcome, or_failed};
use crate::{
    host::{kernel, netns::Netns},
    route::{self, sysctl},
};

const BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) fn check() -> Vec<Check> {
    let mut checks = or_failed("kernel", kernel::release().map(|release| version(&release)));
    checks.push(btf());
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
        assert_eq!(outcome("5.14.0-362.el9.x86_64"), Outcome::Warn);
        assert_eq!(outcome("4.19.0"), Outcome::Fail);
        assert!(version("6.1.0")[1].reason.contains("clsact"));
    }
}
