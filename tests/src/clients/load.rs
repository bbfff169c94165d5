//! Many connections from many client addresses, each checked against what the application saw.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Barrier, Mutex};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::netns::Netns;
use crate::servers::report::Seen;
use crate::servers::web;
use crate::topology::Family;
use crate::variables::usual;
use crate::wait::{Limit, SOON, when_a_port_is_free};

/// What the client sends and [`crate::servers::report::Report`] echoes.
pub const PING: &[u8] = b"ping\n";

/// What answers at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// [`crate::servers::report::Report`].
    Report,
    /// [`crate::servers::web::Web`].
    Web,
}

/// How many connections, how many of them at a time, and where to.
#[derive(Clone, Debug)]
pub struct Load {
    /// Targets, taken in turn.
    pub targets: Vec<SocketAddr>,
    /// The application at the targets.
    pub application: Application,
    /// Connections in all: a multiple of `concurrent`.
    pub connections: usize,
    /// Connections that are open at the same time.
    pub concurrent: usize,
}

impl Load {
    /// A thousand connections, or what is [`usual`], to a [`crate::servers::report::Report`], a hundred at a time.
    pub fn new(targets: impl IntoIterator<Item = SocketAddr>) -> Self {
        let all = Self {
            targets: targets.into_iter().collect(),
            application: Application::Report,
            connections: 0,
            concurrent: 100,
        };
        all.of(1000)
    }

    /// As many connections to the same as is [`usual`] where a scenario makes `connections` by itself.
    #[must_use]
    pub fn of(self, connections: u32) -> Self {
        let connections = usual(connections) as usize;
        Self {
            connections: connections.next_multiple_of(self.concurrent),
            ..self
        }
    }

    /// Connects from `netns`, from another client address each time.
    pub fn run(&self, netns: &Netns) -> Outcome {
        assert_eq!(self.connections % self.concurrent, 0);
        let all_open = Barrier::new(self.concurrent);
        let outcome = Mutex::new(Outcome::default());
        std::thread::scope(|scope| {
            for worker in 0..self.concurrent {
                let (all_open, outcome) = (&all_open, &outcome);
                scope.spawn(move || {
                    netns.join().expect("enter the client's namespace");
                    for n in (worker..self.connections).step_by(self.concurrent) {
                        let target = self.targets[n % self.targets.len()];
                        let connection = Connection::open(n, target, self.application);
                        all_open.wait();
                        outcome.lock().expect("no worker panics").add(connection);
                    }
                });
            }
        });
        outcome.into_inner().expect("no worker panics")
    }

    /// Opens `concurrent` connections from `netns` and keeps them.
    pub fn hold(&self, netns: &Netns) -> Result<Vec<Connection>> {
        netns.enter(|| {
            (0..self.concurrent)
                .map(|n| {
                    let target = self.targets[n % self.targets.len()];
                    Connection::open(n, target, self.application)
                })
                .collect()
        })
    }
}

/// A connection whose application has said whom it sees.
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// The client's own address and port.
    pub client: SocketAddr,
    /// What the client connected to.
    pub target: SocketAddr,
    /// What the application sees.
    pub seen: Seen,
}

impl Connection {
    /// Connects from the calling thread's namespace, from client address `n`.
    pub fn open(n: usize, target: SocketAddr, application: Application) -> Result<Self> {
        Self::open_from(
            (Family::of(target).client(n), 0).into(),
            target,
            application,
        )
    }

    /// Connects from the calling thread's namespace, from this address and port.
    pub fn open_from(
        source: SocketAddr,
        target: SocketAddr,
        application: Application,
    ) -> Result<Self> {
        Self::connect(source, target, application)
            .with_context(|| format!("connection from {source} to {target}"))
    }

    fn connect(source: SocketAddr, target: SocketAddr, application: Application) -> Result<Self> {
        let mut stream = BufReader::new(SOON.await_io("a connection", connect(source, target))?);
        let client = stream.get_ref().local_addr()?;
        let seen = match application {
            Application::Report => {
                let mut line = String::new();
                SOON.await_io("whom the application sees", stream.read_line(&mut line))?;
                serde_json::from_str(&line).with_context(|| format!("the answer {line:?}"))?
            }
            Application::Web => ask_web(stream.get_ref(), target)?,
        };
        let mut connection = Self {
            stream,
            client,
            target,
            seen,
        };
        if application == Application::Report {
            connection.ping()?;
        }
        Ok(connection)
    }

    /// Sends bytes and waits for their echo: the connection works both ways.
    pub fn ping(&mut self) -> Result<()> {
        self.stream.get_mut().write_all(PING)?;
        let mut echo = [0; PING.len()];
        SOON.await_io("an echo", self.stream.read_exact(&mut echo))?;
        ensure!(echo == PING, "sent {PING:?}, got {echo:?}");
        Ok(())
    }

    /// Asserts that the other end has closed or reset the connection.
    pub fn assert_ended(&mut self) -> Result<()> {
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => bail!("bytes that nobody has asked for"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            outcome => Ok(SOON
                .await_io("the end of a connection", outcome)
                .map(drop)?),
        }
    }
}

/// Connects from the calling thread's namespace, from this address and port.
pub fn connect(source: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    connect_within(source, target, SOON)
}

/// Connects from the calling thread's namespace, from this address and port, within `limit`.
pub fn connect_within(
    source: SocketAddr,
    target: SocketAddr,
    limit: Limit,
) -> io::Result<TcpStream> {
    let domain = Domain::for_address(target);
    when_a_port_is_free(|| {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
        socket.connect_timeout(&target.into(), limit.here())?;
        socket.set_read_timeout(Some(SOON.here()))?;
        Ok(socket.into())
    })
}

/// Sends the only request of a connection; returns the body of the web server's answer.
pub fn get(mut stream: &TcpStream) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    SOON.await_io("a page", stream.read_to_string(&mut answer))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("not an HTTP answer: {answer:?}");
    };
    ensure!(head.split(' ').nth(1) == Some("200"), "{head}");
    Ok(body.to_owned())
}

fn ask_web(stream: &TcpStream, target: SocketAddr) -> Result<Seen> {
    let client = web::parse_client(&get(stream)?)?;
    Ok(Seen {
        accepted: client,
        peername: client,
        local: target,
    })
}

/// What became of the connections.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The application saw the client's address and port.
    pub exact: usize,
    /// The application saw the client's address with another port.
    pub address_only: usize,
    /// The application saw another address, or `accept()` and `getpeername()` differed.
    pub lost: usize,
    /// The connection failed.
    pub failed: usize,
    /// The first lost and the first failed connection, for people.
    pub examples: Vec<String>,
}

impl Outcome {
    fn add(&mut self, connection: Result<Connection>) {
        match connection {
            Err(error) => {
                self.failed += 1;
                if self.failed == 1 {
                    self.examples.push(format!("failed: {error:#}"));
                }
            }
            Ok(Connection { client, seen, .. }) => {
                let same = seen.accepted == seen.peername;
                if same && seen.accepted == client {
                    self.exact += 1;
                } else if same && seen.accepted.ip() == client.ip() {
                    self.address_only += 1;
                } else {
                    self.lost += 1;
                    if self.lost == 1 {
                        self.examples
                            .push(format!("lost: {client} was seen as {seen:?}"));
                    }
                }
            }
        }
    }

    /// Adds another outcome to this one.
    pub fn merge(&mut self, other: Self) {
        self.exact += other.exact;
        self.address_only += other.address_only;
        self.lost += other.lost;
        self.failed += other.failed;
        self.examples.extend(other.examples);
    }

    /// Fails unless the application saw every client's address.
    pub fn all_kept(&self) -> Result<()> {
        ensure!(
            self.lost == 0 && self.failed == 0 && self.kept() > 0,
            "the client's address was to be kept: {self:?}"
        );
        Ok(())
    }

    /// Fails unless the application saw every client's address and port.
    pub fn all_exact(&self) -> Result<()> {
        self.all_kept()?;
        ensure!(
            self.address_only == 0,
            "the client's port was to be kept: {self:?}"
        );
        Ok(())
    }

    /// Fails unless every client's address was lost on the way.
    pub fn all_lost(&self) -> Result<()> {
        ensure!(
            self.kept() == 0 && self.failed == 0 && self.lost > 0,
            "the client's address was to be lost: {self:?}"
        );
        Ok(())
    }

    /// Connections whose client's address the application saw.
    pub fn kept(&self) -> usize {
        self.exact + self.address_only
    }
}
