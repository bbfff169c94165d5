//! SYN cookies: sequence numbers of SYN-ACKs, by which the kernel remembers what it has no room for.

use agent_common::kernel::Version;
use aya_ebpf::helpers::generated::{
    bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6,
};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use super::{packet::Segment, uapi::EACCES};
use crate::maps::kernel_has;

/// How many words the headers have.
const IPV4: usize = Ipv4Hdr::LEN / size_of::<u32>();
const IPV6: usize = Ipv6Hdr::LEN / size_of::<u32>();
const TCP: usize = TcpHdr::LEN / size_of::<u32>();

/// Whether a SYN-ACK has a SYN cookie that this kernel made for a SYN between the very ends of the SYN-ACK, be it for a listener
/// or for netfilter's SYNPROXY; `None`: the kernel does not tell. Where netfilter changes the ends, the cookie is one for those
/// that it put in their place.
#[inline(never)]
pub(crate) fn is_between_its_ends(answer: &Segment) -> Option<bool> {
    if !kernel_has(Version::COOKIES_HAVE_NO_LISTENER) {
        return None;
    }
    let (client, server) = (&answer.destination, &answer.source);
    // Of the ACK that would complete the handshake, the kernel reads addresses, ports and numbers.
    let ports = u32::from(client.port) << 16 | u32::from(server.port);
    let mut tcp = [0; TCP];
    tcp[0] = ports.to_be();
    tcp[1] = answer.tcp.acknowledgment.to_be();
    tcp[2] = answer.tcp.sequence.wrapping_add(1).to_be();
    let tcp = tcp.as_mut_ptr().cast();
    let ([a, b, c, d], [e, f, g, h]) = (client.address.0, server.address.0);
    // SAFETY: the headers lie on the stack, and have the lengths that the helpers read.
    let error = unsafe {
        if answer.is_v6 {
            let mut ip: [u32; IPV6] = [0, 0, a, b, c, d, e, f, g, h];
            bpf_tcp_raw_check_syncookie_ipv6(ip.as_mut_ptr().cast(), tcp)
        } else {
            let mut ip: [u32; IPV4] = [0, 0, 0, d, h];
            bpf_tcp_raw_check_syncookie_ipv4(ip.as_mut_ptr().cast(), tcp)
        }
    };
    match error as i32 {
        0 => Some(true),
        error if error == -EACCES => Some(false),
        _ => None,
    }
}
