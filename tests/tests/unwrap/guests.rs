//! What only passes by an interface is not the host's: connections of guests behind a bridge, and of others whose frames the
//! interface shows, whether the host forwards or not.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use agent_common::Counter;
use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::records::{no_origins, none_refused};
use tests::agent::{Agent, Config, Steer, Trust, Unwrap};
use tests::clients::exchange::{serve, with_server};
use tests::clients::load::Load;
use tests::clients::tcp::connect;
use tests::host::listener::Listener;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::own::Proxy;
use tests::proxies::proxy_header::v2;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::wait::{Limit, eventually};

use crate::stage::distrust;

/// Ports that are unwrapped and steered.
const HEADER: u16 = 8443;
const REPORT: u16 = 8080;
const PROXY: u16 = 15006;
const MARK: u32 = 1337;
const BRIDGE: &str = "br0";
/// An Ethernet address.
const MAC: &str = "02:00:00:00:77:02";

/// The address of the guest, or of nobody.
fn neighbour(family: Family) -> IpAddr {
    beside(family, 7)
}

/// An address with this number beside the host's.
fn beside(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => [10, 77, 0, number].into(),
        Family::V6 => [0xfd77, 0, 0, 0, 0, 0, 0, number.into()].into(),
    }
}

/// Takes headers off and steers what comes in by the host's interface.
fn both_verbs(directory: &Path, host: &Netns) -> Result<Config> {
    let steer = Steer::new("in", host, &["8080"], PROXY).on(Sidecar::INTERFACE);
    let mut config = Config::new(directory, [steer])?;
    config
        .trust
        .extend(Trust::saying(&["proxy"], Sidecar::networks()));
    let unwrap = Unwrap::new(host, Sidecar::INTERFACE, &["8443"]);
    config.unwrap.push(unwrap);
    Ok(config)
}

fn forwards(host: &Netns, is_on: bool) -> Result<()> {
    let value = if is_on { "1" } else { "0" };
    host.set_sysctl("net/ipv4/ip_forward", value)?;
    host.set_sysctl("net/ipv6/conf/all/forwarding", value)
}

/// A host with one interface, a port of a bridge that has the addresses and this Ethernet address, or that of a port.
fn bridged(mac: Option<&str>) -> Result<(Sidecar, Netns)> {
    let guest = Netns::new("guest")?;
    let sidecar = Sidecar::over(|client, host| {
        client.connect("eth0", host, Sidecar::INTERFACE)?;
        host.connect("guest", &guest, "eth0")?;
        let mac = mac.map_or_else(String::new, |mac| format!("address {mac}"));
        host.ip(&format!(
            "link add {BRIDGE} {mac} type bridge
             link set {} master {BRIDGE}
             link set guest master {BRIDGE}
             link set {BRIDGE} up",
            Sidecar::INTERFACE
        ))
    })?;
    // The bridge has what the topology gave the port.
    sidecar.pod.ip(&format!(
        "addr flush dev {0}
         addr add 10.77.0.2/24 dev {BRIDGE}
         addr add fd77::2/64 dev {BRIDGE} nodad
         route replace default via 10.77.0.1
         -6 route replace default via fd77::1 dev {BRIDGE}",
        Sidecar::INTERFACE
    ))?;
    guest.ip("addr add 10.77.0.7/24 dev eth0
         addr add fd77::7/64 dev eth0 nodad
         route add default via 10.77.0.1
         -6 route add default via fd77::1")?;
    Ok((sidecar, guest))
}

/// The host's own connections are unwrapped and steered, and those of a guest are as without truepeer.
#[test]
fn guests_behind_a_bridge() {
    for mac in [None, Some(MAC)] {
        scenario(|directory| {
            let (sidecar, guest) = bridged(mac)?;
            let (client, host) = (&sidecar.client, &sidecar.pod);
            let _own = [
                Listener::start(host, any(HEADER), false, serve)?,
                Listener::start(&guest, any(HEADER), false, serve)?,
            ];
            let _report = [
                Report::start(host, any(REPORT))?,
                Report::start(&guest, any(REPORT))?,
            ];
            let _proxy = Proxy::sidecar(host, any(PROXY), MARK)?;
            for is_on in [false, true] {
                forwards(host, is_on)?;
                let agent = Agent::start(directory, both_verbs(directory, host)?)?;
                for family in Family::ALL {
                    let named = SocketAddr::new(family.client(6), 4711);
                    let own: SocketAddr = (Sidecar::address(family), HEADER).into();
                    let stream = connect(client, own)?;
                    let seen = with_server(stream, &v2(named, own), 20)?;
                    ensure!(seen == named, "{seen} instead of {named}");
                    let stream = connect(client, (neighbour(family), HEADER).into())?;
                    let sender = stream.local_addr()?;
                    let seen = with_server(stream, &[], 20)?;
                    ensure!(seen == sender, "{seen} instead of {sender}");

                    Load::new([(Sidecar::address(family), REPORT).into()])
                        .run(client)
                        .all_kept()?;
                    let steered = agent.counter(Counter::Steered)?;
                    Load::new([(neighbour(family), REPORT).into()])
                        .run(client)
                        .all_exact()?;
                    let steered = agent.counter(Counter::Steered)? - steered;
                    ensure!(steered == 0, "{steered} of the guest's were steered");
                }
                none_refused(&agent)?;
                no_origins(&agent)?;
                ensure!(agent.stop()?.success(), "the agent's exit status");
            }
            Ok(())
        });
    }
}

/// A bridge may change its Ethernet address, and a host gets further addresses.
#[test]
fn what_is_the_hosts_changes() {
    scenario(|directory| {
        let (sidecar, _guest) = bridged(Some(MAC))?;
        let (client, host) = (&sidecar.client, &sidecar.pod);
        let _server = Listener::start(host, any(HEADER), false, serve)?;
        forwards(host, false)?;
        let agent = Agent::start(directory, both_verbs(directory, host)?)?;
        let is_kept = |target: SocketAddr| -> Result<bool> {
            let named = SocketAddr::new(Family::of(target).client(6), 4711);
            let stream = connect(client, target)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            Ok(with_server(stream, &v2(named, target), 1).is_ok_and(|seen| seen == named))
        };
        host.ip(&format!("link set {BRIDGE} address 02:00:00:00:77:03"))?;
        for family in Family::ALL {
            let own = (Sidecar::address(family), HEADER).into();
            eventually("the bridge's new Ethernet address is known", || {
                Ok(is_kept(own)?.then_some(()))
            })?;
        }
        host.ip(&format!(
            "addr add 10.77.0.3/24 dev {BRIDGE}
             addr add fd77::3/64 dev {BRIDGE} nodad"
        ))?;
        for family in Family::ALL {
            let address = beside(family, 3);
            eventually("the new address is known", || {
                Ok(is_kept((address, HEADER).into())?.then_some(()))
            })?;
        }
        none_refused(&agent)
    });
}

/// On a host that does not forward, nothing is refused in the name of an address that is not the host's.
#[test]
fn others_addresses() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let (client, host) = (&sidecar.client, &sidecar.pod);
        let _server = Listener::start(host, any(HEADER), false, serve)?;
        forwards(host, false)?;
        let mut config = both_verbs(directory, host)?;
        distrust(&mut config);
        let agent = Agent::start(directory, config)?;
        host.ip(&format!("link set {} address {MAC}", Sidecar::INTERFACE))?;
        for family in Family::ALL {
            client.ip(&format!(
                "neigh replace {} lladdr {MAC} dev eth0 nud permanent",
                neighbour(family)
            ))?;
            let target = SocketAddr::new(neighbour(family), HEADER);
            let error = client.enter(|| {
                let domain = Domain::for_address(target);
                let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
                socket.connect_timeout(&target.into(), Limit::millis(1500).here())
            });
            let error = error.err().map(|error| error.kind());
            ensure!(error == Some(ErrorKind::TimedOut), "{error:?}");
        }
        none_refused(&agent)
    });
}
