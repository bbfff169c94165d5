//! The resources of Envoy's configuration: listeners, clusters and filters.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};

use crate::wait::SOON;

/// The settings of a listener that expects PROXY headers.
pub(super) fn told() -> Value {
    json!({ "listener_filters": [filter("proxy_protocol", "ProxyProtocol", json!({}))] })
}

/// The settings of a cluster that begins its connections with a PROXY header.
pub(super) fn proxy_protocol(version: &str) -> Value {
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

/// How long Envoy waits for a connection, as it has durations.
pub(super) fn connect_timeout() -> String {
    format!("{}s", SOON.whole_secs())
}

/// A cluster that connects to where the client wanted to go.
pub(super) fn original_dst(name: &str, extra: Value) -> Value {
    let cluster = json!({
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": connect_timeout(),
    });
    with(cluster, extra)
}

/// The unspecified address of each family, with this port.
pub(super) fn all(port: u16) -> [SocketAddr; 2] {
    [
        (Ipv4Addr::UNSPECIFIED, port).into(),
        (Ipv6Addr::UNSPECIFIED, port).into(),
    ]
}

pub(super) fn filter(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] =
        format!("type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{message}").into();
    json!({ "name": format!("envoy.filters.listener.{name}"), "typed_config": config })
}

pub(super) fn listener(listen: SocketAddr, filter: Value, extra: Value) -> Value {
    let listener = json!({
        "name": listen.to_string(),
        "address": address(listen),
        "filter_chains": [{ "filters": [filter] }],
    });
    with(listener, extra)
}

pub(super) fn tcp_proxy(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp",
            "cluster": cluster,
        },
    })
}

pub(super) fn http_connection_manager(cluster: &str) -> Value {
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
pub(super) fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

pub(super) fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    } })
}
