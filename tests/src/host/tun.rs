//! Devices whose packets begin with their IP header, as those of WireGuard do.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use super::netns::Netns;

/// More than any packet of such a device has.
const ROOM: usize = 1 << 16;

/// A tunnel between two network namespaces: what one of its devices sends, the other one receives. Its devices go on drop.
pub struct Tunnel {
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
}

impl Tunnel {
    /// Joins two namespaces by devices with this name, which are up.
    pub fn between(name: &str, one: &Netns, other: &Netns) -> Result<Self> {
        let (ends, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let devices = [device(name, one)?, device(name, other)?];
        let thread = std::thread::spawn(move || carry(devices, &ends));
        Ok(Self {
            thread: Some(thread),
            stop: Some(stop),
        })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A device with this name in a namespace, as the file of its packets.
fn device(name: &str, netns: &Netns) -> Result<File> {
    let file = netns.enter(|| {
        let mut options = File::options();
        let file = options.read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = byte.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        // SAFETY: the request lives while the call reads it.
        let error = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &request) };
        if error != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(file)
    });
    let file = file.with_context(|| format!("a tun device in {}", netns.name()))?;
    netns.ip(&format!("link set {name} up"))?;
    Ok(file)
}

/// Brings the packets of each device to the other one until `ends` is closed.
fn carry(devices: [File; 2], ends: &OwnedFd) {
    let mut packet = vec![0; ROOM];
    loop {
        let ready = {
            let [one, other] = &devices;
            let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [of(one.as_fd()), of(other.as_fd()), of(ends.as_fd())];
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            fds.map(|fd| fd.any().unwrap_or(false))
        };
        if ready[2] {
            return;
        }
        for from in 0..2 {
            if !ready[from] {
                continue;
            }
            let (mut from, mut to) = (&devices[from], &devices[1 - from]);
            match from.read(&mut packet) {
                // A packet that the device does not take is lost, as on any cable.
                Ok(length) => drop(to.write(&packet[..length])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}
