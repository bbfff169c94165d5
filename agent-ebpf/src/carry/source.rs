//! The source address of a connection whose bind to a client's address was turned into an ordinary one. The
//! kernel chooses it when the proxy connects. Towards this host's own addresses the configured source comes
//! first, because rules that redirect what a proxy sends to its own pod exempt that source.
//!
//! A client that a policy of this host denies is refused here already, so that the proxy need not wait, and so is one whom the
//! application's socket cannot express, if the rule wants that.

use agent_common::{Address, Claim, Counter, Endpoint, trust::LocalSource};
use aya_ebpf::programs::SockAddrContext;

use crate::{
    guard,
    kernel::{
        sockaddr::{ANY, SockAddr4, SockAddr6, bind},
        socket::Socket,
        syscall::SockAddr as _,
        uapi::{AF_INET, AF_INET6, EAFNOSUPPORT, PASS, REJECT},
    },
    learn::trust,
    maps::{CLAIMS, LOCAL_SOURCES, Replaced as _},
    reveal,
};

/// Addresses that no host has: the first of TEST-NET-1 (RFC 5737) and of the discard-only block (RFC
/// 6666).
const NOBODYS_V4: Address = Address::v4(0xc000_0200_u32.to_be());
const NOBODYS_V6: Address = Address::v6([0x0100_0000_u32.to_be(), 0, 0, 0]);

/// An AF_INET socket is about to connect.
#[inline(always)]
pub(crate) fn connect4(ctx: &SockAddrContext) -> i32 {
    choose_source(ctx, ctx.user_v4(), |address| {
        bind(ctx, SockAddr4::new(address.0[3], 0))
    })
}

/// An AF_INET6 socket is about to connect, perhaps to an IPv4 address in mapped form.
#[inline(always)]
pub(crate) fn connect6(ctx: &SockAddrContext) -> i32 {
    choose_source(ctx, ctx.user_v6(), |address| {
        bind(ctx, SockAddr6::new(address.0, 0))
    })
}

/// Gives a socket that speaks for a client the configured source if it connects to this host, or refuses the
/// connection. Returns the program's answer.
///
/// Nothing tells whether an address is local, but only a local one can be bound. Where an option or a sysctl
/// lets the socket bind any address, the question stays open. Each bind replaces the one before, because none
/// chooses a port. If the socket already has a port, all binds fail and change nothing.
#[inline(always)]
fn choose_source(
    ctx: &SockAddrContext,
    destination: Address,
    bind: impl Fn(Address) -> bool,
) -> i32 {
    let claim = ctx.socket().and_then(|sk| CLAIMS.get(sk));
    let Some(claim) = claim.filter(Claim::names_client) else {
        return PASS;
    };
    let (family, nobodys) = if destination.is_v4() {
        (AF_INET, NOBODYS_V4)
    } else {
        (AF_INET6, NOBODYS_V6)
    };
    let destination = Endpoint::new(destination, ctx.user_port());
    let binds_own = || !bind(nobodys) && bind(destination.address);
    let is_told = trust::concerns(&claim, destination.port);
    if is_told && !guard::allows(&claim.client.address, destination.port) {
        // Where the question is open, the SYN is judged on arrival.
        if destination.address.is_loopback() || binds_own() {
            guard::refused(&claim, &Endpoint::new(ANY, 0), &destination);
            return REJECT;
        }
        bind(ANY);
    }
    if is_told && is_inexpressible(ctx, &claim, &destination) {
        // Elsewhere the application sees the hop as what it is: another host.
        if destination.address.is_loopback() || binds_own() {
            if claim.conditions & Claim::RELAYED == 0 {
                let (source, counter) = (Endpoint::new(ANY, 0), Counter::BindInexpressible);
                reveal::refuse(&claim, &source, &destination, counter);
            }
            return ctx.fail(EAFNOSUPPORT);
        }
        bind(ANY);
    }
    let rule = claim.rule;
    if let Some(source) = LOCAL_SOURCES.look_up(LocalSource { rule, family }) {
        let is_chosen = binds_own() && bind(*source);
        if !is_chosen {
            bind(ANY);
        }
    }
    PASS
}

/// Whether the connection is to be refused if it stays on this host, because whoever listens at `destination` cannot express
/// the client.
#[inline(never)]
fn is_inexpressible(ctx: &SockAddrContext, claim: &Claim, destination: &Endpoint) -> bool {
    let is_v4 = destination.address.is_v4() && !claim.client.address.is_v4();
    if !is_v4 || claim.conditions & Claim::EXPRESSED == 0 {
        return false;
    }
    let from = Endpoint::new(destination.address, 0);
    Socket::between(ctx, false, from, *destination)
        .is_some_and(|sk| sk.is_listener() && reveal::is_inexpressible(claim, &sk))
}
