//! Envoy as Istio's sidecar.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::resources::{
    address, all, connect_timeout, filter, http_connection_manager, original_dst, tcp_proxy, with,
};
use super::start::start;
use crate::host::netns::Netns;
use crate::host::process::Process;
use crate::host::user::UID;
use crate::topology::Family;
use crate::topology::istio::{self, INBOUND, OUTBOUND, VIRTUAL_INBOUND};

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
