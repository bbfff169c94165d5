//! guard: allows and denies by the true client.
//!
//! A connection is judged once, by its first segment on the way to a listener, or where its client is known
//! only later, by the PROXY header. What was admitted is left alone.

use core::ptr::read_volatile;

use agent_common::{
    Address, Claim, Closed, Endpoint, Evidence, Origin, Syn,
    guard::{Policy, Prefix, Verdict},
    options::HEADER_ROOM,
    toa::{Toa, find},
    unwrap::Refusal,
};
use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_sock},
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_skb_load_bytes},
    maps::lpm_trie::Key,
    programs::SkBuffContext,
};
use network_types::{
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::{
    close,
    maps::{CLAIMS, HANDOVERS, POLICIES, PREFIXES, REFUSED, TALLIES},
    packet::{ACK, SYN, TCP, behind_extensions},
    socket::TCP_LISTEN,
    toa,
};

/// Answers of a program at `cgroup_skb`.
const PASS: i32 = 1;
const DROP: i32 = 0;

/// Whether there is a policy for this port.
#[inline(always)]
pub(crate) fn is_guarded(port: u16) -> bool {
    policy(port).is_some()
}

#[inline(always)]
fn policy(port: u16) -> Option<&'static Policy> {
    // SAFETY: values are replaced, never changed in place.
    unsafe { POLICIES.get(u32::from(port)) }
}

/// Whether the client may connect to this port. Nothing is counted.
#[inline(never)]
pub(crate) fn allows(client: &Address, port: u16) -> bool {
    let Some(policy) = policy(port) else {
        return true;
    };
    let key = Key::new(Prefix::BITS, Prefix::new(policy.group, *client));
    let verdict = PREFIXES.get(key).copied().unwrap_or(policy.otherwise);
    verdict == Verdict::Allow as u32
}

/// Counts a connection that was let in.
#[inline(always)]
pub(crate) fn admitted(port: u16) {
    if let Some(policy) = policy(port) {
        tally(policy.rule, Verdict::Allow);
    }
}

/// Counts a connection that was refused, and tells the access log.
#[inline(never)]
pub(crate) fn refused(claim: &Claim, source: &Endpoint, destination: &Endpoint) {
    if let Some(policy) = policy(destination.port) {
        tally(policy.rule, Verdict::Deny);
        log(claim, source, destination, policy.rule);
    }
}

#[inline(always)]
fn tally(rule: u32, verdict: Verdict) {
    if let Some(tally) = TALLIES.get_ptr_mut(rule) {
        // SAFETY: a value of this CPU, and BPF programs of one CPU do not share it while they run.
        unsafe { (*tally)[verdict as usize] += 1 };
    }
}

#[inline(always)]
fn log(claim: &Claim, source: &Endpoint, destination: &Endpoint, policy: u32) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    close::tell_refused(Closed {
        origin: Origin {
            since: now,
            client: claim.client,
            original_dst: *destination,
            local: *destination,
            remote: *source,
            evidence: claim.evidence,
            rule: claim.rule,
            ..Origin::default()
        },
        closed: now,
        refused: Refusal::Denied as u32,
        policy,
        ..Closed::default()
    });
}

/// One packet on its way to a socket; the answer for it.
#[inline(always)]
pub(crate) fn arrives(ctx: &SkBuffContext) -> i32 {
    let Some(sk) = socket(ctx) else { return PASS };
    // SAFETY: a socket; the verifier translates the access.
    if unsafe { (*sk).state } == TCP_LISTEN {
        to_listener(ctx)
    } else {
        PASS
    }
}

/// The socket that the packet is for.
#[inline(always)]
fn socket(ctx: &SkBuffContext) -> Option<*mut bpf_sock> {
    // SAFETY: the context is valid while the program runs.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    (!sk.is_null()).then_some(sk)
}

/// Whether it is a listener of the agent's own relay, which judges by itself: it is to read a header first.
#[inline(always)]
fn is_relays(ctx: &SkBuffContext) -> bool {
    let claim = socket(ctx).and_then(|sk| CLAIMS.get(sk.cast()));
    claim.is_some_and(|claim| claim.rule == 0)
}

/// A segment to a listener: the first of a connection, or what completes its handshake.
#[inline(never)]
fn to_listener(ctx: &SkBuffContext) -> i32 {
    let opening = Opening::read(ctx);
    let Opening { syn, offset } = match &opening {
        Ok(Some(opening)) => opening,
        Ok(None) => return PASS,
        // What cannot be read cannot be judged.
        Err(()) => return DROP,
    };
    if !is_guarded(syn.destination.port) || is_relays(ctx) {
        return PASS;
    }
    // SAFETY: values are never changed in place.
    let known = unsafe { HANDOVERS.get(syn) };
    if known.is_some_and(|claim| claim.evidence == 0) {
        // A PROXY header will tell.
        return PASS;
    }
    let mut claim = Claim::default();
    if toa::kinds().is_none() || !hear(ctx, *offset, syn, &mut claim) {
        claim = known.copied().unwrap_or(Claim {
            client: syn.source,
            evidence: Evidence::Wire as u8,
            ..Claim::default()
        });
    }
    if allows(&claim.client.address, syn.destination.port) {
        admitted(syn.destination.port);
        return PASS;
    }
    // Else it is the same SYN again.
    if REFUSED.insert(syn, &0, BPF_NOEXIST.into()).is_ok() {
        refused(&claim, &syn.source, &syn.destination);
    }
    DROP
}

/// Whether TOA on the SYN is to be believed; if so, `claim` is what it says.
#[inline(never)]
fn hear(ctx: &SkBuffContext, offset: u32, syn: &Syn, claim: &mut Claim) -> bool {
    let mut header = [0; HEADER_ROOM];
    if let Some(kinds) = toa::kinds()
        && fill(ctx, offset, &mut header).is_ok()
        && let Toa::Client(client) = find(&header, kinds)
    {
        toa::believe(&header, client, syn, claim).is_ok()
    } else {
        false
    }
}

/// Reads the TCP header with all of its options.
#[inline(always)]
fn fill(ctx: &SkBuffContext, offset: u32, header: &mut [u8; HEADER_ROOM]) -> Result<(), ()> {
    const LENGTH: u32 = 12;
    let [first] = load(ctx, offset + LENGTH)?;
    let length = u32::from(first >> 4) * 4;
    if length == 0 {
        return Err(());
    }
    // Zero, which the verifier does not know: `find` wants that of what follows the header.
    // SAFETY: a reference is valid for reads.
    header[HEADER_ROOM - 1] = unsafe { read_volatile(&first) ^ read_volatile(&first) };
    let buffer = header.as_mut_ptr().cast();
    // SAFETY: four bits bound the length to less than the buffer's; the context is valid while the program runs.
    match unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, buffer, length) } {
        0 => Ok(()),
        _ => Err(()),
    }
}

/// The first segment of a connection.
struct Opening {
    syn: Syn,
    /// Where its TCP header begins.
    offset: u32,
}

impl Opening {
    /// Reads a segment; `None`: it is not the first.
    #[inline(never)]
    fn read(ctx: &SkBuffContext) -> Result<Option<Self>, ()> {
        let network = Network::read(ctx)?;
        if network.protocol != TCP {
            return Ok(None);
        }
        let offset = network.length;
        let tcp = load::<{ TcpHdr::LEN }>(ctx, offset)?;
        if tcp[13] & (SYN | ACK) != SYN {
            return Ok(None);
        }
        let port = |i: usize| u16::from_be_bytes([tcp[i], tcp[i + 1]]);
        let syn = Syn {
            source: Endpoint::new(network.source, port(0)),
            destination: Endpoint::new(network.destination, port(2)),
            isn: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
        };
        Ok(Some(Self { syn, offset }))
    }
}

/// What the IP header says, which is where the packet begins.
struct Network {
    source: Address,
    destination: Address,
    /// What follows.
    protocol: u8,
    /// Where it follows.
    length: u32,
}

impl Network {
    #[inline(always)]
    fn read(ctx: &SkBuffContext) -> Result<Self, ()> {
        let [first] = load(ctx, 0)?;
        if first >> 4 == 4 {
            let ip = load::<{ Ipv4Hdr::LEN }>(ctx, 0)?;
            return Ok(Self {
                source: Address::v4(word(&ip, 12)),
                destination: Address::v4(word(&ip, 16)),
                protocol: ip[9],
                length: u32::from(first & 0x0f) * 4,
            });
        }
        let ip = load::<{ Ipv6Hdr::LEN }>(ctx, 0)?;
        let address = |i: usize| {
            Address::v6([
                word(&ip, i),
                word(&ip, i + 4),
                word(&ip, i + 8),
                word(&ip, i + 12),
            ])
        };
        let (protocol, length) =
            behind_extensions(ip[6], Ipv6Hdr::LEN as u32, |at| load(ctx, at).ok()).ok_or(())?;
        Ok(Self {
            source: address(8),
            destination: address(24),
            protocol,
            length,
        })
    }
}

#[inline(always)]
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// `N` bytes of the packet.
#[inline(always)]
fn load<const N: usize>(ctx: &SkBuffContext, at: u32) -> Result<[u8; N], ()> {
    let mut bytes = [0; N];
    let buffer = bytes.as_mut_ptr().cast();
    // SAFETY: the buffer has the length that is passed; the context is valid while the program runs.
    match unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), at, buffer, N as u32) } {
        0 => Ok(bytes),
        _ => Err(()),
    }
}
