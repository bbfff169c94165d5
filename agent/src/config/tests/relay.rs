//! `[[relay]]`.

use super::*;

/// A valid relay.
pub(super) fn valid(more: &str) -> String {
    format!("[[relay]]\nlisten = \"[::]:443\"\nupstream = [\"127.0.0.1:8443\"]\n{more}\n")
}

#[test]
fn a_relay_is_read() {
    let config = Config::parse(
        r#"
[[trust]]
source = ["10.0.0.0/8"]
says = ["proxy"]
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
        idle_timeout: Some(Duration::from_secs(60)),
        max_connections: 7,
    };
    assert_eq!(config.relay, [expected]);
    let [relay] = &Config::parse(&valid(""), "t.toml").unwrap().relay[..] else {
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
                "nobody is believed",
                "source = [\"10.0.0.0/8\"]",
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
        (
            "idle_timeout = \"never\"",
            &["`idle_timeout` cannot be \"never\"", "\"off\""],
        ),
        (&valid(""), &["two relays listen on [::]:443"]),
    ] {
        assert_has(&error(&valid(lines)), parts);
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

/// A relay from an address to others.
fn from(listen: &str, upstream: &str) -> String {
    format!("[[relay]]\nlisten = \"{listen}\"\nupstream = [{upstream}]\n")
}

#[test]
fn connections_that_would_come_back_are_refused() {
    for (listen, upstream, place) in [
        ("0.0.0.0:80", "\"127.0.0.1:80\"", "t.toml:3:13"),
        (
            "0.0.0.0:80",
            "\"127.0.0.1:81\", \"127.9.9.9:80\"",
            "t.toml:3:29",
        ),
        ("[::]:80", "\"127.0.0.1:80\"", "t.toml:3:13"),
        ("[::]:80", "\"[::1]:80\"", "t.toml:3:13"),
        ("127.0.0.1:80", "\"0.0.0.0:80\"", "t.toml:3:13"),
        ("10.0.0.1:80", "\"[::ffff:10.0.0.1]:80\"", "t.toml:3:13"),
    ] {
        assert_has(
            &error(&from(listen, upstream)),
            &["would connect to itself", place],
        );
    }
    for (listen, upstream) in [
        ("0.0.0.0:80", "\"[::1]:80\""),
        ("127.0.0.1:80", "\"127.0.0.2:80\""),
        ("10.0.0.1:80", "\"10.0.0.2:80\""),
        ("[::]:80", "\"127.0.0.1:81\""),
    ] {
        assert!(
            Config::parse(&from(listen, upstream), "t.toml").is_ok(),
            "{listen}"
        );
    }

    let three = from("[::]:80", "\"127.0.0.1:9\", \"127.0.0.1:81\"")
        + &from("127.0.0.1:81", "\"127.0.0.1:82\"")
        + &from("127.0.0.1:82", "\"[::1]:80\"");
    let names = "relay [::]:80, relay 127.0.0.1:81, relay 127.0.0.1:82";
    let found = error(&three);
    assert_has(
        &found,
        &["connections would go round", names, "t.toml:3:28"],
    );
    assert_eq!(found.matches("error:").count(), 1, "{found}");
    let open = three.replace("[::1]:80", "[::1]:90");
    assert!(Config::parse(&open, "t.toml").is_ok());

    // Through another network namespace: by its address, and there by its steer.
    let there = "netns = \"/run/netns/pod\"\n";
    let chain = |port: u16| {
        from("10.0.0.1:80", "\"10.0.0.2:80\"")
            + &from(&format!("10.0.0.2:{port}"), "\"10.0.0.1:80\"")
            + there
    };
    assert_has(&error(&chain(80)), &["connections would go round"]);
    assert!(Config::parse(&chain(81), "t.toml").is_ok());
    let steer = format!("[[steer]]\nname = \"s\"\nports = [\"80\"]\nto = 81\n{there}");
    assert_has(
        &error(&(chain(81) + &steer)),
        &["connections would go round"],
    );
    // What a host connects to on itself is not steered.
    let own = from("[::]:81", "\"127.0.0.1:80\"") + &steer.replace(there, "");
    assert!(Config::parse(&own, "t.toml").is_ok());
    let elsewhere =
        from("0.0.0.0:80", "\"127.0.0.1:81\"") + &from("0.0.0.0:81", "\"127.0.0.1:80\"") + there;
    assert!(Config::parse(&elsewhere, "t.toml").is_ok());
}

#[test]
fn two_that_cannot_listen_on_one_address_are_refused() {
    let relays = |a: &str, b: &str| from(a, "\"127.0.0.1:1\"") + &from(b, "\"127.0.0.1:1\"");
    for (a, b) in [
        ("0.0.0.0:80", "10.0.0.1:80"),
        ("10.0.0.1:80", "0.0.0.0:80"),
        ("[::]:80", "10.0.0.1:80"),
        ("[::]:80", "0.0.0.0:80"),
    ] {
        assert_has(
            &error(&relays(a, b)),
            &["takes the connections to", b, "t.toml:5:10"],
        );
    }
    assert!(Config::parse(&relays("0.0.0.0:80", "[::1]:80"), "t.toml").is_ok());
    let metrics = from("0.0.0.0:9469", "\"127.0.0.1:1\"");
    assert_has(&error(&metrics), &["metrics", "t.toml:2:10"]);
    let elsewhere = metrics + "netns = \"/run/netns/pod\"\n";
    assert!(Config::parse(&elsewhere, "t.toml").is_ok());
}

#[test]
fn a_relay_behind_an_unwrap_gets_no_header() {
    let rule = "[[trust]]\nsource = [\"10.0.0.0/8\"]\nsays = [\"proxy\"]\n";
    let unwrap = |ports: &str| format!("[[unwrap]]\ninterface = \"eth0\"\nports = [{ports}]\n");
    let relay = from("0.0.0.0:80", "\"127.0.0.1:1\"");
    let proxy = format!("{relay}accept = \"proxy\"\n{rule}");
    assert_has(
        &error(&format!("{proxy}{}", unwrap("\"80\""))),
        &[
            "[[unwrap]] on eth0 takes the PROXY headers off",
            "t.toml:4:10",
            "`accept = \"plain\"`",
        ],
    );
    let steer = "[[steer]]\nname = \"web\"\nports = [\"443\"]\nto = 80\n";
    assert_has(
        &error(&format!("{proxy}{steer}{}", unwrap("\"443\""))),
        &["takes the PROXY headers off"],
    );
    for valid in [
        format!("{proxy}{}", unwrap("\"443\"")),
        format!("{relay}{rule}{}", unwrap("\"80\"")),
        format!("{proxy}{}netns = \"/run/netns/pod\"\n", unwrap("\"80\"")),
    ] {
        Config::parse(&valid, "t.toml").unwrap();
    }
}
