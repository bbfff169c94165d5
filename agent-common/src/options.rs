//! TCP options (RFC 9293, 3.1), read in a way that the kernel's verifier can follow.

use crate::verifier::hidden;

/// Room for a TCP header. It has 60 bytes at most; a power of two bounds an index by a mask.
pub const HEADER_ROOM: usize = 64;
/// Where a TCP header's options begin.
pub const OPTIONS: usize = 20;
/// Longest TCP header: its length has four bits, and counts four bytes.
pub const MAX_HEADER: usize = 60;
const MAX_OPTIONS: usize = MAX_HEADER - OPTIONS;
const END_OF_OPTIONS: u8 = 0;
/// Kind of an option of one byte, which pads.
pub const NO_OPERATION: u8 = 1;
/// Kind of the option of selective acknowledgments (RFC 2018).
pub const SACK: u8 = 5;

/// Looks for options in a TCP header. `header` has all bytes that the header's length says, and zeros behind
/// them. `is_wanted` gets an option's kind, length and place, and answers 1 or 0. Returns how many options
/// are wanted and, if that is one, where in the header it begins.
#[inline(always)]
pub fn find(
    header: &[u8; HEADER_ROOM],
    is_wanted: impl Fn(u8, u8, usize) -> usize,
) -> (usize, usize) {
    let end = (byte(header, 12) >> 4) as usize * 4;
    let mut at = OPTIONS;
    // The number of the options found, and the sum of their places.
    let (mut number, mut found) = (0, 0);
    // A zero that the verifier does not know to be one: whatever it is added to may be anything afterwards.
    // Otherwise the verifier would follow every way to place the options.
    let veil = byte(header, HEADER_ROOM - 1) as usize;
    for _ in 0..MAX_OPTIONS {
        at = (at + veil) & (HEADER_ROOM - 1);
        found = (found + veil) & 0xff;
        number = (number + veil) & 0xff;
        if at >= end {
            break;
        }
        let kind = byte(header, at);
        if kind == END_OF_OPTIONS {
            break;
        }
        if kind == NO_OPERATION {
            at += 1;
            continue;
        }
        let length = byte(header, at + 1);
        // Like the kernel's own parser, this stops at what is not an option.
        if length < 2 || at + length as usize > end {
            break;
        }
        let is_wanted = is_wanted(kind, length, at);
        found += at * is_wanted;
        number += is_wanted;
        at += length as usize;
    }
    (number, found)
}

/// Closes up the options of a TCP header. `header` has all bytes that the header's length says, and zeros
/// behind them. `to`, which must be all zeros, gets the header without padding and without the unwanted
/// options, those for which `is_unwanted` answers 1 and not 0. Returns where in `to` the last option ends,
/// and how many were unwanted. Leaves out what follows the end of options, or something that is not an
/// option, as nobody reads it.
#[inline(always)]
pub fn close_up(
    header: &[u8; HEADER_ROOM],
    to: &mut [u8; HEADER_ROOM],
    is_unwanted: impl Fn(u8, u8, usize) -> usize,
) -> (usize, usize) {
    let end = (byte(header, 12) >> 4) as usize * 4;
    to[..OPTIONS].copy_from_slice(&header[..OPTIONS]);
    let (mut at, mut number) = (OPTIONS, 0);
    // Bytes left of the option that is being read, and 1 if it is copied.
    let (mut left, mut copies) = (0, 0);
    // As in `find`.
    let veil = byte(header, HEADER_ROOM - 1) as usize;
    for i in OPTIONS..OPTIONS + MAX_OPTIONS {
        at = (at + veil) & (HEADER_ROOM - 1);
        left = (left + veil) & 0xff;
        copies = (copies + veil) & 1;
        number = (number + veil) & 0xff;
        if i >= end {
            break;
        }
        if left == 0 {
            let kind = byte(header, i);
            if kind == END_OF_OPTIONS {
                break;
            }
            if kind == NO_OPERATION {
                continue;
            }
            let length = byte(header, i + 1);
            if length < 2 || i + length as usize > end {
                break;
            }
            let is_unwanted = is_unwanted(kind, length, i);
            left = length as usize;
            copies = 1 - is_unwanted;
            number += is_unwanted;
        }
        set(to, at, byte(header, i));
        at += copies;
        left -= 1;
    }
    // Clears the last byte of an option that was not copied.
    set(to, at, END_OF_OPTIONS);
    (at, number)
}

/// Appends an option to those that end at `at`, and returns where they end now.
#[inline(always)]
pub fn append<const N: usize>(
    header: &mut [u8; HEADER_ROOM],
    at: usize,
    option: &[u8; N],
) -> usize {
    for (i, byte) in option.iter().enumerate() {
        set(header, at + i, *byte);
    }
    at + N
}

/// The word at `at`, in the byte order of the header.
#[inline(always)]
pub fn word(header: &[u8; HEADER_ROOM], at: usize) -> u32 {
    let byte = |i: usize| byte(header, at + i);
    u32::from_ne_bytes([byte(0), byte(1), byte(2), byte(3)])
}

/// A byte of the header.
#[inline(always)]
pub fn byte(header: &[u8; HEADER_ROOM], at: usize) -> u8 {
    header[hidden!(at) & (HEADER_ROOM - 1)]
}

/// Writes a byte of the header.
#[inline(always)]
fn set(header: &mut [u8; HEADER_ROOM], at: usize, byte: u8) {
    header[hidden!(at) & (HEADER_ROOM - 1)] = byte;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::vec::Vec;

    extern crate std;

    /// A header with these options, padded.
    pub(crate) fn header(options: &[&[u8]]) -> [u8; HEADER_ROOM] {
        let options = options.concat();
        let mut header = [0; HEADER_ROOM];
        header[OPTIONS..OPTIONS + options.len()].copy_from_slice(&options);
        header[12] = ((OPTIONS + options.len()).div_ceil(4) as u8) << 4;
        header
    }

    /// Options without those of kind 254, and how many there were.
    fn closed_up(options: &[u8]) -> (Vec<u8>, usize) {
        let header = header(&[options]);
        let mut to = [0; HEADER_ROOM];
        let (end, number) = close_up(&header, &mut to, |kind, _, _| usize::from(kind == 254));
        assert_eq!(to[..OPTIONS], header[..OPTIONS]);
        assert_eq!(to[end..], [0; HEADER_ROOM][end..]);
        (to[OPTIONS..end].into(), number)
    }

    #[test]
    fn padding_and_what_is_unwanted_is_left_out() {
        let (kept, own) = ([2, 4, 5, 180], [254, 4, 9, 9]);
        assert_eq!(closed_up(&[]), ([].into(), 0));
        assert_eq!(closed_up(&kept), (kept.into(), 0));
        assert_eq!(closed_up(&own), ([].into(), 1));
        for options in [
            [&kept[..], &own, &[4, 2]].concat(),
            [&own[..], &kept, &[1, 1, 4, 2], &own].concat(),
            [&[1][..], &kept, &own, &[4, 2, 0], &own].concat(),
            [&kept[..], &own, &[4, 2], &[200, 9]].concat(),
            [&kept[..], &[4, 2], &own, &[7, 1, 1]].concat(),
        ] {
            let (left, number) = closed_up(&options);
            assert_eq!(left, [&kept[..], &[4, 2]].concat(), "{options:?}");
            assert!(number > 0, "{options:?}");
        }
    }

    #[test]
    fn an_option_is_appended_at_the_end() {
        let mut header = [0; HEADER_ROOM];
        assert_eq!(append(&mut header, 56, &[254, 4, 1, 2]), 60);
        assert_eq!(header[55..61], [0, 254, 4, 1, 2, 0]);
    }

    #[test]
    fn any_bytes_can_be_closed_up() {
        let mut state = 1_u32;
        for _ in 0..200_000 {
            let mut header = [0; HEADER_ROOM];
            for byte in &mut header[..60] {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8 % 12;
            }
            let mut to = [0; HEADER_ROOM];
            let (end, _) = close_up(&header, &mut to, |kind, _, _| usize::from(kind == 8));
            assert!((OPTIONS..=60).contains(&end));
            // What is left is options, and none of them padding or unwanted.
            let mut again = [0; HEADER_ROOM];
            to[12] = (end.div_ceil(4) as u8) << 4;
            assert_eq!(
                close_up(&to, &mut again, |kind, _, _| usize::from(kind == 8)),
                (end, 0)
            );
            assert_eq!(again, to);
        }
    }
}
