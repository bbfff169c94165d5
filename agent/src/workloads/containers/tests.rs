use std::{fs, thread, time::Duration};

use agent_common::Process;
use serde_json::json;

use super::{
    fixtures::{CONTAINER, SANDBOX, add, bundle, web},
    *,
};

/// The workload that [`Containers::find`] finds, as text.
fn find(containers: &Containers, netns: u64, cgroup: &str) -> Option<String> {
    let found = containers.find(netns, Some(cgroup));
    found.map(|workload| workload.to_string())
}

#[test]
fn a_process_has_the_name_of_its_container_or_of_its_pod() {
    let (_directory, containers) = web();
    let netns = Netns::current().unwrap().cookie();
    let kubepods = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice";
    for cgroup in [
        format!("/kubepods/besteffort/pod1/{CONTAINER}"),
        format!("{kubepods}/cri-containerd-{CONTAINER}.scope"),
        format!("/../../kubepods/pod1/{CONTAINER}/init.scope"),
        format!("/kubepods/pod1/{CONTAINER}/{SANDBOX}"),
    ] {
        let found = find(&containers, 1, &cgroup);
        assert_eq!(found.as_deref(), Some("shop/web-0/nginx"), "{cgroup}");
    }
    let of_sandbox = find(&containers, 1, &format!("/kubepods/pod1/{SANDBOX}"));
    assert_eq!(of_sandbox.as_deref(), Some("shop/web-0"));
    let of_netns = find(&containers, netns, "/");
    assert_eq!(of_netns.as_deref(), Some("shop/web-0"));
    assert_eq!(find(&containers, 1, "/system.slice/sshd.service"), None);
    assert_eq!(containers.find(1, None), None);

    let origin = Origin {
        netns,
        process: Process {
            pid: 1,
            cgroup: u64::MAX,
            ..Process::default()
        },
        ..Origin::default()
    };
    assert_eq!(containers.of(&origin).unwrap().pod, "web-0");
    let [sandbox] = &containers.sandboxes()[..] else {
        panic!("{:?}", containers.sandboxes())
    };
    assert_eq!(sandbox.id, SANDBOX);
    assert_eq!(sandbox.annotations["truepeer.io/unwrap"], "8000");
}

#[test]
fn what_no_file_tells_the_plugin_may_have_told() {
    let netns = Netns::current().unwrap();
    let attachment = json!({
        "id": {"container_id": SANDBOX, "ifname": "eth0"},
        "network": "node",
        "netns": "/proc/self/ns/net",
        "netns_inode": netns.inode(),
        "netns_cookie": netns.cookie(),
        "boot_id": "",
        "pod": {"namespace": "shop", "name": "web-1"},
    });
    let pods = Pods::default();
    let containers = Containers::new(&[], pods.clone());
    assert_eq!(find(&containers, netns.cookie(), "/"), None);
    pods.insert(serde_json::from_value(attachment).unwrap(), netns.clone());
    let told = find(&containers, netns.cookie(), "/");
    assert_eq!(told.as_deref(), Some("shop/web-1"));
}

#[test]
fn what_comes_is_found_and_what_goes_is_remembered_for_its_connections() {
    let (directory, containers) = web();
    let sandboxes = || {
        containers.refresh();
        containers.sandboxes().len()
    };
    assert_eq!(sandboxes(), 1);
    // A bundle that is not written yet is read when it is.
    let late = bundle(directory.path(), "late");
    fs::create_dir(&late).unwrap();
    assert_eq!(sandboxes(), 1);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(sandboxes(), 1);
    add(directory.path(), "late", "sandbox");
    assert_eq!(sandboxes(), 2);

    for id in [SANDBOX, CONTAINER, "late"] {
        fs::remove_dir_all(bundle(directory.path(), id)).unwrap();
    }
    assert_eq!(sandboxes(), 0);
    let found = find(&containers, 1, &format!("/kubepods/{CONTAINER}"));
    assert_eq!(found.as_deref(), Some("shop/web-0/nginx"));
}

#[test]
fn directories_that_are_not_there_are_no_error() {
    let containers = Containers::new(&["/nonexistent".into()], Pods::default());
    assert_eq!(find(&containers, 1, "/a/b"), None);
    assert!(containers.sandboxes().is_empty());
}
