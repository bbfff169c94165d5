//! Where the kernel would send a packet.

use agent_common::{Address, local::Local};
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup as FibParams,
    },
    helpers::generated::bpf_fib_lookup,
    maps::lpm_trie::Key,
    programs::TcContext,
};

use super::{
    context::Skb as _,
    ip::TCP,
    uapi::{AF_INET, AF_INET6},
};
use crate::maps::{LOCAL, NETNS};

/// Where the kernel would bring a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locality {
    /// To this host.
    Here,
    /// To another one.
    Elsewhere,
    /// To this host or to nobody: the host does not forward, and its address is not known, as the agent has not seen it yet.
    Unknown,
}

/// Whether the kernel would deliver the packet to this host.
#[inline(always)]
pub(crate) fn is_local(ctx: &TcContext, from: Address, to: Address) -> bool {
    locality(ctx, from, to) == Locality::Here
}

/// Where the kernel would bring the packet: to this host if it declines to forward it. Where it forwards nothing, it declines
/// everything; then the addresses tell, which the agent knows.
#[inline(always)]
pub(crate) fn locality(ctx: &TcContext, from: Address, to: Address) -> Locality {
    // SAFETY: all-zero is a valid value of this plain C structure.
    let mut params: FibParams = unsafe { core::mem::zeroed() };
    params.l4_protocol = TCP;
    params.ifindex = ctx.ifindex();
    if to.is_v4() {
        params.family = AF_INET as u8;
        params.__bindgen_anon_3.ipv4_src = from.0[3];
        params.__bindgen_anon_4.ipv4_dst = to.0[3];
    } else {
        params.family = AF_INET6 as u8;
        params.__bindgen_anon_3.ipv6_src = from.0;
        params.__bindgen_anon_4.ipv6_dst = to.0;
    }
    let size = size_of::<FibParams>() as i32;
    // SAFETY: the parameters live on the stack and have the size that is passed.
    let answer = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &mut params, size, 0) };
    match answer as u32 {
        BPF_FIB_LKUP_RET_NOT_FWDED => Locality::Here,
        BPF_FIB_LKUP_RET_FWD_DISABLED if is_own(to) => Locality::Here,
        BPF_FIB_LKUP_RET_FWD_DISABLED => Locality::Unknown,
        _ => Locality::Elsewhere,
    }
}

/// Whether the address is one of this network namespace.
#[inline(always)]
fn is_own(address: Address) -> bool {
    let address = Local::new(NETNS.load(), address);
    LOCAL.get(Key::new(Local::BITS, address)).is_some()
}
