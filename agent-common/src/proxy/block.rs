//! TLVs of version 2, read in a way that the kernel's verifier can follow. It accepts what [`super::parse`]
//! accepts, in headers of at most [`MAX`] bytes with at most [`TLVS`] TLVs.

use super::{
    Reason,
    crc32c::Crc32c,
    kind,
    tlv::{HEAD, UNIQUE_ID_MAX},
};
use crate::verifier::{global, hidden};

/// Longest header that is read: what a segment carries on Ethernet.
pub const MAX: usize = 1460;
/// Room for it; a power of two bounds an index by a mask.
pub const ROOM: usize = 2048;
/// What [`kind::SSL`] has before its own TLVs.
const SSL_HEAD: usize = 5;
/// How many TLVs are read at most, including those within [`kind::SSL`].
pub const TLVS: usize = 64;

/// A header with room behind it.
pub type Header = [u8; ROOM];

/// How far the TLVs of a header have been read.
#[repr(C)]
struct Tlvs {
    /// Where the next one begins, and where the last one ends.
    at: usize,
    length: usize,
    /// Where those within the last SSL end.
    inner: usize,
    /// How many checksums there are, and where the last one is.
    checksums: usize,
    checksum: usize,
    /// Not zero if there is something to tell.
    told: usize,
}

/// What [`truepeer_tlv`] says.
const ENDED: u32 = 0;
const FOLLOWED: u32 = 1;
const WRONG: u32 = 2;

/// How many bytes [`truepeer_checksum`] takes at once.
const PIECE: usize = 64;

/// Checks a header of `length` bytes, at most [`MAX`], whose TLVs begin at `start`. Returns whether it says
/// anything besides addresses. If `is_free`, what follows the addresses need not be TLVs.
///
/// # Errors
///
/// [`Reason::Tlv`] or [`Reason::Checksum`].
#[inline(always)]
pub fn check(
    header: &mut Header,
    start: usize,
    length: usize,
    is_free: bool,
) -> Result<bool, Reason> {
    let mut tlvs = Tlvs {
        at: start,
        length,
        inner: 0,
        checksums: 0,
        checksum: 0,
        told: 0,
    };
    let mut last = FOLLOWED;
    // In one round more than there may be TLVs, it is told that they have ended.
    let mut i = 0;
    while i <= TLVS && last == FOLLOWED {
        last = truepeer_tlv(header, &mut tlvs);
        i += 1;
    }
    if last != ENDED || tlvs.checksums > 1 {
        return if is_free { Ok(false) } else { Err(Reason::Tlv) };
    }
    if tlvs.checksums == 1 && !is_intact(header, length, tlvs.checksum) {
        return Err(Reason::Checksum);
    }
    Ok(tlvs.told != 0)
}

global! {
    /// Reads the next TLV.
    fn truepeer_tlv(header: *const Header, tlvs: *mut Tlvs) -> u32 {
        // SAFETY: pointers of a global function lead to one value each.
        match unsafe { (header.as_ref(), tlvs.as_mut()) } {
            (Some(header), Some(tlvs)) => tlvs.next(header),
            _ => WRONG,
        }
    }
}

impl Tlvs {
    #[inline(always)]
    fn next(&mut self, header: &Header) -> u32 {
        let at = self.at;
        if at >= self.length {
            return if at == self.length { ENDED } else { WRONG };
        }
        let is_inner = at < self.inner;
        let end = if is_inner { self.inner } else { self.length };
        let value_length =
            usize::from(byte(header, at + 1)) << 8 | usize::from(byte(header, at + 2));
        let value = at + HEAD;
        let next = value + value_length;
        if next > end {
            return WRONG;
        }
        self.at = next;
        if is_inner {
            return FOLLOWED;
        }
        let is_right = match byte(header, at) {
            kind::CRC32C => {
                self.checksums += 1;
                self.checksum = value;
                value_length == size_of::<u32>()
            }
            kind::NOOP => true,
            kind::SSL => {
                self.inner = next;
                self.at = value + SSL_HEAD;
                self.told = 1;
                value_length >= SSL_HEAD
            }
            kind::UNIQUE_ID => {
                self.told = 1;
                value_length <= UNIQUE_ID_MAX
            }
            _ => {
                self.told = 1;
                true
            }
        };
        if is_right { FOLLOWED } else { WRONG }
    }
}

/// Whether the header matches the checksum at `at`, which itself counts as zeros and is set to them in the
/// meantime.
#[inline(always)]
fn is_intact(header: &mut Header, length: usize, at: usize) -> bool {
    let told = [0, 1, 2, 3].map(|i| byte(header, at + i));
    for i in 0..told.len() {
        set(header, at + i, 0);
    }
    let mut state = Crc32c::default().state();
    let mut from = 0;
    while from < MAX {
        state = truepeer_checksum(header, from as u64, length as u64, state);
        from += PIECE;
    }
    for (i, byte) in told.into_iter().enumerate() {
        set(header, at + i, byte);
    }
    Crc32c::from_state(state).value() == u32::from_be_bytes(told)
}

global! {
    /// Takes a piece of the header, which has `length` bytes, into the state of its checksum.
    fn truepeer_checksum(
        header: *const Header,
        from: u64,
        length: u64,
        state: u32
    ) -> u32 {
        // SAFETY: pointers of a global function lead to one value each.
        let Some(header) = (unsafe { header.as_ref() }) else {
            return 0;
        };
        let mut crc = Crc32c::from_state(state);
        let mut i = 0;
        while i < PIECE {
            let place = from + i as u64;
            if place >= length {
                break;
            }
            crc.push(byte(header, place as usize));
            i += 1;
        }
        crc.state()
    }
}

#[inline(always)]
fn byte(header: &Header, at: usize) -> u8 {
    header[hidden!(at) & (ROOM - 1)]
}

#[inline(always)]
fn set(header: &mut Header, at: usize, byte: u8) {
    header[hidden!(at) & (ROOM - 1)] = byte;
}
