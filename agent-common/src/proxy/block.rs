//! TLVs of version 2, read in a way that the kernel's verifier can follow. It accepts what [`super::parse`]
//! accepts, in headers of at most [`MAX`] bytes with at most [`TLVS`] TLVs.

use super::{
    Reason,
    crc32c::Crc32c,
    kind,
    tlv::{HEAD, UNIQUE_ID_MAX},
};
use crate::verifier::hidden;

/// Longest header that is read: what a segment carries on Ethernet.
pub const MAX: usize = 1460;
/// Room for it; a power of two bounds an index by a mask.
pub const ROOM: usize = 2048;
/// What [`kind::SSL`] has before its own TLVs.
const SSL_HEAD: usize = 5;
/// How many TLVs are read at most, including those within [`kind::SSL`].
pub const TLVS: usize = 64;

/// Checks a header of `length` bytes, at most [`MAX`], whose TLVs begin at `start`. Returns whether it says
/// anything besides addresses. If `is_free`, what follows the addresses need not be TLVs.
///
/// `veil` is a zero that the verifier must not know to be one: whatever it is added to may be anything
/// afterwards. Otherwise the verifier would follow every sequence of TLVs.
///
/// # Errors
///
/// [`Reason::Tlv`] or [`Reason::Checksum`].
#[inline(always)]
pub fn check(
    header: &mut [u8; ROOM],
    start: usize,
    length: usize,
    is_free: bool,
    veil: usize,
) -> Result<bool, Reason> {
    let mut length = length;
    let mut at = start;
    // Where the TLVs within the last SSL end, how many checksums there are, and where the last one is.
    let (mut inner, mut checksums, mut checksum) = (0, 0, 0);
    // Not zero if something is wrong, or if there is something to tell.
    let (mut wrong, mut told) = (usize::from(start > length), 0);
    for _ in 0..TLVS {
        at = (at + veil) & (ROOM - 1);
        inner = (inner + veil) & (ROOM - 1);
        checksum = (checksum + veil) & (ROOM - 1);
        checksums += veil;
        told += veil;
        wrong += veil;
        length += veil;
        if at >= length || wrong != 0 {
            break;
        }
        let is_inner = at < inner;
        let end = if is_inner { inner } else { length };
        let value_length =
            usize::from(byte(header, at + 1)) << 8 | usize::from(byte(header, at + 2));
        let value = at + HEAD;
        let next = value + value_length;
        wrong |= usize::from(next > end);
        at = next;
        if is_inner {
            continue;
        }
        match byte(header, value - HEAD) {
            kind::CRC32C => {
                wrong |= value_length ^ size_of::<u32>();
                checksums += 1;
                checksum = value;
            }
            kind::NOOP => {}
            kind::SSL => {
                wrong |= usize::from(value_length < SSL_HEAD);
                inner = next;
                at = value + SSL_HEAD;
                told = 1;
            }
            kind::UNIQUE_ID => {
                wrong |= usize::from(value_length > UNIQUE_ID_MAX);
                told = 1;
            }
            _ => told = 1,
        }
    }
    if wrong != 0 || checksums > 1 || at < length {
        return if is_free { Ok(false) } else { Err(Reason::Tlv) };
    }
    if checksums == 1 && !is_intact(header, length + veil, checksum + veil) {
        return Err(Reason::Checksum);
    }
    Ok(told != 0)
}

/// Whether the header matches the checksum at `at`, which itself counts as zeros and is set to them in the
/// meantime.
#[inline(always)]
fn is_intact(header: &mut [u8; ROOM], length: usize, at: usize) -> bool {
    let told = [0, 1, 2, 3].map(|i| byte(header, at + i));
    for i in 0..told.len() {
        set(header, at + i, 0);
    }
    let mut crc = Crc32c::default();
    for (i, byte) in header.iter().enumerate().take(MAX) {
        if i >= length {
            break;
        }
        crc.push(*byte);
    }
    for (i, byte) in told.into_iter().enumerate() {
        set(header, at + i, byte);
    }
    crc.value() == u32::from_be_bytes(told)
}

#[inline(always)]
fn byte(header: &[u8; ROOM], at: usize) -> u8 {
    header[hidden!(at) & (ROOM - 1)]
}

#[inline(always)]
fn set(header: &mut [u8; ROOM], at: usize, byte: u8) {
    header[hidden!(at) & (ROOM - 1)] = byte;
}
