//! Callers who have as many connections as they may.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::Fixture;

const REFUSED: &str = "truepeer_api_refused_connections_total{limit=\"caller\"}";

fn scrape(api: &Fixture) -> String {
    let mut stream = TcpStream::connect(api.tcp).unwrap();
    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_too_many_connections_is_told_and_others_are_served() {
    let api = Fixture::new(&[]).await;
    let idle: Vec<_> = (0..16)
        .map(|_| TcpStream::connect(api.tcp).unwrap())
        .collect();
    let answer = scrape(&api);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(head.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert!(body.starts_with("{\"error\":\"it has as many"), "{answer}");

    let (status, metrics) = api.text("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains(&format!("{REFUSED} 1\n")), "{metrics}");
    drop(idle);
    let patience = Instant::now() + Duration::from_secs(20);
    while !scrape(&api).starts_with("HTTP/1.1 200 ") {
        assert!(Instant::now() < patience, "the places are not free again");
    }
}

/// Many are refused and say nothing: those who speak beside them may not be told, but nothing waits for any of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_silent_connections_ends() {
    let api = Fixture::new(&[]).await;
    let flood: Vec<_> = (0..500)
        .map(|_| TcpStream::connect(api.tcp).unwrap())
        .collect();
    assert_eq!(api.text("/readyz").await.0, 503);
    for mut silent in flood {
        silent
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // The end of the stream, or a reset.
        let read = silent.read(&mut [0]);
        assert!(
            !read
                .as_ref()
                .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "{read:?}"
        );
    }
}
