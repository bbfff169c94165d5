//! `[[unwrap]]`.

use std::path::Path;

use agent_common::unwrap::Versions;

use super::*;

/// An unwrap with these lines, and whom it believes.
fn unwrap(lines: &str) -> String {
    format!("[[trust]]\nsource = [\"10.0.0.0/8\"]\nsays = [\"proxy\"]\n[[unwrap]]\n{lines}\n")
}

#[test]
fn an_unwrap_is_read() {
    let text = unwrap("interface = \"eth0\"\nports = [\"80\", \"8000-8002\"]");
    let config = Config::parse(&text, "t").unwrap();
    let [read] = config.unwrap.as_slice() else {
        panic!("{:?}", config.unwrap)
    };
    assert_eq!(read.interface, "eth0".into());
    assert_eq!(read.netns, None);
    assert_eq!(read.ports, [80..=80, 8000..=8002]);
    assert!(read.versions.has(Versions::V1) && read.versions.has(Versions::V2));

    let text = text + "versions = [\"v2\"]\nnetns = \"/run/netns/pod\"\n";
    let config = Config::parse(&text, "t").unwrap();
    let read = &config.unwrap[0];
    assert_eq!(read.netns.as_deref(), Some(Path::new("/run/netns/pod")));
    assert!(!read.versions.has(Versions::V1) && read.versions.has(Versions::V2));
}

#[test]
fn what_is_wrong_with_an_unwrap_is_told() {
    let ports = "ports = [\"80\"]\n";
    let interface = "interface = \"eth0\"\n";
    assert_has(&error(&unwrap(ports)), &["`interface`", "\"eth0\""]);
    assert_has(&error(&unwrap(interface)), &["`ports`"]);
    let more = |line: &str| error(&unwrap(&format!("{ports}{interface}{line}")));
    assert_has(
        &more("versions = [\"v3\"]"),
        &["\"v3\"", "write \"v1\" or \"v2\""],
    );
    assert_has(&more("versions = []"), &["`versions` is empty"]);
    assert_has(&more("version = [\"v2\"]"), &["unknown key `version`"]);
    assert_has(
        &error(&unwrap("ports = [\"99999\"]\ninterface = \"eth0\"")),
        &["99999"],
    );
    assert_has(
        &error(&unwrap("ports = [\"80\"]\ninterface = \"a/b\"")),
        &["a/b"],
    );
}

#[test]
fn an_unwrap_that_believes_nobody_is_refused() {
    let unwrap = "[[unwrap]]\ninterface = \"eth0\"\nports = [\"80\", \"90-95\"]\n";
    let rule = "[[trust]]\nsource = [\"10.0.0.0/8\"]\n";
    for rule in [
        String::new(),
        format!("{rule}says = [\"xff\"]\n"),
        format!("{rule}says = [\"proxy\"]\nports = [\"81-89\"]\n"),
    ] {
        let found = error(&format!("{unwrap}{rule}"));
        assert_has(
            &found,
            &[
                "nobody is believed to send a PROXY header to 80, 90-95",
                "t.toml:1:1",
                "`says = [\"proxy\"]`",
            ],
        );
    }
    // Whom a pod's unwraps believe is for the agent's own configuration to say.
    let section = serde_json::json!({"unwrap": [{"interface": "eth0", "ports": ["80"]}]});
    assert!(Config::from_json(&section, "pod").is_ok());
}
