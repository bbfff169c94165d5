//! Agents that take PROXY headers off.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Result, ensure};
use tests::agent::{Config, Trust, Unwrap};
use tests::clients::tcp::{connect, seen};
use tests::host::netns::Netns;
use tests::proxies::proxy_header::with_tlv;
use tests::servers::report::Seen;
use tests::topology::{Family, Gateway, Sidecar};

/// The application's port in the pod.
pub(crate) const PORT: u16 = 8080;

/// The networks of the senders: a sidecar's client, and a gateway as its server knows it.
const SENDERS: [&str; 4] = ["10.77.0.0/24", "fd77::/64", "10.78.0.0/24", "fd78::/64"];

/// Takes headers of both versions off connections to `ports` of the pod.
pub(crate) fn in_pod(directory: &Path, topology: &Sidecar, ports: &[&str]) -> Result<Config> {
    config(directory, &topology.pod, Sidecar::INTERFACE, ports)
}

/// Takes headers of both versions off connections to `ports` of the server behind a gateway.
pub(crate) fn on_server(directory: &Path, topology: &Gateway, ports: &[&str]) -> Result<Config> {
    config(directory, &topology.server, "eth0", ports)
}

/// Takes headers of both versions off connections to `ports` of the gateway itself.
pub(crate) fn on_gateway(directory: &Path, topology: &Gateway, ports: &[&str]) -> Result<Config> {
    config(directory, &topology.gateway, Gateway::FRONT, ports)
}

fn config(directory: &Path, netns: &Netns, interface: &str, ports: &[&str]) -> Result<Config> {
    let mut config = Config::new(directory, [])?;
    config.trust.extend(Trust::saying(&["proxy"], SENDERS));
    config.unwrap.push(Unwrap::new(netns, interface, ports));
    Ok(config)
}

/// An established connection, whose client is known.
pub(crate) struct Established(TcpStream);

impl Established {
    /// Sends a header from the client, with a TLV of this length, to the application in the pod, which sees the client.
    pub(crate) fn new(sidecar: &Sidecar, family: Family, tlv: Option<usize>) -> Result<Self> {
        let (mut established, seen) = Self::open(sidecar, family, tlv)?;
        ensure!(seen.accepted == Self::client(family), "{seen:?}");
        established.echoes()?;
        Ok(established)
    }

    /// The same, whomever the application sees.
    pub(crate) fn open(
        sidecar: &Sidecar,
        family: Family,
        tlv: Option<usize>,
    ) -> Result<(Self, Seen)> {
        let target = SocketAddr::new(Sidecar::address(family), PORT);
        let mut stream = connect(&sidecar.client, target)?;
        stream.write_all(&with_tlv(Self::client(family), target, tlv))?;
        let seen = seen(&mut stream)?;
        Ok((Self(stream), seen))
    }

    /// Who sends the header.
    pub(crate) fn sender(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    /// Whom the headers name.
    pub(crate) fn client(family: Family) -> SocketAddr {
        SocketAddr::new(family.client(6), 4711)
    }

    /// What the server reads is what was sent, and the other way round.
    pub(crate) fn echoes(&mut self) -> Result<()> {
        for text in ["ping\n", "a longer line of text\n"] {
            self.0.write_all(text.as_bytes())?;
            let mut echo = vec![0; text.len()];
            self.0.read_exact(&mut echo)?;
            ensure!(echo == text.as_bytes(), "{echo:?}");
        }
        Ok(())
    }

    /// The other end has reset it.
    pub(crate) fn is_reset(&mut self) -> Result<()> {
        let read = self.0.read(&mut [0; 16]);
        ensure!(
            read.as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
            "{read:?}"
        );
        Ok(())
    }
}

/// Has the agent believe somebody else's headers only.
pub(crate) fn distrust(config: &mut Config) {
    config.trust.clear();
    config
        .trust
        .extend(Trust::saying(&["proxy"], ["192.0.2.0/24"]));
}
