//! truepeer's data path: the entry points of its BPF programs.
//!
//! The rooms do the work, one a verb; this file says where each program is attached. The programs use UAPI
//! contexts and helpers only, so the object needs no relocation. The one exception is what capabilities a process has
//! (`kernel/task`): where the kernel's structures have that, the agent looks up.
//! `README.md` beside this crate shows how the verbs work together.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![no_main]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "passed by value, keys and values of maps take the stack twice"
)]

mod adopt;
mod carry;
mod close;
mod guard;
mod kernel;
mod learn;
mod maps;
mod reveal;
mod sockops;
mod steer;
mod tell;
mod unwrap;

use aya_ebpf::{
    bindings::{sk_action::SK_PASS, tcx_action_base::TCX_NEXT},
    macros::{
        cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, classifier, sk_lookup, sock_ops,
    },
    programs::{
        SkBuffContext, SkLookupContext, SockAddrContext, SockContext, SockOpsContext,
        SockoptContext, TcContext,
    },
};

use crate::{
    carry::{leave, node, source},
    kernel::uapi::PASS,
    learn::{bind, hear},
    steer::{lookup, port},
    unwrap::answer,
};

/// tc ingress of a steered interface, and of a gateway's `answers` interface. Other programs on the
/// interface always get their turn.
#[classifier]
fn truepeer_steer(ctx: TcContext) -> i32 {
    steer::ingress(&ctx);
    TCX_NEXT
}

/// tc ingress of an interface by which connections come in that begin with a PROXY header.
#[classifier]
fn truepeer_unwrap(ctx: TcContext) -> i32 {
    unwrap::ingress(&ctx)
}

/// tc egress of an interface by which connections come in that begin with a PROXY header.
#[classifier]
fn truepeer_answer(ctx: TcContext) -> i32 {
    answer::egress(&ctx)
}

/// tc ingress of a node's uplink, before its own NAT.
#[classifier]
fn truepeer_node(ctx: TcContext) -> i32 {
    node::ingress(&ctx)
}

/// tc egress of a node's uplink, behind its own NAT.
#[classifier]
fn truepeer_leave(ctx: TcContext) -> i32 {
    leave::egress(&ctx)
}

/// `sk_lookup` of a network namespace with steers.
#[sk_lookup]
fn truepeer_lookup(ctx: SkLookupContext) -> u32 {
    lookup::lookup(&ctx);
    SK_PASS
}

/// sockops of the root cgroup: listeners, new connections and their end.
#[sock_ops]
fn truepeer_learn(ctx: SockOpsContext) -> u32 {
    sockops::call(&ctx);
    1
}

/// A process of the root cgroup gives a socket up.
#[cgroup_sock(sock_release)]
fn truepeer_close(ctx: SockContext) -> i32 {
    close::release(&ctx);
    1
}

/// A process of the root cgroup sets a socket option.
#[cgroup_sockopt(setsockopt)]
fn truepeer_ask(ctx: SockoptContext) -> i32 {
    bind::ask(&ctx);
    1
}

/// A process of the root cgroup binds an AF_INET socket.
#[cgroup_sock_addr(bind4)]
fn truepeer_bind4(ctx: SockAddrContext) -> i32 {
    bind::bind4(&ctx);
    1
}

/// A process of the root cgroup binds an AF_INET6 socket.
#[cgroup_sock_addr(bind6)]
fn truepeer_bind6(ctx: SockAddrContext) -> i32 {
    bind::bind6(&ctx);
    1
}

/// A packet reaches a socket of the root cgroup.
#[cgroup_skb(ingress)]
fn truepeer_guard(ctx: SkBuffContext) -> i32 {
    guard::ingress(&ctx)
}

/// A packet reaches a socket of the root cgroup: before Linux 6.12, for TOA to listeners that are older than the agent.
#[cgroup_skb(ingress)]
fn truepeer_hear(ctx: SkBuffContext) -> i32 {
    hear::ingress(&ctx);
    PASS
}

/// A process of the root cgroup connects an AF_INET socket, perhaps a proxy in a client's name.
#[cgroup_sock_addr(connect4)]
fn truepeer_port4(ctx: SockAddrContext) -> i32 {
    port::connect4(&ctx);
    1
}

/// A process of the root cgroup connects an AF_INET6 socket, perhaps a proxy in a client's name.
#[cgroup_sock_addr(connect6)]
fn truepeer_port6(ctx: SockAddrContext) -> i32 {
    port::connect6(&ctx);
    1
}

/// A process of the root cgroup connects an AF_INET socket.
#[cgroup_sock_addr(connect4)]
fn truepeer_src4(ctx: SockAddrContext) -> i32 {
    source::connect4(&ctx)
}

/// A process of the root cgroup connects an AF_INET6 socket.
#[cgroup_sock_addr(connect6)]
fn truepeer_src6(ctx: SockAddrContext) -> i32 {
    source::connect6(&ctx)
}

/// `accept()` and `getpeername()` on an AF_INET socket, in the revealed cgroups.
#[cgroup_sock_addr(getpeername4)]
fn truepeer_peer4(ctx: SockAddrContext) -> i32 {
    reveal::peer4(&ctx);
    1
}

/// `accept()` and `getpeername()` on an AF_INET6 socket, in the revealed cgroups.
#[cgroup_sock_addr(getpeername6)]
fn truepeer_peer6(ctx: SockAddrContext) -> i32 {
    reveal::peer6(&ctx);
    1
}

/// `getsockopt()`, in the revealed cgroups.
#[cgroup_sockopt(getsockopt)]
fn truepeer_dst(ctx: SockoptContext) -> i32 {
    reveal::original_dst(&ctx);
    1
}

/// TCP iterator: adopts the proxies' listeners that are older than the agent.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn truepeer_adopt(ctx: *mut adopt::IterTcp) -> i32 {
    adopt::socket(ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
