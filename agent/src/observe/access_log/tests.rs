use std::{path::Path, sync::Arc, thread};

use agent_common::{Closed, Process, unwrap::Refusal};
use serde_json::{Value, json};

use super::*;
use crate::{
    connections::{
        fixtures::{names, origin},
        proxy_tlvs::ProxyTlvs,
    },
    host::netns::Netns,
};

fn closed() -> Closed {
    let mut origin = origin("203.0.113.7:51812");
    origin.netns = Netns::current().unwrap().cookie();
    origin.process = Process {
        pid: 771,
        uid: 33,
        cgroup: u64::MAX,
        comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
    };
    Closed {
        origin,
        cookie: 4242,
        closed: origin.since + 1_500_000_000,
        received: 10,
        sent: 20,
        ..Closed::default()
    }
}

fn summary() -> Summary {
    Summary::new(closed(), None)
}

fn log(path: &Path) -> (AccessLog, Counter) {
    log_of(Logged::All, path)
}

fn log_of(logged: Logged, path: &Path) -> (AccessLog, Counter) {
    let failures = Counter::default();
    let target = AccessLogTarget::File(path.into());
    let log = AccessLog::open(
        &target,
        logged,
        names(),
        failures.clone(),
        Counter::default(),
    );
    (log.unwrap(), failures)
}

#[test]
fn what_was_refused_has_a_line_and_some_of_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    for (logged, expected) in [
        (Logged::All, 800..=800),
        (Logged::Refused, 0..=0),
        (Logged::OneIn(1), 800..=800),
        (Logged::OneIn(4), 100..=300),
        (Logged::OneIn(u32::MAX), 0..=2),
    ] {
        let path = dir.path().join(format!("{logged:?}"));
        let (mut log, _) = log_of(logged, &path);
        log.write(Summary {
            refused: Some("upstream"),
            ..summary()
        });
        for port in 1..=400 {
            // Proxy and application are on this host.
            for _ in 0..2 {
                let mut closed = closed();
                closed.origin.client.port = port;
                log.write(Summary::new(closed, None));
            }
        }
        drop(log);
        let mut lines = lines(&path);
        assert_eq!(lines.remove(0)["refused"], "upstream");
        assert!(
            expected.contains(&lines.len()),
            "{logged:?}: {}",
            lines.len()
        );
        for both in lines.chunks(2) {
            assert_eq!(both[0]["client"], both[1]["client"], "{logged:?}");
        }
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn wait_for_lines(path: &Path, n: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !path.exists() || lines(path).len() != n {
        assert!(Instant::now() < deadline, "{:?}", lines(path));
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_line_tells_all_of_a_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (mut log, _) = log(&path);
    log.write(summary());
    // While the log is open: nothing stays in the buffer when the queue is empty.
    wait_for_lines(&path, 1);
    let line = &lines(&path)[0];
    assert_eq!(line["client"], "203.0.113.7:51812");
    assert_eq!(line["original_dst"], "10.0.0.3:8080");
    assert_eq!(line["trusted_by"], "steer inbound");
    assert_eq!(line["comm"], "nginx");
    assert_eq!((&line["pid"], &line["uid"]), (&771.into(), &33.into()));
    assert_eq!(line["netns"], Netns::current().unwrap().inode());
    assert!(line["cgroup"].is_null());
    assert_eq!(line["bytes_received"], 10);
    assert_eq!(line["bytes_sent"], 20);
    assert_eq!(line["duration_seconds"], 1.5);
    let time = line["time"].as_str().unwrap();
    assert_eq!((time.len(), &time[23..]), (24, "Z"), "{time}");
}

#[test]
fn a_socket_that_no_process_held_has_nulls() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (mut log, _) = log(&path);
    let mut closed = closed();
    closed.origin.process = Process::default();
    log.write(Summary::new(closed, None));
    drop(log);
    let line = &lines(&path)[0];
    for key in ["pid", "comm", "uid", "cgroup"] {
        assert!(line[key].is_null(), "{key}: {line}");
    }
}

#[test]
fn what_a_header_says_besides_addresses_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (mut log, _) = log(&path);
    let tlvs = ProxyTlvs {
        authority: Some("shop.example".into()),
        ..ProxyTlvs::default()
    };
    log.write(Summary::new(closed(), Some(Arc::new(tlvs))));
    log.write(summary());
    drop(log);
    let lines = lines(&path);
    assert_eq!(lines[0]["proxy"], json!({"authority": "shop.example"}));
    assert_eq!(lines[1].get("proxy"), None);
}

#[test]
fn a_refused_connection_says_why_and_names_a_client_only_if_it_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (mut log, _) = log(&path);
    let mut unknown = closed();
    unknown.origin.evidence = 0;
    unknown.refused = Refusal::NoHeader as u32;
    log.write(Summary::new(unknown, None));
    log.write(Summary {
        refused: Some("upstream"),
        ..summary()
    });
    let mut direct = closed();
    direct.origin.rule = 0;
    direct.refused = Refusal::Denied as u32;
    log.write(Summary::new(direct, None));
    drop(log);
    let lines = lines(&path);
    assert_eq!(lines[0]["refused"], "no_header");
    assert_eq!(lines[0]["remote"], "203.0.113.7:51812");
    for key in [
        "client",
        "original_dst",
        "evidence",
        "trusted_by",
        "bytes_sent",
    ] {
        assert_eq!(lines[0].get(key), None, "{}", lines[0]);
    }
    assert_eq!(lines[1]["refused"], "upstream");
    assert_eq!(lines[1]["client"], "203.0.113.7:51812");
    assert_eq!(lines[1]["trusted_by"], "steer inbound");
    assert_eq!(lines[2]["refused"], "denied");
    assert_eq!(lines[2]["client"], "203.0.113.7:51812");
    assert_eq!(lines[2].get("trusted_by"), None);
}

#[test]
fn a_flood_of_refused_ones_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (mut log, failures) = log(&path);
    let summary = summary();
    let start = Instant::now();
    for n in 0..6000 {
        log.write(Summary {
            refused: (n % 3 != 0).then_some("denied"),
            ..summary.clone()
        });
    }
    // On a slow host, the rate allows more than the burst.
    let allowed = 1001 + start.elapsed().as_millis() as usize / 10;
    let omissions = log.omissions.clone();
    drop(log);
    let lines = lines(&path);
    let refused = lines.iter().filter(|l| l.get("refused").is_some()).count();
    assert_eq!(lines.len() - refused, 2000);
    assert_eq!(refused as u64 + omissions.get(), 4000);
    assert!((1000..=allowed).contains(&refused), "{refused}");
    assert_eq!(failures.get(), 0);
}

#[test]
fn a_renamed_file_is_left_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let (mut log, failures) = log(&path);
    log.write(summary());
    wait_for_lines(&path, 1);
    std::fs::rename(&path, &old).unwrap();
    log.write(summary());
    log.reopen();
    log.write(summary());
    drop(log);
    assert_eq!((lines(&old).len(), lines(&path).len()), (2, 1));
    assert_eq!(failures.get(), 0);
}

#[test]
fn a_full_disk_is_counted() {
    let (mut log, failures) = log(Path::new("/dev/full"));
    for _ in 0..1000 {
        log.write(summary());
    }
    drop(log);
    assert!(failures.get() > 0);
}

#[test]
fn off_writes_nothing() {
    let mut log = AccessLog::open(
        &AccessLogTarget::Off,
        Logged::All,
        names(),
        Counter::default(),
        Counter::default(),
    )
    .unwrap();
    log.write(summary());
    log.reopen();
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    let target = AccessLogTarget::File("/nonexistent/log".into());
    let error = AccessLog::open(
        &target,
        Logged::All,
        names(),
        Counter::default(),
        Counter::default(),
    )
    .err();
    let text = format!("{:#}", error.unwrap());
    assert!(text.contains("correct `access_log`"), "{text}");
}
