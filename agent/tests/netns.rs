//! Throwaway network namespaces. Needs root.

use std::{process::Command, time::Duration};

use tokio::time::timeout;
use truepeer::host::netns::Netns;

fn ip(netns: &Netns, arguments: &str) {
    let status = netns.run(|| {
        let mut ip = Command::new("ip");
        Ok(ip.args(arguments.split_whitespace()).status()?)
    });
    assert!(status.unwrap().success(), "ip {arguments}");
}

#[test]
fn a_new_namespace_is_another_one_and_its_loopback_is_up() {
    let (netns, own) = (Netns::create().unwrap(), Netns::current().unwrap());
    assert_ne!(netns.cookie(), own.cookie());
    assert_ne!(netns.inode(), own.inode());
    assert!(netns.is_up("lo").unwrap());
    assert_eq!(netns.interfaces().unwrap().len(), 1);
    assert_eq!(Netns::current().unwrap(), own);
}

#[tokio::test]
async fn a_watch_tells_when_interfaces_come_change_and_go() {
    // Ample, as a machine may be slow; it ends when the message comes.
    const SOON: Duration = Duration::from_secs(60);
    let netns = Netns::create().unwrap();
    let mut links = netns.watch().unwrap();
    for change in [
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "addr add 192.0.2.1/24 dev eth0",
        "link del eth0",
    ] {
        ip(&netns, change);
        timeout(SOON, links.recv()).await.expect(change).unwrap();
        // One change may send several messages.
        while timeout(Duration::from_millis(200), links.recv())
            .await
            .is_ok()
        {}
    }
    ip(
        &Netns::create().unwrap(),
        "link add eth0 type veth peer name eth1",
    );
    timeout(Duration::from_millis(200), links.recv())
        .await
        .expect_err("another namespace's");
}

#[test]
fn all_namespaces_are_seen_by_name_or_by_process() {
    let own = Netns::current().unwrap();
    let all = Netns::all().unwrap();
    assert_eq!(all.iter().filter(|netns| **netns == own).count(), 1);

    let netns = Netns::create().unwrap();
    let mut process = netns
        .run(|| Ok(Command::new("sleep").arg("60").spawn()?))
        .unwrap();
    let found = Netns::all().unwrap().contains(&netns);
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(found);
}

#[test]
fn addresses_and_masters_are_told() {
    let netns = Netns::create().unwrap();
    for change in [
        "link add cni0 type bridge",
        "link add pod0 type veth peer name eth0",
        "link set pod0 master cni0",
        "addr add 192.0.2.1/24 dev cni0",
        "addr add 2001:db8::1/64 dev eth0 nodad",
    ] {
        ip(&netns, change);
    }
    // Neither loopback's nor link-local ones.
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
    assert_eq!(netns.addresses().unwrap(), addresses.into());
    let index = |name| netns.interface_index(name).unwrap();
    assert_eq!(netns.topmost(index("pod0")).unwrap().index, index("cni0"));
    assert_eq!(netns.topmost(index("eth0")).unwrap().index, index("eth0"));
}
