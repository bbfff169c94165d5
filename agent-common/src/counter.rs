//! The data path's counters: slots of the `COUNTERS` per-CPU array.

/// A counter, whose discriminant is its slot. It counts from the creation of the maps on.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// New connections that were steered to a proxy.
    Steered = 0,
    /// New connections that a steer concerned while the proxy had no listener: they went to the application
    /// as if truepeer were absent.
    NoListener = 1,
    /// New connections that passed because the agent was draining.
    Drained = 2,
    /// Packets whose proxy socket was found but could not be assigned.
    AssignFailed = 3,
    /// Origins learnt from the wire.
    LearntWire = 4,
    /// Connections without an origin because `ORIGINS` was full.
    OriginsFull = 5,
    /// Origins removed because their socket closed.
    Closed = 6,
    /// Closed connections, and refused ones, that the access log missed because `EVENTS` was full, or half full.
    EventsLost = 7,
    /// Origins learnt from a trusted proxy's bind.
    LearntBind = 8,
    /// Answers that an IPv4 socket could not express because its client has an IPv6 address.
    RevealInexpressible = 9,
    /// Origins learnt from TOA.
    LearntToa = 10,
    /// SYNs whose TOA was ignored because no rule believes it of their sender on that port.
    ToaUntrusted = 11,
    /// SYNs whose TOA was ignored because it names no client, or more than one.
    ToaInvalid = 12,
    /// SYNs that were sent with TOA.
    CarriedToa = 13,
    /// SYNs that went out without TOA because their options left no room.
    CarryNoRoom = 14,
    /// Origins learnt from a PROXY header.
    LearntProxy = 15,
    /// Connections whose header had another length than its sender's last: their sequence numbers are
    /// translated.
    UnwrapTranslated = 16,
    /// Connections refused because no rule believes a PROXY header of their sender.
    UnwrapUntrusted = 17,
    /// Connections refused because they did not begin with a PROXY header.
    UnwrapNoHeader = 18,
    /// Connections refused because their PROXY header is not valid.
    UnwrapInvalid = 19,
    /// Connections refused because their PROXY header did not come in one segment.
    UnwrapSplit = 20,
    /// Connections refused because too many are being translated.
    UnwrapFull = 21,
    /// Origins of connections that the relay accepted. Counted by the agent, not by the data path.
    LearntRelay = 22,
    /// Origins of applications' connections learnt from a relay that reads `X-Forwarded-For`.
    LearntXff = 23,
    /// SYNs that were given TOA before the node's own NAT.
    NodeToa = 24,
    /// SYNs that went on to the node's own NAT without TOA because their options left no room.
    NodeNoRoom = 25,
    /// SYNs whose own TOA was taken off before the node's own NAT because nothing trusts their sender.
    NodeForged = 26,
    /// Origins learnt from the node's own TOA.
    LearntSnat = 27,
    /// SYNs dropped as they came to a node, or left it, because they were in fragments or behind extension headers, where
    /// TOA could pass unread.
    NodeHidden = 28,
    /// PROXY headers of unwrapped connections whose details are unknown because `HEADERS` was full.
    HeadersLost = 29,
    /// SYNs whose TOA was ignored because their sender must sign and did not.
    ToaUnsigned = 30,
    /// SYNs whose TOA was ignored because its tag is wrong or has expired.
    ToaForged = 31,
    /// SYNs whose TOA was ignored because its tag had been used before.
    ToaReplayed = 32,
    /// SYNs whose TOA was ignored because there were too many tags to remember.
    ToaFull = 33,
    /// SYNs that were sent with TOA but without a tag because their options left no room.
    CarryUnsigned = 34,
    /// Connections refused because a PROXY header names an IPv6 client, and the server has an IPv4 socket.
    UnwrapInexpressible = 35,
    /// Connections of local proxies that were refused for the same reason.
    BindInexpressible = 36,
    /// Origins removed because the relay refused their connection, or the connection ended while it was recorded. Counted by
    /// the agent, not by the data path.
    Forgotten = 37,
    /// SYNs whose TOA was taken off where they left a node because the node did not write it.
    NodeStripped = 38,
    /// Connections whose client is unknown because the answer to their SYN did not go back by the node's uplink.
    ToaUnanswered = 39,
    /// Frames to ports with unwrap that were dropped because their TCP header was hidden: in fragments, behind extension
    /// headers or several VLAN tags.
    UnwrapHidden = 40,
    /// SYNs whose TOA was ignored, or that were sent without it, because it may as well be TCP Fast Open's cookie.
    ToaAmbiguous = 41,
    /// Connections whose PROXY header came when the server had given the handshake up.
    UnwrapLate = 42,
    /// SYNs to ports with unwrap that passed untouched because no socket of the network namespace takes them: nobody listens, or
    /// netfilter sends them elsewhere.
    UnwrapElsewhere = 43,
    /// Origins removed because their sockets were gone although their end was not told. Counted by the agent, not by the data
    /// path.
    Swept = 44,
}

impl Counter {
    /// Every counter, in the order of the slots.
    pub const ALL: [Self; 45] = [
        Self::Steered,
        Self::NoListener,
        Self::Drained,
        Self::AssignFailed,
        Self::LearntWire,
        Self::OriginsFull,
        Self::Closed,
        Self::EventsLost,
        Self::LearntBind,
        Self::RevealInexpressible,
        Self::LearntToa,
        Self::ToaUntrusted,
        Self::ToaInvalid,
        Self::CarriedToa,
        Self::CarryNoRoom,
        Self::LearntProxy,
        Self::UnwrapTranslated,
        Self::UnwrapUntrusted,
        Self::UnwrapNoHeader,
        Self::UnwrapInvalid,
        Self::UnwrapSplit,
        Self::UnwrapFull,
        Self::LearntRelay,
        Self::LearntXff,
        Self::NodeToa,
        Self::NodeNoRoom,
        Self::NodeForged,
        Self::LearntSnat,
        Self::NodeHidden,
        Self::HeadersLost,
        Self::ToaUnsigned,
        Self::ToaForged,
        Self::ToaReplayed,
        Self::ToaFull,
        Self::CarryUnsigned,
        Self::UnwrapInexpressible,
        Self::BindInexpressible,
        Self::Forgotten,
        Self::NodeStripped,
        Self::ToaUnanswered,
        Self::UnwrapHidden,
        Self::ToaAmbiguous,
        Self::UnwrapLate,
        Self::UnwrapElsewhere,
        Self::Swept,
    ];

    /// Its name in `truepeer status` and, between `truepeer_` and `_total`, in the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steered => "steered_connections",
            Self::NoListener => "steer_no_listener",
            Self::Drained => "steer_drained",
            Self::AssignFailed => "steer_assign_failures",
            Self::LearntWire => "learnt_wire",
            Self::OriginsFull => "origins_full",
            Self::Closed => "closed_connections",
            Self::EventsLost => "events_lost",
            Self::LearntBind => "learnt_bind",
            Self::RevealInexpressible => "reveal_inexpressible",
            Self::LearntToa => "learnt_toa",
            Self::ToaUntrusted => "toa_untrusted",
            Self::ToaInvalid => "toa_invalid",
            Self::CarriedToa => "carried_toa",
            Self::CarryNoRoom => "carry_no_room",
            Self::LearntProxy => "learnt_proxy",
            Self::UnwrapTranslated => "unwrap_translated",
            Self::UnwrapUntrusted => "unwrap_refused_untrusted",
            Self::UnwrapNoHeader => "unwrap_refused_no_header",
            Self::UnwrapInvalid => "unwrap_refused_invalid_header",
            Self::UnwrapSplit => "unwrap_refused_split_header",
            Self::UnwrapFull => "unwrap_refused_full",
            Self::LearntRelay => "learnt_relay",
            Self::LearntXff => "learnt_xff",
            Self::NodeToa => "node_toa",
            Self::NodeNoRoom => "node_no_room",
            Self::NodeForged => "node_forged",
            Self::LearntSnat => "learnt_snat",
            Self::NodeHidden => "node_hidden",
            Self::HeadersLost => "headers_lost",
            Self::ToaUnsigned => "toa_unsigned",
            Self::ToaForged => "toa_forged",
            Self::ToaReplayed => "toa_replayed",
            Self::ToaFull => "toa_full",
            Self::CarryUnsigned => "carry_unsigned",
            Self::UnwrapInexpressible => "unwrap_refused_inexpressible",
            Self::BindInexpressible => "bind_refused_inexpressible",
            Self::Forgotten => "relay_forgotten",
            Self::NodeStripped => "node_stripped",
            Self::ToaUnanswered => "toa_unanswered",
            Self::UnwrapHidden => "unwrap_hidden",
            Self::ToaAmbiguous => "toa_ambiguous",
            Self::UnwrapLate => "unwrap_refused_late_header",
            Self::UnwrapElsewhere => "unwrap_elsewhere",
            Self::Swept => "origins_swept",
        }
    }

    /// One sentence for the metrics' help text.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Steered => "New connections steered to a proxy",
            Self::NoListener => {
                "New connections that went to the application because the proxy had no listener"
            }
            Self::Drained => "New connections that passed because the agent was draining",
            Self::AssignFailed => "Packets whose proxy socket was found but could not be assigned",
            Self::LearntWire => "Origins learnt from the wire",
            Self::OriginsFull => {
                "Connections without an origin because the map of origins was full"
            }
            Self::Closed => "Connections with an origin that have ended",
            Self::EventsLost => {
                "Closed or refused connections that the access log missed because the ring buffer was full"
            }
            Self::LearntBind => "Origins learnt from a trusted proxy's bind",
            Self::RevealInexpressible => {
                "Answers that an IPv4 socket could not express because its client has an IPv6 address"
            }
            Self::LearntToa => "Origins learnt from TOA",
            Self::ToaUntrusted => "SYNs whose TOA was ignored because nothing trusts their sender",
            Self::ToaInvalid => "SYNs whose TOA was ignored because it names no client or several",
            Self::CarriedToa => "SYNs sent with TOA",
            Self::CarryNoRoom => "SYNs sent without TOA because their options left no room",
            Self::LearntProxy => "Origins learnt from a PROXY header",
            Self::UnwrapTranslated => {
                "Connections whose PROXY header had an unexpected length, so that their sequence numbers are translated"
            }
            Self::UnwrapUntrusted => "Connections refused because nothing trusts their sender",
            Self::UnwrapNoHeader => {
                "Connections refused because they did not begin with a PROXY header"
            }
            Self::UnwrapInvalid => "Connections refused because their PROXY header is not valid",
            Self::UnwrapSplit => {
                "Connections refused because their PROXY header did not come in one segment"
            }
            Self::UnwrapFull => "Connections refused because too many are being translated",
            Self::LearntRelay => "Origins of connections that the relay accepted",
            Self::LearntXff => "Origins learnt from X-Forwarded-For",
            Self::NodeToa => "SYNs given TOA before the node's own NAT",
            Self::NodeNoRoom => {
                "SYNs without TOA before the node's own NAT because their options left no room"
            }
            Self::NodeForged => {
                "SYNs whose TOA was taken off before the node's own NAT because nothing trusts their sender"
            }
            Self::LearntSnat => "Origins learnt before the node's own NAT",
            Self::NodeHidden => {
                "SYNs dropped at a node's uplink because they were in fragments or behind extension headers"
            }
            Self::HeadersLost => {
                "Unwrapped connections whose PROXY header's details are unknown because the ring buffer was full"
            }
            Self::ToaUnsigned => {
                "SYNs whose TOA was ignored because their sender is to sign, and did not"
            }
            Self::ToaForged => "SYNs whose TOA was ignored because its tag is wrong or has expired",
            Self::ToaReplayed => "SYNs whose TOA was ignored because its tag had been used before",
            Self::ToaFull => {
                "SYNs whose TOA was ignored because too many tags were to be remembered"
            }
            Self::CarryUnsigned => {
                "SYNs sent with TOA but without a tag because their options left no room"
            }
            Self::UnwrapInexpressible => {
                "Connections refused because a PROXY header names an IPv6 client and the server has an IPv4 socket"
            }
            Self::BindInexpressible => {
                "Connections of local proxies refused because an IPv4 socket cannot express their IPv6 client"
            }
            Self::Forgotten => {
                "Origins of connections that a relay refused, or that ended while it recorded them"
            }
            Self::NodeStripped => {
                "SYNs whose TOA was taken off as they left the node because the node did not write it"
            }
            Self::ToaUnanswered => {
                "Connections whose client is unknown because their answer did not leave by the node's uplink"
            }
            Self::UnwrapHidden => {
                "Frames to ports with unwrap dropped because their TCP header was hidden in fragments or behind extension headers"
            }
            Self::ToaAmbiguous => {
                "SYNs whose TOA was ignored or not sent because it may as well be TCP Fast Open's cookie"
            }
            Self::UnwrapLate => {
                "Connections refused because their PROXY header came when the server had given the handshake up"
            }
            Self::UnwrapElsewhere => {
                "SYNs to ports with unwrap that passed untouched because nobody listens there or netfilter sends them elsewhere"
            }
            Self::Swept => "Origins removed because their sockets had gone without a word",
        }
    }
}
