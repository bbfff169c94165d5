//! From the configuration of one network namespace to what the data path is told.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::PathBuf,
};

use agent_common::{
    Mark, Namespace, Range, local,
    node::{Interface, Node},
    origin::rule_id,
    unwrap::{Page, PageVersions, Versions},
};
use anyhow::{Result, bail};

use crate::{
    config::{CarryNode, Interfaces, Steer, Unwrap},
    datapath::{Job, Unwrapped},
    host::netns::{Device, Links},
};

/// Path of a network namespace; `None`: the agent's own.
pub(super) type Place = Option<PathBuf>;

/// The settings of a namespace with these links and these steers. Ranges of an interface that is missing are left out.
pub(super) fn settings(steers: &[Steer], links: &Links) -> Result<Namespace> {
    let mut settings = Namespace::default();
    let mut ranges = Vec::new();
    let mut answers = Vec::new();
    for steer in steers {
        let is_gateway = steer.answers.is_some();
        if is_gateway {
            settings.gateway = steer.mark;
        } else if settings.spoofed == Mark::default() {
            settings.spoofed = steer.mark;
            settings.spoofed_rule = rule_id(&steer.name);
        }
        let on = match &steer.interface {
            Some(interfaces) => indices(interfaces, links),
            None => vec![0],
        };
        for ifindex in on {
            ranges.extend(steer.ports.iter().map(|ports| Range {
                ifindex,
                rule: rule_id(&steer.name),
                first: *ports.start(),
                last: *ports.end(),
                to: *steer.to.start(),
                further: (steer.to.end() - steer.to.start()) as u8,
                flags: if is_gateway { Range::GATEWAY } else { 0 },
            }));
        }
        let by = steer.answers.iter();
        let by = by.flat_map(|interfaces| indices(interfaces, links));
        answers.extend(by.map(|ifindex| Range {
            ifindex,
            flags: Range::ANSWERS,
            ..Range::default()
        }));
    }
    ranges.append(&mut answers);
    if ranges.len() > settings.ranges.len() {
        bail!(
            "the steers of one namespace have {} port ranges, each counted for each of its interfaces, and interfaces of answers; \
             {} are possible",
            ranges.len(),
            settings.ranges.len()
        );
    }
    settings.ranges[..ranges.len()].copy_from_slice(&ranges);
    Ok(settings)
}

/// What is to be done in one namespace.
pub(super) struct Rules {
    pub(super) steers: Vec<Steer>,
    pub(super) unwraps: Vec<Unwrap>,
    pub(super) nodes: Vec<CarryNode>,
    /// Whether connections are refused whose client a server cannot express.
    pub(super) refuses: bool,
}

impl Rules {
    /// The names of interfaces that something is to be attached to, and what, each once: those of the links that are there,
    /// and those that have to be.
    pub(super) fn jobs<'a>(&'a self, links: &'a Links) -> BTreeSet<(&'a str, Job)> {
        let all = self.interfaces();
        let of = |(interfaces, job)| {
            let names = Interfaces::names([interfaces], links).into_iter();
            names.map(move |name| (name, job))
        };
        all.flat_map(of).collect()
    }

    /// Whether what is to be done depends on the namespace's default routes.
    pub(super) fn need_routes(&self) -> bool {
        Interfaces::need_routes(self.interfaces().map(|(interfaces, _)| interfaces))
    }

    /// What is to be done on which interfaces.
    fn interfaces(&self) -> impl Iterator<Item = (&Interfaces, Job)> {
        let steers = Steer::interfaces(&self.steers).map(|it| (it, Job::Steer));
        let unwraps = self.unwraps.iter().map(|u| (&u.interface, Job::Unwrap));
        let nodes = self.nodes.iter().map(|n| (&n.interface, Job::Node));
        steers.chain(unwraps).chain(nodes)
    }
}

/// The indices of the links that these interfaces select.
fn indices(interfaces: &Interfaces, links: &Links) -> Vec<u32> {
    interfaces.among(links).iter().map(|i| i.index).collect()
}

/// The unwrapping ports of the namespace with this cookie; those of an interface that is missing are left
/// out. With `refuses`, connections are refused whose client the server cannot express.
pub(super) fn unwraps(unwraps: &[Unwrap], refuses: bool, netns: u64, links: &Links) -> Unwrapped {
    let terms = if refuses {
        Versions::EXPRESSED
    } else {
        Versions::default()
    };
    let mut pages = Unwrapped::new();
    for unwrap in unwraps {
        for ifindex in indices(&unwrap.interface, links) {
            for port in unwrap.ports.iter().cloned().flatten() {
                let page = Page::of(netns, ifindex, port);
                let versions = pages.entry(page).or_insert(PageVersions::NONE);
                versions.set(port, Versions(unwrap.versions.0 | terms.0));
            }
        }
    }
    pages
}

/// The interfaces of the namespace with this cookie whose SYNs are given TOA, as options of this kind; those that
/// are missing are left out. `master` gives the topmost device that an interface is a port of.
pub(super) fn nodes(
    nodes: &[CarryNode],
    kind: u8,
    netns: u64,
    links: &Links,
    master: impl Fn(u32) -> u32,
) -> Vec<(Interface, Node)> {
    let mut interfaces: BTreeMap<u32, Node> = BTreeMap::new();
    let each = nodes.iter().flat_map(|node| {
        let on = indices(&node.interface, links).into_iter();
        on.map(move |index| (index, node))
    });
    for (ifindex, node) in each {
        let known = match interfaces.entry(ifindex) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(Node::new(rule_id(&node.rule()), kind, master(ifindex)))
            }
        };
        for port in node.ports.iter().cloned().flatten() {
            known.ports.add(port);
        }
    }
    let interfaces = interfaces.into_iter();
    let interfaces = interfaces.map(|(i, node)| (interface(netns, i), node));
    interfaces.collect()
}

/// With which Ethernet address comes in what is for the devices above interfaces of the namespace with this cookie.
pub(super) fn masters(netns: u64, topmost: &BTreeMap<u32, Device>) -> Vec<(Interface, u64)> {
    let masters = topmost.iter().filter_map(|(index, device)| {
        let mac = local::mac(device.mac?);
        Some((interface(netns, *index), mac))
    });
    masters.collect()
}

fn interface(netns: u64, ifindex: u32) -> Interface {
    Interface {
        netns,
        ifindex,
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use agent_common::unwrap::PAGES;

    use super::*;
    use crate::{config::Config, host::netns::Interface};

    /// From number 2 on.
    fn links(names: &[&str]) -> Links {
        let interfaces = names.iter().zip(2..).map(|(name, index)| Interface {
            index,
            name: (*name).into(),
            is_cable: false,
            framing: None,
        });
        Links {
            interfaces: interfaces.collect(),
            ..Links::default()
        }
    }

    fn steers() -> Vec<Steer> {
        let text = r#"
            [[steer]]
            name = "in"
            interface = "eth0"
            ports = ["80", "9000-9010"]
            to = 15006
            answers = ["eth1"]
            [[steer]]
            name = "own"
            ports = ["7000"]
            to = 15007
            mark = "0x53a/0xfff"
            table = 134
        "#;
        Config::parse(text, "test").unwrap().steer
    }

    #[test]
    fn ranges_with_ports_come_before_answers() {
        let settings = settings(&steers(), &links(&["eth0", "eth1"])).unwrap();
        let used: Vec<_> = settings.ranges.iter().filter(|r| r.is_used()).collect();
        assert_eq!(used.len(), 4);
        assert!(used[0].steers(2, 80) && used[1].steers(2, 9010));
        assert_eq!(used[0].flags, Range::GATEWAY);
        assert!(used[2].steers(0, 7000) && used[2].is_sidecar());
        assert!(used[3].concerns(3, 0));
        assert_eq!(settings.spoofed_rule, rule_id("own"));
        assert_eq!(
            (settings.gateway.value, settings.spoofed.value),
            (0x539, 0x53a)
        );
    }

    #[test]
    fn all_ports_of_an_interface_are_a_few_pages() {
        let text = r#"
            [[trust]]
            source = ["10.0.0.0/8"]
            says = ["proxy"]
            [[unwrap]]
            interface = "eth0"
            ports = ["1-65535"]
            [[unwrap]]
            interface = "eth0"
            ports = ["8080"]
            versions = ["v2"]
            [[unwrap]]
            interface = "missing"
            ports = ["80"]
        "#;
        let config = Config::parse(text, "test").unwrap();
        let pages = unwraps(&config.unwrap, false, 7, &links(&["eth0"]));
        assert_eq!(pages.len(), PAGES as usize);
        let versions = |port| pages[&Page::of(7, 2, port)].of(port).0;
        assert_eq!([0, 1, 8080, 65535].map(versions), [0, 3, 2, 3]);
    }

    #[test]
    fn a_missing_interface_leaves_the_rest() {
        let settings = settings(&steers(), &Links::default()).unwrap();
        assert!(settings.ranges[0].steers(0, 7000));
        assert!(!settings.ranges[1].is_used());
    }
}
