//! Envoy (1.40).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::cluster::istio::{self, INBOUND, OUTBOUND, VIRTUAL_INBOUND};
use crate::host::netns::Netns;
use crate::host::process::{Process, find, unique};
use crate::host::user::{self, UID};
use crate::proxies::Route;
use crate::topology::Family;
use crate::wait::SOON;

/// An ordinary TCP proxy: the application sees Envoy's address.
pub fn plain(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    let nothing = json!({});
    fixed(
        directory,
        netns,
        None,
        [&nothing, &nothing],
        tcp_proxy,
        routes,
    )
}

/// A proxy that binds to the client's address, run by this user without capabilities.
pub fn binding(directory: &Path, netns: &Netns, uid: u32, routes: &[Route]) -> Result<Process> {
    let filters = json!({
        "listener_filters": [filter("original_src", "OriginalSrc", json!({}))],
    });
    fixed(
        directory,
        netns,
        Some(uid),
        [&filters, &json!({})],
        tcp_proxy,
        routes,
    )
}

/// A TCP proxy that tells its clients by a PROXY header of this version: `V1` or `V2`.
pub fn telling(
    directory: &Path,
    netns: &Netns,
    version: &str,
    routes: &[Route],
) -> Result<Process> {
    fixed(
        directory,
        netns,
        None,
        [&json!({}), &proxy_protocol(version)],
        tcp_proxy,
        routes,
    )
}

/// A TCP proxy that expects PROXY headers and tells nobody what they say.
pub fn accepting(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    let filters = told();
    fixed(
        directory,
        netns,
        None,
        [&filters, &json!({})],
        tcp_proxy,
        routes,
    )
}

/// What has a listener expect PROXY headers.
fn told() -> Value {
    json!({ "listener_filters": [filter("proxy_protocol", "ProxyProtocol", json!({}))] })
}

/// The same, which expects a PROXY header of any version itself.
pub fn told_and_telling(
    directory: &Path,
    netns: &Netns,
    version: &str,
    routes: &[Route],
) -> Result<Process> {
    let filters = told();
    fixed(
        directory,
        netns,
        None,
        [&filters, &proxy_protocol(version)],
        tcp_proxy,
        routes,
    )
}

/// An HTTP proxy at the edge that trusts so many proxies in front (`use_remote_address`,
/// `xff_num_trusted_hops`), or those of these prefixes.
pub fn http(
    directory: &Path,
    netns: &Netns,
    trusted: Result<u32, &[IpNet]>,
    routes: &[Route],
) -> Result<Process> {
    let settings = match trusted {
        Ok(hops) => json!({ "use_remote_address": true, "xff_num_trusted_hops": hops }),
        Err(prefixes) => {
            let cidr = |prefix: &IpNet| {
                json!({
                    "address_prefix": prefix.addr().to_string(),
                    "prefix_len": prefix.prefix_len(),
                })
            };
            let cidrs: Vec<_> = prefixes.iter().map(cidr).collect();
            json!({ "original_ip_detection_extensions": [{
                "name": "envoy.http.original_ip_detection.xff",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.http.original_ip_detection.xff.v3.XffConfig",
                    "xff_trusted_cidrs": { "cidrs": cidrs },
                    "skip_xff_append": false,
                },
            }] })
        }
    };
    // What Envoy takes for the client, besides what it does with the headers.
    let told = json!({ "request_headers_to_add": [{ "header": {
        "key": "x-client",
        "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    } }] });
    let filter = |cluster: &str| {
        let mut manager = http_connection_manager(cluster);
        let config = &mut manager["typed_config"];
        *config = with(config.take(), settings.clone());
        let routes = &mut config["route_config"];
        *routes = with(routes.take(), told.clone());
        manager
    };
    let nothing = [&json!({}), &json!({})];
    fixed(directory, netns, None, nothing, filter, routes)
}

/// What has a cluster begin its connections with a PROXY header.
fn proxy_protocol(version: &str) -> Value {
    const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets";
    json!({
        "transport_socket": {
            "name": "envoy.transport_sockets.upstream_proxy_protocol",
            "typed_config": {
                "@type": format!("{TYPE}.proxy_protocol.v3.ProxyProtocolUpstreamTransport"),
                "config": { "version": version },
                "transport_socket": {
                    "name": "envoy.transport_sockets.raw_buffer",
                    "typed_config": { "@type": format!("{TYPE}.raw_buffer.v3.RawBuffer") },
                },
            },
        },
    })
}

/// An HTTP proxy that believes `X-Forwarded-For` and binds to the client that it tells, run by this user
/// without capabilities.
pub fn http_binding(
    directory: &Path,
    netns: &Netns,
    uid: u32,
    routes: &[Route],
) -> Result<Process> {
    let original_src = json!({
        "name": "envoy.filters.http.original_src",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.original_src.v3.OriginalSrc",
        },
    });
    let manager = |cluster: &str| {
        let mut manager = http_connection_manager(cluster);
        if let Some(filters) = manager["typed_config"]["http_filters"].as_array_mut() {
            filters.insert(0, original_src.clone());
        }
        manager
    };
    let nothing = json!({});
    fixed(
        directory,
        netns,
        Some(uid),
        [&nothing, &nothing],
        manager,
        routes,
    )
}

/// One listener and one cluster a route, each with more settings of its own, and a network filter for the
/// cluster of this name.
fn fixed(
    directory: &Path,
    netns: &Netns,
    uid: Option<u32>,
    [of_listener, of_cluster]: [&Value; 2],
    filter: impl Fn(&str) -> Value,
    routes: &[Route],
) -> Result<Process> {
    let listeners = routes
        .iter()
        .enumerate()
        .map(|(i, (listen, _))| {
            let filter = filter(&format!("upstream-{i}"));
            listener(*listen, filter, of_listener.clone())
        })
        .collect();
    let clusters = routes
        .iter()
        .enumerate()
        .map(|(i, (_, upstream))| {
            let name = format!("upstream-{i}");
            let endpoint = json!({ "endpoint": { "address": address(*upstream) } });
            let cluster = json!({
                "name": name,
                "type": "STATIC",
                "connect_timeout": connect_timeout(),
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{ "lb_endpoints": [endpoint] }],
                },
            });
            with(cluster, of_cluster.clone())
        })
        .collect();
    let listen = routes.iter().map(|(listen, _)| *listen).collect();
    start(directory, netns, uid, listeners, clusters, listen)
}

/// A transparent proxy as in Istio's TPROXY mode: it connects to the original destination with the
/// client's address, and marks its packets. The port is its own: Envoy takes `bind_port` and ignores it.
pub fn transparent(directory: &Path, netns: &Netns, port: u16, mark: u32) -> Result<Process> {
    let extra = json!({
        "transparent": true,
        "listener_filters": [
            filter("original_dst", "OriginalDst", json!({})),
            filter("original_src", "OriginalSrc", json!({ "mark": mark })),
        ],
    });
    let listen = all(port);
    let listeners = listen
        .iter()
        .map(|address| listener(*address, tcp_proxy("original-destination"), extra.clone()))
        .collect();
    let cluster = original_dst("original-destination", json!({}));
    let listen = listen.into();
    start(directory, netns, None, listeners, vec![cluster], listen)
}

/// The sidecar of a pod with Istio's rules, as Istio's user without capabilities. It speaks HTTP with the
/// application on the port `http`, and does not look at what is sent to the port `tcp`, where the server
/// may be the first to speak. `patch` gets the listener filters of the inbound listener.
pub fn istio(
    directory: &Path,
    netns: &Netns,
    http: u16,
    tcp: u16,
    patch: impl FnOnce(&mut Vec<Value>) -> Result<()>,
) -> Result<Process> {
    const PASSTHROUGH: &str = "PassthroughCluster";
    const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
    const BLACK_HOLE: &str = "BlackHoleCluster";
    let inbound = format!("inbound|{http}||");
    let original = || filter("original_dst", "OriginalDst", json!({}));
    let inspector = |name, message| {
        let ports = json!({ "destination_port_range": { "start": tcp, "end": tcp + 1 } });
        with(
            filter(name, message, json!({})),
            json!({ "filter_disabled": ports }),
        )
    };
    let mut filters = vec![
        original(),
        inspector("tls_inspector", "TlsInspector"),
        inspector("http_inspector", "HttpInspector"),
    ];
    patch(&mut filters)?;
    let to_port = |port: u16, filter: Value| {
        let port = json!({ "destination_port": port });
        json!({ "filter_chain_match": port, "filters": [filter] })
    };
    let both = |name: &str, port: u16| {
        let [v4, v6] = all(port).map(address);
        json!({ "name": name, "address": v4, "additional_addresses": [{ "address": v6 }] })
    };
    let listeners = vec![
        with(
            both(VIRTUAL_INBOUND, INBOUND),
            json!({
                "traffic_direction": "INBOUND",
                "listener_filters": filters,
                "filter_chains": [
                    to_port(INBOUND, tcp_proxy(BLACK_HOLE)),
                    to_port(http, http_connection_manager(&inbound)),
                    { "filters": [tcp_proxy(INBOUND_PASSTHROUGH)] },
                ],
            }),
        ),
        with(
            both("virtualOutbound", OUTBOUND),
            json!({
                "traffic_direction": "OUTBOUND",
                "listener_filters": [original()],
                "filter_chains": [
                    to_port(OUTBOUND, tcp_proxy(BLACK_HOLE)),
                    { "filters": [tcp_proxy(PASSTHROUGH)] },
                ],
            }),
        ),
    ];
    let [v4, v6] = Family::ALL.map(|family| address((istio::passthrough(family), 0).into()));
    let bind = json!({ "upstream_bind_config": {
        "source_address": v4["socket_address"],
        "extra_source_addresses": [{ "address": v6["socket_address"] }],
    } });
    let clusters = vec![
        original_dst(INBOUND_PASSTHROUGH, bind.clone()),
        original_dst(&inbound, bind),
        original_dst(PASSTHROUGH, json!({})),
        json!({ "name": BLACK_HOLE, "type": "STATIC", "connect_timeout": connect_timeout() }),
    ];
    let listen = [all(INBOUND), all(OUTBOUND)].concat();
    start(directory, netns, Some(UID), listeners, clusters, listen)
}

/// How long Envoy waits for a connection, as it has durations.
fn connect_timeout() -> String {
    format!("{}s", SOON.whole_secs())
}

/// A cluster that connects to where the client wanted to go.
fn original_dst(name: &str, extra: Value) -> Value {
    let cluster = json!({
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": connect_timeout(),
    });
    with(cluster, extra)
}

/// All addresses of each family.
fn all(port: u16) -> [SocketAddr; 2] {
    [
        (Ipv4Addr::UNSPECIFIED, port).into(),
        (Ipv6Addr::UNSPECIFIED, port).into(),
    ]
}

fn filter(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] =
        format!("type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{message}").into();
    json!({ "name": format!("envoy.filters.listener.{name}"), "typed_config": config })
}

fn listener(listen: SocketAddr, filter: Value, extra: Value) -> Value {
    let listener = json!({
        "name": listen.to_string(),
        "address": address(listen),
        "filter_chains": [{ "filters": [filter] }],
    });
    with(listener, extra)
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp",
            "cluster": cluster,
        },
    })
}

fn http_connection_manager(cluster: &str) -> Value {
    const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions.filters";
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "http",
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{EXTENSIONS}.http.router.v3.Router") },
            }],
        },
    })
}

/// An object with more fields.
fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    } })
}

fn start(
    directory: &Path,
    netns: &Netns,
    uid: Option<u32>,
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    listen: Vec<SocketAddr>,
) -> Result<Process> {
    let bootstrap = json!({
        "static_resources": { "listeners": listeners, "clusters": clusters },
    });
    let program = find("ENVOY_BIN", "envoy")?;
    let mut command = user::command_of(netns, uid, &program)?;
    // JSON is YAML.
    command
        .args(["--config-yaml", &bootstrap.to_string()])
        .args(["--concurrency", "2", "--log-level", "warning"])
        .arg("--disable-hot-restart");
    let mut process = Process::start(&unique("envoy"), command, directory)?;
    process.wait_until_it_listens(netns, listen)?;
    Ok(process)
}
