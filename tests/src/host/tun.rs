//! Links between namespaces that carry packets in this process: a tunnel, whose packets begin with their IP header as those of
//! WireGuard do, and a cable with a weather of its own.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use super::netns::Netns;
use crate::random::Random;

/// How long a packet that is to come late waits for the one behind it, in milliseconds.
const LATE: u16 = 10;
/// More than any packet of such a device has.
const ROOM: usize = 1 << 16;

/// What becomes of packets.
#[derive(Default)]
pub struct Weather {
    lost: AtomicUsize,
    late: AtomicUsize,
}

impl Weather {
    /// From now on, so many of a thousand packets are lost, and so many come behind the next one.
    pub fn becomes(&self, lost: usize, late: usize) {
        self.lost.store(lost, Ordering::Relaxed);
        self.late.store(late, Ordering::Relaxed);
    }
}

/// A link between two network namespaces: what one of its devices sends, the other one receives. Its devices go on drop.
pub struct Tunnel {
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    /// What becomes of its packets: fair at first.
    pub weather: Arc<Weather>,
}

impl Tunnel {
    /// Joins two namespaces by devices with this name, which are up, and whose packets begin with their IP header.
    pub fn between(name: &str, one: &Netns, other: &Netns) -> Result<Self> {
        Self::join(libc::IFF_TUN, [(name, one), (name, other)])
    }

    /// Joins two namespaces by a virtual cable whose ends are up, as [`Netns::connect`] does.
    pub fn cable(one: (&str, &Netns), other: (&str, &Netns)) -> Result<Self> {
        Self::join(libc::IFF_TAP, [one, other])
    }

    fn join(kind: libc::c_int, [one, other]: [(&str, &Netns); 2]) -> Result<Self> {
        let (ends, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let devices = [device(kind, one.0, one.1)?, device(kind, other.0, other.1)?];
        let weather = Arc::<Weather>::default();
        let above = weather.clone();
        let thread = std::thread::spawn(move || carry(&devices, &ends, &above));
        Ok(Self {
            thread: Some(thread),
            stop: Some(stop),
            weather,
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

/// A device of this kind and name in a namespace, as the file of its packets.
fn device(kind: libc::c_int, name: &str, netns: &Netns) -> Result<File> {
    let file = netns.enter(|| {
        let mut options = File::options();
        let file = options.read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = byte.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as i16;
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
fn carry(devices: &[File; 2], ends: &OwnedFd, weather: &Weather) {
    let mut packet = vec![0; ROOM];
    // In each direction, the packet that is to come behind the next one.
    let mut held: [Option<Vec<u8>>; 2] = [None, None];
    let random = Random::new(1);
    let falls = |on: &AtomicUsize| random.below(1000) < on.load(Ordering::Relaxed);
    loop {
        let ready = {
            let [one, other] = devices;
            let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [of(one.as_fd()), of(other.as_fd()), of(ends.as_fd())];
            let timeout = if held.iter().any(Option::is_some) {
                PollTimeout::from(LATE)
            } else {
                PollTimeout::NONE
            };
            if poll(&mut fds, timeout).is_err() {
                continue;
            }
            fds.map(|fd| fd.any().unwrap_or(false))
        };
        if ready[2] {
            return;
        }
        let is_silent = !ready.contains(&true);
        for from in 0..2 {
            // A packet that the device does not take is lost, as on any cable.
            let send = |packet: &[u8]| drop((&devices[1 - from]).write(packet));
            if ready[from] {
                match (&devices[from]).read(&mut packet) {
                    Ok(_) if falls(&weather.lost) => {}
                    Ok(length) if held[from].is_none() && falls(&weather.late) => {
                        held[from] = Some(packet[..length].into());
                    }
                    Ok(length) => {
                        send(&packet[..length]);
                        held[from].take().iter().for_each(|packet| send(packet));
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            } else if is_silent {
                held[from].take().iter().for_each(|packet| send(packet));
            }
        }
    }
}
