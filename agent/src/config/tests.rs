mod doubts;
mod node;
mod policy;
mod relay;
mod steer;
mod toa;
mod trust;
mod unwrap;

use std::path::Path;
use std::time::Duration;

use super::*;

/// The error for a configuration.
fn error(text: &str) -> String {
    Config::parse(text, "t.toml").unwrap_err().to_string()
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
    let (settings, examples) = DEFAULT.split_once("# [[trust]]\n").unwrap();
    let examples = format!("# [[trust]]\n{examples}");
    let is_header = |line: &str| line.starts_with('[') && line.ends_with(']');
    let uncommented: Vec<_> = examples
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .filter(|line| is_header(line) || line.contains(" = "))
        .collect();
    let text = settings.to_owned() + &uncommented.join("\n");
    let config = Config::parse(&text, "default").unwrap();
    let names: Vec<_> = config.steer.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["inbound", "gateway"]);
    assert_eq!(config.trust.len(), 2);
    let defaults = Config::parse(&relay::valid(""), "default").unwrap();
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
runtimes = ["/run/crio"]
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
to = "15001-15016"
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
    assert_eq!(config.agent.runtimes, [Path::new("/run/crio")]);
    let first = &config.steer[0];
    assert_eq!(first.netns.as_deref(), Some(Path::new("/run/netns/pod")));
    assert_eq!(first.interface, Some("eth0".into()));
    assert_eq!(first.ports, [8080..=8080, 9000..=9010]);
    assert_eq!(first.answers, Some("eth1".into()));
    assert_eq!((first.mark.value, first.mark.mask), (1337, u32::MAX));
    assert_eq!((&first.to, first.table), (&(15006..=15006), 7));
    let second = &config.steer[1];
    assert_eq!((second.mark.value, second.mark.mask), (0x539, 0xfff));
    assert_eq!((&second.answers, second.table), (&None, 133));
    assert_eq!(second.to, 15001..=15016);
}

#[test]
fn each_directory_of_a_runtime_is_an_absolute_path() {
    let error = error("[agent]\nruntimes = [\"/run/crio\", \"run/k3s\"]");
    assert_has(
        &error,
        &[
            "`runtimes` is not an absolute path: \"run/k3s\"",
            "write \"/run/k3s\"",
        ],
    );
}

#[test]
fn a_problem_is_shown_with_its_line_its_place_and_the_remedy() {
    let error = steer::steer_error("\tports = [\"8080\", \"9010-9000\"]\nto = 1");
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

/// Pods' users write annotations on one line, and could make an error of a page for each of its characters.
#[test]
fn problems_of_one_long_line_show_a_part_of_it_each() {
    let ports = vec!["\"x\""; 1000].join(",");
    let error = steer::steer_error(&format!("ports = [{ports}]\nto = 1"));
    assert_eq!(error.matches("error: ").count(), 1000);
    assert!(
        error.lines().all(|line| line.chars().count() < 150),
        "{error}"
    );
    assert_has(&error, &[":3:10\n", ":3:4006\n"]);
}

/// Pods' users write annotations, whose errors end in logs and terminals.
#[test]
fn a_problem_shows_no_character_that_a_terminal_obeys() {
    let error = error("[agent]\nsocket = \"\\u001b[2J\\n\"\n\u{9b}");
    assert!(
        !error.replace('\n', "").contains(char::is_control),
        "{error:?}"
    );
    let error = self::error("[agent]\nsocket = \"\\u001b[2J\\n\"");
    assert_has(&error, &["not an absolute path: \"␛[2J␊\""]);
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
            "`[agent]`, `[[trust]]`, `[toa]`, `[reveal]`, `[carry.toa]`, `[[carry.node]]`, `[[steer]]`, `[[unwrap]]`, `[[relay]]` and `[[policy]]`",
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
fn reveal_is_checked() {
    let cases = [
        ("[reveal]\nenabled = 1\n", "write `enabled = true`"),
        ("[reveal]\ncgroups = [\"a/b\"]\n", "write \"/a/b\""),
        ("reveal = true\n", "write `[reveal]`"),
    ];
    for (text, part) in cases {
        assert_has(&error(text), &[part]);
    }
    let config = Config::parse("[reveal]\nenabled = false\n", "t.toml").unwrap();
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
        ("access_log_of = \"some\"", "write \"1/100\""),
        ("access_log_of = \"1/0\"", "nor a share of the connections"),
        ("access_log_of = 100", "not a string"),
        ("log = \"jsn\"", "did you mean \"json\""),
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
fn a_file_that_cannot_be_read_is_told_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Config::load(Some(&dir.path().join("x.toml"))).unwrap_err();
    assert_has(&missing.to_string(), &["No such file", "config default"]);
    let path = dir.path().join("latin1.toml");
    std::fs::write(&path, b"[agent]\n# caf\xe9\n").unwrap();
    let error = Config::load(Some(&path)).unwrap_err().to_string();
    assert_has(&error, &["line 2 is not UTF-8"]);
}
