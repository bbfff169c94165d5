//! Requests over HTTP/1.1, byte by byte: what goes on to the upstream, and what the relay answers itself.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::Fixture;

const LINES: &str = "protocol = \"http\"\ntrusted_hops = 1\nheader_timeout = 1\nidle_timeout = 2\n\
    add_headers = [\"Forwarded\"]";

/// A relay whose server sends `answer` for the head of each request.
fn relay(answer: &'static [u8]) -> Fixture {
    let fixture = Fixture::new(LINES);
    let server = fixture.server.try_clone().unwrap();
    thread::spawn(move || serve(&server, answer));
    fixture
}

fn serve(server: &TcpListener, answer: &'static [u8]) {
    for stream in server.incoming() {
        let mut stream = stream.unwrap();
        thread::spawn(move || {
            while !head(&stream).is_empty() {
                stream.write_all(answer).unwrap();
            }
        });
    }
}

/// The head of a message, up to its empty line. Empty when the stream has ended.
fn head(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        bytes.extend(byte);
    }
    String::from_utf8(bytes).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

/// Everything that comes back for these bytes, until the relay closes the connection.
fn answer(fixture: &Fixture, bytes: &[u8]) -> String {
    let mut stream = connect(fixture.relay);
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: 5\r\nX-Once: 1\r\n\
    Connection: X-Once\r\n\r\nok";

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_another_hop_could_read_otherwise_are_refused() {
    let fixture = relay(OK);
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    let get = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (status, head) in [
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (400, format!("{get}Host: b\r\n\r\n")),
        (400, format!("{get}Host : b\r\n\r\n")),
        (400, format!("{get}A: b\r\n c\r\n\r\n")),
        (400, format!("{get}no colon\r\n\r\n")),
        (400, format!("{get}A: \0\r\n\r\n")),
        (
            400,
            format!("{get}Connection: close, X-Forwarded-For\r\n\r\n"),
        ),
        (400, format!("{get}Connection: forwarded\r\n\r\n")),
        (
            400,
            format!("{post}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        ),
        (400, format!("{post}Content-Length: +1\r\n\r\n")),
        (400, format!("{post}Content-Length: 1, 1\r\n\r\n")),
        (400, format!("{post}Transfer-Encoding: gzip\r\n\r\n")),
        (
            400,
            format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n"),
        ),
        (
            400,
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        ),
        (
            501,
            format!("{post}Connection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            501,
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\n\r\n".into(),
        ),
        (431, format!("{get}A: {}\r\n\r\n", "x".repeat(61 << 10))),
        (431, format!("{get}{}\r\n", "A: b\r\n".repeat(101))),
        (400, "GET / HTTP/9.9\r\nHost: a\r\n\r\n".into()),
        (400, "\x16\x03\x01\x02\x00\x01\r\n\r\n".into()),
    ] {
        let close = head.replacen("Host: a\r\n", "Host: a\r\nConnection: close\r\n", 1);
        let head = if head.contains("Connection") {
            head
        } else {
            close
        };
        let answer = answer(&fixture, head.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status} of {head:?}: {answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_written_anew() {
    let fixture = Fixture::new(LINES);
    let mut client = connect(fixture.relay);
    client
        .write_all(
            b"POST http://real:81/a?b HTTP/1.1\r\nHost: other\r\nContent-Length: 5\r\n\
              Transfer-Encoding: chunked\r\nConnection: X-Once, TE, Host\r\nTE: trailers\r\nX-Once: 1\r\n\
              Upgrade: h2c\r\nHTTP2-Settings: x\r\nX-Forwarded-For: 2001:db8::1\r\nForwarded: for=evil\r\n\
              \r\n2\r\nab\r\n0\r\n\r\n",
        )
        .unwrap();
    let (mut server, _) = fixture.server.accept().unwrap();
    let mut lines: Vec<_> = head(&server).lines().map(str::to_owned).collect();
    lines[1..].sort();
    assert_eq!(
        lines,
        [
            "POST /a?b HTTP/1.1",
            "",
            "forwarded: for=\"[2001:db8::1]\", for=127.0.0.1;host=\"real:81\";proto=http",
            "host: real:81",
            "transfer-encoding: chunked",
            "x-forwarded-for: 2001:db8::1,127.0.0.1",
            "x-forwarded-proto: http",
        ]
    );
    let mut body = [0; 12];
    server.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"2\r\nab\r\n0\r\n\r\n");
    server.write_all(OK).unwrap();
    let answer = head(&client);
    assert!(answer.contains("content-length: 2"), "{answer}");
    // After a request that had two lengths, nothing else is read from its connection.
    assert!(answer.contains("connection: close"), "{answer}");
    for once in ["keep-alive", "x-once"] {
        assert!(!answer.to_ascii_lowercase().contains(once), "{answer}");
    }
    // The claim names the request's client, without a port.
    let claims = fixture.notes.claims.lock().unwrap();
    assert_eq!(
        claims[0].client.socket_addr().to_string(),
        "[2001:db8::1]:0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_or_fails_is_told() {
    let silent = relay(b"");
    let since = Instant::now();
    let get = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(answer(&silent, get).starts_with("HTTP/1.1 504 "));
    assert!(since.elapsed() >= Duration::from_secs(2));
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\nab";
    assert!(answer(&silent, post).starts_with("HTTP/1.1 408 "));
    let post = [&post[..], b"cdefghi"].concat();
    assert!(answer(&silent, &post).starts_with("HTTP/1.1 504 "));
    let since = Instant::now();
    let part = answer(&silent, b"GET / HTTP/1.1\r\nHo");
    assert!(
        part.starts_with("HTTP/1.1 408 ") && part.ends_with("did not end\n"),
        "{part}"
    );
    assert!(since.elapsed() < Duration::from_millis(1900));
    let junk = answer(&relay(b"junk\r\n\r\n"), get);
    assert!(
        junk.starts_with("HTTP/1.1 502 ") && junk.ends_with("in HTTP\n"),
        "{junk}"
    );
    let mut nobody = Fixture::new(LINES);
    nobody.server = TcpListener::bind("127.0.0.1:0").unwrap();
    let none = answer(&nobody, get);
    assert!(
        none.starts_with("HTTP/1.1 503 ") && none.ends_with("can be reached\n"),
        "{none}"
    );
    // Between two requests, only the idle timeout counts.
    let fixture = relay(OK);
    let mut client = connect(fixture.relay);
    for _ in 0..2 {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        assert!(head(&client).starts_with("HTTP/1.1 200 "));
        client.read_exact(&mut [0; 2]).unwrap();
        thread::sleep(Duration::from_millis(1500));
    }
    thread::sleep(Duration::from_millis(1000));
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "closed without a word");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_both_ways_after_an_upgrade() {
    let mut fixture = Fixture::new(LINES);
    let mut client = connect(fixture.relay);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(request).unwrap();
    let (mut server, _) = fixture.server.accept().unwrap();
    let asked = head(&server);
    assert!(asked.contains("upgrade: websocket") && asked.contains("connection: upgrade"));
    let switch =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    server.write_all(switch).unwrap();
    server.write_all(b"hello\n").unwrap();
    assert!(head(&client).starts_with("HTTP/1.1 101 "));
    let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "hello");
    client.write_all(b"\x81\x02hi").unwrap();
    let mut bytes = [0; 4];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"\x81\x02hi");
    assert_eq!(fixture.relays.open(), 1);
    // With bytes left unread, this resets the connection. What has moved is told all the same.
    client.write_all(b"more").unwrap();
    server.peek(&mut [0]).unwrap();
    drop(server);
    assert!(!matches!(lines.next(), Some(Ok(_))));
    let closed = fixture.summaries.recv().await.unwrap().closed;
    assert_eq!((closed.received, closed.sent), (8, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_the_upstream_serves_one_client() {
    let fixture = relay(OK);
    let mut client = connect(fixture.relay);
    for named in ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {named}\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        assert!(head(&client).starts_with("HTTP/1.1 200 "));
        client.read_exact(&mut [0; 2]).unwrap();
    }
    let claims = fixture.notes.claims.lock().unwrap();
    let clients: Vec<_> = claims
        .iter()
        .map(|claim| claim.client.address.ip().to_string())
        .collect();
    assert_eq!(clients, ["192.0.2.1", "192.0.2.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_denies_requests_and_not_the_gateway() {
    let fixture = relay(OK);
    let denied: std::net::IpAddr = "192.0.2.66".parse().unwrap();
    fixture.notes.denied.lock().unwrap().push(denied.into());
    let mut client = connect(fixture.relay);
    for (named, status) in [("192.0.2.66", 403), ("192.0.2.1", 200), ("192.0.2.66", 403)] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {named}\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let answer = head(&client);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let length = if status == 403 {
            "a policy denies the client\n".len()
        } else {
            2
        };
        client.read_exact(&mut vec![0; length]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_end_its_side_once_it_has_asked() {
    let fixture = relay(OK);
    let mut client = connect(fixture.relay);
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"),
        "{answer:?}"
    );
}

const EXPECTING: &[u8] =
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_says_whether_the_client_is_to_continue() {
    let fixture = Fixture::new(LINES);
    let mut client = connect(fixture.relay);
    client.write_all(EXPECTING).unwrap();
    let (mut server, _) = fixture.server.accept().unwrap();
    assert!(head(&server).contains("expect: 100-continue"));
    // Before the upstream has said so, nobody tells the client.
    client.set_nonblocking(true).unwrap();
    thread::sleep(Duration::from_millis(100));
    let early = client.read(&mut [0]).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
    server.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    assert!(head(&client).starts_with("HTTP/1.1 100 "));
    client.write_all(b"ab").unwrap();
    server.read_exact(&mut [0; 2]).unwrap();
    server.write_all(OK).unwrap();
    assert!(head(&client).starts_with("HTTP/1.1 200 "));

    // One that refuses the body never gets it, and the client is told nothing else.
    let mut client = connect(fixture.relay);
    client.write_all(EXPECTING).unwrap();
    let (mut server, _) = fixture.server.accept().unwrap();
    head(&server);
    server
        .write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    assert!(head(&client).starts_with("HTTP/1.1 413 "));

    // One that does not know the question waits for the body.
    let mut client = connect(fixture.relay);
    client.write_all(EXPECTING).unwrap();
    let (server, _) = fixture.server.accept().unwrap();
    head(&server);
    assert!(head(&client).starts_with("HTTP/1.1 100 "));
}
