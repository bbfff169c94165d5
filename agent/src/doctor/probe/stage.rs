//! Where probes connect: a node and a client, in network namespaces that end with this value.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use agent_common::Origin;
use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use socket2::{Domain, Socket, Type};

use crate::{
    connections::origins::Origins,
    datapath::{Datapath, Pins},
    host::{cgroups::cgroup2_mount, netns::Netns, sockets},
    route::sysctl,
};

/// How long a connection may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);
/// The node's interface.
pub(super) const INTERFACE: &str = "probe0";
/// The client's.
const CLIENT: &str = "probe1";
/// Addresses of the node and the client, and another of the client's (RFC 5737, RFC 3849).
const IPV4: [IpAddr; 3] = [v4(1), v4(2), v4(3)];
const IPV6: [IpAddr; 3] = [v6(1), v6(2), v6(3)];

const fn v4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
}

const fn v6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n))
}

/// The namespaces, and where the data path of the probe has its pins.
pub(super) struct Stage<'a> {
    pub(super) node: Netns,
    pub(super) client: Netns,
    pins: &'a Pins,
    has_ipv6: bool,
}

/// The ends of connections of one IP version.
#[derive(Clone, Copy)]
pub(super) struct Family {
    pub(super) node: IpAddr,
    pub(super) client: IpAddr,
    /// The client has this address, too.
    pub(super) stranger: IpAddr,
    /// Nobody has this address.
    pub(super) absent: IpAddr,
}

impl<'a> Stage<'a> {
    pub(super) fn new(pins: &'a Pins) -> Result<Self> {
        let (node, client) = (Netns::create()?, Netns::create()?);
        let has_ipv6 = sysctl::ipv6_enabled(&node)?;
        connect(&node, &client, has_ipv6)
            .context("cannot connect two network namespaces by a veth pair")?;
        Ok(Self {
            node,
            client,
            pins,
            has_ipv6,
        })
    }

    /// The IP versions, for people.
    pub(super) fn families(&self) -> &'static str {
        if self.has_ipv6 {
            "IPv4 and IPv6"
        } else {
            "IPv4"
        }
    }

    /// Puts a data path in place that does nothing yet.
    pub(super) fn load(&self) -> Result<Datapath> {
        Datapath::load(self.pins.root(), 64, false, &cgroup2_mount()?)
    }

    /// The client's addresses, as prefixes.
    pub(super) fn clients(&self) -> Vec<IpNet> {
        [IPV4[1], IPV6[1]].map(IpNet::from).into()
    }

    /// The strangers' addresses, as prefixes.
    pub(super) fn strangers(&self) -> Vec<IpNet> {
        [IPV4[2], IPV6[2]].map(IpNet::from).into()
    }

    /// Tries something over each IP version.
    pub(super) fn over_each(&self, attempt: impl Fn(Family) -> Result<()>) -> Result<()> {
        let family = |[node, client, stranger]: [IpAddr; 3], absent| Family {
            node,
            client,
            stranger,
            absent,
        };
        // RFC 5737 and RFC 3849 again.
        let v4 = family(IPV4, Ipv4Addr::new(203, 0, 113, 7).into());
        let v6 = family(IPV6, Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7).into());
        attempt(v4).context("over IPv4")?;
        if self.has_ipv6 {
            attempt(v6).context("over IPv6")?;
        }
        Ok(())
    }

    /// A listener of the node on any address of this family.
    pub(super) fn listen(&self, family: Family, port: u16) -> Result<TcpListener> {
        let any: IpAddr = if family.node.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        self.node.run(|| {
            let listener = TcpListener::bind((any, port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
    }

    /// Connects from an address of the client's.
    pub(super) fn connect(
        &self,
        source: IpAddr,
        target: SocketAddr,
        limit: Duration,
    ) -> Result<TcpStream> {
        self.client.run(|| {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            socket.connect_timeout(&target.into(), limit)?;
            Ok(socket.into())
        })
    }

    /// What is known of a connection that the node accepted, whose packets come from `remote`.
    pub(super) fn origin(&self, accepted: &TcpStream, remote: SocketAddr) -> Result<Origin> {
        let local = accepted.local_addr()?;
        let cookie = sockets::cookie(&self.node, local, remote)?;
        let cookie = cookie.context("the kernel does not show its socket")?;
        self.pins
            .get(cookie)?
            .context("the connection was made, but its origin not learnt")
    }
}

/// Waits for a connection, and returns it with what `accept()` says of its client.
pub(super) fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    bail!("the connection did not arrive at the listener within {TIMEOUT:?}");
                }
                thread::sleep(Duration::from_millis(5));
            }
            accepted => return Ok(accepted?),
        }
    }
}

/// Fails unless an application that asks is told this client.
pub(super) fn is_told(stream: &TcpStream, accepted: SocketAddr, client: SocketAddr) -> Result<()> {
    ensure!(
        accepted == client,
        "`accept()` says {accepted} instead of {client}"
    );
    let peer = stream.peer_addr()?;
    ensure!(
        peer == client,
        "`getpeername()` says {peer} instead of {client}"
    );
    Ok(())
}

/// Connects two namespaces by a veth pair with addresses.
fn connect(node: &Netns, client: &Netns, ipv6: bool) -> Result<()> {
    if ipv6 {
        // Nobody else can have the addresses: without a check for duplicates they are usable at once.
        sysctl::write(node, "net.ipv6.conf.default.accept_dad", "0")?;
        sysctl::write(client, "net.ipv6.conf.default.accept_dad", "0")?;
    }
    node.netlink(async |handle| {
        handle
            .link()
            .add(LinkVeth::new(INTERFACE, CLIENT).build())
            .execute()
            .await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(CLIENT);
        Ok(handle
            .link()
            .set(peer.setns_by_fd(client.as_raw_fd()).build())
            .execute()
            .await?)
    })?;
    for (netns, name, addresses) in [(node, INTERFACE, 0..1), (client, CLIENT, 1..3)] {
        let index = netns.interface_index(name)?;
        netns.netlink(async |handle| {
            let up = LinkMessageBuilder::<LinkUnspec>::new()
                .index(index)
                .up()
                .build();
            handle.link().set(up).execute().await?;
            for n in addresses.clone() {
                handle.address().add(index, IPV4[n], 29).execute().await?;
                if ipv6 {
                    handle.address().add(index, IPV6[n], 64).execute().await?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}
