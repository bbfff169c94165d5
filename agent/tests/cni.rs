//! The CNI plugin's errors, one by one: from environment and standard input to JSON and exit code.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// A plugin that runs with valid parameters, unless a test says otherwise.
struct Plugin {
    directory: tempfile::TempDir,
}

impl Plugin {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn pods(&self) -> std::path::PathBuf {
        self.directory.path().join("pods")
    }

    /// A valid configuration for a chained plugin whose agent does not run.
    fn network(&self) -> Value {
        json!({
            "cniVersion": "1.1.0",
            "name": "test",
            "type": "truepeer",
            "socket": self.directory.path().join("sock"),
            "pods": self.pods(),
            "prevResult": {"cniVersion": "1.1.0", "interfaces": []},
            "cni.dev/valid-attachments": [],
        })
    }

    /// Exit code and output of `command` with these changes to the environment.
    fn run(&self, command: &str, changes: &[(&str, &str)], input: &str) -> (i32, String) {
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_truepeer"));
        plugin
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "abc")
            .env("CNI_NETNS", "/run/netns/no-such")
            .env("CNI_IFNAME", "eth0")
            .envs(changes.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut plugin = plugin.spawn().unwrap();
        let mut stdin = plugin.stdin.take().unwrap();
        // The plugin may fail without reading.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = plugin.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text)
    }

    /// Fails unless this is an error with this code whose text has this part.
    #[track_caller]
    fn fails(&self, command: &str, changes: &[(&str, &str)], input: &str, code: u32, part: &str) {
        let (status, text) = self.run(command, changes, input);
        let error: Value = serde_json::from_str(&text).expect(&text);
        assert_eq!((status, &error["code"]), (1, &json!(code)), "{text}");
        assert!(error["cniVersion"].is_string(), "{text}");
        let told = format!(
            "{} {}",
            error["msg"].as_str().unwrap(),
            error["details"].as_str().unwrap()
        );
        assert!(told.contains(part), "{told}");
    }

    /// Fails unless the command refuses a changed configuration with this code and this part of its text.
    #[track_caller]
    fn refuses(&self, command: &str, change: Value, code: u32, part: &str) {
        self.fails(command, &[], &self.with(change).to_string(), code, part);
    }

    /// The valid configuration with changes; `null` takes a key out.
    fn with(&self, change: Value) -> Value {
        let mut network = self.network();
        for (key, value) in change.as_object().unwrap() {
            network[key] = value.clone();
            if value.is_null() {
                network.as_object_mut().unwrap().remove(key);
            }
        }
        network
    }
}

#[test]
fn the_versions_are_told_whatever_the_input_is_written_in() {
    let plugin = Plugin::new();
    let versions = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, version) in [
        (r#"{"cniVersion": "0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion": "9.9.9"}"#, "9.9.9"),
        ("", "1.1.0"),
    ] {
        let (status, text) = plugin.run("VERSION", &[], input);
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 0);
        assert_eq!(
            told,
            json!({"cniVersion": version, "supportedVersions": versions})
        );
    }
    plugin.fails("VERSION", &[], "{", 6, "cannot decode");
}

#[test]
fn parameters_that_are_missing_or_invalid_are_named() {
    let plugin = Plugin::new();
    let input = &plugin.network().to_string();
    plugin.fails("", &[], input, 4, "CNI_COMMAND");
    plugin.fails(
        "UPDATE",
        &[],
        input,
        4,
        "\"UPDATE\" is none of ADD, CHECK, DEL, GC, STATUS",
    );
    let unset = [
        ("CNI_CONTAINERID", ""),
        ("CNI_NETNS", ""),
        ("CNI_IFNAME", ""),
    ];
    let all = "missing environment variables CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME";
    plugin.fails("ADD", &unset, input, 4, all);
    plugin.fails("CHECK", &unset, input, 4, all);
    plugin.fails(
        "DEL",
        &unset,
        input,
        4,
        "variables CNI_CONTAINERID, CNI_IFNAME",
    );
    for (name, value) in [
        ("CNI_CONTAINERID", "../abc"),
        ("CNI_CONTAINERID", "-abc"),
        ("CNI_IFNAME", "a234567890123456"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "eth0:1"),
        ("CNI_ARGS", "K8S_POD_NAME"),
    ] {
        for command in ["ADD", "CHECK", "DEL"] {
            plugin.fails(command, &[(name, value)], input, 4, name);
        }
    }
    plugin.fails("ADD", &[], input, 4, "CNI_NETNS");
    let file = plugin.directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    plugin.fails(
        "ADD",
        &[("CNI_NETNS", file)],
        input,
        4,
        "not a network namespace",
    );
    let own = [("CNI_NETNS", "/proc/self/ns/net")];
    plugin.fails("ADD", &own, input, 4, "the host's own");
    assert!(!plugin.pods().exists());
}

#[test]
fn input_that_cannot_be_read_or_decoded_is_told() {
    let plugin = Plugin::new();
    for command in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
        for input in ["", "{", "[]", "\"x\"", "{\"cniVersion\": 1}"] {
            plugin.fails(
                command,
                &[],
                input,
                6,
                "cannot decode the network configuration",
            );
        }
    }
    plugin.refuses("ADD", json!({"steer": "8080"}), 6, "expected a sequence");
    plugin.refuses(
        "ADD",
        json!({"onAgentDown": "shut"}),
        6,
        "unknown variant `shut`",
    );

    // A directory cannot be read.
    let directory = std::fs::File::open(plugin.directory.path()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_truepeer"))
        .env("CNI_COMMAND", "ADD")
        .stdin(directory)
        .output()
        .unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["code"], 5, "{error}");
}

#[test]
fn versions_that_lack_the_command_are_incompatible() {
    let plugin = Plugin::new();
    for (command, versions) in [
        ("ADD", ["0.1.0", "0.3.0", "1.2.0"].as_slice()),
        ("CHECK", &["0.3.1", "2.0.0"]),
        ("DEL", &["0.2.0"]),
        ("GC", &["0.4.0", "1.0.0"]),
        ("STATUS", &["1.0.0"]),
    ] {
        for version in versions {
            let part = format!("cniVersion is \"{version}\", supported here are");
            plugin.refuses(command, json!({"cniVersion": version}), 1, &part);
        }
        plugin.refuses(
            command,
            json!({"cniVersion": null}),
            1,
            "cniVersion is \"0.1.0\"",
        );
    }
}

#[test]
fn a_network_that_cannot_be_is_refused() {
    let plugin = Plugin::new();
    for command in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
        plugin.refuses(command, json!({"name": null}), 7, "invalid network name");
        plugin.refuses(command, json!({"name": "a/b"}), 7, "a/b");
    }
    for command in ["ADD", "CHECK"] {
        for none in [
            json!({"prevResult": null}),
            json!({"prevResult": Value::Null}),
        ] {
            plugin.refuses(command, none, 7, "no prevResult");
        }
    }
    plugin.refuses(
        "GC",
        json!({"cni.dev/valid-attachments": null}),
        7,
        "cni.dev/valid-attachments",
    );
    for command in ["ADD", "CHECK", "GC", "STATUS"] {
        plugin.refuses(
            command,
            json!({"ipam": {"type": "x"}}),
            2,
            r#"`ipam`: {"type":"x"}"#,
        );
    }
    let steer = json!({"name": "in", "netns": "/run/netns/x", "ports": ["80"], "to": 15006});
    plugin.refuses(
        "ADD",
        json!({"steer": [steer]}),
        2,
        "`netns`: \"/run/netns/x\"",
    );
}

#[test]
fn a_container_that_was_never_added_is_unknown_and_can_be_removed() {
    let plugin = Plugin::new();
    plugin.refuses(
        "CHECK",
        json!({}),
        3,
        "eth0 of container abc was never added",
    );
    let nothing = (0, String::new());
    for change in [
        json!({}),
        json!({"prevResult": null, "later": 1}),
        json!({"cniVersion": "0.3.1"}),
    ] {
        let input = plugin.with(change).to_string();
        for netns in ["", "/run/netns/no-such"] {
            assert_eq!(plugin.run("DEL", &[("CNI_NETNS", netns)], &input), nothing);
        }
    }
    // Not even an unreadable directory keeps a pod from going.
    std::fs::write(plugin.pods(), "").unwrap();
    assert_eq!(
        plugin.run("DEL", &[], &plugin.network().to_string()),
        nothing
    );
}

#[test]
fn without_an_agent_only_closed_networks_are_not_available() {
    let plugin = Plugin::new();
    let open = plugin.network().to_string();
    assert_eq!(plugin.run("STATUS", &[], &open), (0, String::new()));
    assert_eq!(plugin.run("GC", &[], &open), (0, String::new()));
    plugin.refuses(
        "STATUS",
        json!({"onAgentDown": "closed"}),
        50,
        "no agent answers at",
    );
}

#[test]
fn the_example_is_a_list_that_the_plugin_takes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cni/10-truepeer.conflist");
    let list: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let plugins = list["plugins"].as_array().unwrap();
    let entry = plugins
        .iter()
        .find(|entry| entry["type"] == "truepeer")
        .unwrap();
    let plugin = Plugin::new();
    let mut input = entry.clone();
    for key in ["cniVersion", "name"] {
        input[key] = list[key].clone();
    }
    input["pods"] = json!(plugin.pods());
    assert_eq!(
        plugin.run("DEL", &[], &input.to_string()),
        (0, String::new())
    );
    input["prevResult"] = json!({});
    // Only the namespace is wrong.
    plugin.fails("ADD", &[], &input.to_string(), 4, "CNI_NETNS");
}
