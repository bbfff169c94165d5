//! Session affinity: which of a steer's listeners a client's connections go to. It is always the same one, as
//! long as it listens.

use crate::{Address, verifier::global};

/// How many listeners a steer can have.
pub const MAX_LISTENERS: u32 = 16;

/// The index of this client's listener among those of a steer; `None` if none listens. Bit n of `listening`
/// says whether the nth does.
///
/// Rendezvous hashing (Thaler and Ravishankar, 1998): each pair of client and listener has a weight, and the
/// heaviest listener is the client's. When a listener is lost, only its own clients move, and they come back
/// with it.
#[inline(always)]
pub fn choose(client: &Address, listening: u32) -> Option<u32> {
    let heaviest = truepeer_heaviest(client.0.into_iter().fold(0, mix), listening);
    (heaviest != 0).then_some(heaviest as u32 >> 1 & (MAX_LISTENERS - 1))
}

global! {
    /// The weight of the client, by its hash, and its listener; 0 if none listens.
    fn truepeer_heaviest(client: u64, listening: u32) -> u64 {
        let mut heaviest = 0;
        let mut n = 0;
        while n < MAX_LISTENERS {
            heaviest = truepeer_heavier(client, n, listening, heaviest);
            n += 1;
        }
        heaviest
    }
}

global! {
    /// The weight of the client, by its hash, and the `n`th listener, if it listens and is the heaviest so far.
    fn truepeer_heavier(client: u64, n: u32, listening: u32, heaviest: u64) -> u64 {
        if listening >> (n & (MAX_LISTENERS - 1)) & 1 == 0 {
            return heaviest;
        }
        // The lowest bits of a weight tell the listener, so that weights differ and none is zero.
        let weight = mix(client, n) >> 7 << 6 | u64::from(n << 1 | 1);
        weight.max(heaviest)
    }
}

/// A hash of what was hashed before and of one more word: the finalizer of MurmurHash3.
#[inline(always)]
fn mix(hash: u64, word: u32) -> u64 {
    let mut hash = hash.rotate_left(32) ^ u64::from(word);
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    const ALL: u32 = (1 << MAX_LISTENERS) - 1;

    /// Neighbours, as clients often are, of both families.
    fn clients() -> impl Iterator<Item = Address> {
        let v4 = (0..10_000).map(|n| IpAddr::from(Ipv4Addr::from(0xcb00_7100 + n)));
        let v6 =
            (0..10_000).map(|n| IpAddr::from(Ipv6Addr::from(0x2001_0db8_u128 << 96 | n << 64)));
        v4.chain(v6).map(Address::from)
    }

    fn choices(listening: u32) -> impl Iterator<Item = u32> {
        clients().map(move |client| choose(&client, listening).unwrap())
    }

    #[test]
    fn each_that_listens_has_its_share() {
        for listening in [0b1111_u32, 0b1000_0100_1010, 1 << 15 | 1] {
            let mut shares = [0; MAX_LISTENERS as usize];
            for choice in choices(listening) {
                shares[choice as usize] += 1;
            }
            let fair = 20_000 / listening.count_ones() as i32;
            for (n, share) in shares.into_iter().enumerate() {
                let expected = fair * (listening >> n & 1) as i32;
                assert!((expected - share).abs() <= fair / 20, "{n}: {share}");
            }
        }
        assert_eq!(choose(&Address::default(), 0), None);
        assert_eq!(choose(&Address::default(), 1), Some(0));
    }

    #[test]
    fn only_the_clients_of_a_lost_one_move_and_to_all_others() {
        let (before, after) = (choices(ALL), choices(ALL ^ 1 << 5));
        let mut taken_up = 0;
        for (before, after) in before.zip(after) {
            assert!(after == before || before == 5);
            taken_up |= u32::from(before == 5) << after;
        }
        assert_eq!(taken_up, ALL ^ 1 << 5);
    }
}
