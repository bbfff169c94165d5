//! Names of pinned links: which program, attached to what.

use agent_common::names::program;

use crate::host::cgroups::cgroup_path;

/// The pin of a packet program on an interface of the namespace with this inode. bpffs takes no dots, which
/// names of interfaces may have; a colon they may not.
pub(super) fn on_interface(program: &str, netns: u64, interface: &str) -> String {
    format!("{program}:{netns}:{}", interface.replace('.', ":"))
}

/// Program, inode of the network namespace and interface that the pin of a packet program tells; `None`: it is
/// another program's.
pub(super) fn interface(pin: &str) -> Option<(&str, u64, String)> {
    let mut parts = pin.splitn(3, ':');
    let (program, netns, interface) = (parts.next()?, parts.next()?, parts.next()?);
    Some((program, netns.parse().ok()?, interface.replace(':', ".")))
}

/// The pin of `sk_lookup` in the namespace with this inode.
pub(super) fn of_lookup(netns: u64) -> String {
    format!("{}:{netns}", program::LOOKUP)
}

/// The pin of a program on the cgroup with this id. Programs of the root cgroup are pinned by their own names.
pub(super) fn on_cgroup(program: &str, cgroup: u64) -> String {
    format!("{program}:cgroup:{cgroup}")
}

/// Program and id of the cgroup that the pin of a program on a cgroup tells; `None`: it is on the root cgroup.
pub(super) fn cgroup(pin: &str) -> (&str, Option<u64>) {
    match pin.split_once(":cgroup:") {
        Some((program, id)) => (program, id.parse().ok()),
        None => (pin, None),
    }
}

/// Program and target that a pin's name tells, for people.
pub(super) fn describe(pin: &str) -> (String, String) {
    if let Some((program, netns, interface)) = interface(pin) {
        let target = format!("{interface} in network namespace {netns}");
        return (program.to_owned(), target);
    }
    let mut parts = pin.splitn(3, ':');
    let program = parts.next().unwrap_or_default().to_owned();
    let target = match (parts.next(), parts.next()) {
        (Some("cgroup"), Some(id)) => {
            let path = id.parse().ok().and_then(cgroup_path);
            format!("cgroup {}", path.as_deref().unwrap_or(id))
        }
        (Some(netns), _) => format!("network namespace {netns}"),
        _ => "the root cgroup".to_owned(),
    };
    (program, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_tells_its_interface_even_with_a_dot() {
        let (name, target) = describe(&on_interface(program::STEER, 4_026_531_840, "eth0.100"));
        assert_eq!(name, "truepeer_steer");
        assert_eq!(target, "eth0.100 in network namespace 4026531840");
        assert_eq!(describe(&of_lookup(7)).1, "network namespace 7");
        assert_eq!(describe("truepeer_learn").1, "the root cgroup");
        assert_eq!(cgroup("truepeer_learn"), ("truepeer_learn", None));
        assert_eq!(cgroup(&on_cgroup(program::PEER4, 9)).1, Some(9));
    }
}
