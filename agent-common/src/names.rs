//! Names that the BPF object, the pins and the agent share.

/// Maps, as named in the object and pinned under `maps/`.
pub mod map {
    /// Hash: socket cookie (`u64`) to [`crate::Origin`].
    pub const ORIGINS: &str = "ORIGINS";
    /// Hash: namespace cookie (`u64`) to [`crate::Namespace`].
    pub const NAMESPACES: &str = "NAMESPACES";
    /// Per-CPU array of `u64`, indexed by [`crate::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`crate::Closed`].
    pub const EVENTS: &str = "EVENTS";
    /// Ring buffer of [`crate::event::Header`].
    pub const HEADERS: &str = "HEADERS";
    /// Socket storage of [`crate::Listener`].
    pub const LISTENERS: &str = "LISTENERS";
    /// Sockhash: [`crate::ListenerKey`] to a listening socket.
    pub const PROXIES: &str = "PROXIES";
    /// Hash: cookie of a listener older than the agent (`u64`) to [`crate::ListenerKey`].
    pub const ADOPT: &str = "ADOPT";
    /// Ring buffer of the data path's diagnostics (aya-log).
    pub const LOGS: &str = "AYA_LOGS";
    /// LRU hash: [`crate::Connection`] to nothing: local connections that are being made.
    pub const OWN: &str = "OWN";
    /// Socket storage of [`crate::Claim`].
    pub const CLAIMS: &str = "CLAIMS";
    /// LRU hash: [`crate::Syn`] to [`crate::Claim`].
    pub const HANDOVERS: &str = "HANDOVERS";
    /// Hash: user id (`u32`) to [`crate::trust::LocalProxy`].
    pub const TRUSTED_UIDS: &str = "TRUSTED_UIDS";
    /// Hash: cgroup id (`u64`) to [`crate::trust::LocalProxy`].
    pub const TRUSTED_CGROUPS: &str = "TRUSTED_CGROUPS";
    /// Trie of prefixes: [`crate::Address`] of a speaker to [`crate::trust::Sender`].
    pub const TRUSTED_SOURCES: &str = "TRUSTED_SOURCES";
    /// Hash: id of a rule (`u32`) that believes its speakers on some ports only to [`crate::ports::Ports`].
    pub const TRUSTED_PORTS: &str = "TRUSTED_PORTS";
    /// Hash: 0 (`u32`) to [`crate::tag::Keys`].
    pub const KEYS: &str = "KEYS";
    /// Hash: [`crate::tag::Signed`] that came to the last epoch in which a tag for it may have been made (`u64`).
    pub const SPENT: &str = "SPENT";
    /// Queue of [`crate::tag::Spending`]: what is in `SPENT`, in the order in which it came.
    pub const SPENDING: &str = "SPENDING";
    /// Array of one [`crate::toa::Kinds`]: what is taken for TOA.
    pub const TOA: &str = "TOA";
    /// Trie of prefixes: [`crate::Address`] of a destination that understands TOA to the option's kind
    /// (`u32`).
    pub const CARRY: &str = "CARRY";
    /// Hash: [`crate::trust::LocalSource`] to [`crate::Address`].
    pub const LOCAL_SOURCES: &str = "LOCAL_SOURCES";
    /// Hash: [`crate::unwrap::Page`] to [`crate::unwrap::PageVersions`].
    pub const UNWRAPS: &str = "UNWRAPS";
    /// Hash: [`crate::node::Interface`] to [`crate::node::Node`].
    pub const NODES: &str = "NODES";
    /// Hash: this node's own [`crate::Address`] to nothing.
    pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
    /// LRU hash: [`crate::node::Passage`] to [`crate::node::Given`].
    pub const PASSAGES: &str = "PASSAGES";
    /// LRU hash: [`crate::Connection`] to [`crate::unwrap::Handshake`].
    pub const UNWRAPPING: &str = "UNWRAPPING";
    /// LRU hash: [`crate::unwrap::Habit`] to the length of a header (`u32`).
    pub const LENGTHS: &str = "LENGTHS";
    /// Hash: [`crate::Connection`] to the difference between the server's and the sender's sequence
    /// numbers (`i32`), while the server's socket lives.
    pub const TRANSLATED: &str = "TRANSLATED";
    /// Array of one number (`u64`): at least how many connections are translated.
    pub const TRANSLATING: &str = "TRANSLATING";
    /// LRU hash: what `TRANSLATED` said when the socket has gone.
    pub const LINGERING: &str = "LINGERING";
    /// Hash: port (`u32`) to [`crate::guard::Policy`].
    pub const POLICIES: &str = "POLICIES";
    /// Trie of prefixes: [`crate::guard::Prefix`] of a client to a [`crate::guard::Verdict`] (`u32`).
    pub const PREFIXES: &str = "PREFIXES";
    /// Per-CPU hash: id of a policy's rule (`u32`) to [`crate::guard::Tally`].
    pub const TALLIES: &str = "TALLIES";
    /// LRU hash: [`crate::Syn`] that a policy refused to nothing.
    pub const REFUSED: &str = "REFUSED";
    /// Every map that is pinned.
    pub const ALL: [&str; 35] = [
        ORIGINS,
        NAMESPACES,
        COUNTERS,
        EVENTS,
        HEADERS,
        LISTENERS,
        PROXIES,
        ADOPT,
        LOGS,
        OWN,
        CLAIMS,
        HANDOVERS,
        TRUSTED_UIDS,
        TRUSTED_CGROUPS,
        TRUSTED_SOURCES,
        TRUSTED_PORTS,
        KEYS,
        SPENT,
        SPENDING,
        TOA,
        CARRY,
        LOCAL_SOURCES,
        UNWRAPS,
        NODES,
        NODE_ADDRESSES,
        PASSAGES,
        UNWRAPPING,
        LENGTHS,
        TRANSLATED,
        TRANSLATING,
        LINGERING,
        POLICIES,
        PREFIXES,
        TALLIES,
        REFUSED,
    ];
}

/// Programs, as named in the object; the kernel keeps 15 characters.
pub mod program {
    /// tc ingress of a steered or an `answers` interface.
    pub const STEER: &str = "truepeer_steer";
    /// tc ingress of an unwrapping interface.
    pub const UNWRAP: &str = "truepeer_unwrap";
    /// tc egress of an unwrapping interface.
    pub const ANSWER: &str = "truepeer_answer";
    /// tc ingress of a node's uplink, before its own NAT.
    pub const NODE: &str = "truepeer_node";
    /// tc egress of a node's uplink, behind its own NAT.
    pub const LEAVE: &str = "truepeer_leave";
    /// `sk_lookup` of a steered namespace.
    pub const LOOKUP: &str = "truepeer_lookup";
    /// sockops of the root cgroup.
    pub const LEARN: &str = "truepeer_learn";
    /// `cgroup/sock_release` of the root cgroup.
    pub const RELEASE: &str = "truepeer_close";
    /// `cgroup/setsockopt` of the root cgroup: a trusted proxy may ask for a client's address.
    pub const ASK: &str = "truepeer_ask";
    /// `cgroup/bind4` of the root cgroup.
    pub const BIND4: &str = "truepeer_bind4";
    /// `cgroup/bind6` of the root cgroup.
    pub const BIND6: &str = "truepeer_bind6";
    /// `cgroup/connect4` of the root cgroup: a trusted proxy's connection, its source and its policies.
    pub const SOURCE4: &str = "truepeer_src4";
    /// `cgroup/connect6` of the root cgroup.
    pub const SOURCE6: &str = "truepeer_src6";
    /// `cgroup_skb/ingress` of the root cgroup: policies.
    pub const GUARD: &str = "truepeer_guard";
    /// `cgroup_skb/ingress` of the root cgroup: before Linux 6.12, TOA to listeners that are older than the agent.
    pub const HEAR: &str = "truepeer_hear";
    /// `cgroup/getpeername4` of the revealed cgroups.
    pub const PEER4: &str = "truepeer_peer4";
    /// `cgroup/getpeername6` of the revealed cgroups.
    pub const PEER6: &str = "truepeer_peer6";
    /// `cgroup/getsockopt` of the revealed cgroups: `SO_ORIGINAL_DST`.
    pub const ORIGINAL_DST: &str = "truepeer_dst";
    /// TCP iterator that adopts listeners older than the agent.
    pub const ADOPT: &str = "truepeer_adopt";
}

/// Global of the object: cookie of the namespace that this instance of the programs serves.
pub const NETNS: &str = "NETNS";

/// Global of the object: not zero if processes are to be noted.
pub const PROCESSES: &str = "PROCESSES";

/// Global of the object: the kernel's version, as the number of a [`crate::kernel::Version`].
pub const KERNEL: &str = "KERNEL";

/// Global of the object: not zero if [`CREDENTIALS`] is known and may be used.
pub const CREDENTIALS_KNOWN: &str = "CREDENTIALS_KNOWN";

/// Global of the object: a [`crate::kernel::Credentials`].
pub const CREDENTIALS: &str = "CREDENTIALS";

/// Version of every type in this crate that lives in a pinned map. Pins of another version are
/// replaced, never read.
pub const LAYOUT: u32 = 7;
