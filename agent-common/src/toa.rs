//! TOA: the TCP option by which a load balancer tells the address of its client on the SYN.
//!
//! It has no RFC. The LVS and DPVS kernel modules and cloud load balancers write, big-endian: kind, length,
//! port (2 bytes), address (4 or 16 bytes). The kinds are those for experiments, 253 and 254 (RFC 4727),
//! without the magic of RFC 6994; other kinds are in use as well.
//!
//! Where TOA has the port, other experiments of these kinds have their identifier (RFC 6994). The only one whose options
//! are as long as TOA is that of TCP Fast Open (RFC 7413, 4.1.1), with a cookie of 4 or 16 bytes; Linux takes it for one.

use crate::{
    Address, Endpoint, fast_open,
    tcp::{Header, byte, word},
};

/// Length of the option with an IPv4 address, kind and length included.
pub const LEN_V4: u8 = 8;
/// Length of the option with an IPv6 address.
pub const LEN_V6: u8 = 20;

/// Whether TOA of this kind with this port may as well be TCP Fast Open's cookie. It is neither believed nor sent.
#[inline(always)]
pub const fn is_ambiguous(kind: u8, port: u16) -> bool {
    fast_open::is_experiment(kind, port)
}

/// Which options are taken for TOA: value of the one slot of the `TOA` map.
///
/// Layout (2,056 bytes): is_used 0..8, lengths 8..2056.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Not zero if there are any.
    is_used: u64,
    /// For each kind, the lengths that are taken, one bit each.
    lengths: [u64; 256],
}

const _: () = assert!(size_of::<Kinds>() == 8 + 256 * 8);

impl Kinds {
    /// No option is taken for TOA.
    pub const NONE: Self = Self {
        is_used: 0,
        lengths: [0; 256],
    };

    /// Adds the options of this kind and length ([`LEN_V4`] or [`LEN_V6`]).
    pub const fn with(mut self, kind: u8, length: u8) -> Self {
        self.is_used = 1;
        self.lengths[kind as usize] |= 1 << length;
        self
    }

    /// Whether no option is taken for TOA.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.is_used == 0
    }

    /// Whether an option of this kind and length is TOA.
    #[inline(always)]
    pub(crate) const fn accepts(&self, kind: u8, length: u8) -> bool {
        self.lengths[kind as usize] >> (length & 63) & 1 != 0
    }
}

/// What a SYN's options say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toa {
    /// There is no TOA.
    Absent,
    /// There is TOA that names no client: more than one option, or an address that no client has.
    Invalid,
    /// There is an option that [`is_ambiguous`].
    Ambiguous,
    /// The client.
    Client(Endpoint),
}

/// What TOA in a TCP header says, of which there are so many, the only one at `at`.
#[inline(always)]
pub(crate) fn read(header: &Header, number: usize, at: usize) -> Toa {
    match number {
        0 => return Toa::Absent,
        1 => {}
        _ => return Toa::Invalid,
    }
    let client = client(header, at);
    if is_ambiguous(byte(header, at), client.port) {
        return Toa::Ambiguous;
    }
    if client.port != 0 && client.address.is_host() {
        Toa::Client(client)
    } else {
        Toa::Invalid
    }
}

/// The endpoint in the option at `at`.
#[inline(always)]
fn client(header: &Header, at: usize) -> Endpoint {
    let port = u16::from_be_bytes([byte(header, at + 2), byte(header, at + 3)]);
    let address = if byte(header, at + 1) == LEN_V4 {
        Address::v4(word(header, at + 4))
    } else {
        let word = |i: usize| word(header, at + 4 + 4 * i);
        Address::v6([word(0), word(1), word(2), word(3)])
    };
    Endpoint::new(address, port)
}

/// The option for an IPv4 client.
#[inline(always)]
pub fn option_v4(kind: u8, client: Endpoint) -> [u8; LEN_V4 as usize] {
    let [p, q] = client.port.to_be_bytes();
    let [a, b, c, d] = client.address.0[3].to_ne_bytes();
    [kind, LEN_V4, p, q, a, b, c, d]
}

/// The option for an IPv6 client.
#[inline(always)]
pub fn option_v6(kind: u8, client: Endpoint) -> [u8; LEN_V6 as usize] {
    let mut option = [0; LEN_V6 as usize];
    let [p, q] = client.port.to_be_bytes();
    [option[0], option[1], option[2], option[3]] = [kind, LEN_V6, p, q];
    for (four, word) in option[4..].chunks_exact_mut(4).zip(client.address.0) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    option
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        options::toa as find,
        tcp::{HEADER_ROOM, tests::header},
    };
    use core::net::SocketAddr;

    const KINDS: Kinds = Kinds::NONE
        .with(254, LEN_V4)
        .with(253, LEN_V6)
        .with(254, LEN_V6);
    /// MSS, SACK permitted, timestamps, window scale: what Linux puts on a SYN.
    const USUAL: [u8; 20] = [
        2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
    ];

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().unwrap().into()
    }

    #[test]
    fn it_is_found_wherever_it_stands() {
        let v4 = endpoint("203.0.113.7:51812");
        let option = option_v4(254, v4);
        assert_eq!(option, [254, 8, 0xca, 0x64, 203, 0, 113, 7]);
        for options in [
            &[&USUAL[..], &option][..],
            &[&option, &USUAL],
            &[&USUAL[..4], &[1, 1], &option, &USUAL[4..]],
        ] {
            assert_eq!(find(&header(options), &KINDS), Toa::Client(v4));
        }
        let v6 = endpoint("[2001:db8::7]:443");
        for kind in [253, 254] {
            let option = option_v6(kind, v6);
            assert_eq!(find(&header(&[&USUAL, &option]), &KINDS), Toa::Client(v6));
            assert_eq!(find(&header(&[&option, &USUAL]), &KINDS), Toa::Client(v6));
        }
    }

    #[test]
    fn an_ipv4_client_may_come_in_mapped_form() {
        let v4 = endpoint("203.0.113.7:80");
        assert_eq!(
            find(&header(&[&option_v6(253, v4)]), &KINDS),
            Toa::Client(v4)
        );
    }

    #[test]
    fn other_kinds_and_lengths_are_not_toa() {
        let client = endpoint("203.0.113.7:80");
        assert_eq!(find(&header(&[&USUAL]), &KINDS), Toa::Absent);
        assert_eq!(
            find(&header(&[&option_v4(253, client)]), &KINDS),
            Toa::Absent
        );
        assert_eq!(find(&header(&[&[254, 4, 1, 2]]), &KINDS), Toa::Absent);
        assert_eq!(find(&header(&[&[254, 8, 0, 80]]), &KINDS), Toa::Absent);
        assert_eq!(
            find(&header(&[&option_v4(254, client)]), &Kinds::NONE),
            Toa::Absent
        );
    }

    #[test]
    fn what_follows_the_end_of_options_is_not_read() {
        let option = option_v4(254, endpoint("203.0.113.7:80"));
        assert_eq!(find(&header(&[&[0], &option]), &KINDS), Toa::Absent);
    }

    #[test]
    fn what_names_no_client_is_invalid() {
        for client in [
            "0.0.0.0:80",
            "127.0.0.1:80",
            "224.0.0.1:80",
            "203.0.113.7:0",
        ] {
            let header = header(&[&option_v4(254, endpoint(client))]);
            assert_eq!(find(&header, &KINDS), Toa::Invalid, "{client}");
        }
        let (a, b) = (endpoint("203.0.113.7:80"), endpoint("203.0.113.8:80"));
        let two = header(&[&option_v4(254, a), &option_v4(254, b)]);
        assert_eq!(find(&two, &KINDS), Toa::Invalid);
    }

    #[test]
    fn what_may_be_a_cookie_is_ambiguous() {
        let kinds = KINDS.with(253, LEN_V4).with(200, LEN_V4);
        let (v4, v6) = ("203.0.113.7:63881", "[2001:db8::7]:63881");
        for kind in [253, 254] {
            for option in [
                &option_v4(kind, endpoint(v4))[..],
                &option_v6(kind, endpoint(v6)),
            ] {
                assert_eq!(find(&header(&[&USUAL, option]), &kinds), Toa::Ambiguous);
            }
        }
        // Linux's own cookies are of eight bytes, which is no length of TOA.
        let cookie = [254, 12, 0xf9, 0x89, 1, 2, 3, 4, 5, 6, 7, 8];
        let client = endpoint("203.0.113.7:63882");
        let options = header(&[&cookie, &option_v4(254, client)]);
        assert_eq!(find(&options, &kinds), Toa::Client(client));
        // Other kinds have no identifiers.
        let client = endpoint(v4);
        let options = header(&[&option_v4(200, client)]);
        assert_eq!(find(&options, &kinds), Toa::Client(client));
    }

    #[test]
    fn any_bytes_can_be_read() {
        let mut state = 1_u32;
        for _ in 0..200_000 {
            let mut header = [0; HEADER_ROOM];
            for byte in &mut header {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = match state >> 29 {
                    0 => 254,
                    1 => 8,
                    2 => 1,
                    _ => (state >> 16) as u8,
                };
            }
            find(&header, &KINDS);
        }
    }
}
