//! Two machines and a cable between their network cards. What one leaves to its card, such as checksums and the cutting
//! of segments, the other finds undone.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::clients::client;
use super::sidecar::{CLIENT, POD, Sidecar};
use crate::host::netns::{Netns, run};

const CARD: &str = Sidecar::INTERFACE;
/// What the cards must have agreed upon, for a packet to stay as it is on its way: bits of linux/virtio_net.h.
const OFFLOADS: [(usize, &str); 7] = [
    (0, "CSUM"),
    (1, "GUEST_CSUM"),
    (7, "GUEST_TSO4"),
    (8, "GUEST_TSO6"),
    (11, "HOST_TSO4"),
    (12, "HOST_TSO6"),
    (15, "MRG_RXBUF"),
];

/// This machine's end of the cable: its network card, in a namespace of a [`Sidecar`]. The card is the host's again when
/// the value is dropped.
pub struct Pair {
    /// Where the card is.
    pub netns: Netns,
}

impl Pair {
    /// The end where connections come from. Its way to networks behind the pod leads through it.
    pub fn client() -> Result<Self> {
        let pair = Self::plug_in(client()?, CLIENT)?;
        pair.netns.ip("route add 10.78.0.0/24 via 10.77.0.2
             -6 route add fd78::/64 via fd77::2")?;
        Ok(pair)
    }

    /// The end where proxy and application run.
    pub fn pod() -> Result<Self> {
        Self::plug_in(Netns::new("pod")?, POD)
    }

    fn plug_in(netns: Netns, addresses: &str) -> Result<Self> {
        offloads()?;
        run(Command::new("ip").args(["link", "set", CARD, "netns", netns.name()]))?;
        let pair = Self { netns };
        pair.netns.ip("link set eth0 up")?;
        pair.netns.ip(addresses)?;
        Ok(pair)
    }

    /// How many bytes and packets the card has received.
    pub fn received(&self) -> Result<(u64, u64)> {
        let table = self
            .netns
            .enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let line = table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(CARD)?.strip_prefix(':'))
            .with_context(|| format!("no {CARD} in {table}"))?;
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || {
            numbers
                .next()
                .context("a short line")?
                .context(line.to_owned())
        };
        Ok((next()?, next()?))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // The kernel would give it back as well, but some time after the namespace is gone. Process 1 is the host's.
        if let Err(error) = self.netns.ip("link set eth0 netns 1") {
            eprintln!("{error:#}");
        }
    }
}

/// Fails unless the card has [`OFFLOADS`].
fn offloads() -> Result<()> {
    let path = format!("/sys/class/net/{CARD}/device/features");
    let features = fs::read_to_string(&path)
        .with_context(|| format!("{path}: this machine has no network card"))?;
    for (bit, name) in OFFLOADS {
        ensure!(
            features.as_bytes().get(bit) == Some(&b'1'),
            "the network card has no {name}: {features}"
        );
    }
    Ok(())
}
