use std::net::IpAddr;
use std::path::Path;

use agent_common::guard::Verdict;
use agent_common::{toa::Kinds, unwrap::Versions};

use super::*;

/// The error for a configuration.
fn error(text: &str) -> String {
    Config::parse(text, "t.toml").unwrap_err().to_string()
}

/// The error for one steer with these lines besides its name.
fn steer_error(lines: &str) -> String {
    error(&format!("[[steer]]\nname = \"a\"\n{lines}\n"))
}

/// A valid steer.
fn steer(name: &str, more: &str) -> String {
    format!("[[steer]]\nname = \"{name}\"\nto = 15006\n{more}\n")
}

/// A valid relay.
fn relay(more: &str) -> String {
    format!("[[relay]]\nlisten = \"[::]:443\"\nupstream = [\"127.0.0.1:8443\"]\n{more}\n")
}

#[track_caller]
fn assert_has(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "no {part:?} in:\n{error}");
    }
}

#[test]
fn the_default_text_is_the_default_configuration() {
    assert_eq!(Config::load(None).unwrap(), Config::default());
}

#[test]
fn the_examples_of_the_default_text_are_valid() {
    let (settings, examples) = DEFAULT.split_once("# [[steer]]\n").unwrap();
    let examples = format!("# [[steer]]\n{examples}");
    let uncommented: Vec<_> = examples
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .filter(|line| line.starts_with("[[") || line.contains(" = "))
        .collect();
    // The relay's example is of no use without a trusted sender.
    let settings = settings.replace("sources = []", "sources = [\"10.0.0.0/8\"]");
    let text = settings + &uncommented.join("\n");
    let config = Config::parse(&text, "default").unwrap();
    let names: Vec<_> = config.steer.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["inbound", "gateway"]);
    let defaults = Config::parse(&relay(""), "default").unwrap();
    let [example, default] = [&config.relay[0], &defaults.relay[0]];
    assert_eq!(
        (
            example.header_timeout,
            example.idle_timeout,
            example.max_connections,
            example.send
        ),
        (
            default.header_timeout,
            default.idle_timeout,
            default.max_connections,
            default.send
        )
    );
}

#[test]
fn a_whole_file_is_read() {
    let config = Config::parse(
        r#"
[agent]
socket = "/tmp/t.sock"
metrics = "off"
access_log = "/var/log/t.log"
origins = 16
drain = 0
top_ipv4 = 32
[[steer]]
name = "inbound"
netns = "/run/netns/pod"
interface = "eth0"
ports = ["8080", "9000-9010"]
to = 15006
answers = ["eth1"]
mark = "1337"
table = 7
[[steer]]
name = "all"
ports = ["1-65535"]
to = 15001
"#,
        "t.toml",
    )
    .unwrap();
    assert_eq!(config.agent.socket, Path::new("/tmp/t.sock"));
    assert_eq!(config.agent.metrics, None);
    assert_eq!(config.agent.bpffs, Path::new("/sys/fs/bpf/truepeer"));
    assert_eq!(
        config.agent.access_log,
        AccessLogTarget::File("/var/log/t.log".into())
    );
    assert_eq!(config.agent.origins, 16);
    assert_eq!(config.agent.drain, Duration::ZERO);
    assert_eq!((config.agent.top.ipv4, config.agent.top.ipv6), (32, 64));
    let first = &config.steer[0];
    assert_eq!(first.netns.as_deref(), Some(Path::new("/run/netns/pod")));
    assert_eq!(first.interface.as_deref(), Some("eth0"));
    assert_eq!(first.ports, [8080..=8080, 9000..=9010]);
    assert_eq!(first.answers, Some(vec!["eth1".into()]));
    assert_eq!((first.mark.value, first.mark.mask), (1337, u32::MAX));
    assert_eq!((first.to, first.table), (15006, 7));
    let second = &config.steer[1];
    assert_eq!((second.mark.value, second.mark.mask), (0x539, 0xfff));
    assert_eq!((&second.answers, second.table), (&None, 133));
}

#[test]
fn a_problem_is_shown_with_its_line_its_place_and_the_remedy() {
    let error = steer_error("\tports = [\"8080\", \"9010-9000\"]\nto = 1");
    let expected = concat!(
        "error: the range \"9010-9000\" is upside down\n",
        " --> t.toml:3:19\n",
        "  |\n",
        "3 | \tports = [\"8080\", \"9010-9000\"]\n",
        "  | \t                 ^^^^^^^^^^^\n",
        "  = help: write \"9000-9010\"",
    );
    assert_eq!(error, expected);
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let error = error("[[steer]]\nport = [\"1\"]\n[agent]\ndrain = \"30\"\norigins = 0\n");
    let places: Vec<_> = error.lines().filter(|l| l.contains("-->")).collect();
    assert_eq!(
        places,
        [
            " --> t.toml:1:1",
            " --> t.toml:1:1",
            " --> t.toml:2:1",
            " --> t.toml:4:9",
            " --> t.toml:5:11"
        ]
    );
    assert_has(
        &error,
        &[
            "[[steer]] has no `name`",
            "[[steer]] has no `to`",
            "unknown key `port`, did you mean `ports`?",
            "write `drain = 30`, without quotes",
            "`origins` must be between 1 and 16777216",
            "the nearest is `origins = 1`",
        ],
    );
}

#[test]
fn syntax_errors_are_told_alone_and_all() {
    let error = error("[agent]\nsocket = /tmp\ndrain = \nsockt = 1\n");
    assert_has(&error, &["t.toml:2:", "t.toml:3:"]);
    assert!(!error.contains("sockt`"), "{error}");
}

#[test]
fn sections_that_do_not_exist_are_refused() {
    assert_has(
        &error("[agnet]\n"),
        &["unknown section `agnet`, did you mean `agent`?", ":1:2"],
    );
    assert_has(
        &error("[quota]\nlimit = 1\n"),
        &[
            "unknown section `quota`",
            "`[agent]`, `[trust]`, `[reveal]`, `[carry.toa]`, `[[steer]]`, `[[unwrap]]`, `[[relay]]` and `[[policy]]`",
        ],
    );
    assert_has(
        &error("socket = \"/x\"\n"),
        &["key `socket` is outside of its section", "below `[agent]`"],
    );
    assert_has(&error("[steer]\nname = \"a\"\n"), &["write `[[steer]]`"]);
    assert_has(&error("steer = [1]\n"), &["write `[[steer]]`"]);
    assert_has(&error("agent = 1\n"), &["write `[agent]`"]);
}

#[test]
fn trust_and_reveal_are_checked() {
    let cases = [
        ("[trust]\nuids = 1337\n", "write `uids = [1337]`"),
        (
            "[trust]\nuids = [\"1337\"]\n",
            "write `1337`, without quotes",
        ),
        ("[trust]\nuids = [-1]\n", "the nearest is `0`"),
        ("[trust]\nuid = [1]\n", "did you mean `uids`?"),
        ("[trust]\ncgroups = [\"a/b\"]\n", "write \"/a/b\""),
        (
            "[trust]\nlocal_source = \"127.0.0.6\"\n",
            "write `local_source = [\"127.0.0.6\"]`",
        ),
        (
            "[trust]\nlocal_source = [\"127.0.0.6/32\"]\n",
            "write \"127.0.0.6\", for example",
        ),
        (
            "[trust]\nlocal_source = [\"::6/128\"]\n",
            "write \"::6\", for example",
        ),
        (
            "[trust]\nlocal_source = [\"10.0.0.6\"]\n",
            "outside of 127.0.0.0/8: \"10.0.0.6\"",
        ),
        (
            "[trust]\nlocal_source = [\"::ffff:127.0.0.6\"]\n",
            "what no interface can have",
        ),
        (
            "[trust]\nlocal_source = [\"::6\", \"::7\"]\n",
            "a second IPv6 address: \"::7\"",
        ),
        ("[reveal]\nenabled = 1\n", "write `enabled = true`"),
        ("reveal = true\n", "write `[reveal]`"),
    ];
    for (text, part) in cases {
        assert_has(&error(text), &[part]);
    }
    let text = "[trust]\nuids = [1337]\ncgroups = [\"/a\"]\nlocal_source = [\"127.0.0.6\", \"::6\"]\n\
                [reveal]\nenabled = false\n";
    let config = Config::parse(text, "t.toml").unwrap();
    assert_eq!(
        config.trust.rules().collect::<Vec<_>>(),
        ["uid 1337", "cgroup /a"]
    );
    assert_eq!(
        config.trust.local_source,
        ["127.0.0.6", "::6"].map(|text| text.parse::<IpAddr>().unwrap())
    );
    assert!(!config.reveal.enabled);
}

#[test]
fn the_agents_settings_are_checked() {
    let cases = [
        ("metrics = \"9470\"", "write \"127.0.0.1:9470\""),
        ("metrics = \"localhost:9470\"", "write \"127.0.0.1:9470\""),
        ("metrics = \"::1\"", "write \"[::1]:9469\""),
        ("metrics = 9470", "write \"9470\", in quotes"),
        ("socket = \"run/x\"", "write \"/run/x\""),
        ("bpffs = \"bpf\"", "write \"/bpf\""),
        ("access_log = \"stdut\"", "write \"stdout\""),
        ("access_log = \"x.log\"", "write \"/var/log/x.log\""),
        ("origins = 16777217", "the nearest is `origins = 16777216`"),
        ("drain = -1", "the nearest is `drain = 0`"),
        ("top_ipv4 = 33", "the nearest is `top_ipv4 = 32`"),
        ("drain = true", "`drain` is a boolean, not a number"),
        ("zzz = 1", "[agent] has: socket, metrics"),
    ];
    for (line, part) in cases {
        assert_has(&error(&format!("[agent]\n{line}\n")), &[part, ":2:"]);
    }
    let long = format!("[agent]\nsocket = \"/{}\"\n", "x".repeat(107));
    assert_has(&error(&long), &["108 bytes", "107 at most"]);
}

#[test]
fn the_steers_ports_are_checked() {
    let cases = [
        ("ports = []\nto = 1", "`ports` is empty"),
        ("ports = [\"0\"]\nto = 1", "write \"1\""),
        ("ports = [\"0-10\"]\nto = 1", "write \"1-10\""),
        ("ports = [\"80-65536\"]\nto = 1", "write \"80-65535\""),
        ("ports = [\"70000\"]\nto = 1", "write \"65535\""),
        ("ports = [\"http\"]\nto = 1", "neither a port nor a range"),
        ("ports = [8080]\nto = 1", "write \"8080\", in quotes"),
        ("ports = \"8080\"\nto = 1", "write `ports = [\"8080\"]`"),
        ("ports = 8080\nto = 1", "write `ports = [\"8080\"]`"),
        ("ports = [\"1\"]", "has no `to`"),
        ("to = 1", "has no `ports`"),
        ("ports = [\"1\"]\nto = 0", "the nearest is `to = 1`"),
        ("ports = [\"1\"]\nto = 65536", "the nearest is `to = 65535`"),
        ("ports = [\"1\"]\nto = \"15006\"", "write `to = 15006`"),
        ("ports = [\"9\"]\nto = 9", "nothing would be steered"),
        ("ports = [\"9\", \"8-10\"]\nto = 1", "names port 9 twice"),
    ];
    for (lines, part) in cases {
        assert_has(&steer_error(lines), &[part]);
    }
}

#[test]
fn the_steers_other_keys_are_checked() {
    let cases = [
        ("netns = \"pod\"", "write \"/run/netns/pod\""),
        ("interface = \"\"", "interface's name"),
        ("interface = \"a-name-too-long-x\"", "1 to 15 bytes"),
        ("interface = \"eth0/1\"", "interface's name"),
        ("interface = \"lo\"", "leave `interface` out"),
        ("answers = [\"eth1\"]", "a gateway needs `interface`"),
        (
            "interface = \"a\"\nanswers = \"eth1\"",
            "write `answers = [\"eth1\"]`",
        ),
        (
            "interface = \"a\"\nanswers = [\"b\", \"b\"]",
            "names b twice",
        ),
        ("mark = \"0x1000/0xfff\"", "write \"0x1000/0x1fff\""),
        ("mark = \"0x1539/0xfff\"", "write \"0x539/0xfff\" or"),
        ("mark = \"0\"", "the mark's value is 0"),
        ("mark = \"1/0\"", "write \"0x1/0x1\""),
        ("mark = \"0xfffffffff\"", "is not a mark"),
        ("mark = 1337", "write \"1337\", in quotes"),
        ("table = 0", "the kernel's own"),
        ("table = 254", "write `table = 133`"),
        ("table = 4294967296", "the nearest is `table = 4294967295`"),
    ];
    for (lines, part) in cases {
        assert_has(
            &steer_error(&format!("ports = [\"80\"]\nto = 15006\n{lines}")),
            &[part],
        );
    }
    let unnamed = "[[steer]]\nname = \" \"\nports = [\"1\"]\nto = 2\n";
    assert_has(&error(unnamed), &["`name` is empty"]);
}

#[test]
fn names_are_unique_also_as_numbers() {
    let one = steer("a", "ports = [\"1\"]");
    let other = steer("a", "ports = [\"2\"]");
    assert_has(
        &error(&(one + &other)),
        &["two steers have the name \"a\"", ":6:8"],
    );
    // Two words with the same 32-bit FNV-1a.
    let one = steer("costarring", "ports = [\"1\"]");
    let other = steer("liquid", "ports = [\"2\"]");
    assert_has(
        &error(&(one + &other)),
        &["\"costarring\" and \"liquid\" have the same number"],
    );
}

#[test]
fn overlapping_steers_of_one_namespace_are_refused() {
    let eth0 = steer("a", "ports = [\"80-90\"]\ninterface = \"eth0\"");
    let both = |more: &str| Config::parse(&(eth0.clone() + &steer("b", more)), "t.toml");
    for other in ["interface = \"eth0\"", ""] {
        let error = both(&format!("ports = [\"85-100\"]\n{other}")).unwrap_err();
        assert_has(
            &error.to_string(),
            &["steers \"a\" and \"b\" both want ports 85-90", ":9:10"],
        );
    }
    assert!(both("ports = [\"91\"]\ninterface = \"eth0\"").is_ok());
    assert!(both("ports = [\"85\"]\ninterface = \"eth1\"").is_ok());
    assert!(both("ports = [\"85\"]\nnetns = \"/run/netns/x\"").is_ok());
}

#[test]
fn steers_of_one_kind_and_namespace_share_mark_and_table() {
    let one = steer("a", "ports = [\"1\"]");
    let both = |more: &str| error(&(one.clone() + &steer("b", more)));
    assert_has(
        &both("ports = [\"2\"]\nmark = \"1\""),
        &[
            "\"a\" and \"b\" share a namespace but not their mark",
            "\"0x539/0xfff\"",
            ":9:8",
        ],
    );
    assert_has(
        &both("ports = [\"2\"]\ntable = 7"),
        &["not their table", "write `table = 133` in both"],
    );
    let elsewhere = steer(
        "b",
        "ports = [\"2\"]\nmark = \"1\"\nnetns = \"/run/netns/x\"",
    );
    assert!(Config::parse(&(one.clone() + &elsewhere), "t.toml").is_ok());
}

#[test]
fn a_sidecar_and_a_gateway_of_one_namespace_need_two_marks() {
    let gateway = "ports = [\"2\"]\ninterface = \"eth0\"\nanswers = []\n";
    let both = |sidecar: &str, mark: &str| {
        let sidecar = steer("a", &format!("ports = [\"1\"]\n{sidecar}"));
        Config::parse(
            &(sidecar + &steer("b", &format!("{gateway}{mark}"))),
            "t.toml",
        )
    };
    let refused = |result: Result<Config, ConfigError>| result.unwrap_err().to_string();
    assert_has(
        &refused(both("", "")),
        &["\"a\" is a sidecar and \"b\" a gateway", "\"0x538/0xfff\""],
    );
    assert_has(
        &refused(both("", "mark = \"0x1000/0xf000\"")),
        &["told apart"],
    );
    assert_has(
        &refused(both("mark = \"1/1\"", "mark = \"1/1\"")),
        &["\"0x2/0x3\""],
    );
    assert!(both("", "mark = \"0x538/0xfff\"").is_ok());
    assert!(both("mark = \"1/1\"", "mark = \"2/3\"").is_ok());
}

#[test]
fn toa_is_read_from_prefixes_and_sent_to_prefixes() {
    let config = Config::parse(
        r#"
[trust]
sources = ["10.0.0.0/8", "fd00::/8"]
toa = ["254/8", "76/20"]
[carry.toa]
to = ["192.0.2.7/32"]
kind = 253
"#,
        "t.toml",
    )
    .unwrap();
    let rules: Vec<_> = config.trust.rules().collect();
    assert_eq!(rules, ["source 10.0.0.0/8", "source fd00::/8"]);
    assert_eq!(config.trust.toa, Kinds::NONE.with(254, 8).with(76, 20));
    assert_eq!(config.carry_toa.to[0].to_string(), "192.0.2.7/32");
    assert_eq!(config.carry_toa.kind, 253);
}

#[test]
fn what_is_no_prefix_or_no_kind_is_told_with_the_nearest_that_is() {
    let trust = |line: &str| error(&format!("[trust]\n{line}\n"));
    assert_has(
        &trust("sources = [\"10.0.0.1/8\"]"),
        &["bits set beyond its prefix length", "write \"10.0.0.0/8\""],
    );
    assert_has(
        &trust("sources = [\"10.0.0.1\"]"),
        &["not an address prefix", "write \"10.0.0.1/32\""],
    );
    assert_has(&trust("sources = [\"lb\"]"), &["write \"10.0.0.0/8\""]);
    for wrong in ["254", "254/9", "x/8", "256/8"] {
        assert_has(
            &trust(&format!("toa = [\"{wrong}\"]")),
            &["not a kind and a length", "\"254/8\""],
        );
    }
    assert_has(
        &trust("toa = [\"8/8\"]"),
        &["TCP option 8 has another meaning", "253 or 254"],
    );
    assert_has(
        &error("[carry.toa]\nkind = 3\n"),
        &["TCP option 3 has another meaning"],
    );
    assert_has(
        &error("[carry]\ntoa = 254\n"),
        &[
            "`carry.toa` is a number, not a section",
            "write `[carry.toa]`",
        ],
    );
    assert_has(
        &error("[carry.tao]\n"),
        &["unknown key `tao`", "[carry] has: toa"],
    );
}

#[test]
fn a_namespace_has_64_ranges() {
    let ports = |n: u16| {
        (1..=n)
            .map(|p| format!("\"{}\"", 2 * p))
            .collect::<Vec<_>>()
            .join(",")
    };
    assert!(Config::parse(&steer("a", &format!("ports = [{}]", ports(64))), "t").is_ok());
    let full = steer(
        "a",
        &format!(
            "ports = [{}]\ninterface = \"a\"\nanswers = [\"b\"]",
            ports(64)
        ),
    );
    assert_has(&error(&full), &["65 port ranges", "64 are possible"]);
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Config::load(Some(&dir.path().join("x.toml"))).unwrap_err();
    assert_has(&missing.to_string(), &["No such file", "config default"]);
    let path = dir.path().join("latin1.toml");
    std::fs::write(&path, b"[agent]\n# caf\xe9\n").unwrap();
    let error = Config::load(Some(&path)).unwrap_err().to_string();
    assert_has(&error, &["line 2 is not UTF-8"]);
}

#[test]
fn a_relay_is_read() {
    let config = Config::parse(
        r#"
[trust]
sources = ["10.0.0.0/8"]
[[relay]]
netns = "/run/netns/pod"
listen = "0.0.0.0:443"
accept = "proxy"
upstream = ["127.0.0.1:1", "[::1]:2"]
balance = "client-ip"
send = "proxy-v2"
protocol = "tcp"
header_timeout = 3
idle_timeout = 60
max_connections = 7
"#,
        "t.toml",
    )
    .unwrap();
    let expected = Relay {
        netns: Some("/run/netns/pod".into()),
        listen: "0.0.0.0:443".parse().unwrap(),
        accept: Accept::Proxy,
        upstream: vec!["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()],
        balance: Balance::ClientIp,
        send: Send::ProxyV2,
        protocol: Protocol::Tcp,
        header_timeout: Duration::from_secs(3),
        idle_timeout: Duration::from_secs(60),
        max_connections: 7,
    };
    assert_eq!(config.relay, [expected]);
    let [relay] = &Config::parse(&relay(""), "t.toml").unwrap().relay[..] else {
        panic!("one relay");
    };
    assert_eq!(
        (relay.accept, relay.balance, relay.send),
        (Accept::Plain, Balance::RoundRobin, Send::Reveal)
    );
}

#[test]
fn a_relay_that_cannot_work_is_refused() {
    for (lines, parts) in [
        ("listem = \"x\"", &["did you mean `listen`?"][..]),
        (
            "accept = \"proxi\"",
            &["`accept` cannot be \"proxi\"", "did you mean \"proxy\"?"],
        ),
        (
            "accept = \"proxy\"",
            &[
                "nobody is trusted",
                "sources = [\"10.0.0.0/8\"]",
                "t.toml:4:10",
            ],
        ),
        (
            "send = \"toa\"",
            &["TOA is not sent to 127.0.0.1", "to = [\"127.0.0.1/32\"]"],
        ),
        (
            "send = \"proxy\"",
            &["`send` cannot be \"proxy\"", "did you mean \"proxy-v2\"?"],
        ),
        (
            "balance = \"random\"",
            &["`balance` cannot be", "\"client-ip\""],
        ),
        ("protocol = \"https\"", &["did you mean \"http\"?"]),
        (
            "trusted_hops = 1",
            &["TCP has no headers", "`protocol = \"http\"`"],
        ),
        (
            "protocol = \"http\"\nadd_headers = [\"X-Real-IP\"]",
            &["cannot add \"X-Real-IP\"", "\"Forwarded\""],
        ),
        (
            "idle_timeout = 0",
            &["`idle_timeout` must be between 1 and 86400"],
        ),
        (&relay(""), &["two relays listen on [::]:443"]),
    ] {
        assert_has(&error(&relay(lines)), parts);
    }
    for (lines, parts) in [
        (
            "upstream = [\"127.0.0.1:1\"]",
            &["[[relay]] has no `listen`"][..],
        ),
        ("listen = \"[::]:443\"", &["[[relay]] has no `upstream`"]),
        (
            "listen = \"443\"",
            &["not an address with a port", "write \"127.0.0.1:443\""],
        ),
        (
            "listen = \"[::]:443\"\nupstream = [\"[::]:443\", \"::1\"]",
            &["would connect to itself", "write \"[::1]:443\""],
        ),
        (
            "listen = \"[::]:443\"\nupstream = []",
            &["`upstream` is empty"],
        ),
        (
            "listen = \"[::]:443\"\nupstream = [\"1.2.3.4:5\", \"1.2.3.4:5\"]",
            &["names 1.2.3.4:5 twice"],
        ),
    ] {
        assert_has(&error(&format!("[[relay]]\n{lines}\n")), parts);
    }
    assert_has(
        &error("[relay]\nlisten = \"[::]:443\"\n"),
        &["write `[[relay]]`"],
    );
    assert_has(&error("listen = \"x\"\n"), &["below `[[relay]]`"]);
}

/// The error for one policy with these lines.
fn policy_error(lines: &str) -> String {
    error(&format!("[[policy]]\n{lines}\n"))
}

#[test]
fn policies_are_read() {
    let text = "
        [[policy]]
        ports = [\"8080\", \"9000-9010\"]
        deny = [\"2.2.2.0/24\", \"2001:db8::/32\"]
        [[policy]]
        name = \"staff\"
        ports = [\"22\"]
        allow = [\"10.0.0.0/8\"]
        deny = [\"10.1.0.0/16\"]
    ";
    let policies = Config::parse(text, "t.toml").unwrap().policy;
    let prefix = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    assert_eq!(policies[0].name, "8080,9000-9010");
    assert_eq!(policies[0].otherwise, Verdict::Allow);
    assert_eq!(policies[1].rule(), "policy staff");
    assert_eq!(policies[1].otherwise, Verdict::Deny);
    assert_eq!(
        policies[1].prefixes,
        [
            (prefix("10.0.0.0/8"), Verdict::Allow),
            (prefix("10.1.0.0/16"), Verdict::Deny)
        ]
    );
}

#[test]
fn a_policy_decides_something_and_does_not_contradict_itself() {
    let none = policy_error("ports = [\"80\"]");
    assert_has(
        &none,
        &["t.toml:1", "neither `allow` nor `deny`", "add a line"],
    );
    let nobody = policy_error("ports = [\"80\"]\nallow = []");
    assert_has(&nobody, &["t.toml:3:9", "nobody would be allowed", "::/0"]);
    let empty = policy_error("ports = [\"80\"]\ndeny = []");
    assert_has(&empty, &["nobody would be denied"]);
    let both = policy_error("ports = [\"80\"]\nallow = [\"10.0.0.0/8\"]\ndeny = [\"10.0.0.0/8\"]");
    assert_has(
        &both,
        &["t.toml:4:9", "10.0.0.0/8 is in both", "the longest decides"],
    );
    let bits = policy_error("ports = [\"80\"]\ndeny = [\"10.1.0.0/8\"]");
    assert_has(&bits, &["bits set beyond", "write \"10.0.0.0/8\""]);
    let typo = policy_error("ports = [\"80\"]\ndenied = [\"10.0.0.0/8\"]");
    assert_has(&typo, &["unknown key `denied`, did you mean `deny`?"]);
}

#[test]
fn a_port_has_one_policy() {
    let policy = |name: &str, ports: &str| {
        format!("[[policy]]\nname = \"{name}\"\nports = [{ports}]\ndeny = [\"10.0.0.0/8\"]\n")
    };
    let two = error(&(policy("a", "\"80-90\"") + &policy("b", "\"85-100\"")));
    assert_has(&two, &["t.toml:7", "\"a\" and \"b\" both decide on 85-90"]);
    let twice = error(&policy("a", "\"80\", \"80\""));
    assert_has(&twice, &["policy \"a\" names 80 twice"]);
    let same = error(&(policy("a", "\"80\"") + &policy("a", "\"81\"")));
    assert_has(
        &same,
        &["two policies have the name \"a\"", "name = \"a-2\""],
    );
}

/// An unwrap with these lines.
fn unwrap(lines: &str) -> String {
    format!("[[unwrap]]\n{lines}\n")
}

#[test]
fn an_unwrap_is_read() {
    let text = unwrap("interface = \"eth0\"\nports = [\"80\", \"8000-8002\"]");
    let config = Config::parse(&text, "t").unwrap();
    let [read] = config.unwrap.as_slice() else {
        panic!("{:?}", config.unwrap)
    };
    assert_eq!(read.interface, "eth0");
    assert_eq!(read.netns, None);
    assert_eq!(read.ports, [80..=80, 8000..=8002]);
    assert!(read.versions.has(Versions::V1) && read.versions.has(Versions::V2));

    let text = text + "versions = [\"v2\"]\nnetns = \"/run/netns/pod\"\n";
    let config = Config::parse(&text, "t").unwrap();
    let read = &config.unwrap[0];
    assert_eq!(read.netns.as_deref(), Some(Path::new("/run/netns/pod")));
    assert!(!read.versions.has(Versions::V1) && read.versions.has(Versions::V2));
}

#[test]
fn what_is_wrong_with_an_unwrap_is_told() {
    let ports = "ports = [\"80\"]\n";
    let interface = "interface = \"eth0\"\n";
    assert_has(&error(&unwrap(ports)), &["`interface`", "\"eth0\""]);
    assert_has(&error(&unwrap(interface)), &["`ports`"]);
    let more = |line: &str| error(&unwrap(&format!("{ports}{interface}{line}")));
    assert_has(
        &more("versions = [\"v3\"]"),
        &["\"v3\"", "write \"v1\" or \"v2\""],
    );
    assert_has(&more("versions = []"), &["`versions` is empty"]);
    assert_has(&more("version = [\"v2\"]"), &["unknown key `version`"]);
    assert_has(
        &error(&unwrap("ports = [\"99999\"]\ninterface = \"eth0\"")),
        &["99999"],
    );
    assert_has(
        &error(&unwrap("ports = [\"80\"]\ninterface = \"a/b\"")),
        &["a/b"],
    );
}
