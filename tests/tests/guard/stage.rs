//! Policies, the clients that they judge, and whether these are let in.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tests::agent::Policy;
use tests::proxies::own::connect_from;
use tests::servers::report::Seen;
use tests::topology::{Family, Sidecar};
use tests::wait::{Limit, SOON};

/// Where the application listens.
pub(crate) const PORT: u16 = 8080;
/// How long a connection may take before it counts as refused: longer than TCP waits before it sends a SYN again.
pub(crate) const PATIENCE: Limit = Limit::millis(1500);

/// The clients' network, a part of it that is denied, and one address in that part.
const CLIENTS: [&str; 2] = ["203.0.113.0/24", "2001:db8:c::/112"];
const DENIED: [&str; 2] = ["203.0.113.64/27", "2001:db8:c::40/123"];
const EXEMPT: [&str; 2] = ["203.0.113.77/32", "2001:db8:c::4d/128"];

/// A policy of the application's port.
pub(crate) fn policy(name: &str, allow: &[&str], deny: &[&str]) -> Policy {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
    Policy {
        name: name.into(),
        ports: vec![PORT.to_string()],
        allow: texts(allow),
        deny: texts(deny),
    }
}

/// A policy that allows only the clients' network, except a part of it that it denies, except one address in that part
/// that it allows. It never allows the hop that speaks for the clients.
pub(crate) fn nested() -> Policy {
    policy("nested", &[CLIENTS, EXEMPT].concat(), &DENIED)
}

/// The clients of [`nested`], by the last number of their address, and whether they are allowed.
pub(crate) const JUDGED: [(u8, bool); 5] =
    [(1, true), (64, false), (77, true), (95, false), (96, true)];

/// The client whose address has this last number.
pub(crate) fn client(family: Family, last: u8) -> IpAddr {
    family.client(usize::from(last) - 1)
}

/// A port of the pod.
pub(crate) fn target(family: Family, port: u16) -> SocketAddr {
    (Sidecar::address(family), port).into()
}

/// Whom the application sees of a connection from `source` that sends `first`; `None`: it was refused.
pub(crate) fn seen(
    topology: &Sidecar,
    source: IpAddr,
    target: SocketAddr,
    first: &[u8],
) -> Result<Option<Seen>> {
    let opened = topology.client.enter(|| -> std::io::Result<TcpStream> {
        let socket = Socket::new(
            Domain::for_address(target),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&target.into(), PATIENCE.here())?;
        Ok(socket.into())
    });
    let mut stream = match opened {
        Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(None),
        opened => opened?,
    };
    stream.set_read_timeout(Some(SOON.here()))?;
    stream.write_all(first)?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(0) => Ok(None),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
        read => {
            read.with_context(|| format!("from {source} to {target}"))?;
            Ok(Some(serde_json::from_str(&line)?))
        }
    }
}

/// Connects from the calling thread's namespace in the name of `client`, as a trusted proxy beside the
/// application would; whether it was let in.
pub(crate) fn is_admitted(client: IpAddr) -> Result<bool> {
    let localhost: IpAddr = match client {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let stream = match connect_from((client, 0).into(), (localhost, PORT).into(), 0) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
        opened => opened?,
    };
    stream.set_read_timeout(Some(SOON.here()))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let seen: Seen = serde_json::from_str(&line)?;
    ensure!(
        seen.accepted.ip() == client,
        "{client} was seen as {seen:?}"
    );
    Ok(true)
}

/// Pseudo-random numbers (a linear congruential generator by Knuth).
pub(crate) struct Random(pub u64);

impl Random {
    /// The next one, of 48 bits.
    fn number(&mut self) -> u64 {
        const A: u64 = 6_364_136_223_846_793_005;
        self.0 = self
            .0
            .wrapping_mul(A)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    /// An address of the prefix.
    pub(crate) fn within(&mut self, prefix: IpNet) -> IpAddr {
        let bits = u128::from(self.number()) << 96 | u128::from(self.number()) << 48;
        let bits = bits | u128::from(self.number());
        match prefix {
            IpNet::V4(net) => {
                let host = bits as u32 & u32::from(net.hostmask());
                Ipv4Addr::from(u32::from(net.network()) | host).into()
            }
            IpNet::V6(net) => {
                let host = bits & u128::from(net.hostmask());
                Ipv6Addr::from(u128::from(net.network()) | host).into()
            }
        }
    }
}

/// Prefixes within 16.0.0.0/4 and 2001:db8::/32, and whether they are allowed: the reference that the
/// kernel is compared with.
pub(crate) struct Many(pub HashMap<IpNet, bool>);

impl Many {
    /// As many prefixes as this, which are the same each time.
    pub(crate) fn new(number: usize) -> Self {
        let mut random = Random(1);
        let mut all = HashMap::new();
        while all.len() < number {
            let (within, most) = if all.len() % 4 == 0 {
                ("2001:db8::/32".parse::<IpNet>(), 128)
            } else {
                ("16.0.0.0/4".parse(), 32)
            };
            let within = within.expect("a prefix");
            let shortest = u64::from(within.prefix_len()) + 4;
            let length = shortest + random.number() % (most - shortest + 1);
            let prefix = IpNet::new(random.within(within), length as u8).expect("a length");
            all.insert(prefix.trunc(), random.number().is_multiple_of(2));
        }
        Self(all)
    }

    /// The prefixes that are allowed, or those that are denied.
    pub(crate) fn texts(&self, allowed: bool) -> Vec<String> {
        let chosen = self.0.iter().filter(|(_, is)| **is == allowed);
        chosen.map(|(prefix, _)| prefix.to_string()).collect()
    }

    /// Whether a client is allowed: by the longest prefix that it is in, if any.
    pub(crate) fn allows(&self, client: IpAddr) -> bool {
        let full = IpNet::from(client).prefix_len();
        let lengths = (0..=full).rev();
        let mut prefixes = lengths.filter_map(|n| Some(IpNet::new(client, n).ok()?.trunc()));
        // A policy with an allow-list denies whoever is in no prefix.
        prefixes
            .find_map(|p| self.0.get(&p))
            .is_some_and(|allowed| *allowed)
    }
}
