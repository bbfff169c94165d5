//! `[[steer]]`.

use super::*;

/// The error for one steer with these lines besides its name.
pub(super) fn steer_error(lines: &str) -> String {
    error(&format!("[[steer]]\nname = \"a\"\n{lines}\n"))
}

/// A valid steer.
fn steer(name: &str, more: &str) -> String {
    format!("[[steer]]\nname = \"{name}\"\nto = 15006\n{more}\n")
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
        ("ports = [\"1\"]\nto = \"9-8\"", "write \"8-9\""),
        ("ports = [\"1\"]\nto = \"100-116\"", "write \"100-115\""),
        ("ports = [\"9\"]\nto = 9", "nothing would be steered"),
        (
            "ports = [\"8-9\"]\nto = \"7-9\"",
            "nothing would be steered",
        ),
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
        ("interface = \"a\"\nanswers = 1", "not a string"),
        ("interface = [\"a\", \"pods\"]", "room for 64 ranges"),
        ("interface = \"a\"\nanswers = \"b*\"", "room for 64 ranges"),
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
