//! What scenarios and truepeer may leave behind on a host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::pins::{BPFFS, PINS};
use crate::host::cgroup;
use crate::host::netns::{DIRECTORY, PREFIX, run};

const SYSCTLS: [&str; 8] = [
    "net/ipv4/tcp_fwmark_accept",
    "net/ipv4/fwmark_reflect",
    "net/ipv6/fwmark_reflect",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/src_valid_mark",
    "net/ipv4/conf/all/route_localnet",
];

/// Namespaces, pins and cgroups of this crate, each with the process that made it.
fn everybodys() -> Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    let cgroups = cgroup::root()?;
    for (directory, prefix) in [
        (Path::new(DIRECTORY), PREFIX),
        (Path::new(BPFFS), PINS),
        (&cgroups, PREFIX),
    ] {
        let Ok(entries) = std::fs::read_dir(directory) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            let owner = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix(prefix)?.split('-').next())
                .and_then(|owner| owner.parse().ok());
            found.extend(owner.map(|owner| (owner, path)));
        }
    }
    Ok(found)
}

/// Removes namespaces, pins and cgroups whose process was killed before it could.
pub fn remove_orphans() -> Result<()> {
    for (owner, path) in everybodys()? {
        if std::fs::exists(format!("/proc/{owner}"))? {
            continue;
        }
        if path.starts_with(BPFFS) {
            std::fs::remove_dir_all(&path)?;
        } else if path.starts_with(cgroup::root()?) {
            cgroup::remove(&path)?;
        } else {
            let name = path.file_name().unwrap_or_default();
            run(Command::new("ip").args(["netns", "del"]).arg(name))?;
        }
    }
    Ok(())
}

/// What truepeer could leave behind in a network namespace, or on the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traces(BTreeMap<String, String>);

impl Traces {
    /// The rules, routes, classifiers and sysctls of the calling thread's network namespace, as far as they could be
    /// truepeer's: on the host, others may come and go meanwhile.
    pub fn here() -> Result<Self> {
        let mut found = BTreeMap::new();
        for (line, ours) in [
            ("ip -4 rule list pref 133", ""),
            ("ip -6 rule list pref 133", ""),
            ("ip -4 route show table all proto 137", ""),
            ("ip -6 route show table all proto 137", ""),
            ("tc qdisc show", "clsact"),
        ] {
            let mut words = line.split(' ');
            let program = words.next().expect("not empty");
            let output = run(Command::new(program).args(words))?;
            let lines: Vec<_> = output.lines().filter(|line| line.contains(ours)).collect();
            found.insert(line.to_owned(), lines.join("\n"));
        }
        for key in SYSCTLS {
            // A kernel without IPv6 has none of its keys.
            let value = std::fs::read_to_string(format!("/proc/sys/{key}")).unwrap_or_default();
            found.insert(key.to_owned(), value);
        }
        Ok(Self(found))
    }

    /// The traces in the host's own namespace, and this crate's namespaces, pins and cgroups.
    pub fn of_host() -> Result<Self> {
        let mut traces = Self::here()?;
        let left: Vec<_> = everybodys()?
            .into_iter()
            .filter(|(owner, _)| *owner == std::process::id())
            .map(|(_, path)| {
                let inside = std::fs::read_dir(&path).into_iter().flatten().flatten();
                let names: Vec<_> = inside.map(|entry| entry.file_name()).collect();
                format!("{}, with {names:?}", path.display())
            })
            .collect();
        traces
            .0
            .insert("namespaces, pins, cgroups".into(), left.join(" "));
        Ok(traces)
    }

    /// Fails with what differs.
    pub fn assert_unchanged(&self, after: &Self) -> Result<()> {
        for (what, before) in &self.0 {
            let after = after.0.get(what).map_or("", String::as_str);
            ensure!(
                before == after,
                "{what} differs from before.\nbefore:\n{before}\nafter:\n{after}"
            );
        }
        Ok(())
    }
}
