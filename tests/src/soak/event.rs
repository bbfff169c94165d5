//! What happens to an agent, and in which order.

use crate::random::Random;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The agent is killed, and another starts.
    Kill,
    /// The agent is stopped in order, and another starts.
    Restart,
    /// Another agent takes over.
    Takeover,
    /// The agent is killed, and one of another version starts.
    Upgrade,
    /// One of another version takes over.
    UpgradeByTakeover,
    /// The agent reads a good configuration.
    Good,
    /// The agent is to read a bad one.
    Bad,
    /// The service that binds restarts, and its cgroup with it.
    Service,
    /// Somebody takes something of the agent's away.
    Taken,
    /// A crowd fills the map of origins.
    Crowd,
    /// Many handshakes begin that nobody completes.
    Flood,
    /// The weather on the cable changes.
    Weather,
}

/// How often each happens before all have happened.
const DECK: [(Event, usize); 12] = [
    (Event::Kill, 6),
    (Event::Good, 4),
    (Event::Bad, 4),
    (Event::Restart, 1),
    (Event::Takeover, 1),
    (Event::Upgrade, 1),
    (Event::UpgradeByTakeover, 1),
    (Event::Service, 1),
    (Event::Taken, 2),
    (Event::Crowd, 1),
    (Event::Flood, 1),
    (Event::Weather, 2),
];

impl Event {
    /// Its name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::Restart => "restarts",
            Self::Takeover => "takeovers",
            Self::Upgrade => "other versions after a kill",
            Self::UpgradeByTakeover => "other versions by takeover",
            Self::Good => "good configurations",
            Self::Bad => "bad configurations",
            Self::Service => "restarts of a trusted service",
            Self::Taken => "deletions",
            Self::Crowd => "crowds",
            Self::Flood => "floods",
            Self::Weather => "changes of the weather",
        }
    }

    /// All of them, in a random order.
    pub(super) fn deck(random: &Random) -> Vec<Self> {
        let mut deck: Vec<_> = DECK
            .into_iter()
            .flat_map(|(event, times)| std::iter::repeat_n(event, times))
            .collect();
        for n in (1..deck.len()).rev() {
            deck.swap(n, random.below(n + 1));
        }
        deck
    }
}
