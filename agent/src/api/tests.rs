mod limits;

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, anyhow};
use axum::{
    body::to_bytes,
    extract::{ConnectInfo, State as Shared},
    http::{Method, StatusCode, Uri},
    response::IntoResponse,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{answer::Answer, caller::Caller, *};
use crate::{
    config::AgentSettings,
    connections::{
        fixtures::{FakeOrigins, connection, names, origin},
        proxy_tlvs::ProxyTlvs,
    },
    host::inherited::Inherited,
};

/// An API with a fake data path.
struct Fixture {
    dir: TempDir,
    state: Arc<State>,
    tcp: SocketAddr,
    server: JoinHandle<Result<()>>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fixture {
    async fn new(cookies: &[u64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let entry = |cookie: &u64| (*cookie, origin("203.0.113.7:51812"));
        let origins = FakeOrigins(cookies.iter().map(entry).collect());
        let (state, _) = State::new(Arc::new(origins), names(), &AgentSettings::default());
        let any = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(
            &dir.path().join("run/sock"),
            Some(any),
            &mut Inherited::default(),
        )
        .await
        .unwrap();
        let tcp = server.tcp.as_ref().unwrap().local_addr().unwrap();
        Self {
            dir,
            tcp,
            server: tokio::spawn(server.serve(state.clone())),
            state,
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/sock")
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let answer = client::ask(&self.socket(), Method::GET, path)
            .await
            .unwrap()
            .unwrap();
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        (answer.status.as_u16(), body)
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.text(path).await;
        (status, serde_json::from_str(&body).expect(&body))
    }

    /// The answer to these bytes on the Unix socket, from its status line on.
    fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_told_by_list_cookie_and_addresses() {
    let (client, _server, cookie) = connection();
    let api = Fixture::new(&[cookie]).await;
    let (status, list) = api.json("/v1/peers").await;
    assert_eq!((status, list.as_array().unwrap().len()), (200, 1));
    assert_eq!(list[0]["client"], "203.0.113.7:51812");
    assert_eq!(list[0]["pid"], std::process::id());

    let by_cookie = api.json(&format!("/v1/peer?cookie={cookie}")).await;
    assert_eq!(by_cookie.0, 200);
    assert_eq!(by_cookie.1["cookie"], cookie);
    let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let path = format!("/v1/peer?local={local}&remote={remote}");
    assert_eq!(api.json(&path).await.1["cookie"], cookie);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_sockets_are_404_with_a_reason() {
    let api = Fixture::new(&[]).await;
    for path in [
        "/v1/peer?cookie=1",
        "/v1/peer?local=192.0.2.1:1&remote=192.0.2.2:2",
        "/v1/peer?local=[2001:db8::1]:1&remote=%5B2001:db8::2%5D:2",
    ] {
        let (status, body) = api.json(path).await;
        assert_eq!(status, 404, "{path}");
        let reason = body["error"].as_str().unwrap();
        assert!(reason.contains("no origin is known"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_query_is_400_and_names_the_part() {
    let api = Fixture::new(&[]).await;
    let cases = [
        ("", "which connection?"),
        ("?cookie=x", "`cookie` is not a number: \"x\""),
        ("?cookie=-1", "`cookie` is not a number"),
        ("?cookie=1&cookie=2", "`cookie` is there twice"),
        ("?cookie=1&local=192.0.2.1:1", "leave out `local`"),
        ("?local=192.0.2.1:1", "`remote` is missing"),
        ("?remote=192.0.2.1:1", "`local` is missing"),
        (
            "?local=192.0.2.1&remote=192.0.2.1:1",
            "`local` is not an address",
        ),
        (
            "?local=192.0.2.1:1&remote=h:1",
            "`remote` is not an address",
        ),
        ("?cooky=1", "unknown part `cooky`"),
    ];
    for (query, part) in cases {
        let (status, body) = api.json(&format!("/v1/peer{query}")).await;
        assert_eq!(status, 400, "{query}");
        let reason = body["error"].as_str().unwrap();
        assert!(reason.contains(part), "{query}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_header_said_is_part_of_the_peer() {
    let (_client, _server, told) = connection();
    let (_other_client, _other_server, other) = connection();
    let api = Fixture::new(&[told, other]).await;
    let tlvs = ProxyTlvs {
        aws_vpc_endpoint: Some("vpce-1".into()),
        ..ProxyTlvs::default()
    };
    api.state.tlvs.keep(told, tlvs);
    let expected = json!({"aws_vpc_endpoint": "vpce-1"});
    let list = api.json("/v1/peers").await.1;
    for (cookie, proxy) in [(told, Some(&expected)), (other, None)] {
        let one = api.json(&format!("/v1/peer?cookie={cookie}")).await.1;
        assert_eq!(one.get("proxy"), proxy);
        assert!(list.as_array().unwrap().contains(&one), "{one} in {list}");
    }
}

/// The answer to a user who asks for the busiest prefixes.
async fn busiest(api: &Fixture, uid: u32, query: &'static str) -> (StatusCode, Value) {
    let caller = Caller {
        uid: Some(uid),
        pid: None,
    };
    let uri = Uri::builder().path_and_query(query).build().unwrap();
    let answer = peers::top(Shared(api.state.clone()), ConnectInfo(caller), uri).await;
    let answer = answer.unwrap_or_else(IntoResponse::into_response);
    let status = answer.status();
    let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_busiest_prefixes_are_told_to_root_only() {
    let api = Fixture::new(&[u64::MAX - 1, u64::MAX]).await;
    let (status, top) = busiest(&api, 0, "/v1/top?by=connections&limit=1").await;
    assert_eq!(status, StatusCode::OK);
    let prefix = json!({
        "prefix": "203.0.113.0/24", "open": 2, "connections": 0,
        "bytes_received": 0, "bytes_sent": 0, "refused": 0,
    });
    assert_eq!(top["prefixes"], json!([prefix]));
    assert_eq!(top["error"]["connections"], 0);
    let (_, by_bytes) = busiest(&api, 0, "/v1/top?by=bytes").await;
    assert_eq!(by_bytes["prefixes"], json!([]));

    let (status, refused) = busiest(&api, 1000, "/v1/top").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(refused["error"].as_str().unwrap().contains("only root"));
    assert!(refused.get("prefixes").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_ranking_is_400_and_names_the_part() {
    let api = Fixture::new(&[]).await;
    for (query, part) in [
        ("by=clients", "clients"),
        ("limit=many", "limit"),
        ("limits=1", "limits"),
    ] {
        let (status, body) = api.json(&format!("/v1/top?{query}")).await;
        assert_eq!(status, 400, "{query}");
        let reason = body["error"].as_str().unwrap();
        assert!(reason.contains(part), "{query}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_roots_affair() {
    let api = Fixture::new(&[]).await;
    let caller = |uid| {
        ConnectInfo(Caller {
            uid: Some(uid),
            pid: None,
        })
    };
    let status = |answer: Answer| answer.unwrap_or_else(IntoResponse::into_response).status();
    let list = async |uid| status(pods::list(Shared(api.state.clone()), caller(uid)).await);
    assert_eq!(
        (list(0).await, list(1000).await),
        (StatusCode::OK, StatusCode::FORBIDDEN)
    );
    let act = async |uid, uri| {
        let uri = Uri::from_static(uri);
        status(pods::act(Shared(api.state.clone()), caller(uid), Method::PUT, uri).await)
    };
    let pod = "/v1/pod?container_id=abc&ifname=eth0";
    assert_eq!(act(1000, pod).await, StatusCode::FORBIDDEN);
    assert_eq!(
        act(0, "/v1/pod?container_id=abc").await,
        StatusCode::BAD_REQUEST
    );
    // Nobody receives requests, as when the agent stops.
    assert_eq!(act(0, pod).await, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_has_the_agent_read_its_configuration_again_and_learns_the_outcome() {
    let (state, mut requests) = State::new(
        Arc::new(FakeOrigins(Vec::new())),
        names(),
        &AgentSettings::default(),
    );
    let agent = tokio::spawn(async move {
        let reloaded = Reloaded { needs_start: true };
        let mut outcomes = vec![Err(anyhow!("eth7 is missing")), Ok(reloaded)];
        while let Some(Request::Reload(reply)) = requests.recv().await {
            reply.send(outcomes.pop().unwrap()).unwrap();
        }
    });
    let ask = async |uid| {
        let caller = Caller {
            uid: Some(uid),
            pid: None,
        };
        reload::act(Shared(state.clone()), ConnectInfo(caller)).await
    };
    assert_eq!(ask(1000).await.unwrap_err().status, StatusCode::FORBIDDEN);
    let answer = ask(0).await.unwrap();
    let body = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
    assert_eq!(body, br#"{"needs_start":true}"#.as_slice());
    let refused = ask(0).await.unwrap_err();
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.reason, "eth7 is missing");
    drop(state);
    agent.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_paths_and_methods_are_refused_in_json() {
    let api = Fixture::new(&[]).await;
    let (status, body) = api.json("/v2").await;
    assert_eq!(status, 404);
    assert!(body["error"].as_str().unwrap().contains("/v2"));
    let answer = api.raw("POST /v1/peers HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(
        answer.contains("{\"error\":\"POST is not possible"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_names_agent_programs_maps_and_counters() {
    let api = Fixture::new(&[1]).await;
    api.state.set_ready(true);
    let (status, report) = api.json("/v1/status").await;
    assert_eq!(status, 200);
    assert_eq!(report["agent"]["pid"], std::process::id());
    assert_eq!(report["agent"]["ready"], true);
    assert_eq!(report["links"][0]["program"], "truepeer_steer");
    assert_eq!(report["maps"][0]["entries"], 1);
    assert_eq!(report["counters"]["steered_connections"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_health_are_also_on_tcp_and_nothing_else_is() {
    let api = Fixture::new(&[1]).await;
    assert_eq!(api.text("/readyz").await.0, 503);
    api.state.set_ready(true);
    assert_eq!(api.text("/readyz").await, (200, "ready\n".into()));
    let over_tcp = |path: &str| {
        let mut stream = std::net::TcpStream::connect(api.tcp).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(api.text(path).await.0, 200, "{path}");
        assert!(over_tcp(path).starts_with("HTTP/1.1 200 "), "{path}");
    }
    let scraped = over_tcp("/metrics");
    assert!(
        scraped.contains("content-type: application/openmetrics-text"),
        "{scraped}"
    );
    assert!(scraped.contains("truepeer_ready 1"), "{scraped}");
    for path in ["/v1/peers", "/v1/peer?cookie=1", "/v1/top", "/v1/status"] {
        assert!(over_tcp(path).starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_connect_and_a_second_agent_is_refused() {
    let api = Fixture::new(&[]).await;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&api.socket()), 0o666);
    assert_eq!(mode(api.socket().parent().unwrap()), 0o755);

    let error = Server::bind(&api.socket(), None, &mut Inherited::default())
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("another process answers"),
        "{error}"
    );
    let other = api.dir.path().join("other");
    let error = Server::bind(&other, Some(api.tcp), &mut Inherited::default())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("or to \"off\""), "{error}");
    assert!(!other.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_socket_is_replaced_and_the_own_one_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Server::bind(&path, None, &mut Inherited::default())
        .await
        .unwrap();
    drop(server);
    assert!(!path.exists());
    assert!(
        client::ask(&path, Method::GET, "/v1/peers")
            .await
            .unwrap()
            .is_none()
    );

    std::fs::write(&path, "precious").unwrap();
    let error = Server::bind(&path, None, &mut Inherited::default())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
