//! The command line as scripts meet it: exit codes, and what goes where.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

fn truepeer(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_truepeer"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Exit code, standard output, standard error.
fn outcome(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = truepeer(arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A configuration whose agent does not run.
fn configuration(directory: &Path, more: &str) -> String {
    let path = directory.join("truepeer.toml");
    let socket = directory.join("sock");
    let text = format!("[agent]\nsocket = {socket:?}\nbpffs = \"/sys/fs/bpf/none\"\n{more}");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_wrong_configuration_is_2_and_told_on_standard_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), "metric = \"off\"\n");
    for arguments in [
        ["config", "check", &path].as_slice(),
        &["run", "--config", &path],
        &["peers", "--config", &path],
        &["doctor", "--config", &path],
        &["detach", "--config", &path],
        &["reload", "--config", &path],
    ] {
        let (code, out, error) = outcome(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(error.contains("did you mean `metrics`?"), "{error}");
        assert!(error.contains("truepeer.toml:4:1"), "{error}");
    }
    assert_eq!(outcome(&["config", "check", "/nonexistent"]).0, Some(2));
    assert_eq!(outcome(&["run", "--port", "1"]).0, Some(2));
}

#[test]
fn the_default_configuration_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("default.toml");
    fs::write(&path, truepeer(&["config", "default"]).stdout).unwrap();
    let (code, out, error) = outcome(&["config", "check", path.to_str().unwrap()]);
    assert_eq!(error, "");
    assert_eq!((code, out.lines().next()), (Some(0), Some("valid")));
}

#[test]
fn without_an_agent_who_asks_it_fails_and_says_where_it_looked() {
    let directory = tempfile::tempdir().unwrap();
    let path = configuration(directory.path(), "");
    for arguments in [
        ["status", "--config", &path].as_slice(),
        &["peers", "--config", &path],
        &["peer", "--cookie", "1", "--config", &path],
        &["reload", "--config", &path],
    ] {
        let (code, _, error) = outcome(arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(error.contains("no agent answers at"), "{error}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for arguments in [
        ["config", "default"].as_slice(),
        &["completions", "bash"],
        &["man"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_truepeer"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        assert!(status.success(), "{arguments:?}: {status}");
        assert_eq!(String::from_utf8(stderr).unwrap(), "", "{arguments:?}");
    }
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "run",
        "reload",
        "peers",
        "peer",
        "status",
        "doctor",
        "config",
        "detach",
        "completions",
        "man",
    ] {
        let (code, out, _) = outcome(&[command, "--help"]);
        assert_eq!(code, Some(0), "{command}");
        assert!(out.contains("Usage: truepeer"), "{out}");
        let (code, page, _) = outcome(&["man", command]);
        assert_eq!(code, Some(0), "{command}");
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
}

#[test]
fn the_plugin_is_installed_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["bin", "conf", "pods"] {
        fs::create_dir(path(name)).unwrap();
    }
    let network = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}"#;
    let file = path("conf/10-pods.conflist");
    fs::write(&file, network).unwrap();
    let shown = |name: &str| path(name).display().to_string();
    let (bin, conf, pods) = (shown("bin"), shown("conf"), shown("pods"));
    let directories = ["--bin-dir", &bin, "--conf-dir", &conf];

    let install = [&["cni", "install"], &directories[..]].concat();
    let (code, out, error) = outcome(&install);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("(network pods)"), "{out}");
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("\"type\": \"truepeer\"")
    );
    // The installed binary runs as the plugin.
    let version = Command::new(path("bin/truepeer"))
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(version.status.success(), "{version:?}");
    assert_eq!(outcome(&install), (Some(0), String::new(), String::new()));

    let uninstall = [&["cni", "uninstall", "--pods-dir", &pods], &directories[..]].concat();
    assert_eq!(outcome(&uninstall).0, Some(0));
    assert_eq!(fs::read_to_string(&file).unwrap(), network);
    assert!(!path("bin/truepeer").exists() && !path("pods").exists());

    fs::remove_dir_all(path("conf")).unwrap();
    let (code, _, error) = outcome(&install);
    assert_eq!(code, Some(1));
    assert!(error.contains(&conf), "{error}");
}
