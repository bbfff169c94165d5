use super::*;

/// A connection that began some seconds after `start`, and at whose end it has failed since some second.
fn failed(way: Way, start: Instant, began: u64, since: u64) -> Attempt {
    Attempt {
        way,
        family: Family::V4,
        began: start + Duration::from_secs(began),
        seen: None,
        bytes: 0,
        failure: Some(Failure {
            step: "exchange",
            since: start + Duration::from_secs(since),
            cause: "reset".into(),
            hangs: false,
            is_different: false,
        }),
    }
}

fn seen(way: Way, start: Instant, seen: Seen, when: u64) -> Attempt {
    Attempt {
        seen: Some((seen, start + Duration::from_secs(when), "somebody".into())),
        failure: None,
        ..failed(way, start, when.saturating_sub(1), 0)
    }
}

/// One change, from second 10 until second 20.
fn history(change: Change, start: Instant) -> History {
    History(vec![Moment {
        change,
        what: "it changed".into(),
        from: start + Duration::from_secs(10),
        to: Some(start + Duration::from_secs(20)),
    }])
}

fn is_broken(history: &History, attempt: &Attempt, start: Instant, now: u64) -> bool {
    let judged = history.judge(attempt, start + Duration::from_secs(now));
    let told = judged.as_ref().err();
    assert!(told.is_none_or(|text| text.contains("it changed")));
    judged.is_err()
}

#[test]
fn a_failure_is_promised_by_its_way_and_its_time() {
    let start = Instant::now();
    let killed = history(Change::Killed, start);
    let broken =
        |way, began, since, now| is_broken(&killed, &failed(way, start, began, since), start, now);
    assert!(!broken(Way::Relayed, 1, 9, 11));
    assert!(!broken(Way::Relayed, 15, 15, 16));
    assert!(broken(Way::Relayed, 1, 5, 9), "before");
    let after = 21 + AFTERMATH.here().as_secs();
    assert!(!broken(Way::Relayed, 1, 21, 22), "in the aftermath");
    assert!(broken(Way::Relayed, 1, after, after), "long after");
    assert!(broken(Way::Relayed, 21, 21, 22), "a later one");
    assert!(broken(Way::Steered, 1, 9, 11), "the programs go on");
}

#[test]
fn what_ends_is_what_had_begun() {
    let start = Instant::now();
    let ended = history(Change::Ended, start);
    assert!(!is_broken(
        &ended,
        &failed(Way::Http, start, 9, 12),
        start,
        13
    ));
    assert!(is_broken(
        &ended,
        &failed(Way::Http, start, 11, 12),
        start,
        13
    ));
}

#[test]
fn what_is_closed_between_requests_has_asked_before() {
    let start = Instant::now();
    let read = history(Change::Trusts, start);
    let mut attempt = failed(Way::Http, start, 12, 12);
    assert!(is_broken(&read, &attempt, start, 13));
    attempt.failure.as_mut().unwrap().step = NEXT_REQUEST;
    assert!(!is_broken(&read, &attempt, start, 13));
    // By the same rules of trust, nothing is closed.
    let read = history(Change::Read, start);
    assert!(is_broken(&read, &attempt, start, 13));
}

#[test]
fn nothing_allows_wrong_clients_wrong_bytes_and_silence() {
    let start = Instant::now();
    let stopped = history(Change::Stopped, start);
    assert!(!is_broken(
        &stopped,
        &seen(Way::Bound, start, Seen::Unknown, 15),
        start,
        16
    ));
    assert!(is_broken(
        &stopped,
        &seen(Way::Bound, start, Seen::Unknown, 25),
        start,
        26
    ));
    assert!(is_broken(
        &stopped,
        &seen(Way::Bound, start, Seen::Wrong, 15),
        start,
        16
    ));
    let with = |hangs, is_different| {
        let mut attempt = failed(Way::Relayed, start, 12, 12);
        let failure = attempt.failure.as_mut().unwrap();
        (failure.hangs, failure.is_different) = (hangs, is_different);
        is_broken(&stopped, &attempt, start, 15)
    };
    assert!(!with(false, false));
    assert!(with(true, false) && with(false, true));
}
