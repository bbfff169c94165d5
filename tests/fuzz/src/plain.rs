//! Plain readers that several fuzzers judge by.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::libc::{AF_INET, AF_INET6};

unsafe extern "C" {
    /// Reads the text of an address; 1 if it is one (inet_pton(3)).
    fn inet_pton(family: c_int, text: *const c_char, address: *mut c_void) -> c_int;
}

/// An IPv4 address as the C library reads it.
pub(crate) fn v4(text: &[u8]) -> Option<IpAddr> {
    by_c::<4>(AF_INET, text).map(|octets| Ipv4Addr::from(octets).into())
}

/// An IPv6 address as the C library reads it.
pub(crate) fn v6(text: &[u8]) -> Option<IpAddr> {
    by_c::<16>(AF_INET6, text).map(|octets| Ipv6Addr::from(octets).into())
}

fn by_c<const N: usize>(family: c_int, text: &[u8]) -> Option<[u8; N]> {
    let text = CString::new(text).ok()?;
    let mut octets = [0; N];
    // SAFETY: the text ends with a zero, and an address of the family has N bytes.
    let read = unsafe { inet_pton(family, text.as_ptr(), octets.as_mut_ptr().cast()) };
    (read == 1).then_some(octets)
}

/// A decimal number of at most 16 bits.
pub(crate) fn port(text: &[u8]) -> Option<u16> {
    let mut number = None;
    for byte in text {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number = Some(number.unwrap_or(0) * 10 + digit).filter(|n| *n < 1 << 16);
        number?;
    }
    number.map(|number| number as u16)
}

/// The address with IPv4 in its own form.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether the address is one host's.
pub(crate) fn is_of_a_host(address: SocketAddr) -> bool {
    let ip = canonical(address).ip();
    !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST
}

/// A place within `length`, the end included, that an input chooses.
pub(crate) fn cut(bytes: &[u8], length: usize) -> usize {
    let sum: usize = bytes.iter().map(|byte| usize::from(*byte)).sum();
    sum % (length + 1)
}
