//! A TCP header (RFC 9293, 3.1) and its bytes, read in a way that the kernel's verifier can follow.

use crate::verifier::hidden;

/// Room for a TCP header. It has 60 bytes at most; a power of two bounds an index by a mask.
pub const HEADER_ROOM: usize = 64;
/// Where a TCP header's options begin.
pub const OPTIONS: usize = 20;
/// Longest TCP header: its length has four bits, and counts four bytes.
pub const MAX_HEADER: usize = 60;
/// Kind of an option of one byte, which pads.
pub const NO_OPERATION: u8 = 1;
/// Kind of the option of selective acknowledgments (RFC 2018).
pub const SACK: u8 = 5;

/// A TCP header: as many bytes as its length says, and zeros behind them.
pub type Header = [u8; HEADER_ROOM];

/// Appends an option to those that end at `at`, and returns where they end now.
#[inline(always)]
pub fn append<const N: usize>(header: &mut Header, at: usize, option: &[u8; N]) -> usize {
    for (i, byte) in option.iter().enumerate() {
        set(header, at + i, *byte);
    }
    at + N
}

/// The word at `at`, in the byte order of the header.
#[inline(always)]
pub fn word(header: &Header, at: usize) -> u32 {
    let byte = |i: usize| byte(header, at + i);
    u32::from_ne_bytes([byte(0), byte(1), byte(2), byte(3)])
}

/// A byte of the header.
#[inline(always)]
pub fn byte(header: &Header, at: usize) -> u8 {
    header[hidden!(at) & (HEADER_ROOM - 1)]
}

/// Writes a byte of the header.
#[inline(always)]
pub(crate) fn set(header: &mut Header, at: usize, byte: u8) {
    header[hidden!(at) & (HEADER_ROOM - 1)] = byte;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    extern crate std;

    /// A header with these options, padded.
    pub(crate) fn header(options: &[&[u8]]) -> Header {
        let options = options.concat();
        let mut header = [0; HEADER_ROOM];
        header[OPTIONS..OPTIONS + options.len()].copy_from_slice(&options);
        header[12] = ((OPTIONS + options.len()).div_ceil(4) as u8) << 4;
        header
    }

    #[test]
    fn an_option_is_appended_at_the_end() {
        let mut header = [0; HEADER_ROOM];
        assert_eq!(append(&mut header, 56, &[254, 4, 1, 2]), 60);
        assert_eq!(header[55..61], [0, 254, 4, 1, 2, 0]);
    }
}
