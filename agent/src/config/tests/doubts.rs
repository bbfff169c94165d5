//! What is valid and probably not meant.

use super::*;

/// What is doubted about a configuration, as `config check` prints it.
fn doubts(text: &str) -> Vec<String> {
    let config = Config::parse(text, "t").unwrap();
    let all = config
        .doubts()
        .into_iter()
        .chain(config.inexpressible_doubts());
    all.map(|doubt| format!("{}: {}; {}", doubt.section, doubt.reason, doubt.consequence))
        .collect()
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
fn an_unwrap_that_believes_nobody() {
    let unwrap = "[[unwrap]]\ninterface = \"eth0\"\nports = [\"80\", \"90-95\"]\n";
    let rule = "[[trust]]\nsource = [\"10.0.0.0/8\"]\nsays = [\"proxy\"]\n";
    assert_doubts(
        unwrap,
        &[&["[[unwrap]] on eth0", "ports 80, 90-95", "refused"]],
    );
    assert_doubts(&format!("{unwrap}{rule}"), &[]);
    let some = format!("{unwrap}{rule}ports = [\"80\", \"91-95\"]\n");
    assert_doubts(&some, &[&["to port 90;"]]);
    assert_doubts(&format!("{unwrap}{XFF}"), &[&["ports 80, 90-95"]]);
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
        assert_doubts(&format!("{http}{XFF}ports = [\"81\"]\n"), &[&["port 80"]]);
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
    for told in ["send = \"proxy-v2\"\n", "[reveal]\nenabled = false\n"] {
        assert_doubts(&format!("{to_v4}{told}"), &[]);
    }
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
