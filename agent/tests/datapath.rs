//! The BPF programs pass the kernel's verifier and can be attached, taken over and removed. Needs root.

use std::{
    collections::HashSet, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command,
};

use agent_common::{Namespace, Range};
use anyhow::{Context as _, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};
use truepeer::{
    connections::origins::Origins as _,
    datapath::{self, Datapath, Job, Pins, Unwrapped},
    host::netns::Netns,
};

fn cgroup() -> Result<PathBuf> {
    let mounts = procfs::process::Process::myself()?.mountinfo()?;
    let mount = mounts.into_iter().find(|m| m.fs_type == "cgroup2");
    Ok(mount.context("no cgroup2 is mounted")?.mount_point)
}

/// A named namespace with an interface `eth0`, removed when dropped.
struct Pod(String);

impl Pod {
    fn new(name: &str) -> Result<Self> {
        let name = format!("tp-{}-{name}", std::process::id());
        ip(&["netns", "add", &name])?;
        let pod = Self(name);
        ip(&[
            "-n", &pod.0, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1",
        ])?;
        Ok(pod)
    }

    fn netns(&self) -> Result<Netns> {
        Netns::open(&PathBuf::from("/run/netns").join(&self.0))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.0]);
    }
}

/// A directory of pins, which are removed on drop, so that even a test that fails leaves no program attached.
struct Pinned(PathBuf);

impl Pinned {
    fn new() -> Self {
        let process = std::process::id();
        Self(format!("/sys/fs/bpf/truepeer-test-{process}").into())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = datapath::remove(&Pins::new(&self.0));
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip")
        .args(arguments)
        .status()
        .context("cannot run ip")?;
    ensure!(
        status.success(),
        "`ip {}` failed: run as root, with iproute2",
        arguments.join(" ")
    );
    Ok(())
}

#[test]
fn everything_attaches_is_taken_over_and_goes() -> Result<()> {
    let pins = Pinned::new();
    let root = pins.0.clone();
    let pod = Pod::new("datapath")?;
    let netns = pod.netns()?;
    let mut settings = Namespace::default();
    settings.ranges[0] = Range {
        ifindex: netns.interface_index("eth0")?,
        first: 80,
        last: 90,
        to: 15006,
        ..Range::default()
    };

    let mut links = HashSet::new();
    for _ in 0..2 {
        let mut datapath = Datapath::load(&root, 1000, true, &cgroup()?)?;
        datapath.steer(&netns, &settings)?;
        datapath.adopt(&netns, 15006)?;
        let jobs = [Job::Unwrap, Job::Node, Job::Steer].map(|job| ("eth0", job));
        let packets = datapath.load_packets(&netns, &jobs, true)?;
        let names = datapath.attach(packets)?;
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        datapath.retain(&names, &[netns.cookie()], &Unwrapped::new())?;
        let status = Pins::open(&root)?.status()?;
        assert_eq!(status.links.len(), 10, "{status:?}");
        for name in names.iter().filter(|name| name.contains("eth0")) {
            let link = FdLink::from(PinnedLink::from_pin(root.join("links").join(name))?);
            links.insert(link.info()?.id());
        }
        // The second time, the same links get new programs: an interface never has two.
        assert_eq!(links.len(), 5);
        assert_eq!(status.maps[0].max_entries, 1000);
    }
    // Or else any user could hold the agent's lock.
    assert_eq!(root.metadata()?.permissions().mode() & 0o777, 0o700);
    // Without steers, the kernel looks up sockets by itself.
    let mut datapath = Datapath::load(&root, 1000, false, &cgroup()?)?;
    let packets = datapath.load_packets(&netns, &[("eth0", Job::Unwrap)], false)?;
    let names = datapath.attach(packets)?;
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    datapath.retain(&names, &[netns.cookie()], &Unwrapped::new())?;
    assert_eq!(Pins::open(&root)?.status()?.links.len(), 5);
    // With another size, the maps are new, and a namespace that was dropped is detached.
    let datapath = Datapath::load(&root, 2000, true, &cgroup()?)?;
    datapath.retain(&[], &[], &Unwrapped::new())?;
    let status = datapath.pins().status()?;
    assert_eq!((status.links.len(), status.maps[0].max_entries), (4, 2000));
    assert_eq!(status.maps[1].entries, 0);
    datapath::remove(&Pins::new(&root))?;
    assert!(!root.exists());
    Ok(())
}
