//! A connection in the model and in fact: each step is taken in both, and both must come to the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use agent_common::unwrap::Refusal;
use agent_common::unwrap::stream::{ACK, FIN, RST, SYN};
use anyhow::{Context as _, Result, ensure};
use tests::agent::Entries;
use tests::clients::raw::Pinned;
use tests::model::{Connected, Known, Listening, Packet, Path, Port, Reaction, Server as Modelled};
use tests::random::Random;
use tests::topology::{Family, Sidecar};

use super::sender::{Headers, Stream};
use super::server::{Application, Server};
use super::stage::{Event, Stage};
use crate::stage::PORT;

/// What the tally calls a connection that was accepted.
pub(super) const ACCEPTED: &str = "accepted";
/// How long a header of version 2 without TLVs is: what the programs expect of a stranger.
const USUAL: [u16; 2] = [28, 52];
/// The ports from which the sender connects.
const PORTS: std::ops::Range<u32> = 1024..65_536;

/// How far wrong acknowledgments are off: what is near a SYN cookie may be another one.
const WRONG: u32 = 1 << 16;

/// What may happen. Numbers of the server are the model's.
#[derive(Clone, Debug)]
enum Step {
    /// The sender sends a segment.
    Send(Packet),
    /// The server's application has nothing more to say, or resets the connection.
    Close,
    Abort,
    /// The server's kernel gives the handshake up.
    GiveUp,
    /// The server's queue becomes full, or has room again.
    Queue,
    /// An entry is evicted.
    ForgetHandshake,
    ForgetLingering,
    ForgetClient,
    /// Another connection of the sender's has changed what is expected.
    Expect(u16),
    /// Something happens to the agent.
    Agent(Event),
}

/// What comes of a step.
#[derive(Debug, Default)]
struct Outcome {
    /// What the sender gets.
    answers: Vec<Packet>,
    /// Whom the connection comes from that was accepted; `None` in it: nobody says.
    accepted: Option<Option<u8>>,
    /// The connection that has ended.
    closed: Option<Connected>,
    refused: Option<Refusal>,
}

/// The server's numbers: the model's of each SYN-ACK, and that in fact.
#[derive(Debug, Default)]
struct Numbers(BTreeMap<u32, u32>);

impl Numbers {
    /// A number of the model in fact.
    fn real(&self, modelled: u32) -> u32 {
        /// How far behind its SYN-ACK a server's numbers are, at most.
        const NEAR: u32 = 8;
        let behind = |known: u32| modelled.wrapping_sub(known);
        let known = self.0.iter().find(|(known, _)| behind(**known) < NEAR);
        known.map_or(modelled, |(known, real)| real.wrapping_add(behind(*known)))
    }
}

/// A connection, or several between the same two ends.
pub(super) struct Walk<'a> {
    stage: &'a mut Stage,
    source: SocketAddr,
    target: SocketAddr,
    headers: Headers,
    /// Options of SYNs.
    options: Vec<u8>,
    /// The model.
    path: Path,
    modelled: Modelled,
    /// The same in fact.
    server: Server,
    application: Option<Application>,
    /// The last SYN of the sender, each one's header, and as which number the server got it.
    isn: u32,
    header_of: BTreeMap<u32, usize>,
    seen_as: BTreeMap<u32, u32>,
    numbers: Numbers,
    log: String,
}

impl<'a> Walk<'a> {
    /// Two ends between which nothing has happened yet.
    pub(super) fn new(stage: &'a mut Stage, random: &Random) -> Result<Self> {
        let family = random.pick(&Family::ALL);
        stage.connections += 1;
        let port = PORTS.start + stage.connections % (PORTS.end - PORTS.start);
        let source = SocketAddr::new(family.balancer(1), port as u16);
        let target = SocketAddr::new(Sidecar::address(family), PORT);
        let listening = Listening {
            cookies: random.once_in(4),
            defers: random.once_in(4),
            is_full: false,
        };
        let usual = match stage.maps.entries(source, target)?.usual {
            Some(length) => length as u16,
            None => USUAL[usize::from(family == Family::V6)],
        };
        let isn = match random.below(4) {
            // Numbers begin again soon.
            0 => u32::MAX - random.below(80) as u32,
            _ => random.number(),
        };
        Ok(Self {
            server: stage.listen(target, listening)?,
            headers: Headers::new(family, source, target),
            options: match random.below(4) {
                0 => stage.fast_open(target).to_vec(),
                _ => Vec::new(),
            },
            path: Path {
                port: stage.port,
                usual,
                ..Path::default()
            },
            modelled: Modelled::new(listening),
            application: None,
            isn,
            header_of: BTreeMap::new(),
            seen_as: BTreeMap::new(),
            numbers: Numbers::default(),
            log: format!("from {source}, {listening:?}\n"),
            source,
            target,
            stage,
        })
    }

    /// What has happened, for people.
    pub(super) fn trace(&self) -> &str {
        &self.log
    }

    /// Takes steps until there is nothing more to try.
    pub(super) fn go(&mut self, random: &Random) -> Result<()> {
        while !random.once_in(25) {
            let event = if random.once_in(4) {
                self.stage.event()
            } else {
                None
            };
            let step = match event {
                Some(event) => Step::Agent(event),
                None => self.choose(random),
            };
            self.take(step)?;
        }
        // The next connection is to find nothing of this one.
        if self.modelled.listening.is_full {
            self.take(Step::Queue)?;
        }
        match self.modelled.known {
            Known::HalfOpen(_) => self.take(Step::GiveUp),
            Known::Connected(_) => self.take(Step::Abort),
            Known::Nothing | Known::Waiting { .. } => Ok(()),
        }
    }

    fn take(&mut self, step: Step) -> Result<()> {
        let kind = format!("{step:?}");
        let kind = kind.split(['(', ' ']).next().unwrap_or_default();
        self.stage.tally.count(format!("step {kind}"));
        writeln!(self.log, "{step:x?}")?;
        let repeat = self.repeat();
        let refused = self.stage.refused()?;
        let (wanted, answers) = match step {
            // It takes a while, and stays on no processor.
            Step::Agent(event) => {
                self.stage.happens(event)?;
                let wanted = self.model(&step);
                let _pinned = Pinned::here()?;
                (wanted, self.stage.raw.answers(self.source, self.target)?)
            }
            _ => {
                let _pinned = Pinned::here()?;
                self.perform(&step)?;
                let answers = self.stage.raw.answers(self.source, self.target)?;
                (self.model(&step), answers)
            }
        };
        writeln!(self.log, "    {:x?}\n    {:x?}", self.path, self.modelled)?;
        let told = wanted.refused;
        if let Some(refusal) = told {
            self.stage
                .tally
                .count(format!("refused {}", refusal.name()));
        }
        self.answered(&wanted.answers, &answers, repeat)?;
        self.served(wanted)?;
        self.remembered()?;
        let mut expected = refused;
        if let Some(refusal) = told {
            *expected.entry(refusal as u32).or_default() += 1;
        }
        let counted = self.stage.refused()?;
        ensure!(
            counted == expected,
            "refused {told:?}: counted {counted:?}, not {expected:?}"
        );
        Ok(())
    }

    /// Takes a step in fact.
    fn perform(&mut self, step: &Step) -> Result<()> {
        let (source, target) = (self.source, self.target);
        let numbers = &self.numbers;
        let Stage {
            maps,
            raw,
            inside,
            sidecar,
            ..
        } = &mut *self.stage;
        match step {
            Step::Send(packet) => {
                let packet = Packet {
                    acknowledgment: numbers.real(packet.acknowledgment),
                    ..packet.clone()
                };
                // Without programs, it would open a connection.
                let is_plain = !packet.has(SYN) || self.path.port == Port::Untouched;
                let options = if is_plain { &[] } else { &*self.options };
                raw.deliver(source, target, &packet, options)
            }
            Step::Close => {
                let application = self.application.as_ref();
                Ok(application.context("accepted")?.finish()?)
            }
            Step::Abort => self.application.take().context("accepted")?.abort(),
            Step::GiveUp => {
                let Known::HalfOpen(next) = self.modelled.known else {
                    unreachable!("a handshake");
                };
                inside.deliver(source, target, &Packet::bare(next, 0, RST), &[])
            }
            Step::Queue => self.server.turn_queue(&sidecar.pod),
            Step::ForgetHandshake => maps.forget_handshake(source, target),
            Step::ForgetLingering => maps.forget_lingering(source, target),
            Step::ForgetClient => {
                let (isn, _) = self.path.handover.context("handed over")?;
                maps.forget_client(source, target, isn)
            }
            Step::Expect(length) => maps.expect(source, target, (*length).into()),
            Step::Agent(_) => unreachable!("the stage does"),
        }
    }

    /// Takes a step in the model.
    fn model(&mut self, step: &Step) -> Outcome {
        let mut outcome = Outcome::default();
        match step {
            Step::Send(packet) => self.arrives(packet, &mut outcome),
            Step::Close => {
                let end = self.modelled.close();
                self.answers(end, &mut outcome);
            }
            Step::Abort => {
                let reaction = self.modelled.abort();
                self.follows(reaction, &mut outcome);
            }
            Step::GiveUp => self.modelled.known = Known::Nothing,
            Step::Queue => self.modelled.listening.is_full ^= true,
            Step::ForgetHandshake => self.path.handshake = None,
            Step::ForgetLingering => self.path.lingering = None,
            Step::ForgetClient => self.path.handover = None,
            Step::Expect(length) => self.path.usual = *length,
            Step::Agent(Event::Killed | Event::Started) => {}
            Step::Agent(Event::GivesUp) => {
                self.path.port = Port::Ending;
                if self.path.give_up(&self.modelled) {
                    let reaction = self.modelled.abort();
                    self.follows(reaction, &mut outcome);
                    self.path.delta = None;
                }
                self.path.port = Port::Untouched;
            }
            Step::Agent(Event::TakesUp) => self.path.port = Port::Unwrapped,
        }
        self.stage.port = self.path.port;
        outcome
    }

    /// The sender's segment comes to the server's host.
    fn arrives(&mut self, packet: &Packet, outcome: &mut Outcome) {
        let headers = &self.headers;
        let read = |payload: &[u8]| headers.read(payload);
        let then = self.path.ingress(packet, &self.modelled, read);
        outcome.refused = then.refused;
        outcome.answers.extend(then.back);
        if let Some(through) = then.through {
            if through.has(SYN) {
                self.seen_as.insert(through.sequence, packet.sequence);
            }
            let reaction = self.modelled.receives(&through);
            self.follows(reaction, outcome);
        }
    }

    /// What programs do when the server has reacted.
    fn follows(&mut self, reaction: Reaction, outcome: &mut Outcome) {
        if reaction.is_accepted {
            let first = match (&self.modelled.known, &reaction.closed) {
                (Known::Connected(connected), _) | (_, Some(connected)) => connected.first,
                _ => unreachable!("a connection"),
            };
            outcome.accepted = Some(self.path.accepted(first));
        }
        if reaction.closed.is_some() {
            self.path.closed();
            outcome.closed = reaction.closed;
        }
        self.answers(reaction.answer, outcome);
    }

    fn answers(&mut self, answer: Option<Packet>, outcome: &mut Outcome) {
        if let Some(answer) = answer {
            let answer = self.path.egress(&answer, &self.modelled);
            outcome.answers.push(answer);
        }
    }

    /// What the sender gets if the server's kernel repeats what it has sent.
    fn repeat(&self) -> Option<Packet> {
        let repeat = self.modelled.repeat()?;
        Some(self.path.clone().egress(&repeat, &self.modelled))
    }

    /// Whether the sender got what the model says, and nothing else but what the server may repeat at any time.
    fn answered(
        &mut self,
        wanted: &[Packet],
        answers: &[Packet],
        repeat: Option<Packet>,
    ) -> Result<()> {
        let mut missing = wanted.iter().peekable();
        for answer in answers {
            if let Some(wanted) = missing.peek()
                && self.is(wanted, answer)
            {
                missing.next();
                continue;
            }
            let repeats = [repeat.clone(), self.repeat()];
            ensure!(
                repeats
                    .iter()
                    .flatten()
                    .any(|repeat| self.is(repeat, answer)),
                "the sender got {answers:x?}, and not {wanted:x?}; numbers {:x?}",
                self.numbers
            );
            if let Some(repeat) = self.modelled.repeat() {
                self.path.egress(&repeat, &self.modelled);
            }
        }
        let missing: Vec<_> = missing.collect();
        ensure!(
            missing.is_empty(),
            "the sender did not get {missing:x?}, but {answers:x?}"
        );
        Ok(())
    }

    /// Whether an answer is the one that the model has. A SYN-ACK's number is learnt.
    fn is(&mut self, wanted: &Packet, answer: &Packet) -> bool {
        if wanted.flags != answer.flags {
            return false;
        }
        if answer.has(SYN) {
            self.numbers.0.insert(wanted.sequence, answer.sequence);
        }
        let is_acknowledged = !answer.has(ACK) || answer.acknowledgment == wanted.acknowledgment;
        answer.sequence == self.numbers.real(wanted.sequence)
            && is_acknowledged
            && answer.payload.is_empty()
    }

    /// Whether the application has what the model says.
    fn served(&mut self, wanted: Outcome) -> Result<()> {
        let accepted = self.server.accept()?;
        let peer = accepted.as_ref().map(|(_, peer)| *peer);
        let named = wanted.accepted.map(|client| match client {
            Some(client) => self.headers.client(client),
            None => self.source,
        });
        ensure!(peer == named, "accepted {peer:?} instead of {named:?}");
        if let Some((application, _)) = accepted {
            self.stage.tally.count(ACCEPTED.into());
            self.application = Some(application);
        }
        let connected = match (&self.modelled.known, &wanted.closed) {
            (Known::Connected(connected), _) | (_, Some(connected)) => connected,
            _ => return Ok(()),
        };
        // If it has reset the connection, it has none any more.
        if let Some(application) = &mut self.application {
            application.read();
            let Application {
                received, is_ended, ..
            } = application;
            ensure!(
                *received == connected.received && *is_ended == connected.ended.0,
                "the application has {:?}, ended: {is_ended}",
                String::from_utf8_lossy(received)
            );
        }
        if wanted.closed.is_some() {
            self.application = None;
        }
        Ok(())
    }

    /// Whether the programs have noted what the model says.
    fn remembered(&self) -> Result<()> {
        let Path {
            usual,
            handshake,
            delta,
            lingering,
            handover,
            ..
        } = self.path;
        let entries = self.stage.maps.entries(self.source, self.target)?;
        let family = Family::of(self.target);
        let default = u32::from(USUAL[usize::from(family == Family::V6)]);
        let wanted = Entries {
            handshake,
            delta,
            lingering,
            usual: Some(usual.into()),
        };
        let noted = Entries {
            usual: entries.usual.or(Some(default)),
            ..entries
        };
        ensure!(
            noted == wanted,
            "the maps have {noted:x?} instead of {wanted:x?}"
        );
        if let Some((isn, client)) = handover {
            let noted = self.stage.maps.client(self.source, self.target, isn)?;
            let wanted = self.headers.client(client);
            ensure!(
                noted == Some(wanted),
                "{noted:?} is noted instead of {wanted}"
            );
        }
        Ok(())
    }
}

/// Steps at random.
impl Walk<'_> {
    /// What happens next.
    fn choose(&mut self, random: &Random) -> Step {
        if let Some(step) = self.forget(random) {
            return step;
        }
        if random.once_in(40) {
            return Step::Queue;
        }
        let mut packet = match &self.modelled.known {
            Known::Nothing => match random.below(20) {
                0..=8 => return Step::Send(self.syn(random)),
                9..=13 => self.stream(random, self.isn).first(random),
                14..=16 => self.stream(random, self.isn).any(random),
                17 => self.odd(random),
                _ => self.reset(random),
            },
            // What is lost is noted again, perhaps with another length.
            Known::HalfOpen(_) if self.path.handshake.is_none() && random.once_in(2) => {
                return match random.below(2) {
                    0 => Self::expect(random),
                    _ => Step::Send(Packet::bare(self.opened(), 0, SYN)),
                };
            }
            Known::HalfOpen(_) => match random.below(20) {
                0..=2 => return Step::Send(self.syn(random)),
                3 => return Step::GiveUp,
                4..=13 => self.stream(random, self.opened()).first(random),
                14..=16 => self.stream(random, self.opened()).any(random),
                17 => self.odd(random),
                _ => self.reset(random),
            },
            Known::Connected(connected) => match random.below(20) {
                0 | 1 => return Step::Send(self.syn(random)),
                2 if !connected.ended.1 => return Step::Close,
                3 if random.once_in(3) => return Step::Abort,
                4 => self.reset(random),
                5 => self.odd(random),
                6..=12 => {
                    let stream = self.stream(random, self.opened());
                    let at = self.expected().wrapping_sub(stream.number(0));
                    stream.next(random, at as usize)
                }
                _ => self.stream(random, self.opened()).any(random),
            },
            Known::Waiting { .. } => match random.below(20) {
                0..=7 => return Step::Send(self.syn(random)),
                8..=9 => self.reset(random),
                10 => self.odd(random),
                _ => self.stream(random, self.opened()).any(random),
            },
        };
        packet.acknowledgment = self.acknowledgment(random);
        // With a reset, some kernels do not look at it.
        if random.once_in(12) && self.has_no_connection() && !packet.has(RST) {
            packet.acknowledgment = packet.acknowledgment.wrapping_add(WRONG);
        }
        if self.is_ambiguous(&packet) {
            return Step::GiveUp;
        }
        Step::Send(packet)
    }

    /// Whether it is a reset of a half-open connection with a number within the window that is not the next one: some kernels
    /// take it, and others challenge it.
    fn is_ambiguous(&self, packet: &Packet) -> bool {
        /// No window is longer.
        const WINDOW: u32 = 1 << 17;
        let Known::HalfOpen(next) = self.modelled.known else {
            return false;
        };
        let read = |payload: &[u8]| self.headers.read(payload);
        let then = self.path.clone().ingress(packet, &self.modelled, read);
        then.through.is_some_and(|through| {
            let ahead = through.sequence.wrapping_sub(next);
            packet.has(RST) && (1..WINDOW).contains(&ahead)
        })
    }

    /// An entry that is evicted, or changed by others.
    fn forget(&self, random: &Random) -> Option<Step> {
        let Path {
            handshake,
            lingering,
            handover,
            ..
        } = self.path;
        if handshake.is_some() && random.once_in(30) {
            return Some(Step::ForgetHandshake);
        }
        if lingering.is_some() && random.once_in(15) {
            return Some(Step::ForgetLingering);
        }
        if handover.is_some() && random.once_in(30) {
            return Some(Step::ForgetClient);
        }
        random.once_in(30).then(|| Self::expect(random))
    }

    fn expect(random: &Random) -> Step {
        Step::Expect(random.pick(&[16, 28, 40, 52, 68]))
    }

    /// The sender's number of the SYN of the connection that the server has.
    fn opened(&self) -> u32 {
        let syn = match &self.modelled.known {
            Known::HalfOpen(next) => next.wrapping_sub(1),
            Known::Connected(connected) => connected.first.wrapping_sub(1),
            Known::Nothing | Known::Waiting { .. } => return self.isn,
        };
        *self.seen_as.get(&syn).unwrap_or(&self.isn)
    }

    /// What the server expects next, as the sender counts.
    fn expected(&self) -> u32 {
        let (next, delta) = match &self.modelled.known {
            Known::Connected(connected) => (connected.next(), self.path.delta),
            Known::Waiting { next, .. } => (*next, self.path.lingering),
            Known::Nothing | Known::HalfOpen(_) => return self.opened().wrapping_add(1),
        };
        next.wrapping_add_signed(-delta.unwrap_or(0))
    }

    /// The stream that follows this SYN.
    fn stream(&mut self, random: &Random, isn: u32) -> Stream {
        let number = self.headers.len();
        let header = self.header_of.entry(isn);
        self.headers
            .stream(*header.or_insert_with(|| random.below(number)), isn)
    }

    /// A SYN: the same again, or a later or earlier one.
    fn syn(&mut self, random: &Random) -> Packet {
        // What was said of a SYN is known by the number that the server saw.
        while random.once_in(2) || self.seen_as.contains_key(&self.isn) {
            let ahead = [
                20,
                5000,
                1 << 20,
                1 << 30,
                5000_u32.wrapping_neg(),
                20_u32.wrapping_neg(),
            ];
            let from = [self.isn, self.expected()];
            self.isn = random.pick(&from).wrapping_add(random.pick(&ahead));
        }
        Packet::bare(self.isn, 0, SYN)
    }

    fn reset(&self, random: &Random) -> Packet {
        let ahead = [0, 0, 0, 5000, 1 << 20, 1_u32.wrapping_neg()];
        let from = [self.expected(), self.opened().wrapping_add(1)];
        let sequence = random.pick(&from).wrapping_add(random.pick(&ahead));
        Packet::bare(sequence, 0, RST | random.pick(&[0, ACK]))
    }

    /// What an honest sender does not send.
    fn odd(&mut self, random: &Random) -> Packet {
        let stream = self.stream(random, self.opened());
        let part = stream.any(random);
        let far = random.pick(&[5000, 1 << 20, (1_u32 << 20).wrapping_neg()]);
        match random.below(6) {
            0 => stream.bare_end(),
            1 => Packet { flags: 0, ..part },
            2 => Packet {
                flags: SYN,
                ..stream.first(random)
            },
            3 => Packet::bare(self.isn, 0, SYN | ACK),
            4 => Packet::bare(self.expected().wrapping_add(far), 0, ACK),
            _ => Packet {
                sequence: part.sequence.wrapping_add(1 << 20),
                flags: part.flags & !FIN,
                ..part
            },
        }
    }

    fn has_no_connection(&self) -> bool {
        matches!(self.modelled.known, Known::Nothing | Known::HalfOpen(_))
    }

    /// What the sender acknowledges.
    fn acknowledgment(&self, random: &Random) -> u32 {
        match &self.modelled.known {
            Known::Connected(connected) => {
                let is_known =
                    connected.ended.1 && (connected.is_acknowledged || random.once_in(2));
                connected.own().wrapping_add(is_known.into())
            }
            Known::Waiting { sent, .. } => *sent,
            Known::HalfOpen(next) => Modelled::isn(next.wrapping_sub(1)).wrapping_add(1),
            Known::Nothing => {
                let handshake = self.path.handshake.map(|handshake| handshake.first());
                let first = handshake.unwrap_or(self.isn.wrapping_add(1));
                Modelled::isn(first.wrapping_sub(1)).wrapping_add(1)
            }
        }
    }
}
