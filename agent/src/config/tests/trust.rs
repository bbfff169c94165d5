//! `[[trust]]`.

use agent_common::trust::{Reach, Statement};

use super::*;

/// The error about a rule with these lines.
fn wrong(lines: &str) -> String {
    error(&format!("[[trust]]\n{lines}\n"))
}

#[test]
fn rules_are_read() {
    let config = Config::parse(
        r#"
[[trust]]
name = "edge"
source = ["192.0.2.0/28", "2001:db8::/64"]
says = ["proxy", "xff"]
ports = ["443", "8000-8099"]
[[trust]]
source = ["10.0.0.0/8", "::ffff:198.51.100.0/120"]
says = ["toa"]
signed = true
[[trust]]
uid = [1337, 101]
[[trust]]
name = "haproxy"
cgroup = ["/a"]
says = ["bind"]
reach = "carry"
local_source = ["127.0.0.6", "::6"]
[toa]
keys = "/etc/truepeer/keys"
"#,
        "t.toml",
    )
    .unwrap();
    let [edge, signers, uids, haproxy] = &config.trust[..] else {
        panic!("four rules");
    };
    assert_eq!(edge.ports, [443..=443, 8000..=8099]);
    assert!(edge.believes(Statement::Xff) && !edge.believes(Statement::Toa));
    assert!(config.believes(Statement::Toa) && config.believes_proxies());
    let names = |rule: &Trust| Vec::from_iter(rule.rules().into_iter().map(|rule| rule.name));
    assert_eq!(names(edge), ["edge", "edge"]);
    // A mapped prefix is the IPv4 prefix.
    assert_eq!(
        names(signers),
        ["source 10.0.0.0/8", "source 198.51.100.0/24"]
    );
    assert_eq!(names(uids), ["uid 1337", "uid 101"]);
    assert_eq!(
        haproxy.speakers,
        Speakers::Proxies {
            proxies: vec![Proxy::Cgroup("/a".into())],
            reach: Reach::Carry,
            local_source: vec!["127.0.0.6".parse().unwrap(), "::6".parse().unwrap()],
        }
    );
    assert!(matches!(
        uids.speakers,
        Speakers::Proxies {
            reach: Reach::Namespace,
            ..
        }
    ));
}

#[test]
fn what_is_wrong_with_a_rule_is_told_with_what_to_write() {
    let source = "source = [\"10.0.0.0/8\"]";
    for (lines, parts) in [
        ("says = [\"toa\"]", &["names nobody", "`uid = [1337]`"][..]),
        (
            "uid = [1]\ncgroup = [\"/a\"]",
            &["`uid` and `cgroup` together", "a rule for each"],
        ),
        ("uid = []", &["`uid` is empty", "leave the rule out"]),
        ("uid = 1337", &["write `uid = [1337]`"]),
        ("uid = [\"1337\"]", &["write `1337`, without quotes"]),
        ("uid = [-1]", &["the nearest is `0`"]),
        ("uids = [1]", &["did you mean `uid`?"]),
        ("cgroup = [\"a/b\"]", &["write \"/a/b\""]),
        (
            "uid = [1]\nsays = []",
            &["`says` is empty", "leave the rule out"],
        ),
        (
            "uid = [1]\nsays = [\"toa\"]",
            &["cannot be believed to say \"toa\"", "by its `source`"],
        ),
        (
            "uid = [1]\nsigned = true",
            &["`signed` has no meaning beside `uid`"],
        ),
        (
            "uid = [1]\nreach = \"pod\"",
            &["\"namespace\", \"host\", \"carry\""],
        ),
        (
            "uid = [1]\nports = []",
            &["`ports` is empty", "leave it out"],
        ),
        (source, &["has no `says`", "[\"proxy\"]"]),
        (
            "source = [\"10.0.0.1/8\"]\nsays = []",
            &["beyond its prefix length", "write \"10.0.0.0/8\""],
        ),
        (
            "source = [\"10.0.0.1\"]\nsays = []",
            &["write \"10.0.0.1/32\""],
        ),
        ("source = [\"lb\"]\nsays = []", &["write \"10.0.0.0/8\""]),
        (
            "uid = [1]\nlocal_source = \"127.0.0.6\"",
            &["write `local_source = [\"127.0.0.6\"]`"],
        ),
        (
            "uid = [1]\nlocal_source = [\"127.0.0.6/32\"]",
            &["write \"127.0.0.6\", for example"],
        ),
        (
            "uid = [1]\nlocal_source = [\"10.0.0.6\"]",
            &["outside of 127.0.0.0/8"],
        ),
        (
            "uid = [1]\nlocal_source = [\"::ffff:127.0.0.6\"]",
            &["what no interface can have"],
        ),
        (
            "uid = [1]\nlocal_source = [\"::6\", \"::7\"]",
            &["a second IPv6 address: \"::7\""],
        ),
    ] {
        assert_has(&wrong(lines), parts);
    }
    for (lines, parts) in [
        (
            "says = [\"bind\"]",
            &["only a process of this host can bind", "`uid` or `cgroup`"][..],
        ),
        (
            "says = [\"proxi\"]",
            &["what nobody can say: \"proxi\"", "\"proxy\""],
        ),
        (
            "says = [\"proxy\"]\nsigned = true",
            &["`signed` is about TOA"],
        ),
        (
            "says = [\"toa\"]\nreach = \"host\"",
            &["`reach` has no meaning beside `source`"],
        ),
        (
            "says = [\"toa\"]\nsigned = true",
            &["no keys", "`[toa]`", "keys = \"/etc/truepeer/keys\""],
        ),
    ] {
        assert_has(&wrong(&format!("{source}\n{lines}")), parts);
    }
}

#[test]
fn no_two_rules_decide_about_the_same() {
    let two = |first: &str, second: &str| wrong(&format!("{first}\n[[trust]]\n{second}"));
    let edge = "name = \"edge\"\nsource = [\"10.0.0.0/8\"]\nsays = [\"toa\"]";
    let other = edge.replace("edge", "other");
    assert_has(
        &two(edge, &other),
        &["\"toa\" of 10.0.0.0/8", "join the rules"],
    );
    let elsewhere = edge.replace("10.0", "11.0");
    assert_has(
        &two(edge, &elsewhere),
        &["two rules have the name \"edge\"", "\"edge-2\""],
    );
    assert_has(
        &two("uid = [1]", "name = \"a\"\nuid = [1]"),
        &["two rules decide about a"],
    );
    // One rule for each statement is allowed.
    let further = other.replace("toa", "proxy");
    let both = format!("[[trust]]\n{edge}\n[[trust]]\n{further}\n");
    assert_eq!(Config::parse(&both, "t.toml").unwrap().trust.len(), 2);
}

#[test]
fn the_former_section_is_told_as_rules() {
    let text = "[trust]\nuids = [1337]\nlocal_source = [\"127.0.0.6\"]\nsources = [\"10.0.0.0/8\"]\n\
                signers = [\"10.1.0.0/16\"]\nkeys = \"/k\"\ntoa = [\"254/8\"]\n";
    let error = error(text);
    assert_has(&error, &["`[trust]` has become rules"]);
    let rules = error.split_once("need not say:\n").unwrap().1;
    let rules: Vec<_> = rules.lines().map(str::trim).collect();
    let config = Config::parse(&rules.join("\n"), "t.toml").unwrap();
    let names = config.trust.iter().flat_map(Trust::rules);
    let names: Vec<_> = names.map(|rule| rule.name).collect();
    assert_eq!(
        names,
        ["uid 1337", "source 10.0.0.0/8", "source 10.1.0.0/16"]
    );
    assert!(config.trust[0].has_local_source() && config.toa.keys.is_some());
}

#[test]
fn the_mount_point_of_a_cgroup_is_no_part_of_its_path() {
    for (written, meant) in [
        ("/sys/fs/cgroup/a.slice/b", "/a.slice/b"),
        ("/sys/fs/cgroup/unified/a.slice/", "/a.slice/"),
        ("/sys/fs/cgroup", "/"),
        ("/sys/fs/cgroup/", "/"),
    ] {
        let meant = format!("write \"{meant}\"");
        let parts = ["where the hierarchy is mounted", "t.toml:2:11", &meant];
        assert_has(
            &error(&format!("[[trust]]\ncgroup = [\"{written}\"]\n")),
            &parts,
        );
        let reveal = error(&format!("[reveal]\ncgroups = [\"{written}\"]\n"));
        assert_has(&reveal, &["`cgroups`", &meant, "t.toml:2:12"]);
    }
    for other in ["/sys/fs/cgroups", "/system.slice", "/sys"] {
        Config::parse(&format!("[[trust]]\ncgroup = [\"{other}\"]\n"), "t.toml").unwrap();
    }
}
