//! What is valid and probably not meant.

use super::*;

/// What is doubted about a configuration, as `config check` prints it.
fn doubts(text: &str) -> Vec<String> {
    let config = Config::parse(text, "t.toml").unwrap();
    let own = HashSet::from(["192.0.2.1".parse().unwrap()]);
    let all = config.doubts().into_iter();
    let all: Vec<_> = all.chain(config.upstream_doubts(&own)).collect();
    Text::of(text, "t.toml").warnings(&all)
}

#[track_caller]
fn assert_doubts(text: &str, expected: &[&[&str]]) {
    let found = doubts(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, parts) in found.iter().zip(expected) {
        assert_has(found, parts);
    }
}

const RELAY: &str = "[[relay]]\nlisten = \"0.0.0.0:80\"\nupstream = [\"[::1]:8080\"]\n";
const UNWRAP: &str = "[[unwrap]]\ninterface = \"eth0\"\nports = [\"80\", \"90-95\"]\n";
const PROXY: &str = "[[trust]]\nsource = [\"10.0.0.0/8\"]\nsays = [\"proxy\"]\n";
const XFF: &str = "[[trust]]\nsource = [\"10.0.0.0/8\"]\nsays = [\"xff\"]\n";

#[test]
fn toa_that_nobody_sends() {
    let carry = "[carry.toa]\nto = [\"10.0.0.0/8\"]\n";
    let proxy = "[[trust]]\nuid = [1]\n";
    let found: &[&[&str]] = &[&["[carry.toa]", "reach = \"carry\""]];
    assert_doubts(carry, found);
    assert_doubts(&format!("{carry}{proxy}"), found);
    assert_doubts(&format!("{carry}{proxy}reach = \"carry\"\n"), &[]);
    let relay =
        "[[relay]]\nlisten = \"0.0.0.0:80\"\nsend = \"toa\"\nupstream = [\"10.0.0.1:80\"]\n";
    assert_doubts(&format!("{carry}{relay}"), &[]);
}

#[test]
fn ports_of_an_unwrap_on_which_nobody_is_believed() {
    let some = format!("{UNWRAP}{PROXY}ports = [\"80\", \"91-95\"]\n");
    assert_doubts(&format!("{UNWRAP}{PROXY}"), &[]);
    assert_doubts(
        &some,
        &[&["[[unwrap]] on eth0", "to port 90:", "t.toml:3:9"]],
    );
}

#[test]
fn ports_of_an_interface_that_two_sections_want() {
    let again = |ports: &str| {
        let more = format!("[[unwrap]]\ninterface = \"eth0\"\nports = [{ports}]\n");
        format!("{UNWRAP}{PROXY}{more}")
    };
    assert_doubts(
        &again("\"70-89\""),
        &[&["port 80 of", "twice", "`versions`", "t.toml:9:10"]],
    );
    assert_doubts(&again("\"80-89\", \"70\""), &[&["port 80 of"]]);
    assert_doubts(&again("\"70\", \"70\""), &[&["port 70 of", "t.toml:9:16"]]);
    assert_doubts(&again("\"96\""), &[]);
    assert_doubts(
        &again("\"70\"").replace("\"90-95\"", "\"80\""),
        &[&["t.toml:3:16"]],
    );
    let elsewhere = again("\"80\"") + "netns = \"/run/netns/pod\"\n";
    assert_doubts(&elsewhere, &[]);
    let node = "[[carry.node]]\ninterface = \"eth0\"\nports = [\"30000\"]\n";
    assert_doubts(
        &format!("{node}{node}"),
        &[&["[[carry.node]] on eth0", "port 30000"]],
    );
}

#[test]
fn an_unwrap_of_the_port_to_which_is_steered() {
    let steer = |to| format!("[[steer]]\nname = \"web\"\nports = [\"443\"]\nto = {to}\n");
    let found: &[&[&str]] = &[&[
        "steer \"web\"",
        "port 92",
        "[[unwrap]]: port 443",
        "t.toml:3:9",
    ]];
    assert_doubts(&format!("{UNWRAP}{PROXY}{}", steer("92")), found);
    assert_doubts(&format!("{UNWRAP}{PROXY}{}", steer("15006")), &[]);
}

#[test]
fn rules_that_believe_everybody() {
    let rule = |source: &str| {
        format!("[[trust]]\nname = \"edge\"\nsource = [{source}]\nsays = [\"toa\"]\n")
    };
    for (source, place) in [
        ("\"0.0.0.0/0\"", "t.toml:3:11"),
        ("\"10.0.0.0/8\", \"::/0\"", "t.toml:3:25"),
        ("\"::ffff:0:0/96\"", "t.toml:3:11"),
        ("\"0.0.0.0/1\", \"128.0.0.0/1\"", "all addresses of IPv4"),
        (
            "\"1.0.0.0/8\", \"2.0.0.0/7\", \"4.0.0.0/6\", \"64.0.0.0/2\", \"128.0.0.0/2\"",
            "and others",
        ),
        ("\"2000::/3\"", "all addresses of IPv6"),
        ("\"2000::/4\"", "most addresses of IPv6"),
    ] {
        let parts = [
            "trust \"edge\"",
            "to say \"toa\"",
            "can name any client",
            place,
        ];
        assert_doubts(&rule(source), &[&parts]);
    }
    for source in [
        "\"0.0.0.0/2\"",
        "\"10.0.0.0/8\", \"fd00::/8\"",
        "\"2001:db8::/32\"",
    ] {
        assert_doubts(&rule(source), &[]);
    }
    // Each half by a rule of its own.
    let halves = rule("\"0.0.0.0/1\"") + &rule("\"128.0.0.0/1\"").replace("edge", "rest");
    assert_doubts(
        &halves,
        &[&["all addresses of IPv4 (0.0.0.0/1, 128.0.0.0/1)"]],
    );
    // By its signature, a sender is known wherever it is.
    let signed = rule("\"0.0.0.0/0\"") + "signed = true\n[toa]\nkeys = \"/k\"\n";
    assert_doubts(&signed, &[]);
    assert_doubts(&rule("\"0.0.0.0/0\"").replace("\"toa\"", ""), &[]);
    for (speaker, parts) in [
        (
            "uid = [1, 0]",
            [
                "[[trust]] of uid 1 and others",
                "process of root",
                "t.toml:2:11",
            ],
        ),
        (
            "cgroup = [\"/\"]",
            ["[[trust]] of cgroup /", "all processes", "t.toml:2:11"],
        ),
    ] {
        assert_doubts(&format!("[[trust]]\n{speaker}\n"), &[&parts]);
    }
    let carry = "[carry.toa]\nto = [\"10.0.0.0/8\", \"0.0.0.0/0\"]\n[[trust]]\nuid = [1]\nreach = \"carry\"\n";
    assert_doubts(carry, &[&["[carry.toa]", "TOA is sent to", "t.toml:2:21"]]);
}

#[test]
fn rules_of_which_others_leave_little() {
    let rule =
        |source: &str, says: &str| format!("[[trust]]\nsource = [{source}]\nsays = [{says}]\n");
    let outer = rule("\"10.0.0.0/8\"", "\"toa\"");
    let halves = rule("\"10.0.0.0/9\", \"10.128.0.0/9\"", "\"toa\"");
    let nothing: &[&str] = &[
        "leave nothing of 10.0.0.0/8",
        "never believed",
        "t.toml:2:11",
    ];
    assert_doubts(&format!("{outer}{halves}"), &[nothing]);
    assert_doubts(
        &format!("{outer}{}", rule("\"10.0.0.0/9\"", "\"toa\"")),
        &[],
    );
    // Somebody is left out.
    assert_doubts(&format!("{outer}{}", rule("\"10.0.0.0/9\"", "")), &[]);
    let less: &[&str] = &[
        "10.1.0.0/16 lies within 10.0.0.0/8",
        "say \"toa\"",
        "t.toml:5:11",
        "add \"toa\"",
    ];
    let inner = rule("\"10.1.0.0/16\"", "\"proxy\"");
    assert_doubts(&format!("{outer}{inner}"), &[less]);
    // Another rule of the same prefix makes up for it.
    let also =
        rule("\"10.1.0.0/16\"", "\"toa\"").replace("[[trust]]", "[[trust]]\nname = \"also\"");
    assert_doubts(&format!("{outer}{inner}{also}"), &[]);
}

#[test]
fn what_is_believed_and_nobody_hears() {
    assert_doubts(
        XFF,
        &[&[
            "nobody hears \"xff\"",
            "`protocol = \"http\"`",
            "t.toml:3:8",
        ]],
    );
    let other = PROXY.replace("10.", "11.") + "ports = [\"81\"]\n";
    assert_doubts(
        &format!("{UNWRAP}{PROXY}{other}"),
        &[&["nobody hears \"proxy\"", "t.toml:9:8"]],
    );
    // Pods may ask for unwraps.
    assert_doubts(PROXY, &[]);
    let kinds = "[toa]\nkinds = []\n[[trust]]\nsource = [\"10.0.0.0/8\"]\nsays = [\"toa\"]\n";
    assert_doubts(kinds, &[&["nobody hears \"toa\"", "`kinds`"]]);
}

#[test]
fn processes_that_are_told_twice() {
    let reveal = |cgroups: &str| format!("[reveal]\ncgroups = [{cgroups}]\n");
    assert_doubts(
        &reveal("\"/a/b\", \"/a\""),
        &[&["/a/b are in /a", "t.toml:2:12"]],
    );
    assert_doubts(&reveal("\"/a\", \"/a\""), &[&["t.toml:2:18"]]);
    assert_doubts(&reveal("\"/ab\", \"/a\""), &[]);
}

#[test]
fn a_relay_that_believes_nobody_or_everybody() {
    let http = format!("{RELAY}protocol = \"http\"\n");
    assert_doubts(&http, &[&["relay 0.0.0.0:80", "whoever connects"]]);
    assert_doubts(&format!("{http}trusted_hops = 0\n"), &[]);
    let counted = format!("{http}trusted_hops = 1\n");
    assert_doubts(&counted, &[&["can name any client"]]);
    for http in [&http, &counted] {
        assert_doubts(&format!("{http}{XFF}"), &[]);
        let elsewhere = format!("{http}{XFF}ports = [\"81\"]\n");
        assert_doubts(&elsewhere, &[&["nobody hears \"xff\""], &["port 80"]]);
        // Where connections are steered to the relay, the port is the one that clients chose.
        let steer = "[[steer]]\nname = \"web\"\nports = [\"81\"]\nto = 80\n";
        assert_doubts(&format!("{http}{XFF}ports = [\"81\"]\n{steer}"), &[]);
    }
    let local = counted.replace("0.0.0.0", "127.0.0.1");
    assert_doubts(&local, &[]);
}

#[test]
fn a_client_that_an_upstream_may_be_unable_to_express() {
    let relay = RELAY.replace("0.0.0.0", "[::]");
    let to_v4 = relay.replace("[::1]", "127.0.0.1");
    assert_doubts(&relay, &[]);
    assert_doubts(&to_v4, &[&["127.0.0.1:8080", "refused"]]);
    let pass = "[reveal]\ninexpressible = \"pass\"\n";
    assert_doubts(&format!("{pass}{to_v4}"), &[&["many access rules trust"]]);
    assert_doubts(&format!("{to_v4}send = \"proxy-v2\"\n"), &[]);
    let untold = format!("{to_v4}[reveal]\nenabled = false\n");
    assert_doubts(&untold, &[&["[reveal] is not enabled"]]);
    assert_doubts(&RELAY.replace("[::1]", "127.0.0.1"), &[]);
}

#[test]
fn what_becomes_of_the_inexpressible_is_one_of_two() {
    let error = error("[reveal]\ninexpressible = \"allow\"\n");
    assert_has(
        &error,
        &[
            "`inexpressible` cannot be \"allow\"",
            "\"refuse\", \"pass\"",
        ],
    );
}

#[test]
fn an_upstream_on_another_host() {
    let to = |send: &str, upstream: &str| {
        let toa = "[carry.toa]\nto = [\"203.0.113.0/24\"]\n";
        let relay = RELAY.replace("[::1]:8080", upstream);
        format!("{relay}send = \"{send}\"\n{toa}")
    };
    let far = "203.0.113.5:80";
    let found: &[&str] = &[
        "203.0.113.5",
        "instead of the client",
        "t.toml:3:13",
        "`send = \"toa\"`",
    ];
    // Nobody sends TOA there either.
    assert!(doubts(&to("reveal", far))[0].contains(found[0]));
    for send in ["reveal", "transparent"] {
        let text = to(send, far).replace("[carry.toa]\nto = [\"203.0.113.0/24\"]\n", "");
        assert_doubts(
            &text,
            &[&["203.0.113.5", "t.toml:3:13", "`send = \"toa\"`"]],
        );
        let own = text.replace("203.0.113.5", "192.0.2.1");
        assert_doubts(&own, &[]);
        assert_doubts(&own.replace("192.0.2.1:80", "127.0.0.1:81"), &[]);
    }
    for send in ["toa", "proxy-v2", "plain"] {
        let found = doubts(&to(send, far));
        assert!(
            !found
                .iter()
                .any(|doubt| doubt.contains("no network namespace")),
            "{found:?}"
        );
    }
}

#[test]
fn a_header_that_the_next_hop_does_not_take() {
    let next = "[[relay]]\nlisten = \"[::1]:8080\"\nupstream = [\"[::1]:81\"]\n";
    let first = |send: &str| format!("{RELAY}send = \"{send}\"\n");
    assert_doubts(&format!("{}{next}", first("plain")), &[]);
    let payload: &[&str] = &[
        "relay [::1]:8080",
        "one is sent",
        "as payload",
        "t.toml:3:13",
    ];
    assert_doubts(&format!("{}{next}", first("proxy-v2")), &[payload]);
    let next = format!("{next}accept = \"proxy\"\n{PROXY}");
    assert_doubts(&format!("{}{next}", first("proxy-v1")), &[]);
    let refused: &[&str] = &["relay [::1]:8080", "none is sent", "refused"];
    assert_doubts(&format!("{}{next}", first("reveal")), &[refused]);
    let unwrap = UNWRAP.replace("eth0", "lo").replace("\"80\"", "\"8080\"");
    let refused: &[&str] = &["[[unwrap]] on lo", "none is sent", "refused"];
    assert_doubts(&format!("{}{unwrap}{PROXY}", first("reveal")), &[refused]);
    assert_doubts(&format!("{}{unwrap}{PROXY}", first("proxy-v2")), &[]);
}
