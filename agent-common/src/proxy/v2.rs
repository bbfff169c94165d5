//! Version 2: binary (2.2). [`Preface`], [`tcp4`] and [`tcp6`] take byte arrays of fixed sizes, with
//! neither loop nor panic, so that they pass the kernel's verifier.

use super::{Endpoints, Header, Parsed, Peer, Reason, Tlvs};
use crate::{Address, Endpoint};

/// The first 12 bytes.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How many bytes stand before the addresses.
pub const PREFACE: usize = 16;
/// How many bytes the addresses and ports of [`Family::Tcp4`] take.
pub const TCP4: usize = 12;
/// How many bytes the addresses and ports of [`Family::Tcp6`] take.
pub const TCP6: usize = 36;
/// How many bytes the addresses of an `AF_UNIX` socket take.
const UNIX: usize = 216;

/// What stands before the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// Whether the sender speaks for itself: `LOCAL`. Else for another: `PROXY`.
    pub is_local: bool,
    /// The kind of the addresses.
    pub family: Family,
    /// How many bytes of the header follow.
    pub length: u16,
}

/// A kind of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// Unspecified; or not assigned, which a `LOCAL` header may be.
    Unspecified,
    /// A known kind that a TCP connection cannot have, which therefore counts as unspecified. Its addresses
    /// take this many bytes.
    Other(u8),
}

impl Family {
    /// How many bytes the addresses take.
    #[inline(always)]
    pub const fn len(self) -> usize {
        match self {
            Self::Tcp4 => TCP4,
            Self::Tcp6 => TCP6,
            Self::Unspecified => 0,
            Self::Other(len) => len as usize,
        }
    }

    /// Whether there are no addresses.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl Preface {
    /// Reads the first 16 bytes.
    ///
    /// # Errors
    ///
    /// [`Reason::NoHeader`], [`Reason::Version`], [`Reason::Command`], [`Reason::Family`] or
    /// [`Reason::Length`].
    #[inline(always)]
    pub const fn read(bytes: &[u8; PREFACE]) -> Result<Self, Reason> {
        let [
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            command,
            family,
            high,
            low,
        ] = *bytes;
        let signature = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let rest = u32::from_ne_bytes([i, j, k, l]);
        if signature != u64::from_ne_bytes(*b"\r\n\r\n\0\r\nQ")
            || rest != u32::from_ne_bytes(*b"UIT\n")
        {
            return Err(Reason::NoHeader);
        }
        if command >> 4 != 2 {
            return Err(Reason::Version);
        }
        let is_local = match command & 0xf {
            0 => true,
            1 => false,
            _ => return Err(Reason::Command),
        };
        let family = match family {
            0x00 => Family::Unspecified,
            0x11 => Family::Tcp4,
            0x21 => Family::Tcp6,
            0x12 => Family::Other(TCP4 as u8),
            0x22 => Family::Other(TCP6 as u8),
            0x31 | 0x32 => Family::Other(UNIX as u8),
            // "Discard the protocol block including the family which is ignored."
            _ if is_local => Family::Unspecified,
            _ => return Err(Reason::Family),
        };
        let length = u16::from_be_bytes([high, low]);
        if !is_local && (length as usize) < family.len() {
            return Err(Reason::Length);
        }
        Ok(Self {
            is_local,
            family,
            length,
        })
    }

    /// How long the whole header is.
    #[inline(always)]
    pub const fn len(self) -> usize {
        PREFACE + self.length as usize
    }

    /// Never, as a header has a signature.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// The addresses and ports of [`Family::Tcp4`].
///
/// # Errors
///
/// [`Reason::Address`].
#[inline(always)]
pub fn tcp4(block: &[u8; TCP4]) -> Result<Endpoints, Reason> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *block;
    Endpoints {
        source: Endpoint::new(
            Address::v4(u32::from_ne_bytes([a, b, c, d])),
            u16::from_be_bytes([i, j]),
        ),
        destination: Endpoint::new(
            Address::v4(u32::from_ne_bytes([e, f, g, h])),
            u16::from_be_bytes([k, l]),
        ),
    }
    .checked()
}

/// The addresses and ports of [`Family::Tcp6`].
///
/// # Errors
///
/// [`Reason::Address`].
#[inline(always)]
pub fn tcp6(block: &[u8; TCP6]) -> Result<Endpoints, Reason> {
    macro_rules! address {
        ($($at:literal)*) => {
            Address::v6([$(u32::from_ne_bytes([
                block[$at], block[$at + 1], block[$at + 2], block[$at + 3],
            ])),*])
        };
    }
    Endpoints {
        source: Endpoint::new(
            address!(0 4 8 12),
            u16::from_be_bytes([block[32], block[33]]),
        ),
        destination: Endpoint::new(
            address!(16 20 24 28),
            u16::from_be_bytes([block[34], block[35]]),
        ),
    }
    .checked()
}

/// Parses a header that begins like [`SIGNATURE`], as far as it is there.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Reason> {
    let Some(start) = bytes.first_chunk() else {
        return Ok(Parsed::Incomplete(PREFACE));
    };
    let preface = Preface::read(start)?;
    let Some(header) = bytes.get(..preface.len()) else {
        return Ok(Parsed::Incomplete(preface.len()));
    };
    let block = &header[PREFACE..];
    let peer = match (preface.is_local, preface.family) {
        (true, _) => Peer::Local,
        (false, Family::Tcp4) => Peer::Proxied(tcp4(block.first_chunk().ok_or(Reason::Length)?)?),
        (false, Family::Tcp6) => Peer::Proxied(tcp6(block.first_chunk().ok_or(Reason::Length)?)?),
        (false, Family::Unspecified | Family::Other(_)) => Peer::Unknown,
    };
    // What follows need not be TLVs then: "the receiver should ignore address information".
    let is_free = preface.is_local || preface.family.is_empty();
    let tlvs = match Tlvs::read(header, PREFACE + preface.family.len()) {
        Err(Reason::Tlv) if is_free => Tlvs::default(),
        tlvs => tlvs?,
    };
    Ok(Parsed::Header(Header {
        len: preface.len(),
        peer,
        tlvs,
    }))
}
