//! What kube-proxy installs on a node for a Service of type NodePort with `externalTrafficPolicy: Cluster`: the
//! rules that its own tests expect (`TestOverallIPTablesRules`, `TestOverallNFTablesRules`), for both address
//! families.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Result;

use crate::host::iptables::restore;
use crate::host::netns::{Netns, run};
use crate::host::process::find;
use crate::topology::Family;

/// The backend by which kube-proxy rewrites packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// iptables.
    Iptables,
    /// nftables.
    Nftables,
    /// IPVS, which a host's kernel may lack.
    Ipvs,
}

impl Mode {
    /// Those that every host has.
    pub const ALL: [Self; 2] = [Self::Iptables, Self::Nftables];
}

/// A port of a Service with one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its name.
    pub name: &'static str,
    /// The port on every node.
    pub node_port: u16,
    /// The port on [`cluster_ip`].
    pub port: u16,
    /// The endpoint's port.
    pub target: u16,
}

/// The Services' address within the cluster.
pub fn cluster_ip(family: Family) -> IpAddr {
    family
        .pick("10.96.0.10", "fd96::10")
        .parse()
        .expect("an address")
}

/// Installs the rules on a node.
pub fn install(
    netns: &Netns,
    directory: &Path,
    mode: Mode,
    services: &[Service],
    addresses: impl Fn(Family) -> Addresses,
) -> Result<()> {
    match mode {
        Mode::Iptables => restore(netns, directory, |family| {
            iptables(services, &addresses(family), cluster_ip(family))
        }),
        Mode::Nftables => {
            let file = directory.join("nft-rules");
            let rules = Family::ALL.map(|f| nftables(services, &addresses(f), f));
            std::fs::write(&file, rules.concat())?;
            run(netns
                .command(&find("NFT_BIN", "nft")?)?
                .arg("-f")
                .arg(&file))
            .map(drop)
        }
        Mode::Ipvs => {
            restore(netns, directory, |_| MASQUERADE.to_owned())?;
            for family in Family::ALL {
                ipvs(netns, services, &addresses(family))?;
            }
            // NAT of the source happens in conntrack only, which IPVS leaves out otherwise.
            netns.set_sysctl("net/ipv4/vs/conntrack", "1")
        }
    }
}

/// What kube-proxy's IPVS mode leaves to iptables: node ports get the node's address.
const MASQUERADE: &str = "*nat
-A PREROUTING -p tcp -m addrtype --dst-type LOCAL --dport 30000:32767 -j MARK --or-mark 0x4000
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
COMMIT
";

/// Makes a virtual server of each Service's node port.
fn ipvs(netns: &Netns, services: &[Service], addresses: &Addresses) -> Result<()> {
    for service in services {
        let port = SocketAddr::new(addresses.node, service.node_port).to_string();
        let endpoint = SocketAddr::new(addresses.endpoint, service.target).to_string();
        for arguments in [
            vec!["-A", "-t", &port, "-s", "rr"],
            vec!["-a", "-t", &port, "-r", &endpoint, "-m"],
        ] {
            run(netns.command("ipvsadm")?.args(arguments))?;
        }
    }
    Ok(())
}

/// The addresses in a node's rules.
pub struct Addresses {
    /// The endpoint's.
    pub endpoint: IpAddr,
    /// Prefix of all pods.
    pub pods: &'static str,
    /// The node's.
    pub node: IpAddr,
}

fn iptables(services: &[Service], addresses: &Addresses, cluster_ip: IpAddr) -> String {
    let Addresses { endpoint, pods, .. } = addresses;
    let mut chains = String::new();
    let mut rules = String::new();
    for service in services {
        let Service {
            name,
            node_port,
            port,
            target,
        } = service;
        let comment = |text: &str| format!("-m comment --comment \"default/{name}{text}\"");
        let of_port = format!("-m tcp -p tcp -d {cluster_ip} --dport {port}");
        let to = SocketAddr::new(*endpoint, *target);
        for kind in ["SVC", "EXT", "SEP"] {
            chains += &format!(":KUBE-{kind}-{name} - [0:0]\n");
        }
        rules += &format!(
            "-A KUBE-NODEPORTS {} -m tcp -p tcp --dport {node_port} -j KUBE-EXT-{name}
-A KUBE-SERVICES {} {of_port} -j KUBE-SVC-{name}
-A KUBE-EXT-{name} -m comment --comment \"masquerade traffic for default/{name} external destinations\" -j KUBE-MARK-MASQ
-A KUBE-EXT-{name} -j KUBE-SVC-{name}
-A KUBE-SVC-{name} {} {of_port} ! -s {pods} -j KUBE-MARK-MASQ
-A KUBE-SVC-{name} {} -j KUBE-SEP-{name}
-A KUBE-SEP-{name} {} -s {endpoint} -j KUBE-MARK-MASQ
-A KUBE-SEP-{name} {} -m tcp -p tcp -j DNAT --to-destination {to}
",
            comment(""),
            comment(" cluster IP"),
            comment(" cluster IP"),
            comment(&format!(" -> {to}")),
            comment(""),
            comment(""),
        );
    }
    format!(
        "*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
{chains}-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
{rules}-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
COMMIT
"
    )
}

fn nftables(services: &[Service], addresses: &Addresses, family: Family) -> String {
    let Addresses {
        endpoint,
        pods,
        node,
    } = addresses;
    let cluster_ip = cluster_ip(family);
    let (ip, kind) = family.pick(("ip", "ipv4_addr"), ("ip6", "ipv6_addr"));
    let table = format!("{ip} kube-proxy");
    let mut rules = format!(
        "add table {table} {{ comment \"rules for kube-proxy\" ; }}
add set {table} nodeport-ips {{ type {kind} ; comment \"IPs that accept NodePort traffic\" ; }}
add map {table} service-ips {{ type {kind} . inet_proto . inet_service : verdict ; comment \"ClusterIP, ExternalIP and LoadBalancer IP traffic\" ; }}
add map {table} service-nodeports {{ type inet_proto . inet_service : verdict ; comment \"NodePort traffic\" ; }}
add chain {table} mark-for-masquerade
add chain {table} masquerading
add chain {table} nat-output {{ type nat hook output priority -100 ; }}
add chain {table} nat-postrouting {{ type nat hook postrouting priority 100 ; }}
add chain {table} nat-prerouting {{ type nat hook prerouting priority -100 ; }}
add chain {table} services
add rule {table} mark-for-masquerade mark set mark or 0x4000
add rule {table} masquerading mark and 0x4000 == 0 return
add rule {table} masquerading mark set mark xor 0x4000
add rule {table} masquerading masquerade fully-random
add rule {table} nat-output jump services
add rule {table} nat-postrouting jump masquerading
add rule {table} nat-prerouting jump services
add rule {table} services {ip} daddr . meta l4proto . th dport vmap @service-ips
add rule {table} services {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add element {table} nodeport-ips {{ {node} }}
"
    );
    for service in services {
        let Service {
            name,
            node_port,
            port,
            target,
        } = service;
        let to = SocketAddr::new(*endpoint, *target);
        let of_endpoint = format!("endpoint-{name}__{target}");
        write!(
            rules,
            "add chain {table} service-{name}
add chain {table} external-{name}
add chain {table} {of_endpoint}
add rule {table} service-{name} {ip} daddr {cluster_ip} {ip} saddr != {pods} jump mark-for-masquerade
add rule {table} service-{name} numgen random mod 1 vmap {{ 0 : goto {of_endpoint} }}
add rule {table} external-{name} jump mark-for-masquerade
add rule {table} external-{name} goto service-{name}
add rule {table} {of_endpoint} {ip} saddr {endpoint} jump mark-for-masquerade
add rule {table} {of_endpoint} meta l4proto tcp dnat to {to}
add element {table} service-ips {{ {cluster_ip} . tcp . {port} : goto service-{name} }}
add element {table} service-nodeports {{ tcp . {node_port} : goto external-{name} }}
"
        )
        .expect("a string takes all");
    }
    rules
}
