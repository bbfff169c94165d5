//! A sender, a network that loses, repeats and reorders, the programs, and a server: all that can happen between them,
//! for a model checker.

use agent_common::unwrap::{Refusal, stream::SYN};
use stateright::{Model, Property};

use super::{
    packet::Packet,
    path::{Path, Port},
    sender::{Phase, Sender, read},
    server::{Known, Listening, Reaction, Server},
};

/// How long headers may be.
const LENGTHS: [u8; 2] = [2, 4];
/// How many segments are under way at most.
const UNDER_WAY: usize = 2;
/// How often the network may have to do nothing but deliver until the server has everything.
const ROUNDS: usize = 12;

/// What may happen, and how often.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// How many segments the sender sends.
    pub(super) sends: u8,
    /// How many things go wrong, and of which kinds.
    pub(super) faults: u8,
    pub(super) kinds: &'static [Kind],
    /// The numbers of the sender's SYNs, one a connection.
    pub(super) isns: &'static [u32],
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The network loses and repeats segments.
    Network,
    /// The server has no room, or gives up.
    Server,
    /// Entries of maps are evicted; another connection changes what is expected.
    Maps,
    /// The agent gives the port up, and takes it up again.
    Agent,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    sender: Sender,
    path: Path,
    server: Server,
    /// Segments to the server, and to the sender.
    up: Vec<Packet>,
    down: Vec<Packet>,
    sends: u8,
    faults: u8,
    /// Whom the connection's origin names, and whether its SYN passed untouched.
    origin: Option<u8>,
    untouched: Vec<u32>,
    /// Whether the application has all that the sender has to say.
    is_served: bool,
    /// Whether segments of the former connection were under way when the last one began. They may well take its place at the
    /// server, with and without truepeer, and the sender waits.
    is_late: bool,
    /// Whether the agent has reset what would break when the port is given up.
    is_reset: bool,
    /// The last refusal, and of which connection.
    refused: Option<(u8, Refusal)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// The sender repeats its SYN, sends a part of its stream, resets the connection, or begins another.
    Syn,
    Send(u8, u8),
    Leave,
    Open(u8),
    /// The network delivers a segment to the server or to the sender, loses or repeats it.
    Up(usize),
    Down(usize),
    LoseUp(usize),
    LoseDown(usize),
    AgainUp(usize),
    /// The server repeats its SYN-ACK, closes the connection, gives a handshake up; its queue becomes full, or has room.
    Repeat,
    Close,
    GiveUp,
    Queue,
    /// An entry is evicted.
    Forget(Entry),
    /// Another connection of the sender's has changed what is expected.
    Expect(u8),
    /// The agent: gives the port up in three steps, and takes it up again.
    End,
    Reset,
    Remove,
    TakeUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    Handshake,
    Lingering,
    Handover,
}

impl State {
    fn new(limits: &Limits, listening: Listening, usual: u8, header: u8) -> Self {
        let sender = Sender::new(1, limits.isns[0], header);
        Self {
            sender,
            path: Path {
                usual: usual.into(),
                ..Path::default()
            },
            server: Server::new(listening),
            up: vec![sender.syn()],
            down: Vec::new(),
            sends: limits.sends,
            faults: limits.faults,
            origin: None,
            untouched: Vec::new(),
            is_served: false,
            is_late: false,
            is_reset: false,
            refused: None,
        }
    }

    /// The sender's segment comes to the server's host.
    fn arrives(&mut self, packet: &Packet) {
        let answer = self.path.ingress(packet, &self.server, read);
        if let Some(refusal) = answer.refused {
            self.refused = Some((self.sender.number, refusal));
        }
        self.down.extend(answer.back);
        let Some(through) = answer.through else {
            return;
        };
        if through.has(SYN) && through.sequence == packet.sequence {
            self.untouched.push(packet.sequence);
            self.untouched.sort_unstable();
            self.untouched.dedup();
        }
        let reaction = self.server.receives(&through);
        self.follows(reaction);
    }

    /// What programs do when the server has reacted.
    fn follows(&mut self, reaction: Reaction) {
        if reaction.is_accepted
            && let Known::Connected(connected) = &self.server.known
        {
            self.origin = self.path.accepted(connected.first);
        }
        self.is_served |= match &self.server.known {
            Known::Connected(connected) => connected.ended.0,
            Known::Waiting { .. } => true,
            Known::Nothing | Known::HalfOpen(_) => false,
        };
        if reaction.closed.is_some() {
            self.path.closed();
            self.origin = None;
        }
        self.answers(reaction.answer);
    }

    fn answers(&mut self, answer: Option<Packet>) {
        if let Some(answer) = answer {
            let answer = self.path.egress(&answer, &self.server);
            self.down.push(answer);
        }
    }

    /// The sender's answer goes out.
    fn returns(&mut self, packet: &Packet) {
        let answer = self.sender.receives(packet);
        self.up.extend(answer);
    }

    fn tidy(&mut self) {
        for under_way in [&mut self.up, &mut self.down] {
            under_way.sort();
            under_way.dedup();
        }
    }

    /// What the application has: its own stream from the first byte, or the raw one if nobody touched the SYN.
    fn is_right(&self, limits: &Limits) -> bool {
        let Known::Connected(connected) = &self.server.known else {
            return true;
        };
        let Some(first) = connected.received.first() else {
            // A server that has the end has what comes before.
            return !connected.ended.0;
        };
        let number = Sender::number_of(*first);
        let isn = limits.isns[usize::from(number) - 1];
        let is_untouched = self.untouched.contains(&isn) && connected.first == isn.wrapping_add(1);
        let is_it = |stream: Vec<u8>| {
            let is_whole = connected.received.len() == stream.len();
            stream.starts_with(&connected.received) && is_whole >= connected.ended.0
        };
        if is_untouched {
            let mut headers = LENGTHS.iter();
            headers.any(|header| is_it(Sender::new(number, isn, *header).stream()))
        } else {
            is_it(Sender::new(number, isn, 0).data().collect())
        }
    }

    /// Whom the origin names is the sender of what the application has.
    fn is_true(&self) -> bool {
        let (Known::Connected(connected), Some(client)) = (&self.server.known, self.origin) else {
            return true;
        };
        let first = connected.received.first();
        first.is_none_or(|first| Sender::number_of(*first) == Sender::number_of(client))
    }

    /// Whether the sender is served or told if nothing goes wrong any more: he repeats what is not acknowledged, and
    /// the network delivers.
    fn settles(&self) -> bool {
        if self.is_settled() {
            return true;
        }
        let mut state = self.clone();
        state.server.listening.is_full = false;
        for round in 0..ROUNDS {
            if state.is_settled() {
                return true;
            }
            for packet in std::mem::take(&mut state.up) {
                state.arrives(&packet);
            }
            for packet in std::mem::take(&mut state.down) {
                state.returns(&packet);
            }
            let sender = &mut state.sender;
            match sender.phase {
                Phase::Opening => state.up.push(sender.syn()),
                Phase::Open if sender.acknowledged < sender.length() => {
                    sender.sent = sender.length();
                    state.up.push(sender.part(sender.acknowledged, sender.sent));
                }
                _ => {}
            }
            // The server does not wait for ever.
            if round == ROUNDS / 2
                && let Known::HalfOpen(_) = state.server.known
            {
                state.server.known = Known::Nothing;
            }
        }
        state.is_settled()
    }

    fn is_settled(&self) -> bool {
        self.is_served || !self.sender.is_alive()
    }
}

impl Limits {
    /// How many of the properties are examples of what is to happen sometimes.
    pub(super) const EXAMPLES: usize = 4;

    /// What can go wrong.
    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        let State {
            path,
            server,
            up,
            down,
            ..
        } = state;
        for kind in self.kinds {
            match kind {
                Kind::Network => {
                    actions.extend((0..up.len()).map(Action::LoseUp));
                    actions.extend((0..down.len()).map(Action::LoseDown));
                    actions.extend((0..up.len()).map(Action::AgainUp));
                }
                Kind::Server => {
                    actions.push(Action::Queue);
                    if matches!(server.known, Known::HalfOpen(_)) {
                        actions.extend([Action::Repeat, Action::GiveUp]);
                    }
                }
                Kind::Maps => {
                    let entries = [
                        (path.handshake.is_some(), Entry::Handshake),
                        (path.lingering.is_some(), Entry::Lingering),
                        (path.handover.is_some(), Entry::Handover),
                    ];
                    let there = entries.into_iter().filter(|(is_there, _)| *is_there);
                    actions.extend(there.map(|(_, entry)| Action::Forget(entry)));
                    let other = LENGTHS.into_iter().find(|l| u16::from(*l) != path.usual);
                    actions.extend(other.map(Action::Expect));
                }
                Kind::Agent => match path.port {
                    Port::Unwrapped => actions.push(Action::End),
                    Port::Untouched => actions.push(Action::TakeUp),
                    Port::Ending => {}
                },
            }
        }
    }
}

impl Model for Limits {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let listening = |cookies, defers| Listening {
            cookies,
            defers,
            is_full: false,
        };
        let mut all = Vec::new();
        for listening in [
            listening(false, false),
            listening(true, false),
            listening(false, true),
        ] {
            for usual in LENGTHS {
                all.extend(LENGTHS.map(|header| State::new(self, listening, usual, header)));
            }
        }
        all
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let State {
            sender,
            path,
            server,
            up,
            down,
            ..
        } = state;
        actions.extend((0..up.len()).map(Action::Up));
        actions.extend((0..down.len()).map(Action::Down));
        if state.sends > 0 && up.len() < UNDER_WAY {
            match sender.phase {
                Phase::Opening => actions.push(Action::Syn),
                Phase::Open => {
                    let mut from = vec![sender.acknowledged, sender.sent];
                    from.dedup();
                    let ends = [sender.header, sender.length()];
                    for from in from {
                        let ends = ends.into_iter().filter(|end| *end > from);
                        actions.extend(ends.map(|end| Action::Send(from, end)));
                    }
                }
                Phase::Told | Phase::Left => {}
            }
            if sender.is_alive() {
                actions.push(Action::Leave);
            }
        }
        let is_last = usize::from(sender.number) == self.isns.len();
        if !is_last {
            actions.extend(LENGTHS.map(Action::Open));
        }
        if let Known::Connected(connected) = &server.known
            && !connected.ended.1
        {
            actions.push(Action::Close);
        }
        match path.port {
            Port::Ending if state.is_reset => actions.push(Action::Remove),
            Port::Ending => actions.push(Action::Reset),
            Port::Unwrapped | Port::Untouched => {}
        }
        if state.faults > 0 {
            self.faults(state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Syn | Action::Send(..) | Action::Leave => state.sends -= 1,
            Action::Up(_)
            | Action::Down(_)
            | Action::Open(_)
            | Action::Close
            | Action::Reset
            | Action::Remove => {}
            _ => state.faults -= 1,
        }
        match action {
            Action::Syn => state.up.push(state.sender.syn()),
            Action::Send(from, to) => {
                state.up.push(state.sender.part(from, to));
                state.sender.sent = state.sender.sent.max(to);
            }
            Action::Leave => {
                let reset = state.sender.leave();
                state.up.push(reset);
            }
            Action::Open(header) => {
                state.is_late = !state.up.is_empty();
                state.is_served = false;
                state.sender = Sender::new(2, self.isns[1], header);
                state.up.push(state.sender.syn());
            }
            Action::Up(n) => {
                let packet = state.up.remove(n);
                state.arrives(&packet);
            }
            Action::Down(n) => {
                let packet = state.down.remove(n);
                state.returns(&packet);
            }
            Action::LoseUp(n) => drop(state.up.remove(n)),
            Action::LoseDown(n) => drop(state.down.remove(n)),
            Action::AgainUp(n) => {
                let packet = state.up[n].clone();
                state.arrives(&packet);
            }
            Action::Repeat => {
                let answer = state.server.repeat();
                state.answers(answer);
            }
            Action::Close => {
                let end = state.server.close();
                state.answers(end);
            }
            Action::GiveUp => state.server.known = Known::Nothing,
            Action::Queue => state.server.listening.is_full ^= true,
            Action::Forget(Entry::Handshake) => state.path.handshake = None,
            Action::Forget(Entry::Lingering) => state.path.lingering = None,
            Action::Forget(Entry::Handover) => state.path.handover = None,
            Action::Expect(length) => state.path.usual = length.into(),
            Action::End => state.path.port = Port::Ending,
            Action::Reset => {
                state.is_reset = true;
                if state.path.give_up(&state.server) {
                    let reaction = state.server.abort();
                    state.follows(reaction);
                    state.path.delta = None;
                }
            }
            Action::Remove => state.path.port = Port::Untouched,
            Action::TakeUp => {
                state.path.port = Port::Unwrapped;
                state.is_reset = false;
            }
        }
        state.tidy();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never a wrong byte", |limits: &Self, state: &State| {
                state.is_right(limits)
            }),
            Property::always("an origin is true", |_, state: &State| state.is_true()),
            Property::always("served or told", |_, state: &State| {
                state.is_late || state.settles()
            }),
            Property::sometimes("translated and served", |_, state: &State| {
                state.path.delta.is_some() && state.is_settled() && state.sender.is_alive()
            }),
            Property::sometimes("told that a header is late", |_, state: &State| {
                state.refused == Some((1, Refusal::Late)) && state.sender.phase == Phase::Told
            }),
            Property::sometimes("told that an entry was lost", |_, state: &State| {
                state.refused == Some((1, Refusal::Full)) && state.sender.phase == Phase::Told
            }),
            Property::sometimes("translated while it waits", |_, state: &State| {
                state.path.lingering.is_some()
                    && matches!(state.server.known, Known::Waiting { .. })
            }),
        ]
    }
}
