//! Envoy (1.40).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::netns::Netns;
use crate::process::{Process, Route, find, unique};
use crate::unprivileged;

/// An ordinary TCP proxy: the application sees Envoy's address.
pub fn plain(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    fixed(directory, netns, None, &json!({}), routes)
}

/// A proxy that binds to the client's address, run by this user without capabilities.
pub fn binding(directory: &Path, netns: &Netns, uid: u32, routes: &[Route]) -> Result<Process> {
    let filters = json!({
        "listener_filters": [filter("original_src", "OriginalSrc", json!({}))],
    });
    fixed(directory, netns, Some(uid), &filters, routes)
}

fn fixed(
    directory: &Path,
    netns: &Netns,
    uid: Option<u32>,
    extra: &Value,
    routes: &[Route],
) -> Result<Process> {
    let listeners = routes
        .iter()
        .enumerate()
        .map(|(i, (listen, _))| listener(*listen, &format!("upstream-{i}"), extra.clone()))
        .collect();
    let clusters = routes
        .iter()
        .enumerate()
        .map(|(i, (_, upstream))| {
            let name = format!("upstream-{i}");
            let endpoint = json!({ "endpoint": { "address": address(*upstream) } });
            json!({
                "name": name,
                "type": "STATIC",
                "connect_timeout": "5s",
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{ "lb_endpoints": [endpoint] }],
                },
            })
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
    let listen: Vec<SocketAddr> = vec![
        (Ipv4Addr::UNSPECIFIED, port).into(),
        (Ipv6Addr::UNSPECIFIED, port).into(),
    ];
    let listeners = listen
        .iter()
        .map(|address| listener(*address, "original-destination", extra.clone()))
        .collect();
    let cluster = json!({
        "name": "original-destination",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
    });
    start(directory, netns, None, listeners, vec![cluster], listen)
}

fn filter(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] =
        format!("type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{message}").into();
    json!({ "name": format!("envoy.filters.listener.{name}"), "typed_config": config })
}

fn listener(listen: SocketAddr, cluster: &str, extra: Value) -> Value {
    let mut listener = json!({
        "name": listen.to_string(),
        "address": address(listen),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "tcp",
                "cluster": cluster,
            },
        }] }],
    });
    if let (Value::Object(listener), Value::Object(extra)) = (&mut listener, extra) {
        listener.extend(extra);
    }
    listener
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
    let mut command = unprivileged::command_of(netns, uid, &program)?;
    // JSON is YAML.
    command
        .args(["--config-yaml", &bootstrap.to_string()])
        .args(["--concurrency", "2", "--log-level", "warning"])
        .arg("--disable-hot-restart");
    let mut process = Process::start(&unique("envoy"), command, directory)?;
    process.wait_until_it_listens(netns, listen)?;
    Ok(process)
}
