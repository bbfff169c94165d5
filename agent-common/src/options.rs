//! TCP options (RFC 9293, 3.1), read in a way that the kernel's verifier can follow.

use crate::{
    fast_open,
    tag::{self, is_tag},
    tcp::{HEADER_ROOM, Header, MAX_HEADER, NO_OPERATION, OPTIONS, byte, set},
    toa::{self, Kinds, Toa},
    verifier::global,
};

const MAX_OPTIONS: usize = MAX_HEADER - OPTIONS;
const END_OF_OPTIONS: u8 = 0;

/// What an option is to truepeer, by its bit in what `truepeer_option` says.
pub mod class {
    /// TOA, of a kind and length that are taken for it.
    pub const TOA: u32 = 8;
    /// The tag of signed TOA.
    pub const TAG: u32 = 9;
    /// Either of them.
    pub const OWN: u32 = 10;
    /// TCP Fast Open's, in both forms.
    pub const FAST_OPEN: u32 = 11;
    /// Padding of one byte.
    pub(super) const PADDING: u32 = 12;
}

/// Bits of a result that say a place in a header.
const PLACE: u32 = HEADER_ROOM as u32 - 1;
/// Where the number stands in a result that is a number and a place.
const NUMBER: u32 = 8;

/// Looks for options of a [`class`] in a TCP header. `header` has all bytes that the header's length says, and zeros behind
/// them. Returns how many there are and, if that is one, where in the header it begins.
#[inline(always)]
pub fn find(header: &Header, kinds: &Kinds, class: u32) -> (usize, usize) {
    unpacked(truepeer_options(header, kinds, class))
}

/// Closes up the options of a TCP header. `header` has all bytes that the header's length says, and zeros behind them. `to`,
/// which must be all zeros, gets the header without padding and without options of the [`class`]. Returns where in `to` the
/// last option ends, and how many were of the class. Leaves out what follows the end of options, or something that is not an
/// option, as nobody reads it.
#[inline(always)]
pub fn close_up(header: &Header, to: &mut Header, kinds: &Kinds, class: u32) -> (usize, usize) {
    to[..OPTIONS].copy_from_slice(&header[..OPTIONS]);
    let (number, end) = unpacked(truepeer_close_up(header, to, kinds, class));
    (end, number)
}

/// Looks for TOA in a TCP header.
#[inline(always)]
pub fn toa(header: &Header, kinds: &Kinds) -> Toa {
    let (number, at) = find(header, kinds, class::TOA);
    toa::read(header, number, at)
}

/// Looks for a tag in a TCP header. `None`: there is none, or there are several.
#[inline(always)]
pub fn tag(header: &Header, kinds: &Kinds) -> Option<u64> {
    let (number, at) = find(header, kinds, class::TAG);
    (number == 1).then(|| tag::read(header, at))
}

#[inline(always)]
fn packed(number: usize, place: usize) -> u64 {
    (number << NUMBER | place) as u64
}

#[inline(always)]
fn unpacked(result: u64) -> (usize, usize) {
    let (number, place) = (result >> NUMBER, result & u64::from(PLACE));
    (number as usize, place as usize)
}

global! {
    /// What stands at `at`: where the next option begins, and the bits of its [`class`]. 0: nothing that is an option, where
    /// the kernel's own parser stops, too.
    fn truepeer_option(header: *const Header, kinds: *const Kinds, at: u64) -> u32 {
        // SAFETY: pointers of a global function lead to one value each.
        match unsafe { (header.as_ref(), kinds.as_ref()) } {
            (Some(header), Some(kinds)) => option(header, kinds, at as usize),
            _ => 0,
        }
    }
}

#[inline(always)]
fn option(header: &Header, kinds: &Kinds, at: usize) -> u32 {
    let end = (byte(header, 12) >> 4) as usize * 4;
    if at >= end {
        return 0;
    }
    let kind = byte(header, at);
    if kind == END_OF_OPTIONS {
        return 0;
    }
    if kind == NO_OPERATION {
        return (at + 1) as u32 | 1 << class::PADDING;
    }
    let length = byte(header, at + 1);
    let next = at + length as usize;
    if length < 2 || next > end {
        return 0;
    }
    let is_toa = kinds.accepts(kind, length);
    let is_tag = is_tag(header, kind, length, at);
    let is_fast_open = fast_open::is_option(header, kind, at);
    next as u32
        | u32::from(is_toa) << class::TOA
        | u32::from(is_tag) << class::TAG
        | u32::from(is_toa | is_tag) << class::OWN
        | u32::from(is_fast_open) << class::FAST_OPEN
}

global! {
    /// [`find`], packed.
    fn truepeer_options(header: *const Header, kinds: *const Kinds, class: u32) -> u64 {
        if header.is_null() || kinds.is_null() {
            return 0;
        }
        // The number of the options found, and the sum of their places.
        let (mut number, mut found) = (0, 0);
        let (mut at, mut i) = (OPTIONS, 0);
        while i < MAX_OPTIONS {
            let option = truepeer_option(header, kinds, at as u64);
            if option == 0 {
                break;
            }
            // Not a branch, of which the verifier would follow both sides in each round.
            let is_wanted = (option >> class & 1) as usize;
            number += is_wanted;
            found += at * is_wanted;
            at = (option & PLACE) as usize;
            i += 1;
        }
        packed(number, found & PLACE as usize)
    }
}

global! {
    /// [`close_up`], packed.
    fn truepeer_close_up(
        header: *const Header,
        to: *mut Header,
        kinds: *const Kinds,
        class: u32
    ) -> u64 {
        if header.is_null() || to.is_null() || kinds.is_null() {
            return 0;
        }
        let (mut at, mut end, mut number, mut i) = (OPTIONS, OPTIONS, 0, 0);
        while i < MAX_OPTIONS {
            let option = truepeer_option(header, kinds, at as u64);
            if option == 0 {
                break;
            }
            let is_unwanted = option >> class & 1;
            let is_kept = (is_unwanted | option >> class::PADDING & 1) ^ 1;
            let next = (option & PLACE) as usize;
            let length = next.wrapping_sub(at) * is_kept as usize;
            end = truepeer_keep(header, to, at as u64, end as u64, length as u64) as usize;
            number += is_unwanted as usize;
            at = next;
            i += 1;
        }
        packed(number, end & PLACE as usize)
    }
}

global! {
    /// Copies an option of `length` bytes from `at` of a header to `end` of another. Returns where that ends now.
    fn truepeer_keep(
        header: *const Header,
        to: *mut Header,
        at: u64,
        end: u64,
        length: u64
    ) -> u64 {
        // SAFETY: pointers of a global function lead to one value each.
        let (Some(header), Some(to)) = (unsafe { (header.as_ref(), to.as_mut()) }) else {
            return 0;
        };
        let mut i = 0;
        while i < MAX_OPTIONS && i < length as usize {
            set(to, end as usize + i, byte(header, at as usize + i));
            i += 1;
        }
        end + length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::{HEADER_ROOM, tests::header};
    use std::vec::Vec;

    extern crate std;

    /// A header's options without TOA of kind 254, where they end, and how many there were.
    fn bare(header: &Header) -> (Header, usize, usize) {
        let kinds = (2..=40).fold(Kinds::NONE, |kinds, length| kinds.with(254, length));
        let mut to = [0; HEADER_ROOM];
        let (end, number) = close_up(header, &mut to, &kinds, class::TOA);
        (to, end, number)
    }

    /// Options without those of kind 254, and how many there were.
    fn closed_up(options: &[u8]) -> (Vec<u8>, usize) {
        let header = header(&[options]);
        let (to, end, number) = bare(&header);
        assert_eq!(to[end..], [0; HEADER_ROOM][end..]);
        assert_eq!(to[..OPTIONS], header[..OPTIONS]);
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
    fn any_bytes_can_be_closed_up() {
        let mut state = 1_u32;
        for _ in 0..200_000 {
            let mut header = [0; HEADER_ROOM];
            for byte in &mut header[..60] {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = match (state >> 24) as u8 % 12 {
                    8 => 254,
                    other => other,
                };
            }
            let (mut to, end, _) = bare(&header);
            assert!((OPTIONS..=60).contains(&end));
            // What is left is options, and none of them padding or unwanted.
            to[12] = (end.div_ceil(4) as u8) << 4;
            assert_eq!(bare(&to), (to, end, 0));
        }
    }
}
