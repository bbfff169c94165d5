//! Sends and reads whole frames.

use std::io::{Error, ErrorKind, Read as _, Result};
use std::mem::{size_of, zeroed};
use std::os::fd::AsRawFd;

use nix::libc::{self, AF_PACKET, ETH_P_ALL, SOL_PACKET, c_int, c_void, sockaddr_ll, socklen_t};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use tests::host::netns::Netns;

use super::disguise::Frame;

/// The option by which each frame begins with what a virtual network card would say of it (linux/if_packet.h).
const PACKET_VNET_HDR: c_int = 15;
/// What it says (linux/virtio_net.h): of its ten bytes, two tell how long the frame's headers are.
const VIRTIO: usize = 10;
const HEADERS: usize = 2;
/// How many bytes of frames may wait to be read.
const BUFFER: usize = 16 << 20;

/// One end of a cable.
pub(super) struct Wire {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Wire {
    /// The end that is this interface of `netns`.
    pub(super) fn new(netns: &Netns, interface: &str) -> anyhow::Result<Self> {
        let socket = netns.enter(|| -> anyhow::Result<_> {
            let all = (ETH_P_ALL as u16).to_be();
            let protocol = Protocol::from(i32::from(all));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
            set(&socket, SOL_PACKET, PACKET_VNET_HDR, 1)?;
            set(
                &socket,
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                BUFFER as c_int,
            )?;
            bind(&socket, if_nametoindex(interface)?, all)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        Ok(Self {
            socket,
            buffer: vec![0; 1 << 16],
        })
    }

    pub(super) fn send(&self, frame: &Frame) -> Result<()> {
        let mut bytes = vec![0; VIRTIO];
        bytes[HEADERS..HEADERS + 2].copy_from_slice(&frame.linear.to_ne_bytes());
        bytes.extend(&frame.bytes);
        match self.socket.send(&bytes) {
            Ok(_) => Ok(()),
            // The other end takes no more at the moment. A frame may get lost.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next frame that has come in or gone out, if any.
    pub(super) fn receive(&mut self) -> Result<Option<&[u8]>> {
        match (&self.socket).read(&mut self.buffer) {
            Ok(length) => Ok(self.buffer.get(VIRTIO..length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn set(socket: &Socket, level: c_int, option: c_int, value: c_int) -> Result<()> {
    let (value, size) = (&raw const value, size_of::<c_int>() as socklen_t);
    // SAFETY: the value lives while the call runs, and has the size that is passed.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.cast::<c_void>(),
            size,
        )
    };
    checked(outcome)
}

fn bind(socket: &Socket, interface: u32, protocol: u16) -> Result<()> {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut address: sockaddr_ll = unsafe { zeroed() };
    address.sll_family = AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = interface as i32;
    let size = size_of::<sockaddr_ll>() as socklen_t;
    // SAFETY: the address lives while the call runs, and has the size that is passed.
    let outcome = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    checked(outcome)
}

fn checked(outcome: c_int) -> Result<()> {
    match outcome {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
