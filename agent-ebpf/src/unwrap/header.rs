//! Reads the PROXY header at the beginning of a segment's payload.

use agent_common::{
    Endpoint,
    proxy::{
        Endpoints,
        v2::{Family, PREFIX, Prefix, TCP4, TCP6, tcp4, tcp6},
    },
    unwrap::{Refusal, Versions},
};
use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};

/// What a header says.
pub(super) struct Header {
    /// In bytes.
    pub(super) length: u32,
    /// `None`: the sender speaks for itself, or does not know.
    pub(super) client: Option<Endpoint>,
    /// Likewise.
    pub(super) original_dst: Option<Endpoint>,
}

/// Reads the header that begins at `start` and is to end within `payload` bytes.
#[inline(never)]
pub(super) fn read(
    ctx: &TcContext,
    start: usize,
    payload: usize,
    versions: Versions,
) -> Result<Header, Refusal> {
    if payload < PREFIX {
        // The shortest header of version 1 is a byte shorter, and names no client.
        return Err(match load::<1>(ctx, start)? {
            [b'\r' | b'P'] => Refusal::Split,
            _ => Refusal::NoHeader,
        });
    }
    if !versions.has(Versions::V2) {
        return Err(Refusal::Invalid);
    }
    let prefix = Prefix::read(&load::<PREFIX>(ctx, start)?)?;
    let length = prefix.len();
    if payload < length {
        return Err(Refusal::Split);
    }
    let addresses = start + PREFIX;
    let ends = match prefix.family {
        _ if prefix.is_local => None,
        Family::Tcp4 => Some(tcp4(&load::<TCP4>(ctx, addresses)?)?),
        Family::Tcp6 => Some(tcp6(&load::<TCP6>(ctx, addresses)?)?),
        Family::Unspecified | Family::Other(_) => None,
    };
    Ok(Header {
        length: length as u32,
        client: ends.map(|Endpoints { source, .. }| source),
        original_dst: ends.map(|Endpoints { destination, .. }| destination),
    })
}

/// `N` bytes of the packet.
#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, at: usize) -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    // SAFETY: the buffer has the length that is passed; the context is valid while the program runs.
    let error = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            at as u32,
            bytes.as_mut_ptr().cast(),
            N as u32,
        )
    };
    if error == 0 {
        Ok(bytes)
    } else {
        Err(Refusal::Invalid)
    }
}
