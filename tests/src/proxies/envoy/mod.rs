//! Envoy (1.40).

mod istio;
mod resources;
mod start;

pub use self::istio::istio;

use std::path::Path;

use anyhow::Result;
use ipnet::IpNet;
use serde_json::{Value, json};

use self::resources::{
    address, all, connect_timeout, filter, http_connection_manager, listener, original_dst,
    proxy_protocol, tcp_proxy, told, with,
};
use self::start::start;
use crate::host::netns::Netns;
use crate::host::process::Process;
use crate::proxies::{Listen, Route};

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

/// A TCP proxy that expects PROXY headers of any version, and tells its clients by one of this version.
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

/// An HTTP proxy at the edge that trusts a number of proxies in front of it (`use_remote_address`,
/// `xff_num_trusted_hops`), or the proxies of some prefixes.
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
    // The request says whom Envoy takes for the client.
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

/// Starts Envoy with one listener and one cluster a route. `of_listener` and `of_cluster` are added to each, and `filter`
/// makes the network filter for the cluster of a name.
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
    spoofing(directory, netns, port, mark, Listen::Shared)
}

/// A gateway's transparent proxy, whose own connections need no mark.
pub fn gateway(directory: &Path, netns: &Netns, port: u16, listen: Listen) -> Result<Process> {
    spoofing(directory, netns, port, 0, listen)
}

fn spoofing(
    directory: &Path,
    netns: &Netns,
    port: u16,
    mark: u32,
    listen: Listen,
) -> Result<Process> {
    let extra = json!({
        "transparent": true,
        "enable_reuse_port": listen == Listen::Shared,
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
