//! `[[policy]]`.

use agent_common::guard::Verdict;

use super::*;

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
