//! All maps of the data path. The agent pins them, so that the programs of all namespaces share them and they
//! outlive the agent. What they hold is known from their types alone: another agent takes them over if it has the same.

mod described;
mod number;
mod scratch;
mod storage;

use core::borrow::Borrow;

use agent_common::{
    Address, Claim, Closed, Connection, Counter, Evidence, Listener, ListenerKey, Namespace,
    Origin, Syn,
    event::Header,
    guard::{MAX_POLICIES, MAX_PREFIXES, Policy, Prefix, Tally},
    kernel::{Credentials, Version},
    local::{Local, MAX_LOCALS},
    names,
    node::{Given, Interface, Node, Passage},
    ports::Ports,
    tag::{Keys, Signed, Spending},
    toa::Kinds,
    trust::{LocalProxy, LocalSource, MAX_PROXIES, MAX_SENDERS, Sender},
    unwrap::{Habit, Handshake, PAGES, Page, PageVersions},
};
use aya_ebpf::{
    Global,
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC},
    macros::{btf_map, map},
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, Queue, RingBuf, SockHash,
        lpm_trie::Key,
    },
};

use self::described::Described;
pub(crate) use self::{
    number::{add, exchange},
    scratch::Scratch,
    storage::SocketStorage,
};

/// Cookie of the namespace that this instance of the packet programs is attached in: a tc program
/// cannot ask for it before Linux 6.15.
#[unsafe(no_mangle)]
pub(crate) static NETNS: Global<u64> = Global::new(0);

/// How many bytes are in front of the IP header on the devices that this instance of the packet programs is attached to.
#[unsafe(no_mangle)]
pub(crate) static LINK_HEADER: Global<u32> = Global::new(names::ETHERNET);

/// The version of the kernel that these programs are loaded into, as its number.
#[unsafe(no_mangle)]
pub(crate) static KERNEL: Global<u32> = Global::new(Version::new(u16::MAX, 0).number());

/// Not zero if `CREDENTIALS` is known and may be used. A number of its own, so that the verifier knows it, too.
#[unsafe(no_mangle)]
pub(crate) static CREDENTIALS_KNOWN: Global<u32> = Global::new(0);

/// Where this kernel says which capabilities a process has.
#[unsafe(no_mangle)]
pub(crate) static CREDENTIALS: Global<Credentials> = Global::new(Credentials {
    task_cred: 0,
    task_nsproxy: 0,
    nsproxy_net: 0,
    net_owner: 0,
    cred_users: 0,
    cred_effective: 0,
    users_parent: 0,
});

/// Not zero if somebody wants to know which processes have connections: the access log.
#[unsafe(no_mangle)]
pub(crate) static PROCESSES: Global<u8> = Global::new(1);

/// Socket cookie to origin. Entries are allocated on demand and never evicted. The agent sets the size.
#[map]
pub(crate) static ORIGINS: Described<HashMap<u64, Origin>, Evidence> =
    Described::new(HashMap::with_max_entries(1 << 20, BPF_F_NO_PREALLOC));

/// Namespace cookie to what is to be done there.
#[map]
pub(crate) static NAMESPACES: HashMap<u64, Namespace> =
    HashMap::with_max_entries(MAX_NAMESPACES, BPF_F_NO_PREALLOC);
const MAX_NAMESPACES: u32 = 4096;

/// One slot a [`Counter`].
#[map]
pub(crate) static COUNTERS: Described<PerCpuArray<u64>, Counter> =
    Described::new(PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0));

/// Closed connections, for the access log.
#[map]
pub(crate) static EVENTS: Described<RingBuf, Closed> =
    Described::new(RingBuf::with_byte_size(4 << 20, 0));

/// PROXY headers that say more than addresses, for people and logs.
#[map]
pub(crate) static HEADERS: Described<RingBuf, Header> =
    Described::new(RingBuf::with_byte_size(1 << 20, 0));

/// Listening sockets of the proxies, for `sk_lookup`.
#[map]
pub(crate) static PROXIES: SockHash<ListenerKey> = SockHash::with_max_entries(4096, 0);

/// Cookies of listeners that are older than the agent.
#[map]
pub(crate) static ADOPT: HashMap<u64, ListenerKey> =
    HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Connections that sockets of this host are making, for `sk_lookup`. An entry lives from the first SYN to
/// the end of the handshake; what a crash leaves behind is evicted.
#[map]
pub(crate) static OWN: LruHashMap<Connection, u8> = LruHashMap::with_max_entries(1 << 14, 0);

/// What was said about the clients of connections that are being made: by trusted proxies of this host, which
/// may connect to a socket of this host, by TOA on SYNs that came in, and by PROXY headers that were taken
/// off. What goes elsewhere, and what is never completed, is evicted.
#[map]
pub(crate) static HANDOVERS: LruHashMap<Syn, Claim> = LruHashMap::with_max_entries(1 << 16, 0);

/// Users whose proxies may speak for a client.
#[map]
pub(crate) static TRUSTED_UIDS: HashMap<u32, LocalProxy> =
    HashMap::with_max_entries(2 * MAX_PROXIES, BPF_F_NO_PREALLOC);

/// Control groups whose processes may speak for a client.
#[map]
pub(crate) static TRUSTED_CGROUPS: HashMap<u64, LocalProxy> =
    HashMap::with_max_entries(2 * MAX_PROXIES, BPF_F_NO_PREALLOC);

/// Prefixes of those who send packets, with what they are believed.
#[map]
pub(crate) static TRUSTED_SOURCES: LpmTrie<Address, Sender> =
    LpmTrie::with_max_entries(2 * MAX_SENDERS, BPF_F_NO_PREALLOC);

/// The ports of rules that believe their speakers on some ports only.
#[map]
pub(crate) static TRUSTED_PORTS: HashMap<u32, Ports> =
    HashMap::with_max_entries(2 * MAX_SENDERS, BPF_F_NO_PREALLOC);

/// The keys of signed TOA, if there are any.
#[map]
pub(crate) static KEYS: HashMap<u32, Keys> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// What valid tags have proven, so that none proves it again. Only valid tags make entries, and none is
/// evicted.
#[map]
pub(crate) static SPENT: HashMap<Signed, u64> =
    HashMap::with_max_entries(MAX_SPENT, BPF_F_NO_PREALLOC);

/// The entries of `SPENT` in the order in which they were made, so that expired ones are found.
#[map]
pub(crate) static SPENDING: Queue<Spending> = Queue::with_max_entries(MAX_SPENT, 0);
const MAX_SPENT: u32 = 1 << 18;

/// What is taken for TOA; empty while nobody's TOA is believed.
#[map]
pub(crate) static TOA: Array<Kinds> = Array::with_max_entries(1, 0);

/// Destinations that understand TOA, with the kind of option that they are sent.
#[map]
pub(crate) static CARRY: LpmTrie<Address, u32> =
    LpmTrie::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// Sources of trusted proxies' connections to their own host.
#[map]
pub(crate) static LOCAL_SOURCES: HashMap<LocalSource, Address> =
    HashMap::with_max_entries(4 * MAX_PROXIES, BPF_F_NO_PREALLOC);

/// Ports whose connections begin with a PROXY header, of any number of ports of as many interfaces as there can be namespaces.
#[map]
pub(crate) static UNWRAPS: HashMap<Page, PageVersions> =
    HashMap::with_max_entries(MAX_NAMESPACES * PAGES, BPF_F_NO_PREALLOC);

/// Connections to such ports that are not established yet. Only trusted senders make entries; a connection
/// whose entry is evicted is refused.
#[map]
pub(crate) static UNWRAPPING: LruHashMap<Connection, Handshake> =
    LruHashMap::with_max_entries(1 << 16, 0);

/// Where connections of a sender (with port 0) to a server went, as the SYN-ACK told: a [`Whereabouts`] as its number. There
/// is an entry only where the SYN alone would be misjudged.
#[map]
pub(crate) static WHEREABOUTS: LruHashMap<Connection, u32> =
    LruHashMap::with_max_entries(1 << 14, 0);

/// SYNs to such ports that went on as they were, because no rule believes a header of their sender. If a server here answers,
/// they are refused.
#[map]
pub(crate) static UNTRUSTED: LruHashMap<Syn, u8> = LruHashMap::with_max_entries(1 << 14, 0);

/// Interfaces whose SYNs are given TOA before the node's own NAT.
#[map]
pub(crate) static NODES: HashMap<Interface, Node> =
    HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// The addresses of the network namespaces with such interfaces: those that the node's own NAT gives to connections.
#[map]
pub(crate) static NODE_ADDRESSES: HashMap<Address, u8> =
    HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// The addresses of the network namespaces that are served, as their routes of type `local` say.
#[map]
pub(crate) static LOCAL: LpmTrie<Local, u8> =
    LpmTrie::with_max_entries(MAX_LOCALS, BPF_F_NO_PREALLOC);

/// Interfaces that are ports of a bridge or another device, with the Ethernet address of the topmost one.
#[map]
pub(crate) static MASTERS: HashMap<Interface, u64> =
    HashMap::with_max_entries(MAX_NAMESPACES, BPF_F_NO_PREALLOC);

/// SYNs for whose client this node vouches: those that came in by such an interface, and those of local proxies that go out
/// with TOA. What is known of a voucher is changed in place, so that nobody overlooks it; it goes when it is evicted.
#[map]
pub(crate) static PASSAGES: LruHashMap<Passage, Given> = LruHashMap::with_max_entries(1 << 16, 0);

/// How long a sender's last header was: the best guess for its next.
#[map]
pub(crate) static LENGTHS: LruHashMap<Habit, u32> = LruHashMap::with_max_entries(1 << 13, 0);

/// Connections for whose header the guess was wrong: what to add to the sender's sequence numbers. Entries
/// are never evicted: without its entry a connection would be garbled.
#[map]
pub(crate) static TRANSLATED: HashMap<Connection, i32> =
    HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// An upper bound of the number of entries in `TRANSLATED`, as the agent removes entries without counting.
/// While it is 0, nobody looks for one.
#[map]
pub(crate) static TRANSLATING: Array<u64> = Array::with_max_entries(1, 0);

/// What `TRANSLATED` said about connections whose socket has gone (TIME_WAIT).
#[map]
pub(crate) static LINGERING: LruHashMap<Connection, i32> = LruHashMap::with_max_entries(1 << 13, 0);

/// Port to its policy.
#[map]
pub(crate) static POLICIES: HashMap<u32, Policy> =
    HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// The policies' prefixes, and whether each is allowed or denied: a `Verdict` as its number.
#[map]
pub(crate) static PREFIXES: LpmTrie<Prefix, u32> =
    LpmTrie::with_max_entries(2 * MAX_PREFIXES, BPF_F_NO_PREALLOC);

/// How many connections each policy admitted and refused.
#[map]
pub(crate) static TALLIES: PerCpuHashMap<u32, Tally> =
    PerCpuHashMap::with_max_entries(MAX_POLICIES, BPF_F_NO_PREALLOC);

/// SYNs that were refused, to recognize them when their senders repeat them.
#[map]
pub(crate) static REFUSED: LruHashMap<Syn, u8> = LruHashMap::with_max_entries(1 << 12, 0);

/// Marks the proxies' listeners; accepted sockets inherit the mark.
#[btf_map]
pub(crate) static LISTENERS: SocketStorage<
    Listener,
    { (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize },
> = SocketStorage::new();

/// What sockets of trusted proxies say about their clients.
#[btf_map]
pub(crate) static CLAIMS: SocketStorage<Claim, { BPF_F_NO_PREALLOC as usize }> =
    SocketStorage::new();

/// Whether this kernel has what came with `feature`. The verifier knows the answer and skips what depends on another.
#[inline(always)]
pub(crate) fn kernel_has(feature: Version) -> bool {
    Version::from_number(KERNEL.load()).has(feature)
}

/// What a trie of prefixes holds for the longest prefix that `address` is in.
#[inline(always)]
pub(crate) fn longest_match<V: Copy>(trie: &LpmTrie<Address, V>, address: Address) -> Option<V> {
    trie.get(Key::new(Address::BITS, address)).copied()
}

/// Hash maps whose values are replaced as a whole and never changed in place: all but `ORIGINS` and `PASSAGES`. What they
/// hold is to be copied at once: when an entry is replaced, removed or evicted, the kernel may give its memory to another
/// key without waiting for programs (that of an LRU map always, others since Linux 6.1).
pub(crate) trait Replaced<K, V> {
    /// What the map holds for `key`.
    fn look_up(&self, key: impl Borrow<K>) -> Option<&V>;
}

macro_rules! replaced {
    ($($map:ident),*) => {$(
        impl<K, V> Replaced<K, V> for $map<K, V> {
            #[inline(always)]
            fn look_up(&self, key: impl Borrow<K>) -> Option<&V> {
                // SAFETY: nobody writes to an entry's value, and its memory, whosever it is by then, outlives the
                // program's run. Any bits are valid.
                unsafe { self.get(key) }
            }
        }
    )*};
}

replaced!(HashMap, LruHashMap);
