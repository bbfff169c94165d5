//! `[[carry.node]]`.

use std::path::Path;

use agent_common::toa::{Kinds, LEN_V4, LEN_V6};

use super::*;

#[test]
fn a_node_is_read() {
    let config = Config::parse(
        r#"
[carry.toa]
kind = 77
[[carry.node]]
interface = "eth0"
ports = ["80", "30000-32767"]
[[carry.node]]
netns = "/run/netns/node"
interface = "cni0"
ports = ["443"]
"#,
        "t.toml",
    )
    .unwrap();
    let [first, second] = &config.carry_node[..] else {
        panic!("{:?}", config.carry_node)
    };
    assert_eq!(first.ports, [80..=80, 30_000..=32_767]);
    assert_eq!(
        (first.netns.as_deref(), &first.rule()[..]),
        (None, "node eth0")
    );
    assert_eq!(second.netns.as_deref(), Some(Path::new("/run/netns/node")));
    assert_eq!(second.rule(), "node cni0");
}

#[test]
fn what_a_node_writes_it_reads_even_if_nobody_is_trusted() {
    let node = "[[carry.node]]\ninterface = \"eth0\"\nports = [\"80\"]\n";
    let kinds = |text: &str| Config::parse(text, "t.toml").unwrap().kinds();
    let default = Config::default().toa.kinds;
    assert_eq!(kinds(""), Kinds::NONE);
    assert_eq!(
        kinds("[[trust]]\nsource = [\"10.0.0.0/8\"]\nsays = [\"toa\"]"),
        default
    );
    assert_eq!(kinds(node), default.with(254, LEN_V4).with(254, LEN_V6));
    let other = format!("[carry.toa]\nkind = 77\n{node}");
    assert_eq!(kinds(&other), default.with(77, LEN_V4).with(77, LEN_V6));
}

#[test]
fn what_is_wrong_with_a_node_is_told() {
    let node = |lines: &str| error(&format!("[[carry.node]]\n{lines}\n"));
    assert_has(&node("ports = [\"80\"]"), &["`interface`", "\"eth0\""]);
    assert_has(&node("interface = \"eth0\""), &["`ports`"]);
    assert_has(
        &node("interface = \"a/b\"\nports = [\"0\"]"),
        &["a/b", "\"0\""],
    );
    assert_has(&node("port = [\"80\"]"), &["unknown key `port`", "`ports`"]);
    assert_has(
        &error("[carry.node]\ninterface = \"eth0\"\n"),
        &["`carry.node` is one section", "write `[[carry.node]]`"],
    );
    assert_has(
        &error("[carry]\nnode = 1\n"),
        &["`carry.node` is a number", "write `[[carry.node]]`"],
    );
}
