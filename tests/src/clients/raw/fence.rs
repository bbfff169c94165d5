//! Segments one by one, and exactly what comes back for each.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use etherparse::TcpHeader;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::sender::{Raw, WINDOW, parse};
use crate::model::Packet;
use crate::wait::SOON;

/// Nobody listens on this port (discard), and nobody sends from that one.
const CLOSED: u16 = 9;
const NOBODY: u16 = 1;

impl Raw {
    /// Sends a segment as the model has it, with these options.
    pub fn deliver(
        &self,
        source: SocketAddr,
        target: SocketAddr,
        packet: &Packet,
        options: &[u8],
    ) -> Result<()> {
        let [fin, syn, rst, _, ack] = [0, 1, 2, 3, 4].map(|bit| packet.has(1 << bit));
        let mut tcp = TcpHeader::new(source.port(), target.port(), packet.sequence, WINDOW);
        tcp.acknowledgment_number = packet.acknowledgment;
        (tcp.fin, tcp.syn, tcp.rst, tcp.ack) = (fin, syn, rst, ack);
        self.send(source, target, tcp, options, &packet.payload)
    }

    /// Waits until the target's kernel has handled everything that was sent to it, and returns what it sent to the source
    /// since the last call. The thread must be [`Pinned`] from the first segment on: then a segment to a closed port comes
    /// behind all others, and so does the reset that answers it.
    pub fn answers(&self, source: SocketAddr, target: SocketAddr) -> Result<Vec<Packet>> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let nobody = SocketAddr::new(source.ip(), NOBODY);
        let closed = SocketAddr::new(target.ip(), CLOSED);
        let mut fence = TcpHeader::new(NOBODY, CLOSED, 0, WINDOW);
        fence.ack = true;
        // This is the reset's sequence number.
        fence.acknowledgment_number = number;
        self.send(nobody, closed, fence, &[], &[])?;

        let mut answers = Vec::new();
        let (most, start) = (SOON.here(), Instant::now());
        let mut buffer = vec![0; 1 << 16];
        while start.elapsed() < most {
            let Ok(length) = (&self.packets).read(&mut buffer) else {
                continue;
            };
            let Some((from, to, segment)) = parse(&buffer[..length]) else {
                continue;
            };
            let tcp = segment.tcp;
            if (from, to) == (closed, nobody) && tcp.sequence_number == number {
                return Ok(answers);
            }
            if (from, to) == (target, source) {
                let flags = [tcp.fin, tcp.syn, tcp.rst, false, tcp.ack];
                let flags = flags
                    .into_iter()
                    .zip(0..)
                    .map(|(is_set, bit)| u8::from(is_set) << bit);
                answers.push(Packet {
                    sequence: tcp.sequence_number,
                    acknowledgment: tcp.acknowledgment_number,
                    flags: flags.sum(),
                    payload: segment.payload,
                });
            }
        }
        bail!("an answer of {closed}: not within {SOON}")
    }
}

/// The calling thread stays on one processor while the value lives. What it sends through a virtual cable is handled on that
/// processor, one after the other.
pub struct Pinned(CpuSet);

impl Pinned {
    /// On the processor on which it is.
    pub fn here() -> Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let mut one = CpuSet::new();
        one.set(sched_getcpu()?)?;
        sched_setaffinity(Pid::from_raw(0), &one)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It may be anywhere again, or else stays where it is.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}
