//! The tag of signed TOA: a TCP option beside TOA on the SYN, by which the sender proves that it has the
//! cluster's key.
//!
//! An experimental option with an identifier (RFC 6994), big-endian: kind, length, identifier (2 bytes),
//! tag (8 bytes). The tag is SipHash-2-4 over client, sequence number and time. The packet's own addresses
//! are left out, as NAT on the way may change them.

use crate::{
    Endpoint,
    siphash::{Key, siphash},
    tcp::{Header, byte, word},
};

/// Kind of the option: for experiments (RFC 4727).
const KIND: u8 = 253;
/// Length of the option, kind and length included. With TOA for IPv4 it fills what Linux's own options
/// leave free on a SYN.
pub const LEN: u8 = 12;
/// "TP"; not registered.
const IDENTIFIER: u16 = 0x5450;
/// The unit of time, in nanoseconds. A tag is valid in its own epoch and in the ones before and after, by
/// which clocks may differ.
pub const EPOCH: u64 = 16_000_000_000;
/// The lowest bits of a tag are those of its epoch, so that one hash is enough to verify it.
const EPOCH_BITS: u64 = 3;

/// The keys: value of the one entry of the `KEYS` map. It is replaced as a whole.
///
/// Layout (40 bytes): wall 0..8, first 8..24, other 24..40.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// By how much wall-clock time is ahead of `CLOCK_BOOTTIME`, in nanoseconds.
    wall: u64,
    /// Signs and verifies.
    first: Key,
    /// Verifies as well; the same as `first` if there is no other key.
    other: Key,
}

/// What a tag proves: that a sender with the key speaks for this client on this SYN. Key of the `SPENT` map.
///
/// Layout (24 bytes): client 0..20, isn 20..24.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Signed {
    /// The client that TOA names.
    pub client: Endpoint,
    /// The SYN's sequence number, host byte order.
    pub isn: u32,
}

/// Element of the `SPENDING` queue: when which entry of `SPENT` can be forgotten.
///
/// Layout (32 bytes): epoch 0..8, signed 8..32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spending {
    /// The last epoch in which a tag for it may have been made.
    pub epoch: u64,
    /// What it proved.
    pub signed: Signed,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Keys>() == 40 && offset_of!(Keys, first) == 8);
    assert!(size_of::<Signed>() == 24 && offset_of!(Signed, isn) == 20);
    assert!(size_of::<Spending>() == 32 && offset_of!(Spending, signed) == 8);
};

impl Keys {
    /// The keys; `wall` is by how many nanoseconds wall-clock time is ahead of `CLOCK_BOOTTIME`.
    pub fn new(wall: u64, first: Key, other: Option<Key>) -> Self {
        Self {
            wall,
            first,
            other: other.unwrap_or(first),
        }
    }

    /// The epoch at this `CLOCK_BOOTTIME`.
    #[inline(always)]
    pub fn epoch(&self, boottime: u64) -> u64 {
        self.wall.wrapping_add(boottime) / EPOCH
    }

    /// The tag for a SYN that is sent in this epoch.
    #[inline(always)]
    pub fn sign(&self, signed: &Signed, epoch: u64) -> u64 {
        tag(&self.first, signed, epoch)
    }

    /// The epoch in which a valid tag was made; `None` if the tag is not valid in the epoch `now`.
    #[inline(always)]
    pub fn verify(&self, tag: u64, signed: &Signed, now: u64) -> Option<u64> {
        // 0 to 2 stand for the epoch before, this one and the next, and 3 for none of them.
        let distance = tag.wrapping_sub(now).wrapping_add(1) & EPOCH_BITS;
        let epoch = now.wrapping_add(distance).wrapping_sub(1);
        let is_by = |key| self::tag(key, signed, epoch) == tag;
        (distance != EPOCH_BITS && (is_by(&self.first) || is_by(&self.other))).then_some(epoch)
    }
}

/// Whether tags of this epoch have expired.
#[inline(always)]
pub fn has_expired(epoch: u64, now: u64) -> bool {
    epoch.wrapping_add(1) < now
}

/// Hashed are, little-endian but for the address: address (16 bytes), port (4 bytes), sequence number (4
/// bytes), epoch (8 bytes).
#[inline(never)]
fn tag(key: &Key, signed: &Signed, epoch: u64) -> u64 {
    let Endpoint { address, port, .. } = signed.client;
    let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let [a, b, c, d] = address.0.map(u32::from_le);
    let words = [pair(a, b), pair(c, d), pair(port.into(), signed.isn), epoch];
    siphash(key, &words) & !EPOCH_BITS | epoch & EPOCH_BITS
}

/// The tag in the option at `at`.
#[inline(always)]
pub(crate) fn read(header: &Header, at: usize) -> u64 {
    let half = |at| u64::from(u32::from_be(word(header, at)));
    half(at + 4) << 32 | half(at + 8)
}

/// Whether the option of this kind and length at `at` is a tag.
#[inline(always)]
pub(crate) fn is_tag(header: &Header, kind: u8, length: u8, at: usize) -> bool {
    let begin = [kind, length, byte(header, at + 2), byte(header, at + 3)];
    let [a, b] = IDENTIFIER.to_be_bytes();
    u32::from_ne_bytes(begin) == u32::from_ne_bytes([KIND, LEN, a, b])
}

/// The option with this tag.
#[inline(always)]
pub fn option(tag: u64) -> [u8; LEN as usize] {
    let [a, b] = IDENTIFIER.to_be_bytes();
    let [c, d, e, f, g, h, i, j] = tag.to_be_bytes();
    [KIND, LEN, a, b, c, d, e, f, g, h, i, j]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        options,
        tcp::{HEADER_ROOM, tests::header},
        toa::Kinds,
    };
    use core::net::SocketAddr;
    use proptest::prelude::*;

    const KEY: Key = [1, 2];
    const OTHER: Key = [3, 4];

    fn find(header: &Header) -> Option<u64> {
        options::tag(header, &Kinds::NONE)
    }

    fn signed(client: &str, isn: u32) -> Signed {
        let client = client.parse::<SocketAddr>().unwrap().into();
        Signed { client, isn }
    }

    #[test]
    fn a_tag_is_valid_in_its_epoch_and_its_neighbours() {
        let keys = Keys::new(0, KEY, None);
        let signed = signed("203.0.113.7:51812", 1);
        for epoch in [5, 6, 7, 8] {
            let tag = keys.sign(&signed, epoch);
            for now in 0..20 {
                let expected = (epoch.abs_diff(now) <= 1).then_some(epoch);
                assert_eq!(keys.verify(tag, &signed, now), expected, "{epoch}, {now}");
                assert_eq!(has_expired(epoch, now), epoch + 1 < now);
            }
        }
    }

    #[test]
    fn a_tag_proves_one_client_and_one_syn() {
        let keys = Keys::new(0, KEY, None);
        let proven = signed("203.0.113.7:51812", 1);
        let tag = keys.sign(&proven, 9);
        for other in [
            signed("203.0.113.8:51812", 1),
            signed("203.0.113.7:51813", 1),
            signed("203.0.113.7:51812", 2),
            signed("[2001:db8::7]:51812", 1),
        ] {
            assert_eq!(keys.verify(tag, &other, 9), None, "{other:?}");
        }
        for bit in 0..64 {
            assert_eq!(keys.verify(tag ^ 1 << bit, &proven, 9), None, "bit {bit}");
        }
    }

    #[test]
    fn the_first_key_signs_and_both_verify() {
        let signed = signed("[2001:db8::7]:443", 7);
        let tag = |first, other, key| {
            let keys = Keys::new(0, first, other);
            keys.verify(Keys::new(0, key, None).sign(&signed, 3), &signed, 3)
        };
        assert_eq!(tag(KEY, Some(OTHER), KEY), Some(3));
        assert_eq!(tag(OTHER, Some(KEY), KEY), Some(3));
        assert_eq!(tag(OTHER, None, KEY), None);
        let [one, two] = [Some(OTHER), None].map(|o| Keys::new(0, KEY, o).sign(&signed, 3));
        assert_eq!(one, two);
    }

    #[test]
    fn time_is_that_of_the_wall() {
        let keys = Keys::new(100 * EPOCH, KEY, None);
        assert_eq!(keys.epoch(0), 100);
        assert_eq!(keys.epoch(EPOCH - 1), 100);
        assert_eq!(keys.epoch(EPOCH), 101);
        // Where wall-clock time is behind.
        assert_eq!(
            Keys::new(0_u64.wrapping_sub(EPOCH), KEY, None).epoch(3 * EPOCH),
            2
        );
    }

    #[test]
    fn a_tag_is_found_where_it_stands_and_once() {
        let tag = 0x0123_4567_89ab_cdef;
        let option = option(tag);
        let toa = [254, 8, 0xca, 0x64, 203, 0, 113, 7];
        assert_eq!(option[..4], [253, 12, 0x54, 0x50]);
        let mut stranger = option;
        stranger[3] ^= 1;
        for options in [
            &[&toa[..], &option][..],
            &[&option, &toa],
            &[&[1, 1], &option],
            &[&stranger, &option],
        ] {
            assert_eq!(find(&header(options)), Some(tag));
        }
        for options in [&[&toa[..]][..], &[&option, &option], &[&stranger], &[]] {
            assert_eq!(find(&header(options)), None, "{options:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_can_be_read(header: [u8; HEADER_ROOM]) {
            find(&header);
        }
    }
}
