//! TOA and its tags in a TCP header: finding, removing and writing, against a plain reader.

use std::net::{IpAddr, SocketAddr};

use agent_common::{
    Endpoint,
    options::{self, class, close_up},
    tag,
    tcp::{HEADER_ROOM, Header, MAX_HEADER, append},
    toa::{self, Kinds, LEN_V4, LEN_V6, Toa},
};

use crate::{
    options::{TcpOption, is_closed_up, read, room, set_length},
    plain,
};

/// What is told by options that anybody may have written: kind and length of what is taken for TOA.
const KINDS: [(u8, u8); 4] = [(254, LEN_V4), (253, LEN_V6), (254, LEN_V6), (200, LEN_V4)];

/// A byte that says which of [`KINDS`] are taken for TOA, and a TCP header.
pub(crate) fn run(bytes: &[u8]) {
    let Some((taken, header)) = bytes.split_first() else {
        return;
    };
    let taken = (0..).zip(KINDS).filter(|(bit, _)| taken >> bit & 1 != 0);
    let taken: Vec<_> = taken.map(|(_, kind)| kind).collect();
    let with = |kinds: Kinds, (kind, length): &(u8, u8)| kinds.with(*kind, *length);
    let kinds = taken.iter().fold(Kinds::NONE, with);
    let header = room(header);
    let all = read(&header);
    let is_toa = |o: &TcpOption<'_>| taken.contains(&(o.kind(), o.bytes.len() as u8));
    let is_tag = |o: &TcpOption<'_>| o.bytes.len() == 12 && o.bytes.starts_with(b"\xfd\x0cTP");

    let toas: Vec<_> = all.iter().filter(|option| is_toa(option)).collect();
    let expected = match toas[..] {
        [] => Toa::Absent,
        [one] if may_be_a_cookie(one) => Toa::Ambiguous,
        [one] => client(one).map_or(Toa::Invalid, Toa::Client),
        _ => Toa::Invalid,
    };
    assert_eq!(options::toa(&header, &kinds), expected);
    let tags: Vec<_> = all.iter().filter(|option| is_tag(option)).collect();
    let expected = match tags[..] {
        [one] => one.bytes.last_chunk().map(|tag| u64::from_be_bytes(*tag)),
        _ => None,
    };
    assert_eq!(options::tag(&header, &Kinds::NONE), expected);

    let mut bare = [0; HEADER_ROOM];
    let (end, removed) = close_up(&header, &mut bare, &kinds, class::OWN);
    let (unwanted, kept): (Vec<_>, Vec<_>) = all.iter().partition(|o| is_toa(o) || is_tag(o));
    assert_eq!(removed, unwanted.len());
    is_closed_up(&header, &bare, end, &kept);
    set_length(&mut bare, end);
    assert_eq!(options::toa(&bare, &kinds), Toa::Absent);
    assert_eq!(options::tag(&bare, &Kinds::NONE), None);
    is_read_when_written(bare, end, &kinds, &taken, &header);
}

/// Whether an option may as well be TCP Fast Open's experimental one (RFC 6994, RFC 7413).
fn may_be_a_cookie(option: &TcpOption<'_>) -> bool {
    matches!(option.bytes, [253 | 254, _, 0xf9, 0x89, ..])
}

/// The client that an option names, if anybody can have its address.
fn client(option: &TcpOption<'_>) -> Option<Endpoint> {
    let port = u16::from_be_bytes([option.bytes[2], option.bytes[3]]);
    let address = &option.bytes[4..];
    let ip: IpAddr = match <[u8; 4]>::try_from(address) {
        Ok(octets) => octets.into(),
        Err(_) => <[u8; 16]>::try_from(address).unwrap().into(),
    };
    let client = plain::canonical(SocketAddr::new(ip, port));
    let is_client = port != 0 && plain::is_of_a_host(client) && !client.ip().is_loopback();
    is_client.then(|| client.into())
}

/// TOA and a tag that are written behind what is left are found again.
fn is_read_when_written(
    mut header: Header,
    end: usize,
    kinds: &Kinds,
    taken: &[(u8, u8)],
    told: &Header,
) {
    let Some(&(kind, length)) = taken.first() else {
        return;
    };
    if end + usize::from(length) + usize::from(tag::LEN) > MAX_HEADER {
        return;
    }
    // The ports and numbers of the header serve as an address.
    let octets: [u8; 16] = *told.first_chunk().expect("it is longer");
    let client: SocketAddr = match length {
        LEN_V4 => SocketAddr::new(
            IpAddr::from(*octets.first_chunk::<4>().expect("it has 16")),
            1,
        ),
        _ => SocketAddr::new(IpAddr::from(octets), 1),
    };
    let endpoint = Endpoint::from(client);
    let end = match length {
        LEN_V4 => append(&mut header, end, &toa::option_v4(kind, endpoint)),
        _ => append(&mut header, end, &toa::option_v6(kind, endpoint)),
    };
    let proof = u64::from_be_bytes(*octets.last_chunk().expect("it has 16"));
    let end = append(&mut header, end, &tag::option(proof));
    set_length(&mut header, end);
    let is_client = plain::is_of_a_host(client) && !plain::canonical(client).ip().is_loopback();
    let expected = if is_client {
        Toa::Client(endpoint)
    } else {
        Toa::Invalid
    };
    assert_eq!(options::toa(&header, kinds), expected);
    assert_eq!(options::tag(&header, &Kinds::NONE), Some(proof));
}
