//! Sends SYNs in disguise, and completes handshakes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use etherparse::SlicedPacket;
use tests::clients::raw::{tcp_of, toa};
use tests::host::netns::Netns;
use tests::random::Random;
use tests::topology::Family;
use tests::variables::{connections, seed, usual};
use tests::wait::eventually;

use super::disguise::Disguise;
use super::segment::{ACK, PSH, SYN, Segment};
use super::wire::Wire;

/// How many SYNs are sent if nobody wants another number.
pub(super) const ENOUGH: u32 = 20_000;
/// How many SYNs are sent before answers are read.
const BATCH: u32 = 32;
/// How many SYNs are remembered, lest a long run need much memory.
const REMEMBERED: usize = 200_000;
/// The addresses of both ends of the cable.
pub(super) const FUZZER: &str = "02:00:00:00:00:01";
pub(super) const TARGET: &str = "02:00:00:00:00:02";
const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
/// The port with which TOA may as well be another option.
const AMBIGUOUS: u16 = 0xf989;
/// Of each family, so many addresses send.
const SENDERS: usize = 200;

/// Sends SYNs in disguise, and completes the handshakes of those that are answered.
pub(super) struct Fuzzer {
    wire: Wire,
    random: Random,
    /// For what depends on the answers, lest the SYNs depend on them as well.
    answering: Random,
    targets: Vec<SocketAddr>,
    /// Each SYN by its ends, and its disguise.
    sent: HashMap<(SocketAddr, SocketAddr), (Segment, Disguise)>,
    /// Ends whose SYN was answered.
    pub(super) answered: HashSet<(SocketAddr, SocketAddr)>,
    /// For each part of a disguise, how many SYNs had it, and how many of them each port answered.
    tally: BTreeMap<&'static str, (u32, BTreeMap<u16, u32>)>,
}

/// Whether an address is of those that send frames.
pub(super) fn sends(address: IpAddr) -> bool {
    Family::ALL
        .iter()
        .any(|family| (1..=SENDERS).any(|n| family.balancer(n as u8) == address))
}

impl Fuzzer {
    /// Sends from this interface to these targets.
    pub(super) fn new(netns: &Netns, interface: &str, targets: Vec<SocketAddr>) -> Result<Self> {
        let seed = seed()?;
        Ok(Self {
            wire: Wire::new(netns, interface)?,
            random: Random::new(seed),
            answering: Random::new(!seed),
            targets,
            sent: HashMap::new(),
            answered: HashSet::new(),
            tally: BTreeMap::new(),
        })
    }

    /// Sends so many SYNs.
    pub(super) fn run(&mut self, number: u32) -> Result<()> {
        let started = Instant::now();
        for n in 0..number {
            self.open()?;
            if n % BATCH == 0 {
                self.answer()?;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        // What is still under way.
        let quiet = Duration::from_millis(500);
        let mut last = Instant::now();
        while last.elapsed() < quiet {
            if self.answer()? {
                last = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        println!(
            "{number} SYNs in {seconds:.1} s, {} answered",
            self.answered.len()
        );
        for (part, (sent, answered)) in &self.tally {
            println!("  {part}: {sent} sent, answered by port {answered:?}");
        }
        Ok(())
    }

    /// Sends to these targets from now on.
    pub(super) fn turn_to(&mut self, targets: Vec<SocketAddr>) {
        self.targets = targets;
        self.tally.clear();
        self.answered.clear();
    }

    /// Parts of disguises in which no SYN was answered.
    pub(super) fn unanswered(&self) -> Vec<&'static str> {
        let unanswered = self.tally.iter().filter(|(_, (_, ports))| ports.is_empty());
        unanswered.map(|(part, _)| *part).collect()
    }

    /// The SYNs that named this client, and how they were hidden.
    pub(super) fn named(&self, client: SocketAddr) -> Vec<&(Segment, Disguise)> {
        let forged = toa(254, client);
        let names = |options: &[u8]| options.windows(forged.len() - 1).any(|o| o == &forged[1..]);
        self.sent
            .values()
            .filter(|(segment, _)| names(&segment.options))
            .collect()
    }

    /// Opens a connection with these first bytes, in this disguise.
    pub(super) fn connect(
        &mut self,
        disguise: &Disguise,
        source: SocketAddr,
        target: SocketAddr,
        payload: &[u8],
    ) -> Result<()> {
        let mut segment = Segment {
            source,
            target,
            sequence: self.answering.number(),
            acknowledgment: 0,
            flags: SYN,
            options: Vec::new(),
            payload: Vec::new(),
        };
        self.send(&self.answering, disguise, &segment)?;
        let what = format!("an answer of {target} to {source}");
        let sequence = eventually(&what, || {
            while let Some(frame) = self.wire.receive()? {
                if let Some((ends, sequence)) = syn_ack(frame)
                    && ends == (source, target)
                {
                    return Ok(Some(sequence));
                }
            }
            Ok(None)
        })?;
        segment.sequence = segment.sequence.wrapping_add(1);
        segment.acknowledgment = sequence.wrapping_add(1);
        segment.flags = ACK | PSH;
        segment.payload = payload.to_vec();
        self.send(&self.answering, disguise, &segment)
    }

    /// Sends a SYN, with or without TOA that is forged.
    fn open(&mut self) -> Result<()> {
        let random = &self.random;
        let target = self.targets[random.below(self.targets.len())];
        let family = Family::of(target);
        let source = loop {
            let address = family.balancer((1 + random.below(SENDERS)) as u8);
            let port = if random.once_in(32) {
                AMBIGUOUS
            } else {
                1024 + random.below(64_000) as u16
            };
            let source = SocketAddr::new(address, port);
            // Which disguise is answered is to be told by the ends.
            if !self.sent.contains_key(&(source, target)) {
                break source;
            }
        };
        let mut segment = Segment {
            source,
            target,
            sequence: random.number(),
            acknowledgment: 0,
            flags: SYN,
            options: options(random),
            payload: Vec::new(),
        };
        if random.once_in(8) {
            segment.payload = random.bytes(1 + random.below(40));
        }
        let disguise = Disguise::random(random, family);
        for part in disguise.parts() {
            self.tally.entry(part).or_default().0 += 1;
        }
        self.send(random, &disguise, &segment)?;
        if self.sent.len() > REMEMBERED {
            // Those that are not answered by now never will be.
            self.sent.clear();
        }
        self.sent
            .insert((segment.source, segment.target), (segment, disguise));
        Ok(())
    }

    fn send(&self, random: &Random, disguise: &Disguise, segment: &Segment) -> Result<()> {
        for frame in disguise.frames(random, &ETHERNET, segment) {
            self.wire.send(&frame)?;
        }
        Ok(())
    }

    /// Completes the handshakes that have been answered, in the disguise of their SYNs and without, and sends a byte.
    /// Whether there were any.
    fn answer(&mut self) -> Result<bool> {
        let mut answers = Vec::new();
        while let Some(frame) = self.wire.receive()? {
            answers.extend(syn_ack(frame));
        }
        for (ends, sequence) in &answers {
            let Some((syn, disguise)) = self.sent.get(ends) else {
                continue;
            };
            let (mut segment, disguise) = (syn.clone(), disguise.clone());
            if self.answered.insert(*ends) {
                for part in disguise.parts() {
                    let (_, ports) = self.tally.entry(part).or_default();
                    *ports.entry(ends.1.port()).or_default() += 1;
                }
            }
            segment.sequence = segment.sequence.wrapping_add(1);
            segment.acknowledgment = sequence.wrapping_add(1);
            segment.flags = ACK | PSH;
            segment.options.clear();
            segment.payload = vec![b'x'];
            self.send(&self.answering, &disguise, &segment)?;
            self.send(&self.answering, &Disguise::default(), &segment)?;
        }
        Ok(!answers.is_empty())
    }
}

/// Options with TOA in them that names a client.
fn options(random: &Random) -> Vec<u8> {
    let mut options = random
        .pick(&[&[][..], &[2, 4, 5, 180], &[1, 1], &[4, 2, 3, 3, 7]])
        .to_vec();
    for _ in 0..random.pick(&[0, 1, 1, 1, 2]) {
        let family = random.pick(&Family::ALL);
        let port = if random.once_in(16) {
            AMBIGUOUS
        } else {
            random.number() as u16
        };
        let client = (family.client(random.below(250)), port).into();
        let forged = toa(random.pick(&[254, 254, 253]), client);
        if options.len() + forged.len() <= 40 {
            options.extend(forged);
        }
    }
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

/// The ends of the connection, the one that opened it first, and the sequence number, if the frame is an answer to a SYN.
fn syn_ack(frame: &[u8]) -> Option<((SocketAddr, SocketAddr), u32)> {
    let (from, to, tcp) = tcp_of(&SlicedPacket::from_ethernet(frame).ok()?)?;
    (tcp.syn() && tcp.ack()).then_some(((to, from), tcp.sequence_number()))
}

/// How many SYNs are to be sent.
pub(super) fn number() -> Result<u32> {
    Ok(connections()?.unwrap_or_else(|| usual(ENOUGH)))
}
