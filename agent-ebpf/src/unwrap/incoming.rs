//! A segment on its way to a port where PROXY headers are taken off.

use agent_common::{
    Connection, Endpoint, Syn,
    unwrap::{Handshake, Page, Versions},
};
use aya_ebpf::{macros::map, programs::TcContext};

use crate::{
    kernel::{
        context::Skb as _,
        packet::{self, Hidden, NoSegment, Segment},
        tcp::Tcp,
    },
    maps::{NETNS, Replaced as _, Scratch, UNWRAPS},
};

/// The segment that this CPU handles. On the stack it would take too much room.
#[map]
static INCOMING: Scratch<Incoming> = Scratch::new();

/// A segment to an unwrapping port.
pub(super) struct Incoming {
    pub(super) connection: Connection,
    pub(super) is_v6: bool,
    pub(super) tcp: Tcp,
    /// Where the TCP header begins.
    pub(super) offset: usize,
    /// Bytes behind the TCP header.
    pub(super) payload: usize,
    pub(super) versions: Versions,
    pub(super) reading: Reading,
}

/// How much of a frame was read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// A segment.
    Whole,
    /// The TCP header of a segment that is hidden, of which further parts may follow. Nothing but numbers of that header may
    /// be changed.
    Hidden,
    /// Nothing, though it may be a segment to such a port.
    Nothing,
}

impl Incoming {
    /// Reads a frame, or returns `None` if it is not a segment to such a port.
    #[inline(always)]
    pub(super) fn read(ctx: &TcContext) -> Option<&'static Self> {
        let incoming = Self::read_plain(ctx)?;
        if incoming.reading == Reading::Nothing {
            Self::find_hidden(ctx)
        } else {
            Some(incoming)
        }
    }

    /// Like [`Self::find_hidden`] it has a stack of its own, which ends with it.
    #[inline(never)]
    fn read_plain(ctx: &TcContext) -> Option<&'static Self> {
        match packet::arriving(ctx) {
            Ok(segment) => Self::fill(ctx, &segment, Reading::Whole),
            Err(NoSegment::Other) => None,
            Err(NoSegment::Unreadable) => Self::nothing(),
        }
    }

    #[inline(never)]
    fn find_hidden(ctx: &TcContext) -> Option<&'static Self> {
        match packet::find(ctx) {
            Hidden::Segment(segment) => Self::fill(ctx, &segment, Reading::Hidden),
            Hidden::Nothing => None,
            Hidden::Unknown => Self::nothing(),
        }
    }

    #[inline(always)]
    fn nothing() -> Option<&'static Self> {
        let incoming = INCOMING.get()?;
        incoming.reading = Reading::Nothing;
        Some(incoming)
    }

    #[inline(always)]
    fn fill(ctx: &TcContext, segment: &Segment, reading: Reading) -> Option<&'static Self> {
        let versions = versions(ctx, segment.destination.port)?;
        let length = match segment.length {
            0 => ctx.len() as usize - segment.offset,
            length => length,
        };
        let incoming = INCOMING.get()?;
        *incoming = Self {
            connection: connection(segment.source, segment.destination),
            is_v6: segment.is_v6,
            tcp: segment.tcp,
            offset: segment.offset,
            payload: length.saturating_sub(segment.tcp.length),
            versions,
            reading,
        };
        Some(incoming)
    }

    /// The SYN as the server sees it.
    #[inline(always)]
    pub(super) fn syn(&self, handshake: Handshake) -> Syn {
        Syn {
            source: self.connection.source,
            destination: self.connection.destination,
            isn: handshake.first().wrapping_sub(1),
        }
    }

    /// Where the payload begins.
    #[inline(always)]
    pub(super) fn payload_at(&self) -> usize {
        self.offset + self.tcp.length
    }
}

/// Which versions are taken on this port of the packet's interface; `None` if nothing is unwrapped there.
#[inline(always)]
pub(super) fn versions(ctx: &TcContext, port: u16) -> Option<Versions> {
    let page = UNWRAPS.look_up(Page::of(NETNS.load(), ctx.ifindex(), port))?;
    let versions = page.of(port);
    (versions.0 != 0).then_some(versions)
}

/// The connection between a sender and a server.
#[inline(always)]
pub(super) fn connection(source: Endpoint, destination: Endpoint) -> Connection {
    Connection {
        netns: NETNS.load(),
        source,
        destination,
    }
}
