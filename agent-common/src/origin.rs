//! The record that truepeer keeps for one socket.

use crate::Endpoint;

/// How an origin became known. The discriminants are part of the pinned maps' layout.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The packet's own source is the client (a steered or a truly spoofed connection).
    Wire = 1,
    /// A local proxy bound its upstream socket to the client's address.
    Bind = 2,
    /// A TCP option on the SYN carries the client's address.
    Toa = 3,
    /// A PROXY protocol header.
    Proxy = 4,
    /// `X-Forwarded-For` or `Forwarded`.
    Xff = 5,
    /// The node saw the packet before its own NAT rewrote it.
    Snat = 6,
}

impl Evidence {
    /// Every kind of evidence, in the order of the discriminants.
    pub const ALL: [Self; 6] = [
        Self::Wire,
        Self::Bind,
        Self::Toa,
        Self::Proxy,
        Self::Xff,
        Self::Snat,
    ];

    /// The word for it in output, configuration and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Bind => "bind",
            Self::Toa => "toa",
            Self::Proxy => "proxy",
            Self::Xff => "xff",
            Self::Snat => "snat",
        }
    }

    /// The evidence with this discriminant; `None` for any other byte.
    pub fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|e| *e as u8 == byte)
    }
}

/// The process that holds or last held a socket, as the kernel knew it when the process accepted or closed
/// it.
///
/// Layout (32 bytes): pid 0..4, uid 4..8, cgroup 8..16, comm 16..32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Process (thread group) id in the initial pid namespace; 0 while unknown.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// cgroup v2 id (the inode of its directory).
    pub cgroup: u64,
    /// Command name, padded with zero bytes.
    pub comm: [u8; 16],
}

/// The origin of one socket: value of the `ORIGINS` map, whose key is the socket cookie (`u64`).
///
/// Layout (144 bytes): since 0..8, netns 8..16, process 16..48, client 48..68, original_dst 68..88,
/// local 88..108, remote 108..128, rule 128..132, evidence 132, fins 133, padding 134..136,
/// header 136..144.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// When it was learnt: nanoseconds of `CLOCK_BOOTTIME`.
    pub since: u64,
    /// Cookie of the socket's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
    pub netns: u64,
    /// Who accepted or closed the socket; all zero while nobody is known.
    pub process: Process,
    /// The client before any hop changed it.
    pub client: Endpoint,
    /// Where the client wanted to go.
    pub original_dst: Endpoint,
    /// The socket's own end, as on the wire.
    pub local: Endpoint,
    /// The socket's other end, as on the wire.
    pub remote: Endpoint,
    /// Who vouches: [`rule_id`] of the rule's name in the configuration.
    pub rule: u32,
    /// An [`Evidence`] as its discriminant.
    pub evidence: u8,
    /// Which FINs TCP's byte counts include: [`Origin::FIN_RECEIVED`], [`Origin::FIN_ACKED`].
    pub fins: u8,
    /// Always zero.
    pub padding: [u8; 2],
    /// Number of the PROXY header that says more about the connection ([`crate::event::Header`]); 0 if there
    /// is none, or if the agent's relay read it.
    pub header: u64,
}

impl Origin {
    /// The other end's FIN has come; TCP counts it as a byte received.
    pub const FIN_RECEIVED: u8 = 1;
    /// This end's FIN has been acknowledged; TCP counts it as a byte acknowledged.
    pub const FIN_ACKED: u8 = 2;
}

/// The number by which a record names a rule of the configuration: FNV-1a over the name, so that
/// records outlive a restart of the agent without a table of names.
pub const fn rule_id(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash = 0x811c_9dc5_u32;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Process>() == 32);
    assert!(size_of::<Origin>() == 144 && align_of::<Origin>() == 8);
    assert!(offset_of!(Origin, process) == 16);
    assert!(offset_of!(Origin, client) == 48);
    assert!(offset_of!(Origin, remote) == 108);
    assert!(offset_of!(Origin, rule) == 128);
    assert!(offset_of!(Origin, evidence) == 132);
    assert!(offset_of!(Origin, header) == 136);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_found_by_its_discriminant_only() {
        for evidence in Evidence::ALL {
            assert_eq!(Evidence::from_u8(evidence as u8), Some(evidence));
        }
        assert_eq!(Evidence::from_u8(0), None);
        assert_eq!(Evidence::from_u8(7), None);
    }

    #[test]
    fn rule_ids_are_fnv_1a() {
        // Reference values of the FNV specification (draft-eastlake-fnv).
        assert_eq!(rule_id(""), 0x811c_9dc5);
        assert_eq!(rule_id("a"), 0xe40c_292c);
        assert_eq!(rule_id("foobar"), 0xbf9c_f968);
    }
}
