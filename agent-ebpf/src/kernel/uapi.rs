//! Numbers of the kernel's UAPI that the bindings lack. TCP's states are there, as `BPF_TCP_*`.

use aya_ebpf::bindings::{
    BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_ESTABLISHED, BPF_TCP_FIN_WAIT1, BPF_TCP_FIN_WAIT2,
    BPF_TCP_LAST_ACK,
};

/// Answers of a program at a cgroup: the call or the packet goes on, or the call fails with EPERM and the packet is
/// dropped.
pub(crate) const PASS: i32 = 1;
pub(crate) const REJECT: i32 = 0;

/// Errors: something is not allowed, or a socket's family cannot say something (asm-generic/errno.h).
pub(crate) const EACCES: i32 = 13;
pub(crate) const EAFNOSUPPORT: i32 = 97;

/// Capabilities (linux/capability.h).
pub(crate) const CAP_NET_ADMIN: u64 = 1 << 12;
pub(crate) const CAP_NET_RAW: u64 = 1 << 13;

/// Address families and socket types (linux/socket.h, linux/net.h).
pub(crate) const AF_INET: u32 = 2;
pub(crate) const AF_INET6: u32 = 10;
pub(crate) const SOCK_STREAM: u32 = 1;

/// Levels and options of sockets (asm-generic/socket.h, linux/in.h, linux/in6.h).
pub(crate) const SOL_SOCKET: i32 = aya_ebpf::bindings::SOL_SOCKET as i32;
pub(crate) const SO_MARK: i32 = aya_ebpf::bindings::SO_MARK as i32;
pub(crate) const SOL_IP: i32 = 0;
pub(crate) const IP_TRANSPARENT: i32 = 19;
pub(crate) const SOL_IPV6: i32 = 41;
pub(crate) const IPV6_TRANSPARENT: i32 = 75;
/// At both levels (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
pub(crate) const SO_ORIGINAL_DST: i32 = 80;

/// For whom a frame is that comes in: for its interface, or for another Ethernet address (linux/if_packet.h).
pub(crate) const PACKET_HOST: u32 = 0;
pub(crate) const PACKET_OTHERHOST: u32 = 3;

/// The bits of a VLAN tag that tell the VLAN; the others are a priority (`VLAN_VID_MASK` of the kernel's linux/if_vlan.h).
pub(crate) const VLAN_ID: u32 = 0x0fff;

/// Index of the loopback interface in every network namespace (`LOOPBACK_IFINDEX` of the kernel's net/flow.h).
pub(crate) const LOOPBACK: u32 = 1;

/// TCP's level, and those of its options that only BPF programs can use (linux/bpf.h).
pub(crate) const SOL_TCP: i32 = 6;
/// The SYN that is being answered, from its TCP header on (Linux 5.10).
pub(crate) const TCP_BPF_SYN: i32 = 1005;
/// Which sockops calls a socket asks for (Linux 6.12).
pub(crate) const TCP_BPF_SOCK_OPS_CB_FLAGS: i32 = 1008;

/// The states of a TCP connection from ESTABLISHED on, one bit a state.
pub(crate) const CONNECTED: u32 = 1 << BPF_TCP_ESTABLISHED
    | 1 << BPF_TCP_FIN_WAIT1
    | 1 << BPF_TCP_FIN_WAIT2
    | 1 << BPF_TCP_CLOSE_WAIT
    | 1 << BPF_TCP_LAST_ACK
    | 1 << BPF_TCP_CLOSING;
