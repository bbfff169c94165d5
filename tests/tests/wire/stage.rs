//! What scenarios of this folder share: a pod that is told by TOA, and what runs in it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Result, ensure};
use tests::agent::{believing, telling};
use tests::clients::tcp::seen;
use tests::host::netns::Netns;
use tests::proxies::own::connect_from;
use tests::topology::{Family, Sidecar};

/// A port of the pod with a [`tests::servers::report::Report`].
pub(crate) const REPORT: u16 = 8080;
/// A port of the pod whose connections begin with a PROXY header.
pub(crate) const HEADER: u16 = 8443;
/// The sidecar proxy's port.
pub(crate) const PROXY: u16 = 15006;
/// The mark of the sidecar proxy's packets.
pub(crate) const MARK: u32 = 1337;

/// A client in whose name the sender connects.
pub(crate) fn client(family: Family) -> SocketAddr {
    (family.client(77), 4711).into()
}

/// What a policy denies that denies one client of each IP version.
pub(crate) fn denied_clients(client: impl Fn(Family) -> IpAddr) -> Vec<String> {
    Family::ALL
        .map(|family| {
            let client = client(family);
            format!("{client}/{}", if client.is_ipv4() { 32 } else { 128 })
        })
        .into()
}

/// Whom the report on a port of the pod sees when the sender connects in the name of [`client`].
pub(crate) fn seen_in_the_name_of_client(sender: &Netns, family: Family) -> Result<SocketAddr> {
    let target = (Sidecar::address(family), REPORT).into();
    let mut stream = sender.enter(|| connect_from(client(family), target, 0))?;
    let seen = seen(&mut stream)?;
    ensure!(seen.accepted == seen.peername, "{seen:?}");
    Ok(seen.accepted)
}

/// TOA arrives: the report sees the sender while nobody believes it, and the client as soon as somebody does.
pub(crate) fn toa_arrives(directory: &Path, sender: &Netns) -> Result<()> {
    let _telling = telling(directory, Sidecar::networks())?;
    for family in Family::ALL {
        let seen = seen_in_the_name_of_client(sender, family)?;
        ensure!(
            seen.ip() != client(family).ip(),
            "{seen} was to be the sender"
        );
    }
    let _believing = believing(directory, Sidecar::networks())?;
    for family in Family::ALL {
        let seen = seen_in_the_name_of_client(sender, family)?;
        ensure!(
            seen == client(family),
            "{} was seen as {seen}",
            client(family)
        );
    }
    Ok(())
}
