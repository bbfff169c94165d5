//! Mark-and-route in throwaway network namespaces. Needs root.

use std::{
    fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
};

use netlink_packet_route::route::RouteType;
use truepeer::{
    host::netns::Netns,
    route::{self, Item, Journal, MarkRule, sysctl},
};

const ACCEPT: &str = "net.ipv4.tcp_fwmark_accept";
const REFLECT: &str = "net.ipv6.fwmark_reflect";

/// A namespace, what a sidecar needs in it, and a journal.
struct Host {
    netns: Netns,
    directory: tempfile::TempDir,
    wanted: Vec<Item>,
}

impl Host {
    fn new() -> Self {
        let netns = Netns::create().unwrap();
        let path = Some(PathBuf::from(format!(
            "/proc/self/fd/{}",
            netns.as_raw_fd()
        )));
        let sysctl = |key: &str| Item::Sysctl {
            netns: path.clone(),
            key: key.into(),
            value: "1".into(),
        };
        let mut wanted = vec![sysctl(ACCEPT), sysctl(REFLECT)];
        for ipv6 in [false, true] {
            wanted.push(Item::Route {
                netns: path.clone(),
                ipv6,
                table: 1333,
            });
            wanted.push(Item::Rule {
                netns: path.clone(),
                ipv6,
                rule: MarkRule {
                    mark: 0x539,
                    mask: 0xfff,
                    table: 1333,
                    iif: "lo".into(),
                },
            });
        }
        Self {
            netns,
            directory: tempfile::tempdir().unwrap(),
            wanted,
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("journal.json")
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.file()).unwrap()
    }

    /// The namespace, opened by the path that the items have.
    fn opened(&self) -> Netns {
        Netns::open_or_current(self.wanted[0].netns()).unwrap()
    }

    fn sysctl(&self, key: &str) -> String {
        sysctl::read(&self.netns, key).unwrap().unwrap()
    }

    /// The number of truepeer's rules and routes, for IPv4 and for IPv6.
    fn installed(&self) -> [usize; 2] {
        [false, true].map(|ipv6| {
            let rules = route::rules(&self.netns, ipv6).unwrap();
            let routes = route::routes(&self.netns, ipv6, 1333).unwrap();
            rules.iter().filter(|r| r.is_ours()).count()
                + routes.iter().filter(|r| r.is_ours()).count()
        })
    }

    fn ip(&self, arguments: &str) {
        let status = self.netns.run(|| {
            let mut ip = Command::new("ip");
            Ok(ip.args(arguments.split_whitespace()).status()?)
        });
        assert!(status.unwrap().success(), "ip {arguments}");
    }
}

#[test]
fn what_is_installed_is_there_once_and_undone_without_a_trace() {
    let host = Host::new();
    let mut journal = host.journal();
    journal.apply(&host.opened(), &host.wanted).unwrap();
    journal.apply(&host.opened(), &host.wanted).unwrap();
    assert_eq!(host.installed(), [2, 2]);
    assert_eq!(
        (host.sysctl(ACCEPT), host.sysctl(REFLECT)),
        ("1".into(), "1".into())
    );
    let rules = route::rules(&host.netns, true).unwrap();
    let ours = rules.iter().find(|r| r.is_ours()).unwrap();
    assert_eq!(
        ours.to_string(),
        "pref 133 iif lo fwmark 0x539/0xfff lookup 1333"
    );
    let routes = route::routes(&host.netns, true, 1333).unwrap();
    assert_eq!(routes[0].kind, RouteType::Local);

    journal.undo_all().unwrap();
    assert_eq!(host.installed(), [0, 0]);
    assert_eq!(
        (host.sysctl(ACCEPT), host.sysctl(REFLECT)),
        ("0".into(), "0".into())
    );
    assert!(!host.file().exists());
}

#[test]
fn items_no_longer_wanted_are_removed() {
    let host = Host::new();
    let mut journal = host.journal();
    journal.apply(&host.opened(), &host.wanted).unwrap();
    journal.apply(&host.opened(), &host.wanted[..4]).unwrap();
    assert_eq!(host.installed(), [2, 0]);
}

#[test]
fn after_a_crash_the_first_previous_value_is_restored() {
    let host = Host::new();
    host.journal().apply(&host.opened(), &host.wanted).unwrap();
    let mut second = host.journal();
    second.apply(&host.opened(), &host.wanted).unwrap();
    drop(second);
    let mut third = host.journal();
    third.undo_all().unwrap();
    assert_eq!(host.sysctl(ACCEPT), "0");
    assert_eq!(host.installed(), [0, 0]);
}

#[test]
fn a_lost_rule_is_installed_again() {
    let host = Host::new();
    let mut journal = host.journal();
    journal.apply(&host.opened(), &host.wanted).unwrap();
    host.ip("rule del pref 133");
    assert_eq!(host.installed(), [1, 2]);
    journal.apply(&host.opened(), &host.wanted).unwrap();
    assert_eq!(host.installed(), [2, 2]);
}

#[test]
fn a_sysctl_that_somebody_changed_is_left_alone() {
    let host = Host::new();
    sysctl::write(&host.netns, "net.ipv4.conf.lo.rp_filter", "0").unwrap();
    let wanted = [Item::Sysctl {
        netns: host.wanted[0].netns().map(Path::to_owned),
        key: "net.ipv4.conf.lo.rp_filter".into(),
        value: "1".into(),
    }];
    let mut journal = host.journal();
    journal.apply(&host.opened(), &wanted).unwrap();
    sysctl::write(&host.netns, "net.ipv4.conf.lo.rp_filter", "2").unwrap();
    journal.undo_all().unwrap();
    assert_eq!(host.sysctl("net.ipv4.conf.lo.rp_filter"), "2");
}

#[test]
fn the_same_rule_of_somebody_else_is_an_error_and_stays() {
    let host = Host::new();
    host.ip("rule add pref 133 iif lo fwmark 0x539/0xfff lookup 1333");
    let mut journal = host.journal();
    let error = format!(
        "{:#}",
        journal.apply(&host.opened(), &host.wanted).unwrap_err()
    );
    assert!(
        error.contains("ip rule del pref 133 iif lo fwmark 0x539/0xfff lookup 1333"),
        "{error}"
    );
    journal.undo_all().unwrap();
    assert_eq!(host.installed(), [0, 0]);
    assert!(
        route::rules(&host.netns, false)
            .unwrap()
            .iter()
            .any(|r| r.preference == 133)
    );
}

#[test]
fn a_table_that_somebody_else_uses_is_an_error() {
    let host = Host::new();
    host.ip("route add 192.0.2.0/24 dev lo table 1333");
    let error = format!(
        "{:#}",
        host.journal()
            .apply(&host.opened(), &host.wanted)
            .unwrap_err()
    );
    assert!(error.contains("table 1333 is in use"), "{error}");
}

#[test]
fn without_ipv6_the_rest_is_installed() {
    let host = Host::new();
    sysctl::write(&host.netns, "net.ipv6.conf.lo.disable_ipv6", "1").unwrap();
    let mut journal = host.journal();
    journal.apply(&host.opened(), &host.wanted).unwrap();
    assert_eq!(host.installed(), [2, 0]);
    journal.undo_all().unwrap();
    assert_eq!(host.installed(), [0, 0]);
}

#[test]
fn with_the_loopback_down_the_error_says_what_to_do() {
    let host = Host::new();
    host.ip("link set lo down");
    let error = format!(
        "{:#}",
        host.journal()
            .apply(&host.opened(), &host.wanted)
            .unwrap_err()
    );
    assert!(error.contains("ip link set lo up"), "{error}");
}

#[test]
fn what_was_in_a_namespace_that_is_gone_counts_as_undone() {
    let mut host = Host::new();
    host.journal().apply(&host.opened(), &host.wanted).unwrap();
    host.netns = Netns::current().unwrap();
    host.journal().undo_all().unwrap();
    assert!(!host.file().exists());
}

#[test]
fn sweep_finds_what_no_journal_knows_and_nothing_else() {
    let host = Host::new();
    host.ip("rule add pref 200 fwmark 1 lookup 1333");
    host.journal().apply(&host.opened(), &host.wanted).unwrap();
    assert_eq!(route::sweep(&host.netns).unwrap(), 4);
    assert_eq!(host.installed(), [0, 0]);
    assert_eq!(route::sweep(&host.netns).unwrap(), 0);
    assert!(
        route::rules(&host.netns, false)
            .unwrap()
            .iter()
            .any(|r| r.preference == 200)
    );
}

/// Runs itself again where it sees only its own namespace, because it sweeps every namespace that it sees.
#[test]
fn an_unreadable_journal_is_kept_and_what_it_recorded_is_removed_by_tag() {
    const INSIDE: &str = "TRUEPEER_TEST_INSIDE";
    const NAME: &str = "an_unreadable_journal_is_kept_and_what_it_recorded_is_removed_by_tag";
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "sh",
                "-c",
            ])
            .arg(format!(
                "mount -t tmpfs tmpfs /run && ip link set lo up && exec \"$0\" --exact {NAME}"
            ))
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let host = Host {
        netns: Netns::current().unwrap(),
        ..Host::new()
    };
    let wanted = [Item::Route {
        netns: None,
        ipv6: false,
        table: 1333,
    }];
    for content in [
        "{\"version\": 1, ",
        "{\"version\": 9, \"boot\": \"\", \"entries\": []}",
    ] {
        host.journal().apply(&host.netns, &wanted).unwrap();
        assert_eq!(host.installed(), [1, 0]);
        fs::write(host.file(), content).unwrap();
        assert!(host.journal().is_empty());
        assert_eq!(host.installed(), [0, 0]);
        let kept = fs::read_dir(host.directory.path()).unwrap().flatten();
        let kept: Vec<_> = kept
            .map(|e| fs::read_to_string(e.path()).unwrap())
            .collect();
        assert_eq!(kept, [content]);
        fs::remove_dir_all(host.directory.path()).unwrap();
    }
}
