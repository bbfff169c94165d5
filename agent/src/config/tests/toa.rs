//! TOA in `[toa]` and `[carry.toa]`.

use agent_common::toa::Kinds;

use super::*;

#[test]
fn toa_is_read_and_sent_to_prefixes() {
    let config = Config::parse(
        r#"
[toa]
kinds = ["254/8", "76/20"]
keys = "/etc/truepeer/keys"
[carry.toa]
to = ["192.0.2.7/32"]
kind = 253
"#,
        "t.toml",
    )
    .unwrap();
    assert_eq!(config.toa.kinds, Kinds::NONE.with(254, 8).with(76, 20));
    let keys = config.toa.keys.as_deref();
    assert_eq!(keys, Some(Path::new("/etc/truepeer/keys")));
    assert_eq!(config.carry_toa.to[0].to_string(), "192.0.2.7/32");
    assert_eq!(config.carry_toa.kind, 253);
}

#[test]
fn what_is_no_kind_is_told_with_the_nearest_that_is() {
    let toa = |line: &str| error(&format!("[toa]\n{line}\n"));
    for wrong in ["254", "254/9", "x/8", "256/8"] {
        assert_has(
            &toa(&format!("kinds = [\"{wrong}\"]")),
            &["not a kind and a length", "\"254/8\""],
        );
    }
    assert_has(
        &toa("kinds = [\"8/8\"]"),
        &["TCP option 8 has another meaning", "253 or 254"],
    );
    assert_has(
        &toa("keys = \"keys\""),
        &["`keys` is not an absolute path", "write \"/keys\""],
    );
    assert_has(
        &toa("key = []"),
        &["unknown key `key`, did you mean `keys`?"],
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
