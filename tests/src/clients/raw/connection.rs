//! Connections that are written segment by segment.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use etherparse::TcpHeader;

use crate::clients::raw::{Raw, Segment, WINDOW};
use crate::wait::SOON;

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

impl<'a> Connection<'a> {
    /// The connection between these two whose SYN and SYN-ACK had these sequence numbers; acknowledges the latter.
    pub(super) fn established(
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
