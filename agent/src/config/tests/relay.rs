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
