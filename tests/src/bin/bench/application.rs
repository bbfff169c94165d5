//! A fast application: a fixed number of threads, each serving one connection at a time.

use std::hint;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use ::tests::host::listener::canonical;
use ::tests::host::netns::Netns;
use ::tests::wait::Limit;
use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

/// Length of a request, whose first byte is its kind.
pub(crate) const REQUEST: usize = 64;
/// Length of the answer to [`WHO`]: address (IPv4 as IPv6) and port.
pub(crate) const ANSWER: usize = 18;
/// Who am I? The application answers with what `accept()` returned.
pub(crate) const WHO: u8 = b'?';
/// The client will send until it is done.
pub(crate) const UPLOAD: u8 = b'<';
/// The application is to send until the client is done.
pub(crate) const DOWNLOAD: u8 = b'>';
/// The application is to call `getpeername()` until the client is done.
pub(crate) const NAME: u8 = b'@';
/// The client will do nothing until it is done.
pub(crate) const IDLE: u8 = b'.';
/// So many calls are told by one byte.
pub(crate) const CALLS: u16 = 10_000;
/// How much either side sends or reads at a time.
pub(crate) const CHUNK: usize = 256 << 10;
/// How long either side waits for the other.
pub(crate) const PATIENCE: Limit = Limit::secs(5);

/// More than connections in progress, so that none waits for another's end.
const SPARE: u16 = 32;

/// The application, stopped on drop.
pub(crate) struct Application {
    socket: Socket,
    threads: Vec<JoinHandle<()>>,
}

impl Application {
    /// Serves `port` inside `netns`, by IPv4 and IPv6, for so many connections at a time.
    pub(crate) fn start(netns: &Netns, port: u16, concurrency: u16) -> Result<Self> {
        netns.enter(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
            socket.listen(4096)?;
            let threads = (0..concurrency + SPARE)
                .map(|_| {
                    let listener = TcpListener::from(socket.try_clone()?);
                    Ok(std::thread::spawn(move || {
                        // Accepting ends when the socket is shut down.
                        while let Ok((stream, peer)) = listener.accept() {
                            // A connection that breaks is the client's to notice.
                            let _ = serve(stream, peer);
                        }
                    }))
                })
                .collect::<io::Result<_>>()?;
            Ok(Self { socket, threads })
        })
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE.here()))?;
    stream.set_write_timeout(Some(PATIENCE.here()))?;
    let mut request = [0; REQUEST];
    stream.read_exact(&mut request)?;
    match request[0] {
        WHO => {
            stream.write_all(&encode(canonical(peer)))?;
            stream.read(&mut request).map(drop)
        }
        IDLE => {
            stream.set_read_timeout(None)?;
            stream.read(&mut request).map(drop)
        }
        UPLOAD => {
            let mut chunk = vec![0; CHUNK];
            while stream.read(&mut chunk)? > 0 {}
            Ok(())
        }
        DOWNLOAD => {
            let chunk = vec![0; CHUNK];
            loop {
                stream.write_all(&chunk)?;
            }
        }
        NAME => loop {
            for _ in 0..CALLS {
                hint::black_box(stream.peer_addr()?);
            }
            stream.write_all(&[NAME])?;
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn encode(address: SocketAddr) -> [u8; ANSWER] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut answer = [0; ANSWER];
    answer[..16].copy_from_slice(&ip.octets());
    answer[16..].copy_from_slice(&address.port().to_be_bytes());
    answer
}

/// The address in an answer.
pub(crate) fn decode(answer: [u8; ANSWER]) -> SocketAddr {
    let [ip @ .., high, low] = answer;
    canonical((ip, u16::from_be_bytes([high, low])).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_carry_addresses_of_both_families() {
        for address in ["203.0.113.7:51812", "[2001:db8::7]:1"] {
            let address = address.parse().unwrap();
            assert_eq!(decode(encode(address)), address);
        }
    }
}
