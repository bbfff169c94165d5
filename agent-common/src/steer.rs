//! steer: which connections of a network namespace go to a local proxy.

/// A firewall mark written and compared under a mask.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The bits to set; none outside the mask.
    pub value: u32,
    /// The bits that belong to truepeer. Zero: no mark is used.
    pub mask: u32,
}

impl Mark {
    /// `mark` with the masked bits replaced by the value.
    #[inline(always)]
    pub const fn apply(self, mark: u32) -> u32 {
        (mark & !self.mask) | self.value
    }

    /// Whether `mark` carries the value under the mask. Never true without a mask.
    #[inline(always)]
    pub const fn matches(self, mark: u32) -> bool {
        self.mask != 0 && mark & self.mask == self.value
    }
}

/// Packets of these ports are steered to a local proxy.
///
/// Layout (16 bytes): ifindex 0..4, rule 4..8, first 8..10, last 10..12, to 12..14, flags 14,
/// further 15.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The interface whose ingress is steered; 0: the whole namespace, by `sk_lookup`.
    pub ifindex: u32,
    /// [`crate::origin::rule_id`] of the steer's name.
    pub rule: u32,
    /// First destination port, host byte order. 0 in a range of an `answers` interface, which has
    /// no ports.
    pub first: u16,
    /// Last destination port, host byte order, inclusive.
    pub last: u16,
    /// Port of the proxy's listener, host byte order.
    pub to: u16,
    /// [`Range::GATEWAY`], [`Range::ANSWERS`] or 0.
    pub flags: u8,
    /// How many of the ports after `to` belong to further listeners; fewer than
    /// [`crate::affinity::MAX_LISTENERS`].
    pub further: u8,
}

impl Range {
    /// The steer serves addresses that are not this host's: its packets are marked, so that the
    /// routing rules of the steered interface deliver them here.
    pub const GATEWAY: u8 = 1;
    /// Not ports of a proxy but the other side of a gateway: packets for the proxy's spoofed sockets
    /// come in here.
    pub const ANSWERS: u8 = 2;

    /// Whether the range is in use: it has a proxy's port, or a flag.
    #[inline(always)]
    pub const fn is_used(&self) -> bool {
        self.to | self.flags as u16 != 0
    }

    /// Whether it belongs to a steer for this host's own addresses, with the proxy beside the
    /// application.
    #[inline(always)]
    pub const fn is_sidecar(&self) -> bool {
        self.flags & (Self::GATEWAY | Self::ANSWERS) == 0
    }

    /// Whether a packet to `port` (host byte order) that came in by `ifindex` is to be steered. Packets to
    /// the proxy's own port never are, because they reach it anyway.
    #[inline(always)]
    pub const fn steers(&self, ifindex: u32, port: u16) -> bool {
        self.mismatch(ifindex, port) == 0
    }

    /// Whether a packet to `port` that came in by `ifindex` concerns this range: it is to be steered,
    /// or may be an answer.
    #[inline(always)]
    pub const fn concerns(&self, ifindex: u32, port: u16) -> bool {
        let answers =
            (self.ifindex ^ ifindex) as i64 | (self.flags & Self::ANSWERS ^ Self::ANSWERS) as i64;
        // Both are zero or not; a negative number or its opposite has the sign bit.
        let steers = self.mismatch(ifindex, port);
        (steers | -steers) & (answers | -answers) >= 0
    }

    /// Whether a connection to `port` that the proxy on port `to` accepted came by this range.
    #[inline(always)]
    pub const fn brought(&self, to: u32, port: u16) -> bool {
        self.mismatch(self.ifindex, port) | self.beside_listeners(to as i64) >> 63 == 0
    }

    /// Whether `port` (host byte order) is that of one of the proxy's listeners.
    #[inline(always)]
    pub const fn is_proxys(&self, port: u32) -> bool {
        self.beside_listeners(port as i64) >= 0
    }

    /// Negative, unless `port` is that of one of the proxy's listeners.
    #[inline(always)]
    const fn beside_listeners(&self, port: i64) -> i64 {
        let first = self.to as i64;
        (port - first) | (first + self.further as i64 - port)
    }

    /// Zero if a packet is to be steered. It has no branch, because the kernel's verifier follows each branch
    /// of a loop, some of them many times.
    #[inline(always)]
    const fn mismatch(&self, ifindex: u32, port: u16) -> i64 {
        let (first, last) = (self.first as i64, self.last as i64);
        let port = port as i64;
        let outside = (port - first) | (last - port) | !self.beside_listeners(port);
        let elsewhere = (self.ifindex ^ ifindex) as i64;
        let answers = (self.flags & Self::ANSWERS) as i64;
        outside >> 63 | elsewhere | answers
    }
}

/// How many ranges one namespace can have.
pub const MAX_RANGES: usize = 64;

/// All that the data path knows about one network namespace: value of the `NAMESPACES` map, whose
/// key is the namespace's cookie (`u64`). It is replaced as a whole, so that a packet never meets
/// half of a configuration.
///
/// Layout (1,052 bytes): spoofed 0..8, gateway 8..16, draining 16..20, spoofed_rule 20..24, local_ports 24..28, ranges 28..1052.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The mark of a local proxy's spoofed connections to its application (all zero: none).
    pub spoofed: Mark,
    /// The mark of packets that a gateway keeps (all zero: none).
    pub gateway: Mark,
    /// Not zero while the agent drains: new connections pass, those in progress are served.
    pub draining: u32,
    /// [`crate::origin::rule_id`] of the steer that `spoofed` belongs to, the first if several.
    pub spoofed_rule: u32,
    /// The first and the last of the ports from which the kernel lets sockets connect (the sysctl
    /// `net.ipv4.ip_local_port_range`), host byte order.
    pub local_ports: [u16; 2],
    /// The ranges with ports, in the order of the configuration, then those of `answers` interfaces. The
    /// first that matches decides. Unused ranges, at the end, are all zero.
    pub ranges: [Range; MAX_RANGES],
}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            spoofed: Mark::default(),
            gateway: Mark::default(),
            draining: 0,
            spoofed_rule: 0,
            local_ports: [32768, 60999],
            ranges: [Range::default(); MAX_RANGES],
        }
    }
}

/// What a proxy's listening socket carries in socket storage, and each socket accepted from it
/// inherits (`BPF_F_CLONE`): the proof that a connection was accepted by the proxy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// The port that the proxy listens on, host byte order.
    pub port: u32,
}

/// Key of the `PROXIES` map (sockhash): where `sk_lookup` finds a proxy's listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The port that the proxy listens on, host byte order; 0 in the `ADOPT` map for a listener that is
    /// no proxy's.
    pub port: u32,
    /// Address family of the socket: `AF_INET` (2) or `AF_INET6` (10).
    pub family: u32,
}

impl Namespace {
    /// One of the ports behind those that the kernel lets sockets connect from, chosen by a random number: no client whose
    /// kernel has the same range has it, and hardly any server. `None`: there are too few.
    #[inline(always)]
    pub const fn spare_port(&self, random: u32) -> Option<u16> {
        const ENOUGH: u16 = 256;
        let [_, last] = self.local_ports;
        let spare = u16::MAX - last;
        if spare < ENOUGH {
            return None;
        }
        Some(last + 1 + (random % spare as u32) as u16)
    }

    /// One of the ports that a client is given last, chosen by a random number: an odd one, counted from the first, because
    /// the kernel takes all others before (`__inet_hash_connect()` since Linux 4.2).
    #[inline(always)]
    pub const fn late_port(&self, random: u32) -> u16 {
        let [first, last] = self.local_ports;
        let pairs = (last.saturating_sub(first) as u32).div_ceil(2);
        match random.checked_rem(pairs) {
            Some(pair) => first + 1 + 2 * pair as u16,
            None => first,
        }
    }

    /// Whether a connection of a proxy, whose own address is not one of this host's, goes on only because these settings bring
    /// it what its other end sends: between the proxy's ports `local` and `remote` (host byte order), by a socket with this
    /// `mark`.
    pub fn carries(&self, local: u16, remote: u16, mark: u32) -> bool {
        let is_marked = self.spoofed.matches(mark);
        let to = |range: &Range, port| range.steers(range.ifindex, port);
        let is_carried = |range: &Range| match range.is_sidecar() {
            true => is_marked && to(range, remote),
            // A gateway's proxy has accepted connections to others' addresses, and makes such from its clients'.
            false => to(range, local) || to(range, remote),
        };
        self.find(is_carried).is_some()
    }

    /// The first range in use for which `wanted` holds.
    ///
    /// With a constant bound and a copy that is made at once, the kernel's verifier goes on in one state, and
    /// not in one for each place in the table.
    #[inline(always)]
    pub fn find(&self, mut wanted: impl FnMut(&Range) -> bool) -> Option<Range> {
        for range in &self.ranges {
            if !range.is_used() {
                break;
            }
            if wanted(range) {
                // SAFETY: a reference is valid for reads; volatile only keeps the copy here.
                return Some(unsafe { core::ptr::read_volatile(range) });
            }
        }
        None
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Mark>() == 8);
    assert!(size_of::<Range>() == 16);
    assert!(size_of::<ListenerKey>() == 16);
    assert!(size_of::<Namespace>() == 28 + 16 * MAX_RANGES);
    assert!(offset_of!(Namespace, ranges) == 28);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_touches_its_own_bits_only() {
        let mark = Mark {
            value: 0x539,
            mask: 0xfff,
        };
        assert_eq!(mark.apply(0xabcd_e000), 0xabcd_e539);
        assert!(mark.matches(0x0004_0539));
        assert!(!mark.matches(0x538));
        assert!(!Mark::default().matches(0));
    }

    #[test]
    fn spare_ports_are_those_behind_the_clients() {
        let ports = |last| {
            let namespace = Namespace {
                local_ports: [32768, last],
                ..Namespace::default()
            };
            [0, 1, 4535, 4536, u32::MAX].map(|random| namespace.spare_port(random))
        };
        let some = [61000, 61001, 65535, 61000, 62263].map(Some);
        assert_eq!(ports(60999), some);
        assert_eq!(ports(65279)[0], Some(65280));
        assert_eq!(ports(65280), [None; 5]);
        assert_eq!(ports(65535), [None; 5]);
    }

    #[test]
    fn late_ports_are_every_other_one() {
        let ports = |local_ports: [u16; 2]| {
            let namespace = Namespace {
                local_ports,
                ..Namespace::default()
            };
            [0, 1, 2, u32::MAX].map(|random| namespace.late_port(random))
        };
        assert_eq!(ports([32768, 60999]), [32769, 32771, 32773, 42575]);
        assert_eq!(ports([32768, 32771]), [32769, 32771, 32769, 32771]);
        assert_eq!(ports([1, 65535]), [2, 4, 6, 8]);
        assert_eq!(ports([40000, 40000]), [40000; 4]);
        assert_eq!(ports([40000, 39999]), [40000; 4]);
    }

    #[test]
    fn a_range_leaves_out_its_ends_neighbours_and_the_proxy_itself() {
        let range = Range {
            ifindex: 2,
            first: 8000,
            last: 16000,
            to: 15006,
            ..Range::default()
        };
        assert!(range.steers(2, 8000) && range.steers(2, 16000));
        assert!(!range.steers(2, 7999) && !range.steers(2, 16001));
        assert!(!range.steers(2, 15006));
        assert!(!range.steers(3, 8000));
        assert!(range.brought(15006, 8000) && !range.brought(15007, 8000));
        assert!(!range.brought(15006, 15006));
    }

    #[test]
    fn a_range_with_several_listeners_leaves_out_all_of_them() {
        let range = Range {
            first: 8000,
            last: 8010,
            to: 8004,
            further: 3,
            ..Range::default()
        };
        for port in 8004..=8007 {
            assert!(!range.steers(0, port) && range.is_proxys(port.into()));
            assert!(range.brought(port.into(), 8003) && range.brought(port.into(), 8008));
        }
        assert!(range.steers(0, 8003) && range.steers(0, 8008));
        assert!(!range.is_proxys(8003) && !range.is_proxys(8008));
        assert!(!range.brought(8008, 8003));
    }

    #[test]
    fn a_sidecar_carries_what_is_marked_and_a_gateway_both_sides() {
        let mark = Mark {
            value: 0x539,
            mask: 0xfff,
        };
        let settings = |flags| {
            let mut namespace = Namespace {
                spoofed: mark,
                ..Namespace::default()
            };
            namespace.ranges[0] = Range {
                ifindex: 2,
                first: 80,
                last: 90,
                to: 15006,
                flags,
                ..Range::default()
            };
            namespace
        };
        let sidecar = settings(0);
        assert!(sidecar.carries(61000, 85, 0x1539));
        assert!(!sidecar.carries(61000, 85, 0) && !sidecar.carries(61000, 91, 0x539));
        assert!(!sidecar.carries(85, 61000, 0x539));
        let gateway = settings(Range::GATEWAY);
        assert!(gateway.carries(61000, 85, 0) && gateway.carries(85, 61000, 0));
        assert!(!gateway.carries(61000, 91, 0x539));
        assert!(!Namespace::default().carries(61000, 85, 0x539));
    }

    #[test]
    fn a_packet_concerns_a_steer_by_its_port_and_answers_by_their_interface() {
        let steer = Range {
            ifindex: 2,
            first: 80,
            last: 90,
            to: 15006,
            ..Range::default()
        };
        let answers = Range {
            ifindex: 3,
            flags: Range::ANSWERS,
            ..Range::default()
        };
        assert!(steer.concerns(2, 80) && !steer.concerns(2, 91) && !steer.concerns(3, 80));
        assert!(answers.concerns(3, 80) && answers.concerns(3, 0) && !answers.concerns(2, 80));
        assert!(!answers.steers(3, 0));
    }
}
