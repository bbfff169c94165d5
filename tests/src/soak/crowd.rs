//! Those who fill what the programs keep: connections that stay, and handshakes that nobody completes.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::stage::{CROWDED, Stage};
use super::way::Way;
use crate::addresses::{Family, any_of_family};
use crate::clients::load::connect;
use crate::clients::tcp::seen;
use crate::proxies::proxy_header::v2;
use crate::topology::Gateway;

/// Of so many handshakes in a flood, one is steered.
const STEERED: usize = 32;

/// Opens so many connections with PROXY headers, each in the name of another client. Their application waits for more.
pub(super) fn crowd(stage: &Stage, number: usize) -> Result<Vec<TcpStream>> {
    let open = |n: usize| {
        let family = Family::ALL[n % 2];
        let target = (Gateway::server(family), CROWDED).into();
        let mut stream = connect(any_of_family(family, 0), target)?;
        stream.write_all(&v2((family.client(n), 4711).into(), target))?;
        seen(&mut stream)?;
        Ok(stream)
    };
    let client = &stage.gateway.client;
    client
        .enter(|| (0..number).map(open).collect::<Result<Vec<_>>>())
        .context("a crowd")
}

/// Sends so many SYNs at once, from many addresses and from that of the load balancer, and waits for no answer.
pub(super) fn flood(stage: &Stage, number: usize) -> Result<Vec<Socket>> {
    let knock = |n: usize| -> io::Result<Socket> {
        let family = Family::ALL[n % 2];
        // Those who are steered complete their handshakes, and there is not room for the origins of many.
        let way = match n / 2 % STEERED {
            0 => Way::Steered,
            n if n % 4 == 1 => Way::Bare,
            _ => Way::Unwrapped,
        };
        let target = way.target(family);
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
        let source: SocketAddr = if way.has_header() {
            any_of_family(family, 0)
        } else {
            (family.client(n), 0).into()
        };
        socket.bind(&source.into())?;
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    };
    let client = &stage.gateway.client;
    let sockets: io::Result<_> = client.enter(|| (0..number).map(knock).collect());
    sockets.context("a flood")
}
