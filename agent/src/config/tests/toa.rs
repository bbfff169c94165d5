//! TOA in `[trust]` and `[carry.toa]`.

use agent_common::toa::Kinds;

use super::*;

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
fn signers_need_keys() {
    let keys = "keys = \"/etc/truepeer/keys\"";
    let signers = "signers = [\"10.1.0.0/16\"]";
    let config = Config::parse(&format!("[trust]\n{signers}\n{keys}\n"), "t.toml").unwrap();
    assert_eq!(
        config.trust.keys.as_deref(),
        Some(Path::new("/etc/truepeer/keys"))
    );
    assert_eq!(Vec::from_iter(config.trust.rules()), ["signer 10.1.0.0/16"]);
    assert!(config.trust.reads_toa());
    // A configuration that only signs.
    let config = Config::parse(&format!("[trust]\n{keys}\n"), "t.toml").unwrap();
    assert!(config.trust.keys.is_some() && !config.trust.reads_toa());
    assert_has(
        &error(&format!("[trust]\n{signers}\n")),
        &["[trust] has no `keys`", "keys = \"/etc/truepeer/keys\""],
    );
    assert_has(
        &error("[trust]\nkeys = \"keys\"\n"),
        &["`keys` is not an absolute path", "write \"/keys\""],
    );
    assert_has(
        &error("[trust]\nsigner = []\n"),
        &["unknown key `signer`, did you mean `signers`?"],
    );
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
