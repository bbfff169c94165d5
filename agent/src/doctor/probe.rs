//! A real connection through the real data path, in network namespaces of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt as _,
        unix::net::{self, UnixDatagram},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use agent_common::{Namespace, Range, origin::rule_id};
use anyhow::{Context, Result, bail, ensure};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::check::{Check, Outcome};
use crate::{
    connections::origins::Origins,
    datapath::{Datapath, Job, Pins},
    host::{cgroups::cgroup2_mount, netns::Netns, sockets},
    route::sysctl,
};

const NAME: &str = "probe";
const TIMEOUT: Duration = Duration::from_secs(3);
/// The port that the client connects to.
const PORT: u16 = 8080;
/// The port that the listener has.
const TO: u16 = 15006;
/// The interface whose ingress is steered.
const STEERED: &str = "probe0";
/// The client's interface.
const CLIENT: &str = "probe1";
/// Addresses of the steered interface and the client's (RFC 5737, RFC 3849).
const IPV4: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
];
const IPV6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
];

/// The probe as a check. It does not try where prerequisites are missing.
pub(super) fn check(host_is_fit: bool, bpffs: &Path) -> Check {
    let consequence = "the data path does not work on this host";
    if !host_is_fit {
        let reason = "not tried: something that it needs is missing";
        let remedy = "see to what fails above first";
        return Check::wrong(Outcome::Fail, NAME, reason, consequence, remedy);
    }
    match probe(bpffs) {
        Ok(families) => Check::ok(NAME, format!("a connection was steered over {families}")),
        Err(error) => Check::wrong(
            Outcome::Fail,
            NAME,
            format!("{error:#}"),
            consequence,
            "see to what fails above; else `RUST_LOG=debug truepeer doctor` tells what the kernel says",
        ),
    }
}

/// Steers one connection over each IP version, removes everything again, and names the versions.
fn probe(bpffs: &Path) -> Result<&'static str> {
    let _turn = turn()?;
    let pins = Pins::of_doctor(bpffs);
    pins.remove()?;
    let outcome = steer(&pins);
    pins.remove()?;
    outcome
}

/// Waits until no other probe runs. The name of the socket is free again when the socket or its process is gone.
fn turn() -> Result<UnixDatagram> {
    let name = net::SocketAddr::from_abstract_name("truepeer-probe")?;
    let deadline = Instant::now() + 3 * TIMEOUT;
    loop {
        match UnixDatagram::bind_addr(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                ensure!(
                    Instant::now() < deadline,
                    "another probe is running and does not end"
                );
                thread::sleep(Duration::from_millis(20));
            }
            bound => return Ok(bound?),
        }
    }
}

fn steer(pins: &Pins) -> Result<&'static str> {
    let (node, client) = (Netns::create()?, Netns::create()?);
    let ipv6 = sysctl::ipv6_enabled(&node)?;
    connect(&node, &client, ipv6)
        .context("cannot connect two network namespaces by a veth pair")?;

    let mut datapath = Datapath::load(pins.root(), 64, false, &cgroup2_mount()?)?;
    let mut settings = Namespace::default();
    settings.ranges[0] = Range {
        ifindex: node.interface_index(STEERED)?,
        rule: rule_id(NAME),
        first: PORT,
        last: PORT,
        to: TO,
        ..Range::default()
    };
    datapath.steer(&node, &settings)?;
    datapath.attach(&node, &[(STEERED, Job::Steer)], true)?;

    connection(&node, &client, IPV4[0], pins).context("over IPv4")?;
    if ipv6 {
        connection(&node, &client, IPV6[0], pins).context("over IPv6")?;
        return Ok("IPv4 and IPv6");
    }
    Ok("IPv4")
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
            .add(LinkVeth::new(STEERED, CLIENT).build())
            .execute()
            .await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(CLIENT);
        Ok(handle
            .link()
            .set(peer.setns_by_fd(client.as_raw_fd()).build())
            .execute()
            .await?)
    })?;
    for (end, (netns, name)) in [(node, STEERED), (client, CLIENT)].into_iter().enumerate() {
        let index = netns.interface_index(name)?;
        netns.netlink(async |handle| {
            let up = LinkMessageBuilder::<LinkUnspec>::new()
                .index(index)
                .up()
                .build();
            handle.link().set(up).execute().await?;
            handle.address().add(index, IPV4[end], 30).execute().await?;
            if ipv6 {
                handle.address().add(index, IPV6[end], 64).execute().await?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Connects from `client` to a port of `address` on which nobody listens, and expects the connection, with its origin,
/// at the listener of `node`.
fn connection(node: &Netns, client: &Netns, address: IpAddr, pins: &Pins) -> Result<()> {
    let any: IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let target = SocketAddr::new(address, PORT);
    let listener = node.run(|| {
        let listener = TcpListener::bind((any, TO))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })?;
    let outgoing = client.run(|| Ok(TcpStream::connect_timeout(&target, TIMEOUT)?));
    let outgoing = outgoing.context("the connection was not steered to the listener")?;
    let (accepted, remote) = accept(&listener)?;
    let local = accepted.local_addr()?;
    ensure!(
        local == target,
        "the listener's socket has the address {local} instead of {target}"
    );

    let cookie =
        sockets::cookie(node, local, remote)?.context("the kernel does not show its socket")?;
    let origin = pins
        .get(cookie)?
        .context("the connection was steered, but its origin not learnt")?;
    let (learnt, wanted) = (
        (
            origin.client.socket_addr(),
            origin.original_dst.socket_addr(),
        ),
        (outgoing.local_addr()?, target),
    );
    ensure!(
        learnt == wanted,
        "the wrong origin was learnt: {learnt:?} instead of {wanted:?}"
    );
    Ok(())
}

fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr)> {
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
