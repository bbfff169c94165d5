//! What Istio does in a pod: `istio-iptables` installs rules, and Envoy is told of two listeners.
//!
//! The rules are those of its golden files in `tools/istio-iptables/pkg/capture/testdata`, for both
//! address families, the listeners and clusters those of `pilot/pkg/networking/core`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::Value;

use crate::host::iptables;
use crate::host::netns::Netns;
use crate::topology::Family;

/// Where Envoy takes connections that applications make.
pub const OUTBOUND: u16 = 15001;
/// Where Envoy takes connections to applications.
pub const INBOUND: u16 = 15006;
/// The listener there.
pub(crate) const VIRTUAL_INBOUND: &str = "virtualInbound";

/// What Envoy's connections to its own pod come from: the rules do not redirect these.
pub fn passthrough(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(127, 0, 0, 6).into(),
        Family::V6 => Ipv6Addr::from(6).into(),
    }
}

/// interceptionMode REDIRECT, Istio's default, for inbound and outbound connections. They are those of
/// `inbound-ports-wildcard`, with the ports that the injection template excludes and the final rule of
/// an outbound wildcard. They go with the namespace.
pub fn redirect(netns: &Netns, directory: &Path) -> Result<()> {
    restore(netns, directory, |localhost, own| {
        format!(
            "*nat
-N ISTIO_INBOUND
-N ISTIO_REDIRECT
-N ISTIO_IN_REDIRECT
-N ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {OUTBOUND}
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {INBOUND}
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo -s {own} -j RETURN
-A ISTIO_OUTPUT -o lo ! -d {localhost} -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d {localhost} -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d {localhost} -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
"
        )
    })?;
    // istio-iptables adds it: of ::/96, only ::1 is local.
    netns.ip(&format!(
        "-6 addr add {}/128 dev lo",
        passthrough(Family::V6)
    ))
}

/// interceptionMode TPROXY for inbound connections: table mangle of `inbound-ports-wildcard-tproxy`,
/// with the routing that `istio-iptables` sets up. Its nat table is left out: it serves outbound
/// connections. The rules go with the namespace.
pub fn tproxy(netns: &Netns, directory: &Path) -> Result<()> {
    restore(netns, directory, |localhost, own| {
        format!(
            "*mangle
-N ISTIO_DIVERT
-N ISTIO_TPROXY
-N ISTIO_INBOUND
-A ISTIO_DIVERT -j MARK --set-mark 1337
-A ISTIO_DIVERT -j ACCEPT
-A ISTIO_TPROXY ! -d {localhost} -p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port {INBOUND}
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY
-A PREROUTING -p tcp -m mark --mark 1337 -j CONNMARK --save-mark
-A OUTPUT -p tcp -o lo -m mark --mark 1337 -j RETURN
-A OUTPUT ! -d {localhost} -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT ! -d {localhost} -p tcp -o lo -m owner --gid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT -p tcp -m connmark --mark 1337 -j CONNMARK --restore-mark
-I ISTIO_INBOUND 1 -p tcp -m mark --mark 1337 -j RETURN
-I ISTIO_INBOUND 2 -p tcp -s {own} -i lo -j RETURN
-I ISTIO_INBOUND 3 -p tcp -i lo -m mark ! --mark 1338 -j RETURN
COMMIT
"
        )
    })?;
    for (option, all) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        netns.ip(&format!(
            "{option} rule add fwmark 1337 lookup 133
             {option} route add local {all} dev lo table 133"
        ))?;
    }
    Ok(())
}

/// Installs the rules that `rules` makes of a family's loopback prefix and that of [`passthrough`].
fn restore(netns: &Netns, directory: &Path, rules: fn(&str, &str) -> String) -> Result<()> {
    iptables::restore(netns, directory, |family| {
        let prefix = |address| IpNet::from(address).to_string();
        rules(&prefix(family.localhost()), &prefix(passthrough(family)))
    })
}

/// Patches the listener filters of [`VIRTUAL_INBOUND`] as Istio does with `deploy/istio/envoyfilter.yaml`.
pub fn patch(filters: &mut Vec<Value>) -> Result<()> {
    const FILE: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/istio/envoyfilter.yaml"
    );
    let resource: Value = serde_saphyr::from_str(&fs::read_to_string(FILE)?).context(FILE)?;
    ensure!(resource["kind"] == "EnvoyFilter", "{resource}");
    let Some([patch]) = resource["spec"]["configPatches"]
        .as_array()
        .map(Vec::as_slice)
    else {
        bail!("not one patch: {resource}");
    };
    let (target, patch_of) = (&patch["match"]["listener"], &patch["patch"]);
    ensure!(
        patch["applyTo"] == "LISTENER_FILTER"
            && patch["match"]["context"] == "SIDECAR_INBOUND"
            && target["name"] == VIRTUAL_INBOUND
            && patch_of["operation"] == "INSERT_AFTER",
        "{patch}"
    );
    let place = filters
        .iter()
        .position(|filter| filter["name"] == target["listenerFilter"])
        .with_context(|| format!("no filter to insert after: {patch}"))?;
    filters.insert(place + 1, patch_of["value"].clone());
    Ok(())
}
