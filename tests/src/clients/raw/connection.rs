//! Connections that are written segment by segment.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use etherparse::TcpHeader;

use super::sender::{RETRY, Raw, Segment, WINDOW};
use crate::wait::{Limit, SOON};

/// An established connection.
pub struct Connection<'a> {
    raw: &'a Raw,
    source: SocketAddr,
    target: SocketAddr,
    /// Options of every further segment.
    options: Vec<u8>,
    /// The next sequence numbers of both ends.
    sequence: u32,
    expected: u32,
}

impl Raw {
    /// Opens a connection with a SYN with these options.
    pub fn connect(
        &self,
        source: SocketAddr,
        target: SocketAddr,
        sequence: u32,
        options: &[u8],
    ) -> Result<Connection<'_>> {
        self.try_connect(source, target, sequence, options, SOON)?
            .with_context(|| format!("an answer of {target} to {source}: not within {SOON}"))
    }

    /// Opens a connection with a SYN with these options, which is sent again until it is answered; `None` if it is not
    /// answered within `limit`.
    pub fn try_connect(
        &self,
        source: SocketAddr,
        target: SocketAddr,
        sequence: u32,
        options: &[u8],
        limit: Limit,
    ) -> Result<Option<Connection<'_>>> {
        let answers = |segment: &Segment| segment.tcp.syn || segment.tcp.rst;
        let (most, start) = (limit.here(), Instant::now());
        let answer = loop {
            self.syn(source, target, sequence, options)?;
            if let Some(answer) = self.receive(target, source, RETRY, answers)? {
                break answer;
            }
            if start.elapsed() > most {
                return Ok(None);
            }
        };
        ensure!(!answer.tcp.rst, "{target} answered {source} with a reset");
        let syn_ack = answer.tcp.sequence_number;
        Connection::established(self, (source, target), sequence, syn_ack).map(Some)
    }

    /// The option with the cookie that the target gives the source for TCP Fast Open (RFC 7413, 4.1.1).
    pub fn fast_open(&self, source: SocketAddr, target: SocketAddr) -> Result<Vec<u8>> {
        const KIND: u8 = 34;
        let none = [KIND, 2];
        self.syn(source, target, 0, &none)?;
        let answer = self.receive(target, source, SOON.here(), |segment| segment.tcp.syn)?;
        let answer = answer.with_context(|| format!("an answer of {target}: not within {SOON}"))?;
        let options = answer.tcp.options.as_slice();
        let at = options
            .windows(2)
            .position(|option| option[0] == KIND && option[1] > 2);
        let at = at.with_context(|| format!("no cookie in {options:?}"))?;
        Ok(options[at..at + usize::from(options[at + 1])].to_vec())
    }
}

impl<'a> Connection<'a> {
    /// The connection between these two whose SYN and SYN-ACK had these sequence numbers; acknowledges the latter.
    fn established(
        raw: &'a Raw,
        (source, target): (SocketAddr, SocketAddr),
        syn: u32,
        syn_ack: u32,
    ) -> Result<Self> {
        let connection = Self {
            raw,
            source,
            target,
            options: Vec::new(),
            sequence: syn.wrapping_add(1),
            expected: syn_ack.wrapping_add(1),
        };
        connection.acknowledge(&[])?;
        Ok(connection)
    }

    /// Puts these options on every further segment.
    pub fn repeat(&mut self, options: &[u8]) {
        self.options = options.to_vec();
    }

    /// Sends bytes.
    pub fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.acknowledge(payload)?;
        self.sequence = self.sequence.wrapping_add(payload.len() as u32);
        Ok(())
    }

    /// Sends bytes once whose sequence number is `skip` ahead of what comes next.
    pub fn send_ahead(&self, skip: usize, payload: &[u8]) -> Result<()> {
        let mut tcp = self.header();
        tcp.sequence_number = self.sequence.wrapping_add(skip as u32);
        let options = &self.options;
        self.raw
            .send(self.source, self.target, tcp, options, payload)
    }

    /// Waits until the other end has finished, and finishes too.
    pub fn finish(&mut self) -> Result<()> {
        let expected = self.expected;
        let last = |segment: &Segment| segment.tcp.fin && segment.tcp.sequence_number == expected;
        self.raw
            .receive(self.target, self.source, SOON.here(), last)?
            .with_context(|| format!("the end that {} sends: not within {SOON}", self.target))?;
        self.expected = expected.wrapping_add(1);
        let mut tcp = self.header();
        tcp.fin = true;
        self.sequence = self.sequence.wrapping_add(1);
        let options = &self.options;
        self.raw.send(self.source, self.target, tcp, options, &[])
    }

    /// Sends the end, whose sequence number is `skip` ahead of what comes next, without having seen the other's.
    pub fn end_ahead(&self, skip: u32) -> Result<()> {
        let mut tcp = self.header();
        tcp.fin = true;
        tcp.sequence_number = self.sequence.wrapping_add(skip);
        self.raw.send(self.source, self.target, tcp, &[], &[])
    }

    /// The next bytes that come in.
    pub fn receive(&mut self) -> Result<String> {
        let expected = self.expected;
        let next = |segment: &Segment| {
            !segment.payload.is_empty() && segment.tcp.sequence_number == expected
        };
        let segment = self
            .raw
            .receive(self.target, self.source, SOON.here(), next)?
            .with_context(|| format!("the next bytes for {}: not within {SOON}", self.source))?;
        self.expected = expected.wrapping_add(segment.payload.len() as u32);
        self.acknowledge(&[])?;
        String::from_utf8(segment.payload).context("bytes that are no text")
    }

    /// Ends it at once.
    pub fn reset(self) -> Result<()> {
        self.reset_ahead(0)
    }

    /// Sends a reset whose sequence number is `skip` ahead of what comes next.
    pub fn reset_ahead(&self, skip: u32) -> Result<()> {
        let mut tcp = self.header();
        tcp.rst = true;
        tcp.sequence_number = self.sequence.wrapping_add(skip);
        self.raw.send(self.source, self.target, tcp, &[], &[])
    }

    fn acknowledge(&self, payload: &[u8]) -> Result<()> {
        let tcp = self.header();
        self.raw
            .send(self.source, self.target, tcp, &self.options, payload)
    }

    fn header(&self) -> TcpHeader {
        let ports = (self.source.port(), self.target.port());
        let mut tcp = TcpHeader::new(ports.0, ports.1, self.sequence, WINDOW);
        tcp.ack = true;
        tcp.acknowledgment_number = self.expected;
        tcp
    }
}
