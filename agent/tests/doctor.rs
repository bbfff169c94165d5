//! The doctor on this host, and in a throwaway network namespace. Needs root.

use std::{net::TcpListener, os::fd::AsRawFd, path::Path, process::Command};

use truepeer::{
    config::Config,
    datapath::Pins,
    doctor::{self, Check, Life, Outcome},
    host::netns::Netns,
};

/// Every check as a line.
fn lines(checks: &[Check]) -> Vec<String> {
    let line = |c: &Check| format!("{:?} {}: {}", c.outcome, c.name, c.reason);
    checks.iter().map(line).collect()
}

#[track_caller]
fn assert_has(lines: &[String], start: &str, part: &str) {
    let found = lines
        .iter()
        .any(|line| line.starts_with(start) && line.contains(part));
    assert!(found, "no \"{start}\" with \"{part}\" in {lines:#?}");
}

/// Checks a configuration with these steers, without the probe.
fn examine(steers: &str) -> Vec<String> {
    let config = Config::parse(steers, "test").unwrap();
    let checks = doctor::run(false, &config, || Life::Gone);
    lines(&checks)
        .into_iter()
        .filter(|line| !line.contains(" probe "))
        .collect()
}

fn sh(netns: &Netns, script: &str) {
    let status = netns.run(|| Ok(Command::new("sh").args(["-ec", script]).status()?));
    assert!(status.unwrap().success(), "{script}");
}

#[test]
fn before_anything_is_installed_only_the_host_is_looked_at() {
    let config = Config::parse(
        "[[steer]]\nname = \"a\"\nnetns = \"/run/netns/no\"\nports = [\"80\"]\nto = 1\n",
        "test",
    );
    let checks = doctor::run(true, &config.unwrap(), || Life::Gone);
    assert!(
        checks.iter().all(|c| c.outcome != Outcome::Fail),
        "{:#?}",
        lines(&checks)
    );
    assert!(
        !lines(&checks)
            .iter()
            .any(|line| line.contains("no") && line.contains("netns"))
    );
}

#[test]
fn a_node_needs_its_interface_and_other_nodes_need_trust() {
    let netns = Netns::create().unwrap();
    sh(
        &netns,
        "ip tuntap add tun0 mode tun; ip link add eth0 type veth peer name eth2",
    );
    let path = format!("/proc/self/fd/{}", netns.as_raw_fd());
    let node = |interface: &str| {
        format!(
            "[[carry.node]]\nnetns = \"{path}\"\ninterface = \"{interface}\"\nports = [\"80\"]\n"
        )
    };
    let found = examine(&[node("eth0"), node("tun0"), node("eth1")].concat());
    assert_has(&found, "Ok node eth0", "eth0 in");
    assert_has(&found, "Ok node tun0", "tun0 in");
    assert_has(&found, "Fail node eth1", "no interface \"eth1\"");
    assert_has(
        &found,
        "Warn other nodes",
        "no [[trust]] believes anybody's TOA",
    );
    let trusts = format!(
        "[[trust]]\nsource = [\"10.0.0.0/8\"]\nsays = [\"toa\"]\n{}",
        node("eth0")
    );
    let found = examine(&trusts);
    assert!(
        !found.iter().any(|line| line.contains("other nodes")),
        "{found:#?}"
    );
}

#[test]
fn what_is_wrong_is_told_with_consequence_and_remedy() {
    let config = Config::parse(
        "[[steer]]\nname = \"a\"\nnetns = \"/run/netns/no\"\nports = [\"80\"]\nto = 1\n",
        "test",
    );
    let checks = doctor::run(false, &config.unwrap(), || Life::Gone);
    let wrong: Vec<_> = checks.iter().filter(|c| c.outcome != Outcome::Ok).collect();
    assert!(!wrong.is_empty());
    for check in wrong {
        assert!(
            !check.consequence.is_empty() && !check.remedy.is_empty(),
            "{check:?}"
        );
    }
    assert_has(
        &lines(&checks),
        "Fail network namespace /run/netns/no",
        "ip netns add no",
    );
}

#[test]
fn the_probes_try_each_verb_and_leave_nothing() {
    let config = Config::default();
    let checks = doctor::run(false, &config, || Life::Gone);
    for verb in ["steer", "learn", "reveal", "carry", "guard", "unwrap"] {
        let start = format!("Ok probe {verb}");
        assert_has(&lines(&checks), &start, "IPv4 and IPv6");
    }
    assert!(!Pins::of_doctor(&config.agent.bpffs).root().exists());
}

#[test]
fn a_sidecar_in_trouble() {
    let netns = Netns::create().unwrap();
    let path = format!("/proc/self/fd/{}", netns.as_raw_fd());
    sh(
        &netns,
        "ip link add eth0 type veth peer name eth1
         sysctl -qw net.ipv4.conf.all.src_valid_mark=1
         ip rule add pref 9 fwmark 0x200/0xf00 lookup 2004
         ip rule add pref 133 from 192.0.2.1 lookup 7
         ip route add 192.0.2.0/24 dev lo table 133",
    );
    let steers = |interface: &str| {
        format!(
            "[[steer]]\nname = \"in\"\nnetns = \"{path}\"\ninterface = \"{interface}\"\n\
             ports = [\"80\"]\nto = 15006\n"
        )
    };
    let found = examine(&steers("ethO"));
    assert_has(&found, "Fail interface ethO", "eth0");
    let found = examine(&steers("eth0"));
    assert_has(&found, "Ok interface eth0", "");
    assert_has(&found, "Warn net.ipv4.conf.eth0.src_valid_mark", "is 1");
    assert_has(&found, "Warn marks", "Cilium");
    assert_has(&found, "Warn rules", "pref 133");
    assert_has(&found, "Fail table 133", "unicast");
    assert_has(&found, "Warn proxy of steer in", "nobody listens");
    assert_has(
        &found,
        "Ok net.ipv4.tcp_fwmark_accept",
        "the agent will set it",
    );

    let _proxy = netns
        .run(|| Ok(TcpListener::bind("0.0.0.0:15006")?))
        .unwrap();
    let found = examine(&steers("eth0"));
    assert_has(&found, "Warn proxy of steer in", "takes no IPv6");
    sh(&netns, "ip link set lo down");
    assert_has(&examine(&steers("eth0")), "Fail interface lo", "down");
}

#[test]
fn a_gateway_in_trouble() {
    let netns = Netns::create().unwrap();
    let path = format!("/proc/self/fd/{}", netns.as_raw_fd());
    sh(
        &netns,
        "ip link add eth0 type veth peer name eth1
         sysctl -qw net.ipv4.conf.eth1.rp_filter=1 net.ipv4.conf.eth0.forwarding=1
         sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0",
    );
    let steers = format!(
        "[[steer]]\nname = \"gw\"\nnetns = \"{path}\"\ninterface = \"eth0\"\nports = [\"80\"]\n\
         to = 15006\nanswers = [\"eth1\"]\n"
    );
    let _proxy = netns.run(|| Ok(TcpListener::bind("[::]:15006")?)).unwrap();
    let found = examine(&steers);
    assert_has(&found, "Ok net.ipv4.conf.eth0.forwarding", "");
    assert_has(&found, "Warn net.ipv4.conf.eth1.forwarding", "is off");
    assert_has(&found, "Warn net.ipv4.conf.eth1.rp_filter", "strict");
    assert_has(&found, "Fail proxy of steer gw", "not transparent");
    assert!(Path::new(&path).exists());
}
