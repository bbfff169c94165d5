//! What truepeer promises while something changes. Nobody is ever told a wrong client, given a wrong byte or left waiting; this
//! says when clients may be unknown, and when connections may fail.

use super::way::Way;

/// What changes truepeer, or what is around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// The agent was killed, and the next one is not ready yet.
    Killed,
    /// The agent was told to stop, and the next one is not ready yet.
    Stopped,
    /// Another agent takes over from the one that runs.
    Followed,
    /// The former agent, in which relayed connections go on, is told to end.
    Ended,
    /// The next agent knows other things of connections.
    KnowsOther,
    /// The next agent translates headers otherwise.
    NeedsOther,
    /// The agent reads another configuration, which is good, and by which each way is served as before.
    Read,
    /// The agent reads one by which senders are trusted otherwise: relays serve by it from the next connection on.
    Trusts,
    /// The agent reads another configuration, which is bad.
    Refused,
    /// The service that binds restarts, and with it its cgroup.
    Service,
    /// Somebody takes away what a steer needs.
    Diverted,
    /// Somebody detaches the program that learns.
    Unlearnt,
    /// Somebody detaches a program that reveals.
    Hidden,
    /// The map of origins is full.
    Full,
    /// Many handshakes begin that nobody completes.
    Flooded,
    /// Packets are lost or come late.
    Weather,
}

impl Change {
    /// Its name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Killed => "while the agent is dead",
            Self::Stopped => "while the agent is stopped",
            Self::Followed => "while another takes over",
            Self::Ended => "when the former agent ends",
            Self::KnowsOther => "while a version follows that knows other things",
            Self::NeedsOther => "while a version follows that translates otherwise",
            Self::Read => "while a good configuration is read",
            Self::Trusts => "while other rules of trust are read",
            Self::Refused => "while a bad configuration is read",
            Self::Service => "while the trusted service restarts",
            Self::Diverted => "while a steer lacks something",
            Self::Unlearnt => "while nothing learns",
            Self::Hidden => "while nothing reveals",
            Self::Full => "while the map of origins is full",
            Self::Flooded => "in a flood",
            Self::Weather => "when the weather changes",
        }
    }
}

/// Whose connections something may happen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Nobody's.
    Nobodys,
    /// Those that had begun before the change.
    Begun,
    /// Those that are kept between two requests.
    Kept,
    /// Anybody's.
    Any,
}

/// What a change may do to connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct May {
    /// Whose client may be unknown.
    pub(super) be_unknown: Whose,
    /// Which may be refused or reset.
    pub(super) fail: Whose,
}

/// Nothing happens.
const __: May = may_be(Whose::Nobodys, Whose::Nobodys);
/// The client may be unknown.
const UN: May = may_be(Whose::Any, Whose::Nobodys);
/// The connection may fail.
const FA: May = may_be(Whose::Nobodys, Whose::Any);
/// The connection may fail if it had begun.
const BE: May = may_be(Whose::Nobodys, Whose::Begun);
/// The connection may be closed between two requests, as HTTP has it.
const KE: May = may_be(Whose::Nobodys, Whose::Kept);
/// The client may be unknown; the connection may fail if it had begun.
const UB: May = may_be(Whose::Any, Whose::Begun);
/// The client may be unknown, or the connection may fail.
const UF: May = may_be(Whose::Any, Whose::Any);

const fn may_be(be_unknown: Whose, fail: Whose) -> May {
    May { be_unknown, fail }
}

/// What may happen to connections by this way during a change.
#[rustfmt::skip]
pub(super) fn may(change: Change, way: Way) -> May {
    let each = match change {
        //                     bare steer bind unwrap relay http toa
        // The programs go on. The relays were in the process.
        Change::Killed     => [__, __, __, __, FA, FA, __],
        // New connections pass: the proxy that binds is refused its address, headers stay in the stream, nobody relays. What had
        // been steered is reset, since its application's answers have no way back.
        Change::Stopped    => [__, UB, UF, UF, FA, FA, UN],
        // Nobody is refused.
        Change::Followed   => [__, __, __, __, __, KE, __],
        Change::Ended      => [__, __, __, __, BE, BE, __],
        // Connections in progress become unknown, or, if they are translated, are reset; so are unfinished handshakes.
        Change::KnowsOther => [__, __, UN, UN, UN, UN, UN],
        Change::NeedsOther => [__, __, __, FA, __, __, __],
        Change::Read       => [__, __, __, __, __, __, __],
        Change::Trusts     => [__, __, __, __, __, KE, __],
        Change::Refused    => [__, __, __, __, __, __, __],
        // Nobody listens.
        Change::Service    => [__, __, FA, __, __, __, __],
        Change::Diverted   => [__, UF, __, __, __, __, __],
        // Nobody writes down any more which connections are the proxy's own, and `sk_lookup` brings them back to it.
        Change::Unlearnt   => [__, FA, UN, UN, UN, UN, UN],
        Change::Hidden     => [__, __, UN, UN, UN, UN, UN],
        Change::Full       => [__, __, UN, UN, UN, UN, UN],
        Change::Flooded    => [__, __, __, __, __, __, __],
        Change::Weather    => [__, __, __, __, __, __, __],
    };
    each[way as usize]
}
